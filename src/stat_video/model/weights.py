"""Moving weights between clip lengths, crop sizes, windows and class lists."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .stat import STAT

POSITIONS = ("pos_spatial", "pos_temporal")
CLASSIFIER = ("head.weight", "head.bias")


def load_weights(model: STAT, state: Mapping[str, Tensor], *, new_classifier: bool = False) -> list[str]:
    """Load `state` into `model`; return a line for each tensor that did not go in as it was.

    Position embeddings are interpolated to the model's clip length and grid. ``new_classifier`` keeps the model's own
    freshly drawn classifier (transfer to another class list). Windows (t_o) and LA have no weights of their own.

    Raises:
        ValueError: where a tensor is missing, unknown or of another shape; one line names them.
    """
    own, changes = model.state_dict(), []
    taken = dict(state)
    if new_classifier:
        taken |= {name: own[name] for name in CLASSIFIER}
        changes.append(f"classifier: drawn anew for {model.config.num_classes} classes")

    missing, unknown = sorted(own.keys() - taken.keys()), sorted(taken.keys() - own.keys())
    if missing or unknown:
        raise ValueError(f"these weights are of another model: missing {_some(missing)}; unknown {_some(unknown)}")
    has_class_token = "class_token" in own
    for name in POSITIONS:
        if taken[name].shape != own[name].shape and taken[name].shape[-1] == own[name].shape[-1]:
            old = taken[name].shape
            resize = _resize_temporal if name == "pos_temporal" else _resize_spatial
            taken[name] = resize(taken[name], own[name].shape, has_class_token)
            changes.append(f"{name}: interpolated from {tuple(old)} to {tuple(own[name].shape)}")
    wrong = [n for n in own if taken[n].shape != own[n].shape]
    if wrong:
        shapes = [f"{n} {tuple(taken[n].shape)}, here {tuple(own[n].shape)}" for n in wrong]
        hint = "; new_classifier=true draws a new classifier" if set(wrong) <= set(CLASSIFIER) else ""
        raise ValueError(f"these weights do not fit: {_some(shapes)}{hint}")
    model.load_state_dict(taken)
    return changes


def _resize_temporal(positions: Tensor, shape: tuple[int, ...], has_class_token: bool) -> Tensor:
    """(1, n_t, 1, C) -> (1, n_t', 1, C), linear."""
    x = positions[:, :, 0].transpose(1, 2)  # (1, C, n_t)
    return F.interpolate(x, shape[1], mode="linear").transpose(1, 2)[:, :, None].to(positions.dtype)


def _resize_spatial(positions: Tensor, shape: tuple[int, ...], has_class_token: bool) -> Tensor:
    """(1, 1, S + n, C) -> (1, 1, S + n', C), bicubic on the square grid; the class token's stays."""
    token, grid = positions[0].split([int(has_class_token), positions.shape[2] - has_class_token], dim=1)
    old, new = (round((n - has_class_token) ** 0.5) for n in (positions.shape[2], shape[2]))
    if old * old != grid.shape[1]:
        raise ValueError(f"pos_spatial: {grid.shape[1]} patch positions are not a square grid")
    grid = grid.transpose(1, 2).unflatten(2, (old, old))  # (1, C, n_h, n_w)
    grid = F.interpolate(grid, (new, new), mode="bicubic", antialias=new < old)
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)[None]


def _some(names: list[str], most: int = 3) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
