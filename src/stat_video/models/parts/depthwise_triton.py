"""`depthwise_conv3d` as kernels in Triton, for CUDA; depthwise.py chooses it.

Tokens (B, T, H, W, C) are read as they lie, whatever the strides of the first four dimensions: a third of the output of
a linear layer is not copied. Sums are in fp32 and in the same order each time, so a repeat gives the same bits.

A program makes PLACES tokens, counted through rows, frames and clips, so that none of its lanes idles because a row has
7 tokens, of up to CHANNELS channels. Neighbouring programs take the channels of the same tokens.
"""

# The arguments of a kernel have types of Triton's.
# mypy: allow-untyped-defs, allow-incomplete-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op, triton_op, wrap_triton

from .backend import INTERPRETED

# 64 channels are 128 bytes of bf16, a line of the cache, and divide 192, 384 and 768. With 32 tokens each of the 128
# threads sums 16 numbers: compiled for Hopper in bf16 that takes 56 to 68 registers, 100 for the taps, so 5 to 8
# programs share a multiprocessor. With 64 tokens it would be 122 to 182, with all 27 taps unrolled 255.
CHANNELS, PLACES = 64, 32
CHUNKS = 64  # parts that a weight's gradient is summed in: their number must not depend on the device

_operator = custom_op if INTERPRETED else triton_op  # torch.compile can look into triton_op, if it is not interpreted


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H', W'), channels last; x in bf16, fp16 or fp32, weight (C, 1, 3, 3, 3)."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))  # as F.conv3d; the weight stays in fp32, and so does its gradient
    tokens = x.permute(0, 2, 3, 4, 1)
    if tokens.stride(-1) != 1:
        tokens = tokens.contiguous()
    return _convolved(tokens, weight.flatten(1).t().contiguous(), stride).permute(0, 4, 1, 2, 3)


@triton.jit
def _program(C, P: tl.constexpr, BC: tl.constexpr):
    """Return the number of this program's part of the places, and its channels."""
    blocks = tl.cdiv(C, BC)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks * BC + tl.arange(0, BC)


@triton.jit
def _place(p, T, H, W):
    """Return clip, frame, row and column of places that are counted through all of them; the clip in 64 bits."""
    return (p // (W * H * T)).to(tl.int64), p // (W * H) % T, p // W % H, p % W


@triton.jit
def _inside(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def _forward(
    x, taps, y, sb, st, sh, sw, T, H, W, H_out, W_out, C, places, S: tl.constexpr, P: tl.constexpr, BC: tl.constexpr
):
    part, c = _program(C, P, BC)
    p = part * P + tl.arange(0, P)
    b, t, h, w = _place(p, T, H_out, W_out)
    h, w = h * S, w * S  # of the input
    there, of_c = p < places, (c < C)[None, :]
    centre = x + (b * sb + t.to(tl.int64) * st + h.to(tl.int64) * sh + w.to(tl.int64) * sw)[:, None] + c[None, :]
    total = tl.zeros((P, BC), tl.float32)
    for row in range(9):
        dt, dh = row // 3 - 1, row % 3 - 1
        in_row = there & _inside(t + dt, T) & _inside(h + dh, H)
        for k in tl.static_range(3):
            read = (in_row & _inside(w + k - 1, W))[:, None] & of_c
            values = tl.load(centre + (dt * st + dh * sh + (k - 1) * sw), mask=read, other=0.0).to(tl.float32)
            tap = tl.load(taps + (row * 3 + k) * C + c[None, :], mask=of_c, other=0.0).to(tl.float32)
            total += values * tap
    to = y + p.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=there[:, None] & of_c)


@triton.jit
def _backward_x(
    grad, taps, grad_x, T, H, W, H_out, W_out, C, places, S: tl.constexpr, P: tl.constexpr, BC: tl.constexpr
):
    """Each token of the input gathers from the outputs that read it: ceil(3 / S) rows and columns of three frames."""
    part, c = _program(C, P, BC)
    p = part * P + tl.arange(0, P)
    b, t, h, w = _place(p, T, H, W)
    h_out, w_out = (h + 1) // S, (w + 1) // S  # the last ones that read it
    there, of_c = p < places, (c < C)[None, :]
    last = grad + (((b * T + t) * H_out + h_out) * W_out + w_out)[:, None] * C + c[None, :]
    total = tl.zeros((P, BC), tl.float32)
    n: tl.constexpr = (S + 2) // S
    for row in range(3 * n):
        dt, i = row // n - 1, row % n
        in_row = there & _inside(t - dt, T) & _inside(h_out - i, H_out)
        for j in tl.static_range(n):
            read = in_row & _inside(w_out - j, W_out)
            if S == 1:
                tap = taps + (row * 3 + j) * C + c[None, :]
                of_tap = of_c
            else:  # which of the kernel's rows and columns it is depends on the place
                kh, kw = (h + 1) % S + i * S, (w + 1) % S + j * S
                read = read & (kh < 3) & (kw < 3)
                tap = taps + (((dt + 1) * 3 + kh) * 3 + kw)[:, None] * C + c[None, :]
                of_tap = read[:, None] & of_c
            from_ = last - ((dt * H_out + i) * W_out + j) * C
            values = tl.load(from_, mask=read[:, None] & of_c, other=0.0).to(tl.float32)
            total += values * tl.load(tap, mask=of_tap, other=0.0).to(tl.float32)
    to = grad_x + p.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=there[:, None] & of_c)


@triton.jit
def _backward_taps(
    grad, x, sums, sb, st, sh, sw, T, H, W, H_out, W_out, C, places, tiles,
    S: tl.constexpr, P: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The three taps of one row of the kernel, summed over `tiles` times P outputs."""
    part, c = _program(C, P, BC)
    chunk, row = part // 9, part % 9
    dt, dh = row // 3 - 1, row % 3 - 1
    of_c = (c < C)[None, :]
    left, middle, right = tl.zeros((P, BC), tl.float32), tl.zeros((P, BC), tl.float32), tl.zeros((P, BC), tl.float32)
    for tile in range(tiles):
        p = (chunk * tiles + tile) * P + tl.arange(0, P)
        b, t, h, w = _place(p, T, H_out, W_out)
        t, h, w = t + dt, h * S + dh, w * S  # of the input
        read = (p < places) & _inside(t, T) & _inside(h, H)
        g = tl.load(grad + p.to(tl.int64)[:, None] * C + c[None, :], mask=read[:, None] & of_c, other=0.0)
        g = g.to(tl.float32)
        centre = x + (b * sb + t.to(tl.int64) * st + h.to(tl.int64) * sh + w.to(tl.int64) * sw)[:, None] + c[None, :]
        left += g * tl.load(centre - sw, mask=(read & (w > 0))[:, None] & of_c, other=0.0).to(tl.float32)
        middle += g * tl.load(centre, mask=read[:, None] & of_c, other=0.0).to(tl.float32)
        right += g * tl.load(centre + sw, mask=(read & (w + 1 < W))[:, None] & of_c, other=0.0).to(tl.float32)
    to = sums + (chunk * 27 + row * 3) * C + c
    tl.store(to, tl.sum(left, 0), mask=c < C)
    tl.store(to + C, tl.sum(middle, 0), mask=c < C)
    tl.store(to + 2 * C, tl.sum(right, 0), mask=c < C)


def _pooled(n: int, stride: int) -> int:
    return (n - 1) // stride + 1


def _blocks(C: int) -> tuple[int, int]:
    """Return the channels of a program, and how many programs share them all."""
    BC = min(CHANNELS, triton.next_power_of_2(C))
    return BC, triton.cdiv(C, BC)


@_operator("stat_video::depthwise_conv3d", mutates_args=())
def _convolved(x: Tensor, taps: Tensor, stride: int) -> Tensor:
    """(B, T, H, W, C), last stride 1, and (27, C) -> (B, T, H', W', C)."""
    y = _convolved_shape(x, taps, stride)
    (_, T, H, W, C), (H_out, W_out) = x.shape, y.shape[2:4]
    BC, blocks = _blocks(C)
    places = y.numel() // C
    grid = (triton.cdiv(places, PLACES) * blocks,)
    strides = x.stride()[:4]
    wrap_triton(_forward)[grid](x, taps, y, *strides, T, H, W, H_out, W_out, C, places, S=stride, P=PLACES, BC=BC)
    return y


@_operator("stat_video::depthwise_conv3d_backward_x", mutates_args=())
def _gradient_of_x(grad: Tensor, taps: Tensor, stride: int, H: int, W: int) -> Tensor:
    """(B, T, H', W', C), contiguous -> (B, T, H, W, C)."""
    grad_x = _gradient_of_x_shape(grad, taps, stride, H, W)
    _, T, H_out, W_out, C = grad.shape
    BC, blocks = _blocks(C)
    places = grad_x.numel() // C
    grid = (triton.cdiv(places, PLACES) * blocks,)
    wrap_triton(_backward_x)[grid](grad, taps, grad_x, T, H, W, H_out, W_out, C, places, S=stride, P=PLACES, BC=BC)
    return grad_x


@_operator("stat_video::depthwise_conv3d_backward_taps", mutates_args=())
def _gradient_of_taps(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """Contiguous (B, T, H', W', C) and (B, T, H, W, C), last stride 1 -> (27, C) in fp32."""
    (_, T, H, W, C), (H_out, W_out) = x.shape, grad.shape[2:4]
    BC, blocks = _blocks(C)
    places = grad.numel() // C
    parts = triton.cdiv(places, PLACES)
    tiles = triton.cdiv(parts, CHUNKS)
    chunks = triton.cdiv(parts, tiles)
    sums = grad.new_empty((chunks, 27, C), dtype=torch.float32)
    strides = x.stride()[:4]
    wrap_triton(_backward_taps)[(chunks * 9 * blocks,)](
        grad, x, sums, *strides, T, H, W, H_out, W_out, C, places, tiles, S=stride, P=PLACES, BC=BC
    )
    return sums.sum(0)


@_convolved.register_fake
def _convolved_shape(x: Tensor, taps: Tensor, stride: int) -> Tensor:
    B, T, H, W, C = x.shape
    return x.new_empty((B, T, _pooled(H, stride), _pooled(W, stride), C))


@_gradient_of_x.register_fake
def _gradient_of_x_shape(grad: Tensor, taps: Tensor, stride: int, H: int, W: int) -> Tensor:
    B, T, _, _, C = grad.shape
    return grad.new_empty((B, T, H, W, C))


@_gradient_of_taps.register_fake
def _gradient_of_taps_shape(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    return grad.new_empty((27, x.shape[-1]), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x, taps, ctx.stride = inputs
    ctx.save_for_backward(x, taps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    (x, taps), (of_x, of_taps, _) = ctx.saved_tensors, ctx.needs_input_grad
    grad = grad.contiguous()
    return (
        _gradient_of_x(grad, taps, ctx.stride, x.shape[2], x.shape[3]) if of_x else None,
        _gradient_of_taps(grad, x, ctx.stride).to(taps.dtype) if of_taps else None,
        None,
    )


_convolved.register_autograd(_backward, setup_context=_keep)
