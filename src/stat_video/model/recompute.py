"""Results that are cheap to make are made again in the backward pass instead of being kept for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """``function(*inputs)``, keeping its inputs alone for its gradients.

    What it ends in (a linear layer, a convolution) is not computed a second time: the backward pass stops where it has
    the inputs of that layer. So a norm or an activation before it costs a little time and no memory.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
