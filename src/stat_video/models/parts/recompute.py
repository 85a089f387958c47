"""Results that are cheap to make are made again in the backward pass instead of being kept for it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..base import VideoModel
from .backend import BACKEND

SMALL = 2**20  # bytes a clip; below it memory is not short and the call's own time counts, as in a tiny model


def recompute(function: Callable[..., Tensor], x: Tensor, *inputs: Any) -> Tensor:
    """``function(x, *inputs)``, keeping its inputs alone for its gradients.

    All is kept where x (B, ...) is below SMALL, or without `BACKEND.recompute`.

    What it ends in (a linear layer, a convolution) is not computed a second time: the backward pass stops where it has
    the inputs of that layer. So a norm or an activation before it costs a little time and no memory.
    """
    size = math.prod(x.shape[1:]) * x.element_size()  # torch.compile knows no nbytes of an x with any number of clips
    if not (BACKEND.recompute and torch.is_grad_enabled()) or size < SMALL:
        return function(x, *inputs)
    result: Tensor = checkpoint(function, x, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def gelu_then(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(GELU(x))`` of an x that nobody else reads; x alone is kept for the backward pass."""
    if not torch.is_grad_enabled():
        # In place: for a long clip a second tensor of this size is new memory from the system each time.
        result: Tensor = layer(torch.ops.aten.gelu_(x))
        return result
    return recompute(lambda x: layer(F.gelu(x)), x)


def recompute_units(model: VideoModel) -> None:
    """Compute each of `model.units()` again in the backward pass instead of keeping its results (training only)."""
    for unit in model.units():
        forward = unit.forward
        norms = [m for m in unit.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        # torch.compile knows no contexts, so a unit that needs none gets none.
        contexts = {"context_fn": partial(_contexts, norms)} if norms else {}

        def again(
            *inputs: Any,
            forward: Callable[..., Any] = forward,
            unit: nn.Module = unit,
            contexts: dict[str, Any] = contexts,
        ) -> Any:
            if not (unit.training and torch.is_grad_enabled()):
                return forward(*inputs)
            return checkpoint(forward, *inputs, use_reentrant=False, **contexts)

        unit.forward = again


def _contexts(norms: Sequence[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first computation and of the second one."""
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Keep batch norms from counting a batch a second time: their running statistics stay as they are."""
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, batches) in zip(norms, before, strict=True):
            m.momentum, m.num_batches_tracked = momentum, batches
