"""The depthwise convolution and its gradients are PyTorch's."""

import pytest
import torch
from torch import nn

from stat_video.models.parts.depthwise import depthwise_conv3d


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1, 1), (4, 6, 6), (3, 7, 5), (2, 9, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_pytorchs(stride, size, channels_last):
    conv = nn.Conv3d(5, 5, 3, stride=(1, stride, stride), padding=1, groups=5, bias=False).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    x, ours = x.requires_grad_(), x.detach().clone().requires_grad_()
    weight = conv.weight.detach().clone().requires_grad_()
    expected, y = conv(x), depthwise_conv3d(ours, weight, stride)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    y.backward(grad)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ours.grad, x.grad)
    torch.testing.assert_close(weight.grad, conv.weight.grad)


def test_gradients_only_of_what_asks_for_them():
    x, weight = torch.randn(1, 2, 3, 4, 4), torch.randn(2, 1, 3, 3, 3, requires_grad=True)
    depthwise_conv3d(x, weight, 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    weight.requires_grad_(False)
    x.requires_grad_()
    depthwise_conv3d(x, weight, 2).sum().backward()
    assert x.grad is not None


def test_under_autocast_gradients_keep_the_dtype_of_what_they_are_of():
    x, weight = torch.randn(1, 2, 3, 4, 4, requires_grad=True), torch.randn(2, 1, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv3d(x, weight, 2)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
