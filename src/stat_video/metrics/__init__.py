"""The metrics of a test: a file each with a function `metric`, found by its name, which names it in every result.

A metric takes the logits of all views of all videos, (videos, views, num_classes), and their labels: class numbers
(videos,), or, in a file that says `MULTI_LABEL = True`, 0 or 1 of each class (videos, num_classes). It returns a
figure, (); accuracies in percent. A video that could not be read has NaN for logits and must count as wrong
(scores.py). All metrics for the labels that a data set has are in each of its results and in the terminal's tables.
"""

import re
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError, in_a_line
from ..registry import Registry

Metric = Callable[[Tensor, Tensor], Tensor]
FIRST = ("top1", "top5", "mean_ap")  # those that come before others, in this order

_registry: Registry[Metric] = Registry(__name__, __path__, key="metric", attribute="metric", fits=callable)
find = _registry.find


def names(multi_label: bool = False) -> list[str]:
    """Return the names of the metrics for labels of one class a video, or of several."""
    found = [name for name in _registry.names() if _is_multi_label(name) == multi_label]
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def figures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the metrics of logits (videos, views, num_classes) and labels, (videos,) or (videos, num_classes)."""
    return {name: compute(name, logits, labels) for name in names(multi_label=labels.ndim == 2)}


def compute(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return a metric; InputError, in one line, if its file raises an error or returns something else than a figure."""
    try:
        figure = find(name)(logits.clone(), labels.clone())  # copies: one that writes into them changes no other
        found = torch.as_tensor(figure, dtype=torch.float32)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(f"metric={name}: its file raised {in_a_line(error)}") from error
    if found.ndim:
        raise InputError(f"metric={name}: returned {tuple(found.shape)}; must be one figure, ()")
    return found


def check_own() -> None:
    """Raise InputError if a file of the user's own is no metric; tries each on a few numbers, before any training."""
    for name in _registry.own():
        try:
            find(name)
        except ValueError as error:
            raise InputError(str(error)) from None
        if not re.fullmatch(r"[a-z]\w*", name) or name == "loss":
            raise InputError(f"metric={name}: the name of its file must be letters, digits and '_', and not loss")
        several = _is_multi_label(name)
        compute(name, torch.zeros(6, 2, 3), torch.eye(3).repeat(2, 1) if several else torch.arange(6) % 3)


def _is_multi_label(name: str) -> bool:
    return bool(getattr(sys.modules[f"{__name__}.{name}"], "MULTI_LABEL", False))
