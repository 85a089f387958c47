"""A depthwise 3x3x3 convolution whose gradients are quick on a CPU too, and on CUDA if Triton is chosen."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backend import BACKEND, TRITON_DEVICES


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H', W'), padding 1, `stride` in space only; weight (C, 1, 3, 3, 3), no bias.

    PyTorch's own gradients of it take 50 to 100 times as long as the convolution on a CPU, 40 % of a tiny STAT's
    training step (docs/log.md), so they are written out below. On CUDA it is `F.conv3d` as it stands, which is cuDNN's
    and copies what is no tensor of its own, or with `BACKEND.depthwise == "triton"` our kernels, but for float64.
    """
    if BACKEND.depthwise == "triton" and x.device.type in TRITON_DEVICES and x.dtype != torch.float64:
        from . import depthwise_triton  # here, since not every PyTorch comes with Triton

        return depthwise_triton.depthwise_conv3d(x, weight, stride)
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _DepthwiseConv3d.apply(x, weight, stride)
        return y
    return _conv(x, weight, stride)


class DepthwiseConv3d(nn.Conv3d):
    """A library's depthwise 3x3x3 convolution, with its weight, as `depthwise_conv3d`."""

    def __init__(self, conv: nn.Conv3d) -> None:
        C, stride = conv.in_channels, conv.stride[-1]
        super().__init__(C, C, 3, stride=(1, stride, stride), padding=1, groups=C, bias=False)
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv3d(x, self.weight, self.stride[-1])


def quicken_depthwise(model: nn.Module) -> None:
    """Exchange the depthwise 3x3x3 convolutions of a model for `DepthwiseConv3d`, if their stride in time is 1."""
    for name, module in list(model.named_modules()):
        if (
            isinstance(module, nn.Conv3d)
            and module.groups == module.in_channels == module.out_channels
            and (module.kernel_size, module.padding, module.bias) == ((3, 3, 3), (1, 1, 1), None)
            and module.stride in {(1, s, s) for s in module.stride}
        ):
            model.set_submodule(name, DepthwiseConv3d(module))


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
            _grad_weight(grad, x.to(grad.dtype), ctx.stride) if wanted_weight else None,
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
    """For each of the 27 offsets a sum over clips and places of input times gradient: (C, 1, 3, 3, 3).

    By PyTorch's 2-D kernel, which is quick where the 3-D one is not: a call for each offset in time up to stride 2;
    beyond it, where the gradient is small against the input, one call for all three (docs/log.md).
    """
    grad, x = grad.permute(0, 2, 3, 4, 1).contiguous(), x.permute(0, 2, 3, 4, 1).contiguous()  # (B, T, H, W, C)
    T, C = x.shape[1], x.shape[-1]
    if stride > 2:
        padded = F.pad(grad, (0, 0, 0, 0, 0, 0, 1, 1))  # the gradients that an input frame meets: of t + 1, t and t - 1
        met = torch.stack([padded[:, 2 : 2 + T], grad, padded[:, :T]], dim=-1).flatten(-2)  # (B, T, H', W', 3 C)
        return _grad_weight_2d(met.flatten(0, 1), x.flatten(0, 1), stride).view(C, 1, 3, 3, 3)
    sums = []
    for t in (-1, 0, 1):  # the input's frame against the gradient's
        now, there = slice(max(-t, 0), T - max(t, 0)), slice(max(t, 0), T + min(t, 0))
        sums.append(_grad_weight_2d(grad[:, now].flatten(0, 1), x[:, there].flatten(0, 1), stride))
    return torch.stack(sums, dim=2)


def _grad_weight_2d(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """Of a 2-D convolution, C groups: (N, H', W', k C), (N, H, W, C) -> (k C, 1, 3, 3)."""
    weight = x.new_empty(grad.shape[-1], 1, 3, 3)  # only its shape is read
    args = [stride, stride], [1, 1], [1, 1], False, [0, 0], x.shape[-1], (False, True, False)
    grad, x = grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *args)[1]
