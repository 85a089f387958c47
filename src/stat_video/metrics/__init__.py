"""The metrics of a test: a file each with a function `metric`, found by its name, which names it in every result.

A metric takes the logits of all views of all videos, (videos, views, num_classes), and their labels: class numbers
(videos,), or, in a file that says `MULTI_LABEL = True`, 0 or 1 of each class (videos, num_classes). It returns a
figure, (); accuracies in percent. A video that could not be read has NaN for logits and must count as wrong
(scores.py). All metrics for the labels that a data set has are in each of its results and in the terminal's tables.
"""

import sys
from collections.abc import Callable

from torch import Tensor

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
    return {name: find(name)(logits, labels) for name in names(multi_label=labels.ndim == 2)}


def _is_multi_label(name: str) -> bool:
    return bool(getattr(sys.modules[f"{__name__}.{name}"], "MULTI_LABEL", False))
