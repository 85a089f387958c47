"""Modules that compute in the precision of their own weights where autocast rounds all others."""

from types import MethodType

import torch
from torch import Tensor, nn


def keep_out_of_autocast(module: nn.Module) -> None:
    """Have a module of one input compute and return what its weights' type holds, fp32 in mixed precision.

    Without autocast nothing changes, so that weights in bf16 or fp16 meet inputs of their kind.
    """
    # A method bound to the module, not a closure: a copy of the module then uses the copy's weights.
    module.forward = MethodType(_in_own_precision, module)


def autocast_is_on(x: Tensor) -> bool:
    """Return whether autocast is on for a tensor's device; never on the meta device, of which torch can't be asked."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def _in_own_precision(module: nn.Module, x: Tensor) -> Tensor:
    if not autocast_is_on(x):
        result: Tensor = type(module).forward(module, x)
        return result
    with torch.autocast(x.device.type, enabled=False):
        result = type(module).forward(module, x.to(next(module.parameters()).dtype))
        return result
