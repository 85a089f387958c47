"""A depthwise 3x3x3 convolution whose gradients are quick on a CPU too."""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H', W'), padding 1, `stride` in space only; weight (C, 1, 3, 3, 3), no bias.

    PyTorch's own gradients of it take 50 to 100 times as long as the convolution on a CPU, 40 % of a tiny STAT's
    training step (docs/log.md), so they are written out below; elsewhere it is `F.conv3d` as it stands.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _DepthwiseConv3d.apply(x, weight, stride)
        return y
    return _conv(x, weight, stride)


def _conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv3d(x, weight, stride=(1, stride, stride), padding=1, groups=len(weight))


class _DepthwiseConv3d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _conv(x, weight, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wanted_x, wanted_weight, _ = ctx.needs_input_grad
        return (
            _grad_x(grad, weight.to(grad.dtype), ctx.stride, x.shape) if wanted_x else None,
            _grad_weight(grad, x.to(grad.dtype), ctx.stride).reshape_as(weight) if wanted_weight else None,
            None,
        )


def _grad_x(grad: Tensor, weight: Tensor, stride: int, shape: torch.Size) -> Tensor:
    """The same convolution with the kernel turned round, over the gradient set out on the input's grid."""
    if stride > 1:
        B, C, T, H, W = shape
        spread = grad.new_zeros(B, T, H, W, C).permute(0, 4, 1, 2, 3)  # channels last, as the tokens are
        spread[..., ::stride, ::stride] = grad
        grad = spread
    return _conv(grad, weight.flip(2, 3, 4), 1)


def _grad_weight(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """For each of the 27 offsets a sum over clips and places of input times gradient: (C, 27)."""
    T, H, W = grad.shape[2:]
    grad, x = grad.permute(0, 2, 3, 4, 1), F.pad(x, (1, 1, 1, 1, 1, 1)).permute(0, 2, 3, 4, 1)
    ends = stride * (H - 1) + 1, stride * (W - 1) + 1
    sums = [
        (x[:, t : t + T, h : h + ends[0] : stride, w : w + ends[1] : stride] * grad).sum((0, 1, 2, 3))
        for t, h, w in product(range(3), repeat=3)
    ]
    return torch.stack(sums, dim=1)
