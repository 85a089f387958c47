"""Moving weights: between clip lengths, crop sizes and class lists, and from the files of other projects."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from .base import VideoModel


def load_weights(model: VideoModel, state: Mapping[str, Tensor], *, new_classifier: bool = False) -> list[str]:
    """Load the weights of such a model; return a line for each tensor that did not go in as it was.

    Position embeddings are interpolated to the model's clip. ``new_classifier`` keeps the model's own freshly drawn
    classifier (transfer to another class list).

    Raises:
        ValueError: if a tensor is missing, unknown or of another shape; one line names them.
    """
    own, changes = model.state_dict(), []
    taken = dict(state)
    if new_classifier:
        taken |= {name: own[name] for name in own if in_module(name, model.classifier)}
        changes.append(f"{model.classifier}: drawn anew")

    missing, unknown = sorted(own.keys() - taken.keys()), sorted(taken.keys() - own.keys())
    if missing or unknown:
        raise ValueError(f"these weights are of another model: missing {some(missing)}; unknown {some(unknown)}")
    changes += _resize(model, taken, own)
    _refuse_shapes(model, taken, own)
    model.load_state_dict(taken)
    return changes


def load_foreign(model: VideoModel, state: Mapping[str, Tensor], *, new_classifier: bool = False) -> list[str]:
    """Load what fits of another project's weights; return what was taken, resized, left and drawn anew, a line each.

    The file's names become the model's by `VideoModel.renames`, its shapes by `VideoModel.adapt`. The classifier is the
    file's if the file has one, and drawn anew with ``new_classifier``, or if the file has none.

    Raises:
        ValueError: if nothing fits, or a tensor of the same name has another shape; one line.
    """
    own = model.state_dict()
    theirs = {rename(name, model.renames): name for name in state}
    given = model.adapt({ours: state[name] for ours, name in theirs.items()})
    found = {n: t for n, t in given.items() if n in own and not (new_classifier and in_module(n, model.classifier))}
    left = [theirs.get(n, n) for n in given if n not in found]
    renamed = sum(theirs.get(n, n) != n for n in found)
    if not any(name.endswith("weight") for name in found):
        raise ValueError(f"nothing in it fits this model, which has {some(sorted(own))}; it has {some(sorted(state))}")
    changes = _resize(model, found, own)
    _refuse_shapes(model, found, own)
    # A counter of batches is no weight, and old files lack it.
    anew = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    model.load_state_dict(found, strict=False)
    summary = [f"{len(found)} of {len(own)} tensors taken from {len(state)} in the file, {renamed} of them renamed"]
    if left:
        summary.append(f"left in the file: {some(left)}")
    if anew:
        summary.append(f"drawn anew: {some(anew)}")
    return [*summary, *changes]


def rename(name: str, renames: Sequence[tuple[str, str]]) -> str:
    """Return a name after each (pattern, replacement) in turn."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def in_module(name: str, module: str) -> bool:
    """Return whether a parameter is the named one or belongs to the named module."""
    return name == module or name.startswith(f"{module}.")


def _resize(model: VideoModel, taken: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    changes = []
    for name, resize in model.positions.items():
        if name not in taken or name not in own or taken[name].shape == own[name].shape:
            continue
        old = tuple(taken[name].shape)
        if taken[name].dim() == own[name].dim() and old[-1] == own[name].shape[-1]:
            try:
                taken[name] = resize(taken[name], own[name].shape)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            changes.append(f"{name}: interpolated from {old} to {tuple(own[name].shape)}")
    return changes


def _refuse_shapes(model: VideoModel, taken: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    wrong = [n for n in own if n in taken and taken[n].shape != own[n].shape]
    if wrong:
        shapes = [f"{n} {tuple(taken[n].shape)}, here {tuple(own[n].shape)}" for n in wrong]
        only_head = all(in_module(n, model.classifier) for n in wrong)
        hint = "; new_classifier=true draws a new classifier" if only_head else ""
        raise ValueError(f"these weights do not fit: {some(shapes)}{hint}")


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and the number of the others: 'a, b, c and 9 more'."""
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
