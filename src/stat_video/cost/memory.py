"""Memory of a training step before it is run: both passes on the meta device, with every storage followed.

Counted are the weights, their gradients, AdamW's two moments, what the forward pass keeps for the backward pass, and
the largest extent of what comes and goes. Not counted are CUDA's context, the workspaces of its kernels and the
fragmentation of its allocator: see `USABLE`.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..model import STAT, STATConfig
from .layers import parameters

USABLE = 0.9  # share of a GPU's memory that a step may fill; the rest is for what is not counted
STATE_BYTES = 4 * 4  # of a parameter, in fp32: itself, its gradient and AdamW's two moments
FITTED_AT = (4, 8)  # batches through whose figures the line is drawn


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step, as lines over the clips that a device takes at once.

    From 2 clips on the full-size model is within 1 % of the line; a single clip takes up to 8 % more.
    """

    state: int  # weights, gradients, AdamW's moments
    kept: tuple[float, float]  # (fixed, of a clip) from the forward pass for the backward pass
    peak: tuple[float, float]  # the most that a step holds beside the state, likewise

    def activations(self, batch: int) -> float:
        """What the forward pass keeps for the backward pass."""
        return self.kept[0] + batch * self.kept[1]

    def whole(self, batch: int) -> float:
        """All of a step at its largest."""
        return self.state + self.peak[0] + batch * self.peak[1]

    def largest_batch(self, memory: float) -> int:
        """Clips that fit at once into a GPU of so many bytes, 0 where not one does."""
        return max(0, int((USABLE * memory - self.state - self.peak[0]) // self.peak[1]))


@lru_cache(maxsize=64)
def step_memory(config: STATConfig, mixed: bool, checkpointing: bool) -> StepMemory:
    """Memory of a step in fp32 or mixed precision, with or without gradient checkpointing."""
    config = replace(config, gradient_checkpointing=checkpointing)
    a, b = FITTED_AT
    figures = zip(measure(config, a, mixed), measure(config, b, mixed), strict=True)
    kept, peak = ((x - a * (y - x) / (b - a), (y - x) / (b - a)) for x, y in figures)
    return StepMemory(STATE_BYTES * parameters(config), kept, peak)


def measure(config: STATConfig, batch: int, mixed: bool = False) -> tuple[int, int]:
    """(bytes kept by the forward pass, peak of both passes) beside weights and gradients, for a batch of fp32 clips."""
    with torch.device("meta"):
        model = STAT(config).train()
        for p in model.parameters():
            p.grad = torch.empty_like(p)  # as from the second of several accumulated passes on
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        clip = torch.empty(batch, 3, config.T, config.crop, config.crop)
        with Live([*model.parameters(), *grads]) as live, Kernels(mixed):
            live.add(clip)
            loss = F.cross_entropy(model(clip), torch.empty(batch, dtype=torch.long))
            kept = live.bytes
            backward(loss)
    return kept, live.peak


def backward(loss: Tensor) -> None:
    """`loss.backward()` that stays within a TorchFunctionMode: the public functions step out of it.

    What gradient checkpointing runs again in a backward pass would escape the mode.
    """
    start = (torch.ones_like(loss),)
    Variable._execution_engine.run_backward((loss,), start, False, False, (), True, True)


class Live(TorchDispatchMode):
    """Follows the storages that operations make: `bytes` alive now, and `peak`, without those given."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; views and changes in place add nothing."""
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            size = storage.nbytes()
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.bytes -= size


class Kernels(TorchFunctionMode):
    """What CUDA does otherwise than the meta device: attention that keeps no weights, and autocasting to bf16.

    The lists are those of `torch.autocast('cuda')` as far as a STAT calls them.
    """

    LOW = (F.linear, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, F.scaled_dot_product_attention)
    FULL = (F.layer_norm, F.cross_entropy)

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.weights: dict[Tensor, Tensor] = {}  # autocast keeps the bf16 copy of a weight for all passes of a step

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.mixed and function in self.LOW:
            args, kwargs = self._cast((args, kwargs), self._to_bf16)
        elif self.mixed and function in self.FULL:
            args, kwargs = self._cast((args, kwargs), Tensor.float)
        if function is F.scaled_dot_product_attention:
            # Any fused kernel keeps its inputs, its output and a number a query. The mask is a few bytes a key.
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return function(*args, **kwargs)

    @staticmethod
    def _cast(arguments: Any, cast: Callable[[Tensor], Tensor]) -> Any:
        return tree_map(lambda x: cast(x) if isinstance(x, Tensor) and x.is_floating_point() else x, arguments)

    def _to_bf16(self, x: Tensor) -> Tensor:
        if x.is_leaf and x.requires_grad:
            if x not in self.weights:
                self.weights[x] = x.bfloat16()
            return self.weights[x]
        return x.bfloat16()
