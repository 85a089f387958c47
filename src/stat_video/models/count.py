"""What a model costs before it runs: multiply-adds and parameters, counted on the meta device.

1 GFLOP of the papers is 1e9 multiply-adds (MViT's convention), written GMACs here. The count takes matrix products,
convolutions and attention; no norms, pools or softmax.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError, in_a_line
from . import base
from .meta import Remembered

# Piece of an operator's name -> kind; else linear. A batched product is of two activations: attention, written out.
KINDS = {"convolution": "convolution", "attention": "attention", "bmm": "attention"}


class Uncounted(InputError):
    """A model whose passes do not run on the meta device, so that nobody knows its cost before it runs."""


@contextmanager
def counting(config: base.ModelConfig) -> Iterator[None]:
    """Raise Uncounted, with one line, if a pass of this model on the meta device fails inside.

    It does if the pass asks for numbers, as `if x.mean() > 0` and `x.item()` do: a tensor has none there.
    """
    try:
        yield
    except Exception as error:
        raise Uncounted(f"model={config.name}: its cost can't be counted ({in_a_line(error)})") from error


@dataclass(frozen=True)
class Layer:
    """One part of a model in one forward pass of one clip."""

    name: str
    macs: int
    parameters: int
    output: tuple[int, ...]  # shape without the batch, () if it is no tensor
    kinds: dict[str, int]  # multiply-adds: 'linear', 'convolution', 'attention'


@dataclass(frozen=True)
class Count:
    """A model on the meta device and what its modules cost in one forward pass of one clip."""

    model: base.VideoModel
    macs: dict[str, dict[str, int]]  # name of a module ('' is the whole): kind: multiply-adds
    outputs: dict[str, tuple[int, ...]]

    def of(self, name: str) -> int:
        """Multiply-adds of a module."""
        return sum(self.macs.get(name, {}).values())


def gmacs(config: base.ModelConfig, clip: base.Clip, num_classes: int) -> float:
    """Return 1e9 multiply-adds of one forward pass of one view of the test; Uncounted if they can't be counted."""
    return _count(config, clip, num_classes, clip.view_crop).of("") / 1e9


def parameters(config: base.ModelConfig, clip: base.Clip, num_classes: int) -> int:
    """Return the number of parameters."""
    return _parameters(Key((config, clip, num_classes)))


def step_gmacs(config: base.ModelConfig, clip: base.Clip, num_classes: int, recomputed: bool = False) -> float:
    """Return 1e9 multiply-adds of one clip's forward and backward pass: three forward passes' worth, as is usual.

    With gradient checkpointing the forward pass of the model's units counts once more. (FlopCounterMode can't count the
    backward pass: it takes the gradients of a depthwise convolution for those of a dense one.)
    """
    found = _count(config, clip, num_classes, clip.crop)
    names = {id(module): name for name, module in found.model.named_modules()}
    again = sum(found.of(names[id(unit)]) for unit in found.model.units())
    return (3 * found.of("") + recomputed * again) / 1e9


def by_layer(config: base.ModelConfig, clip: base.Clip, num_classes: int) -> list[Layer]:
    """Return the parts of a model in their order; multiply-adds and parameters add up exactly to those of the whole.

    A part is a child of the model; a list of layers, and a child with more than half of all the multiply-adds, is taken
    apart further.
    """
    found = _count(config, clip, num_classes, clip.view_crop)
    rows: list[Layer] = []

    def visit(module: nn.Module, path: str) -> None:
        begin = len(rows)
        for name, child in module.named_children():
            inside = f"{path}.{name}" if path else name
            heavy = 2 * found.of(inside) > found.of("")
            if any(child.children()) and (heavy or inside not in found.outputs):
                visit(child, inside)
            elif weights_of(child) or found.of(inside):
                add(inside, found.macs.get(inside, {}), weights_of(child))
        # What a module computes or holds itself, outside its children.
        rest = {
            kind: n - sum(row.kinds.get(kind, 0) for row in rows[begin:])
            for kind, n in found.macs.get(path, {}).items()
            if path in found.outputs
        }
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own or any(rest.values()):
            add(f"{path or type(module).__name__} itself", rest, own)

    def add(name: str, kinds: dict[str, int], weights: int) -> None:
        kinds = {kind: n for kind, n in kinds.items() if n}
        rows.append(Layer(name, sum(kinds.values()), weights, found.outputs.get(name, ()), kinds))

    visit(found.model, "")
    return rows


def weights_of(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def _count(config: base.ModelConfig, clip: base.Clip, num_classes: int, size: int) -> Count:
    return _counted(Key((config, clip, num_classes, size)))


class Key:
    """Arguments that are compared by what they print, since configs hold lists."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments, self.text = arguments, repr(arguments)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.text == other.text


@lru_cache(maxsize=64)
def _parameters(key: Key) -> int:
    config, clip, num_classes = key.arguments
    with torch.device("meta"):
        return weights_of(config.build(clip, num_classes))


@lru_cache(maxsize=64)
def _counted(key: Key) -> Count:
    config, clip, num_classes, size = key.arguments
    outputs: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"), torch.no_grad():
        model = config.build(clip, num_classes).eval().counted()
        names = {module: name for name, module in model.named_modules()}

        def note(module: nn.Module, inputs: Any, out: Any) -> None:
            outputs[names[module]] = tuple(getattr(out, "shape", ()))[1:]

        hooks = [module.register_forward_hook(note) for module in names]
        with counting(config), Remembered(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, clip.T, size, size))
        for hook in hooks:
            hook.remove()
    macs: dict[str, dict[str, int]] = {}
    whole = type(model).__name__
    for name, operators in counter.get_flop_counts().items():
        path = "" if name in ("Global", whole) else name.removeprefix(f"{whole}.")
        if name == "Global" and whole in counter.get_flop_counts():
            continue
        kinds = macs.setdefault(path, {})
        for operator, flops in operators.items():
            kind = next((kind for piece, kind in KINDS.items() if piece in str(operator)), "linear")
            kinds[kind] = kinds.get(kind, 0) + flops // 2
    return Count(model, macs, outputs)
