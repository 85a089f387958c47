"""Memory of a training step before it is run: both passes on the meta device, with every storage followed.

Counted are the weights and buffers, the gradients, what the optimizer keeps, what the forward pass keeps for the
backward pass, and the largest extent of what comes and goes. Not counted are CUDA's context, the workspaces of its
kernels and the fragmentation of its allocator: see `USABLE`.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .base import Clip, ModelConfig
from .count import Key, counting
from .meta import Remembered
from .parts.backend import BACKEND
from .parts.recompute import recompute_units

USABLE = 0.9  # share of a GPU's memory that a step may fill; the rest is for what is not counted
FITTED_AT = (4, 8)  # batches through whose figures the line is drawn


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step, as lines over the clips that a device takes at once.

    From 2 clips on a full-size model is within 2 % of the line; a single clip takes up to 8 % more.
    """

    state: int  # weights, buffers, gradients, what the optimizer keeps
    kept: tuple[float, float]  # (fixed, of a clip) from the forward pass for the backward pass
    peak: tuple[float, float]  # the most that a step holds beside the state, likewise

    def whole(self, batch: int) -> float:
        """Return all of a step at its largest."""
        return self.state + self.peak[0] + batch * self.peak[1]

    def largest_batch(self, memory: float) -> int:
        """Return how many clips fit at once into a GPU of so many bytes, 0 if not one does."""
        return max(0, int((USABLE * memory - self.state - self.peak[0]) // self.peak[1]))


def step_memory(
    config: ModelConfig,
    clip: Clip,
    num_classes: int,
    mixed: bool,
    checkpointing: bool,
    recompute: bool = True,
    copies: int = 2,
) -> StepMemory:
    """Return the memory of a step in fp32 or mixed precision, with or without gradient checkpointing.

    ``recompute`` is `BACKEND.recompute`; ``copies`` is how many numbers training keeps of each parameter beside it and
    its gradient. A pass of validation or test takes less: it keeps nothing for a backward pass.
    """
    weights, buffers, kept, peak = _lines(Key((config, clip, num_classes, mixed, checkpointing, recompute)))
    return StepMemory((2 + copies) * weights + buffers, kept, peak)


@lru_cache(maxsize=64)
def _lines(key: Key) -> tuple[int, int, tuple[float, float], tuple[float, float]]:
    """Return bytes of the weights and of the buffers, and (fixed, of a clip) of what is kept and of the peak."""
    config, clip, num_classes, *how = key.arguments
    with torch.device("meta"):
        model = config.build(clip, num_classes)
    weights, buffers = (sum(t.nbytes for t in tensors) for tensors in (model.parameters(), model.buffers()))
    a, b = FITTED_AT
    measured = (measure(config, clip, num_classes, n, *how) for n in (a, b))
    kept, peak = ((x - a * (y - x) / (b - a), (y - x) / (b - a)) for x, y in zip(*measured, strict=True))
    return weights, buffers, kept, peak


def measure(
    config: ModelConfig,
    clip: Clip,
    num_classes: int,
    batch: int,
    mixed: bool = False,
    checkpointing: bool = False,
    recompute: bool = True,
) -> tuple[int, int]:
    """Return (bytes kept by the forward pass, peak of both passes) of a batch of fp32 clips.

    Weights, buffers and gradients are there before and not in it.
    """
    with torch.device("meta"), _recomputing(recompute):
        model = config.build(clip, num_classes).train()
        if checkpointing:
            recompute_units(model)
        for p in model.parameters():
            p.grad = torch.empty_like(p)  # as from the second of several accumulated passes on
        clips = torch.empty(batch, 3, clip.T, clip.crop, clip.crop)
        with counting(config), Remembered(), Live(state_of(model)) as live, Kernels(mixed):
            live.add(clips)
            loss = F.cross_entropy(model(clips), torch.empty(batch, dtype=torch.long))
            kept = live.bytes
            backward(loss)
    return kept, live.peak


@contextmanager
def _recomputing(recompute: bool) -> Iterator[None]:
    before, BACKEND.recompute = BACKEND.recompute, recompute
    try:
        yield
    finally:
        BACKEND.recompute = before


def state_of(model: nn.Module) -> list[Tensor]:
    """Return the tensors that outlive a step: weights, buffers, gradients."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [*model.parameters(), *model.buffers(), *grads]


def backward(loss: Tensor) -> None:
    """Run `loss.backward()` within a TorchFunctionMode.

    The public functions step out of the mode, so what gradient checkpointing runs again would escape it.
    """
    start = (torch.ones_like(loss),)
    Variable._execution_engine.run_backward((loss,), start, False, False, (), True, True)


class Live(TorchDispatchMode):
    """Follows the storages that operations make, but for those of `known`: `bytes` alive now, and their `peak`."""

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


def _functions(names: str) -> frozenset[Callable[..., Any]]:
    """Return all of PyTorch's functions and methods of these names."""
    places = (torch, F, Tensor, torch.linalg, torch.special)
    return frozenset(getattr(place, name) for name in names.split() for place in places if hasattr(place, name))


class Kernels(TorchFunctionMode):
    """What CUDA does otherwise than the meta device: attention that keeps no weights, and autocasting to bf16.

    The lists are those of `torch.autocast('cuda')`. Lightning switches its cache off (`cache_enabled=False`): a weight
    is cast anew at each use, and the copy lasts as long as the graph needs it. NOTE: what a Python function of PyTorch
    calls is not seen one by one, so `nn.MultiheadAttention` counts as fp32 throughout; the models here write their
    attention out.
    """

    LOW = _functions(
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ __rmatmul__ "
        "mm mv bmm addmm addmv addr addbmm baddbmm einsum multi_dot chain_matmul prelu scaled_dot_product_attention"
    )
    FULL = _functions(
        "layer_norm group_norm softmax softmin log_softmax logsumexp cross_entropy nll_loss kl_div mse_loss l1_loss "
        "smooth_l1_loss huber_loss binary_cross_entropy_with_logits exp expm1 log log2 log10 log1p pow __pow__ "
        "__rpow__ reciprocal __rtruediv__ rsqrt softplus sum prod cumsum cumprod norm vector_norm normalize "
        "cosine_similarity cdist interpolate"
    )

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.mixed and function in self.LOW:
            args, kwargs = self._cast((args, kwargs), Tensor.bfloat16)
        elif self.mixed and function in self.FULL:
            args, kwargs = self._cast((args, kwargs), Tensor.float)
        if function is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what a fused kernel does, which keeps its inputs, its output and a number a query.

        The mask, a few bytes a key, is left out. The fused kernels take four dimensions and values as wide as keys.
        """
        if query.dim() != 4 or query.shape[-1] != value.shape[-1] or query.shape[1] != key.shape[1]:
            return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return result

    @staticmethod
    def _cast(arguments: Any, cast: Callable[[Tensor], Tensor]) -> Any:
        return tree_map(lambda x: cast(x) if isinstance(x, Tensor) and x.is_floating_point() else x, arguments)
