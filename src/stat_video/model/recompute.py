"""Results that are cheap to make are made again in the backward pass instead of being kept for it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SMALL = 2**20  # bytes a clip; below it memory is not short and the call's own time counts, as in a tiny model


def recompute(function: Callable[..., Tensor], x: Tensor, *inputs: Any) -> Tensor:
    """``function(x, *inputs)``, keeping its inputs alone for its gradients; all, where x (B, ...) is below SMALL.

    What it ends in (a linear layer, a convolution) is not computed a second time: the backward pass stops where it has
    the inputs of that layer. So a norm or an activation before it costs a little time and no memory.
    """
    if not torch.is_grad_enabled() or x.nbytes < SMALL * len(x):
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
