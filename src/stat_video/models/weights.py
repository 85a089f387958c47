"""Moving weights: between clip lengths, crop sizes and class lists, and from the files of other projects."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .base import VideoModel

SHARE = 0.95  # of a model's numbers that a file of first weights has to hold
CLASSIFIER = r"(^|\.)(fc|new_fc|head\w*|classifier|projection|pre_logits|pred_[wb]|proj)\.?\w*$"  # in others' files
# What a file's names may begin with, of modules that wrap a network; of one in another, each in turn.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "base_model.", "student.")
# Whose names are whose, by what none of the others has, with a wrapper's prefix or without.
FORMATS = {
    "PySlowFast": r"^s\d+(_fuse\.|\.pathway\d)|^patch_embed\.proj\.|\.attn\.(pool|norm)_[qkv]\.|^head\.(lin_5|conv_5)",
    "PyTorchVideo": r"^blocks\.\d+\.(multipathway|res_blocks|pool)|^blocks\.\d+\.(conv|norm)\.",
    "torchvision's video models": r"^(layer\d\.\d\.conv\d\.\d\.|conv_proj\.|pos_encoding\.)",
    "torchvision's or timm's ResNet": r"^(layer[1-4]\.\d+\.(conv|bn|downsample)|conv1\.weight|bn1\.)",
    "a TSN-style repository (TSM, TEA, TDN, MSNet)": r"^(base_model|new_fc)\.",
    "timm's or the authors' ViT": r"^(blocks\.\d+\.(attn\.qkv|norm1|mlp\.fc1)|cls_token|pos_embed)",
    "transformers": r"^(\w+\.)?(encoder\.layers?\.\d+\.|embeddings\.|layers\.\d+\.(attention|layernorm))",
    "Caffe2": r"^(res\d_\d+_branch|conv1_w$|pred_w$)",
}


class OtherClassifier(ValueError):
    """Weights that fit but for their classifier, which is of another number of classes."""

    def __init__(self, line: str) -> None:
        super().__init__(f"{line}; new_classifier=true draws a new classifier")
        self.line = line  # without the key, which a test does not have


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
    _refuse_values(taken, own)
    model.load_state_dict(taken)
    return changes


def load_foreign(
    model: VideoModel, state: Mapping[str, Tensor], *, new_classifier: bool = False, share: float = SHARE
) -> list[str]:
    """Load another project's weights; return what was taken, made, resized, left and drawn anew, one line each.

    The file's names become the model's by `VideoModel.renames`, without a wrapper's prefix (PREFIXES), its shapes by
    `VideoModel.adapt`. The classifier is the file's if the file has one, and drawn anew with ``new_classifier``, or if
    the file has none. ``share`` is the least part of the model's numbers that the file has to hold, without the
    classifier and `VideoModel.new_parts`.

    Raises:
        ValueError: if less is in it, it is of another network, or a tensor has another shape; one line.
    """
    own = model.state_dict()
    theirs = _named_as_here(model, state, own)
    given = model.adapt({ours: state[name] for ours, name in theirs.items()})
    if share >= SHARE:  # who asks for less takes what there is of another depth, too
        model.check_network(given)
    found = {n: t for n, t in given.items() if n in own and not (new_classifier and in_module(n, model.classifier))}
    left = [theirs.get(n, n) for n in given if n not in found]
    names = {in_memory(tensor): name for name, tensor in state.items()}  # `adapt` gives names too
    renamed = sum(theirs.get(n, names.get(in_memory(tensor), n)) != n for n, tensor in found.items())
    made = [n for n, tensor in found.items() if in_memory(tensor) not in names]
    changes = _resize(model, found, own)
    there = share_of(model, found, new_parts=_all_used(state, left, share))
    try:
        _refuse_shapes(model, found, own)
    except OtherClassifier:
        if there >= share:  # else it says little that two classifiers have one name
            raise
    if odd := [n for n in found if own[n].is_floating_point() and not found[n].is_floating_point()]:
        raise ValueError(f"weights that are no floating-point numbers, as of a quantized model: {some(odd)}")
    if there < share or not any(name.endswith("weight") for name in found):
        lacks = [n for n in expected(model, new_parts=False) if n not in found]
        raise ValueError(
            f"{format_of(list(state))}; it holds {there:.0%} of the model's numbers outside the classifier "
            f"({len(found)} of {len(own)} tensors), init_share={share:g} is the least that is taken. "
            f"Missing: {some(lacks)}; not used: {some(left)}"
        )
    _refuse_values(found, own)
    # A counter of batches is no weight, and old files lack it.
    anew = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    model.load_state_dict(found, strict=False)
    summary = [f"{len(found)} of {len(own)} tensors taken from {len(state)} in the file, {renamed} of them renamed"]
    if made:
        summary.append(f"made of the file's by inflating, splitting, joining or folding: {some(made)}")
    if left:
        summary.append(f"left in the file: {some(left)}")
    if anew:
        summary.append(f"drawn anew: {some(anew)}")
    return [*summary, *changes]


def _named_as_here(model: VideoModel, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names in a file by the names that they have in the model, without the prefix that fits best.

    Raises ValueError if two tensors that differ would have one name.
    """

    def named(prefix: str) -> dict[str, str]:
        return {rename(name.removeprefix(prefix), model.renames): name for name in state}

    best = max(prefixes_of(list(state)), key=lambda prefix: len(named(prefix).keys() & own.keys()))
    found: dict[str, str] = {}
    for name, tensor in state.items():
        other = found.setdefault(rename(name.removeprefix(best), model.renames), name)
        if other != name and not torch.equal(tensor, state[other]):
            raise ValueError(f"{other} and {name} in the file differ, and have one name here")
    return found


def prefixes_of(names: Sequence[str]) -> list[str]:
    """Return what most of the names begin with, of modules that wrap a network: '', 'module.', 'module.model.' ..."""
    found, longest = [""], ""
    while more := next((p for p in PREFIXES if 2 * sum(n.startswith(longest + p) for n in names) > len(names)), None):
        longest += more
        found.append(longest)
    return found


def in_memory(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    """Return what tensors have in common that are the same numbers in memory, whatever their shapes."""
    return tensor.data_ptr(), tensor.numel(), tensor.dtype


def expected(model: VideoModel, new_parts: bool) -> list[str]:
    """Return the names of the parameters that first weights have: not the classifier's nor, if told, the new parts'."""
    apart = (model.classifier, *(model.new_parts if new_parts else ()))
    names = [name for name, _ in model.named_parameters()]
    return [n for n in names if not any(in_module(n, part) or part in n.split(".") for part in apart)]


def share_of(model: VideoModel, found: Mapping[str, Tensor], new_parts: bool = True) -> float:
    """Return the share of the `expected` numbers that are among the tensors that were found, 0 to 1."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    asked = expected(model, new_parts)
    return sum(sizes[n] for n in asked if n in found) / max(sum(sizes[n] for n in asked), 1)


def _all_used(state: Mapping[str, Tensor], left: Sequence[str], share: float) -> bool:
    """Return whether almost nothing is left in a file but a classifier: else it may hold the new parts, too."""
    rest = sum(state[name].numel() for name in left if name in state and not re.search(CLASSIFIER, name))
    return rest <= (1 - share) * sum(tensor.numel() for tensor in state.values())


def format_of(names: Sequence[str]) -> str:
    """Return which of the known projects has names like these, for a message."""
    project = project_of(names)
    return f"its names are like those of {project}" if project else "its names are of no known project"


def project_of(names: Sequence[str]) -> str | None:
    """Return which of the known projects (FORMATS) has names like these; None if none has."""
    names = [name.removeprefix(prefix) for prefix in prefixes_of(names) for name in names]
    hits = {form: sum(bool(re.search(pattern, name)) for name in names) for form, pattern in FORMATS.items()}
    nearest = max(hits, key=lambda form: hits[form])
    return nearest if hits[nearest] else None


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
        line = f"these weights do not fit: {some(shapes)}"
        if all(in_module(n, model.classifier) for n in wrong):
            raise OtherClassifier(line)
        raise ValueError(line)


def _refuse_values(taken: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError for numbers with which a model computes none: as the model has them, of its own precision."""
    with_numbers = (n for n in taken if own[n].is_floating_point() and not taken[n].is_meta)
    values = {n: taken[n].to(own[n].dtype) for n in with_numbers}
    if wrong := [n for n, value in values.items() if not value.isfinite().all()]:
        raise ValueError(f"weights that are not finite: {some(wrong)}")
    if wrong := [n for n, value in values.items() if n.endswith("running_var") and (value < 0).any()]:
        raise ValueError(f"a variance below 0: {some(wrong)}")


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and the number of the others: 'a, b, c and 9 more'."""
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
