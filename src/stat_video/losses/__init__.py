"""The losses: a file each with a function `loss`, found by its name (`recipe.loss`).

A loss takes logits (B, num_classes) and a target: class numbers (B,), or a share of each class (B, num_classes), as of
mixed clips and of videos with several labels. It returns a mean over the clips, (). Its further arguments have defaults
and are passed by name: they are the keys of `recipe.loss_keys`, but for `label_smoothing`, which is the recipe's.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..registry import Registry

Loss = Callable[..., Tensor]

_registry: Registry[Loss] = Registry(__name__, __path__, key="recipe.loss", attribute="loss", fits=callable)
find, names = _registry.find, _registry.names


def usual(multi_label: bool) -> str:
    """Return the loss of recipe.loss=null: that of one class a video, or of several."""
    return "binary_cross_entropy" if multi_label else "cross_entropy"


def check(name: str, keys: Mapping[str, Any], label_smoothing: float) -> None:
    """Raise ValueError if there is no such loss, or it does not take these arguments."""
    taken = [p.name for p in inspect.signature(find(name)).parameters.values()][2:]
    own = [key for key in taken if key != "label_smoothing"]
    if unknown := [key for key in keys if key not in own]:
        raise ValueError(
            f"recipe.loss_keys.{unknown[0]}: must be one of {', '.join(own)}, which recipe.loss={name} takes"
            if own
            else f"recipe.loss_keys.{unknown[0]}: recipe.loss={name} takes no keys"
        )
    if label_smoothing and "label_smoothing" not in taken:
        raise ValueError(f"recipe.label_smoothing={label_smoothing}: must be 0, recipe.loss={name} takes none")
