"""Weights that follow from a model's architecture alone, so that two implementations of it get the same.

The rule, in short. Leaves are the convolutions, linear layers and norms that run. The depth of a leaf is the number of
leaves on the longest path from the input to it. Leaves of one kind and shape are numbered by (depth, place in the
model's list of ties, order of first execution); a generator seeded with kind, number and shape draws their values. A
Linear, a 1x1 convolution and a patch convolution with as many inputs are alike. So goldens.json, computed with the
authors' code, holds for any implementation, whatever its names and the order of its branches.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BATCH_NORM = nn.modules.batchnorm._BatchNorm
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
LEAVES = (*WEIGHTED, BATCH_NORM, nn.LayerNorm)


@dataclass(frozen=True)
class Unit:
    """A leaf, or one block of rows of a leaf that fuses several (the q of a qkv)."""

    module: Any
    kind: str  # weight, batch or layer
    shape: tuple[int, ...]  # (outputs, inputs) of weights, (channels,) of norms
    rank: tuple[int, int, int, int]  # depth, place among the ties, order of first execution, block of rows


@torch.no_grad()
def fill(
    model: nn.Module,
    clip: Tensor,
    *,
    fused: Mapping[str, int] | None = None,
    raw: Mapping[str, str] | None = None,
    ties: Sequence[str] = (),
    conv_bias: bool = True,
    gain: float = 1.0,
) -> None:
    """Fill a model, which is left in evaluation mode with gradients on.

    ``fused`` has the last part of a module's name and its number of blocks of rows; ``raw`` the parameters that belong
    to no leaf, all of them, and their roles; ``ties`` pieces of names, of leaves alike the first ones first;
    ``conv_bias`` false leaves the biases of convolutions at zero; ``gain`` multiplies all weights.
    """
    fused, raw = fused or {}, raw or {}
    of_leaves = {id(p) for m in model.modules() if isinstance(m, LEAVES) for p in m.parameters(recurse=False)}
    others = {name for name, p in model.named_parameters() if id(p) not in of_leaves}
    assert others == set(raw), f"parameters outside of leaves: {sorted(others ^ set(raw))}"

    alike: dict[tuple[Any, ...], list[Unit]] = defaultdict(list)
    for unit in units(model, clip, fused, ties):
        alike[unit.kind, unit.shape].append(unit)
    for same in alike.values():
        for index, unit in enumerate(sorted(same, key=lambda u: u.rank)):
            draw(unit, index, conv_bias, gain)
    for name, role in raw.items():
        p = model.get_parameter(name)
        put(p, 0.5 * generator(role, p.numel()).standard_normal(p.numel()))


def draw(unit: Unit, index: int, conv_bias: bool, gain: float) -> None:
    """Draw the values of one unit, which is number `index` of its kind and shape."""
    module, n, g = unit.module, unit.shape[0], generator(unit.kind, index, *unit.shape)
    if unit.kind == "weight":
        rows = slice(unit.rank[-1] * n, (unit.rank[-1] + 1) * n)
        put(module.weight[rows], gain * g.standard_normal(unit.shape) / unit.shape[1] ** 0.5)
        bias = 0.1 * g.standard_normal(n)
        if module.bias is not None:
            put(module.bias[rows], bias if conv_bias or isinstance(module, nn.Linear) else 0 * bias)
        return
    put(module.weight, g.uniform(0.75, 1.25, n))
    put(module.bias, 0.1 * g.standard_normal(n))
    if unit.kind == "batch":
        put(module.running_mean, 0.1 * g.standard_normal(n))
        put(module.running_var, g.uniform(0.5, 1.5, n))


def units(model: nn.Module, clip: Tensor, fused: Mapping[str, int], ties: Sequence[str]) -> Iterator[Unit]:
    """Yield the units of the leaves that run."""
    names = {module: name for name, module in model.named_modules()}
    for order, (module, depth) in enumerate(depths(model, clip).items()):
        name, weight = names[module], module.weight
        tie = next((i for i, piece in enumerate(ties) if piece in name), len(ties))
        if not isinstance(module, WEIGHTED):
            kind = "batch" if isinstance(module, BATCH_NORM) else "layer"
            yield Unit(module, kind, tuple(weight.shape), (depth, tie, order, 0))
            continue
        blocks = fused.get(name.rpartition(".")[2], 1)
        shape = (len(weight) // blocks, weight[0].numel())
        for block in range(blocks):
            yield Unit(module, "weight", shape, (depth, tie, order, block))


def depths(model: nn.Module, clip: Tensor) -> dict[Any, int]:
    """Return the depth of each leaf, in the order in which they run; the least one of a leaf that runs repeatedly.

    Autograd's graph tells what a leaf's input depends on.
    """
    found: dict[Any, int] = {}
    of_node: dict[Any, int] = {None: 0}  # it also keeps the nodes alive

    def depth(node: Any) -> int:
        if node not in of_node:
            of_node[node] = max((depth(before) for before, _ in node.next_functions), default=0)
        return of_node[node]

    def visit(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        here = of_node[out.grad_fn] = 1 + depth(inputs[0].grad_fn)
        found[module] = min(here, found.get(module, here))

    with hooks(model, visit), torch.enable_grad():
        model.eval().requires_grad_(True)(clip)
    return found


@contextmanager
def hooks(model: nn.Module, visit: Any) -> Iterator[None]:
    """Call ``visit(module, inputs, output)`` after each leaf."""
    handles = [m.register_forward_hook(visit) for m in model.modules() if isinstance(m, LEAVES)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def generator(kind: str, *numbers: int) -> np.random.Generator:
    """Return the generator of a unit or of a role."""
    return np.random.default_rng([zlib.crc32(kind.encode()), *numbers])


def put(target: Tensor, values: np.ndarray) -> None:
    """Write values in C order."""
    target.copy_(torch.from_numpy(values).reshape(target.shape))


def numbers(model: nn.Module, clip: Tensor) -> tuple[Tensor, float]:
    """Return the logits (B, K), and the slope: the sum of |d sum over b, k of k * logits[b, k] / d clip|."""
    logits = model(clip := clip.clone().requires_grad_())
    (slope,) = torch.autograd.grad((logits * torch.arange(logits.shape[1]).to(clip)).sum(), clip)
    return logits.detach(), slope.abs().sum().item()
