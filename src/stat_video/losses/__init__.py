"""The losses: a file each with a function `loss`, found by its name (`recipe.loss`).

A loss takes logits (B, num_classes) and a target: class numbers (B,), or a share of each class (B, num_classes), as of
mixed clips and of videos with several labels. It returns a mean over the clips, (). Its further arguments have defaults
and are passed by name. They are the keys of `recipe.loss_keys`, but for those in GIVEN. `MULTI_LABEL = False` in a file
says that its loss is not for videos with several labels.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, in_a_line
from ..registry import Registry

Loss = Callable[..., Tensor]

# What a loss is given if it takes it: the recipe's label smoothing, its class weights (num_classes,), data.multi_label.
GIVEN = ("label_smoothing", "class_weights", "multi_label")

_registry: Registry[Loss] = Registry(__name__, __path__, key="recipe.loss", attribute="loss", fits=callable)
find, names = _registry.find, _registry.names


def usual(multi_label: bool) -> str:
    """Return the loss of recipe.loss=null: that of one class a video, or of several."""
    return "binary_cross_entropy" if multi_label else "cross_entropy"


def check(
    name: str, keys: Mapping[str, Any], label_smoothing: float, multi_label: bool, class_weights: bool = False
) -> None:
    """Raise ValueError if there is no such loss, or it can't be computed with these keys; tries it on a few numbers."""
    parameters = [*inspect.signature(find(name)).parameters.values()]
    if len([p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]) != 2:
        raise ValueError(f"recipe.loss={name}: its function must be loss(logits, target, *, KEY=DEFAULT, ...)")
    if multi_label and getattr(import_module(f"{__name__}.{name}"), "MULTI_LABEL", True) is False:
        raise ValueError(
            f"recipe.loss={name}: is of one class a video; with data.multi_label=true use {usual(True)} or focal"
        )
    taken = [p.name for p in parameters][2:]
    own = [key for key in taken if key not in GIVEN]
    if unknown := [key for key in keys if key not in own]:
        raise ValueError(
            f"recipe.loss_keys.{unknown[0]}: must be one of {', '.join(own)}, which recipe.loss={name} takes"
            if own
            else f"recipe.loss_keys.{unknown[0]}: recipe.loss={name} takes no keys"
        )
    if label_smoothing and "label_smoothing" not in taken:
        raise ValueError(f"recipe.label_smoothing={label_smoothing}: must be 0, recipe.loss={name} takes none")
    if class_weights and "class_weights" not in taken:
        raise ValueError(f"recipe.class_weights: must be null, recipe.loss={name} takes none")
    target = torch.eye(2, 3) if multi_label else torch.arange(2)
    weights = torch.ones(3) if class_weights else None
    compute(name, find(name), torch.zeros(2, 3), target, **keys, **given(name, label_smoothing, weights, multi_label))


def given(name: str, label_smoothing: float, class_weights: Tensor | None, multi_label: bool) -> dict[str, Any]:
    """Return the arguments of a loss that the framework gives, as far as they are set and the loss takes them."""
    taken = inspect.signature(find(name)).parameters
    values = zip(GIVEN, (label_smoothing, class_weights, multi_label), strict=True)
    return {key: value for key, value in values if key in taken and (isinstance(value, Tensor) or value)}


def compute(name: str, function: Loss, logits: Tensor, target: Tensor, **keys: Any) -> Tensor:
    """Return a loss; ValueError, in one line, if its file raises an error or returns something else than a mean, ()."""
    try:
        loss = function(logits, target, **keys)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"recipe.loss={name}: its file raised {in_a_line(error)}") from error
    return check_mean(f"recipe.loss={name}", loss)


def check_mean(what: str, loss: Any) -> Tensor:
    """Return what a loss returned; raise InputError unless it is a floating-point ()."""
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point():
        return loss
    kind = f"{loss.dtype} {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise InputError(f"{what}: returned {kind}; must be a mean over the clips, floating point ()")
