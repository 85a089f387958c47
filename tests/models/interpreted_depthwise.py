"""Run by test_depthwise_triton.py with TRITON_INTERPRET=1: the kernels, interpreted on a CPU."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from stat_video.models import count
from stat_video.models.base import Clip
from stat_video.models.parts import depthwise_triton
from stat_video.models.parts.backend import BACKEND
from stat_video.models.parts.depthwise import depthwise_conv3d, quicken_depthwise
from stat_video.models.stat import STA, Config


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Choose Triton, and return the list of tokens that its kernels get; few, large programs: one takes 0.1 s."""
    tokens: list[Tensor] = []
    convolved = depthwise_triton._convolved
    monkeypatch.setattr(depthwise_triton, "_convolved", lambda x, *rest: (tokens.append(x), convolved(x, *rest))[1])
    monkeypatch.setattr(depthwise_triton, "PLACES", 128)
    monkeypatch.setattr(BACKEND, "depthwise", "triton")
    return tokens


def drawn(B: int, T: int, H: int, W: int, C: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Input as a third of a linear layer's output without its class token, and weight."""
    torch.manual_seed(0)
    qkv = torch.randn(B, T, 1 + H * W, 3 * C, dtype=dtype)
    x = qkv[:, :, 1:, C : 2 * C].unflatten(2, (H, W)).permute(0, 4, 1, 2, 3)
    return x, torch.randn(C, 1, 3, 3, 3)


def both(conv: Callable[..., Tensor], x: Tensor, weight: Tensor, stride: int) -> list[Tensor]:
    """Output, and gradients of input and weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = conv(x, weight, stride)
    torch.manual_seed(1)
    grad = torch.randn(y.shape).bfloat16().to(y.dtype)  # of few digits; channels first, as a gradient may come
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


def pytorchs(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv3d(x, weight, stride=(1, stride, stride), padding=1, groups=len(weight))


def compare(ours: list[Tensor], x: Tensor, weight: Tensor, stride: int, far: float) -> None:
    for a, b in zip(ours, both(pytorchs, x.double(), weight.double(), stride), strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= far * b.norm()


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((2, 3, 7, 7, 24), 1),
        ((1, 1, 3, 3, 192), 1),  # three programs share the channels
        ((2, 2, 5, 7, 12), 2),
        ((1, 2, 7, 5, 72), 2),  # the second program has 8 of 64 channels
        ((1, 2, 14, 14, 12), 4),
        ((1, 2, 28, 28, 12), 8),
        ((1, 1, 1, 1, 1), 8),
    ],
)
def test_equals_pytorchs(shape, stride):
    x, weight = drawn(*shape)
    assert not x.permute(0, 2, 3, 4, 1).is_contiguous() or shape[-1] == 1
    compare(both(depthwise_conv3d, x, weight, stride), x, weight, stride, 1e-6)


def test_a_gradient_summed_in_chunks_of_several_parts_is_the_same_to_the_bit_each_time(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "PLACES", 16)
    monkeypatch.setattr(depthwise_triton, "CHUNKS", 2)
    x, weight = drawn(2, 1, 6, 3, 6)  # 36 outputs: chunks of two parts and of one
    first, second = (both(depthwise_conv3d, x, weight, 1) for _ in range(2))
    compare(first, x, weight, 1, 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_in_fp32(dtype):
    """So each number of a result is rounded once."""
    x, weight = drawn(1, 2, 5, 5, 12, dtype)
    ours = both(depthwise_conv3d, x, weight, 2)
    assert [t.dtype for t in ours] == [dtype, dtype, torch.float32]
    compare(ours, x, weight, 2, torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_a_convolution(dtype):
    x, weight = drawn(1, 1, 5, 5, 4)
    with torch.autocast("cpu", dtype):
        ours, expected = (both(conv, x, weight, 1) for conv in (depthwise_conv3d, pytorchs))
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=5e-2)


def test_gradients_only_of_what_asks_for_them():
    x, weight = drawn(1, 1, 4, 4, 4)
    weight.requires_grad_()
    depthwise_conv3d(x, weight, 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    weight.requires_grad_(False)
    x = x.detach().requires_grad_()
    depthwise_conv3d(x, weight, 2).sum().backward()
    assert x.grad is not None


def test_nothing_of_the_tokens_is_copied(seen):
    x, weight = drawn(1, 1, 4, 4, 4)
    y = depthwise_conv3d(x, weight, 1)
    assert seen[0].data_ptr() == x.data_ptr()
    assert y.permute(0, 2, 3, 4, 1).is_contiguous()  # what PoolCA's norm reads


def test_operators_are_what_pytorch_wants_of_them(seen):
    x, weight = drawn(1, 1, 3, 2, 2, torch.bfloat16)
    tokens, grad = x.permute(0, 2, 3, 4, 1), torch.randn(1, 1, 2, 1, 2).bfloat16()
    depthwise_conv3d(x, weight, 2)
    taps = weight.flatten(1).t().contiguous()
    library = torch.ops.stat_video
    asked = tokens.detach().requires_grad_(), taps.detach().requires_grad_()
    torch.library.opcheck(library.depthwise_conv3d.default, (*asked, 2))
    torch.library.opcheck(library.depthwise_conv3d_backward_x.default, (grad, taps, 2, 3, 2))
    torch.library.opcheck(library.depthwise_conv3d_backward_taps.default, (grad, tokens, 2))


def test_compiles_in_one_piece():
    """A block's attention with both gradients; the graph's results are the ones without it."""
    torch.manual_seed(0)
    sta, x = STA(8, 2, (3, 3), kv_stride=2), torch.randn(1, 2, 10, 8)
    counter = CompileCounterWithBackend("aot_eager")
    results = []
    for run in (sta, torch.compile(sta, backend=counter, fullgraph=True)):
        sta.zero_grad()
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        y.square().sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad.clone() for p in sta.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


def test_a_block_is_the_one_in_pytorch(seen, monkeypatch):
    torch.manual_seed(0)
    sta, x = STA(8, 2, (4, 4), q_stride=2, kv_stride=2), torch.randn(1, 2, 17, 8)
    ours = sta(x)
    monkeypatch.setattr(BACKEND, "depthwise", "pytorch")
    torch.testing.assert_close(ours, sta(x))
    assert len(seen) == 3  # of Q, K and V


def test_a_librarys_convolution_is_quickened_whatever_its_layout(seen):
    """X3D's and CSN's: channels first, 54 channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(54, 54, 3, stride=(1, 2, 2), padding=1, groups=54, bias=False))
    x = torch.randn(1, 54, 1, 4, 4)
    expected = model(x)
    quicken_depthwise(model)
    torch.testing.assert_close(model(x), expected)
    assert seen


def test_float64_and_counts_stay_with_pytorch(seen, monkeypatch):
    x, weight = drawn(1, 1, 3, 3, 2)
    assert torch.equal(depthwise_conv3d(x.double(), weight.double(), 1), pytorchs(x.double(), weight.double(), 1))
    tiny = Config(widths=[12, 24, 48, 96], depths=[1, 1, 1, 1], heads=[1, 1, 2, 4])
    counts = []
    for BACKEND.depthwise in ("triton", "pytorch"):
        count._counted.cache_clear()
        counts.append(count.gmacs(tiny, Clip(T=4, crop=32), 5))
    assert counts[0] == counts[1] > 0
    assert not seen
