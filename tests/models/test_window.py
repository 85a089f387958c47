"""Attention in groups of frames is the masked one, and the mask that is kept serves every kind of pass."""

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from stat_video.models.parts.backend import BACKEND
from stat_video.models.stat import STA, window

MODULES = [("CA", "SA"), ("CA", "SA", "LA")]


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    """Leave the ways as they were, and begin without a mask."""
    before = copy.copy(BACKEND)
    window._kept_bias.cache_clear()
    yield
    vars(BACKEND).update(vars(before))


def make(dtype: torch.dtype = torch.float64, **keys: object) -> STA:
    torch.manual_seed(0)
    sta = STA(8, 2, (4, 4), kv_stride=2, **keys).to(dtype)
    for p in sta.parameters():
        torch.nn.init.normal_(p, std=0.7)  # so that the softmax is far from uniform
    return sta


def tokens(sta: STA, n_t: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, n_t, sta.first_patch + 16, 8, dtype=sta.qkv.weight.dtype)


def results(sta: STA, x: Tensor, way: str) -> list[Tensor]:
    """Output, and gradients of the tokens and of all weights that have one."""
    BACKEND.window = way
    sta.zero_grad()
    x = x.clone().requires_grad_()
    y = sta(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in sta.parameters() if p.grad is not None)]


@pytest.mark.parametrize("modules", MODULES, ids="+".join)
@pytest.mark.parametrize("t_o", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("n_t", [1, 2, 3, 4, 8, 11])
def test_groups_are_the_masked_attention(modules, t_o, n_t):
    for keys in ({}, {"class_token": False}, {"q_stride": 2}):
        sta = make(modules=modules, t_o=t_o, **keys)
        x = tokens(sta, n_t)
        for sta.class_queries_only in {False, "class_token" not in keys and "q_stride" not in keys}:
            for masked, grouped in zip(*(results(sta, x, way) for way in ("masked", "grouped")), strict=True):
                torch.testing.assert_close(grouped, masked, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t_o", [3, 5, 7])
def test_groups_need_a_call_for_each_number_of_neighbours_and_no_mask(t_o, monkeypatch):
    calls = []

    def note(q, k, v, attn_mask=None):
        calls.append((len(q), k.shape[2], attn_mask))
        return attention(q, k, v, attn_mask=attn_mask)

    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(window.F, "scaled_dot_product_attention", note)
    sta = make(t_o=t_o)
    layout = sta.key_layout(8)
    results(sta, tokens(sta, 8), "grouped")
    reach = t_o // 2
    frames = [2 * 2] * reach + [2 * (8 - 2 * reach)]  # of 2 clips; pairs from the ends inwards, then those between
    keys = [layout.ca + n * layout.sa + layout.la for n in range(reach, 2 * reach + 1)]
    assert calls == [(n, L, None) for n, L in zip(frames, keys, strict=True)]


@pytest.mark.parametrize("way", ["masked", "grouped"])
@pytest.mark.parametrize("t_o", [3, 9])
def test_weights_for_pictures_are_the_weights_used(way, t_o):
    BACKEND.window = way
    sta = make(t_o=t_o)
    x = tokens(sta, 4)
    weights, _ = sta.attention(x)
    values = sta.queries_keys_values(x)[2].unflatten(0, (2, 4))
    torch.testing.assert_close(sta.proj((weights @ values).transpose(2, 3).flatten(3)), sta(x))


@pytest.mark.parametrize("way", ["masked", pytest.param("grouped", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_compiles_in_one_piece(way, dtype, recwarn):
    """As it is and under autocast, in training and in evaluation, with a second batch size, and without a warning."""
    BACKEND.window = way
    torch._dynamo.reset()
    sta = make(torch.float32, t_o=5, q_stride=2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(sta, backend=counter, fullgraph=True)
    for batch, gradients in ((2, True), (1, False)):
        x = tokens(sta, 4)[:batch].requires_grad_(gradients)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32), torch.set_grad_enabled(gradients):
            expected, y = sta(x), compiled(x)
        torch.testing.assert_close(y, expected)
        if gradients:
            ours, theirs = (torch.autograd.grad(out.float().square().sum(), x)[0] for out in (y, expected))
            torch.testing.assert_close(ours, theirs, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-2)
    assert counter.frame_count > 0
    assert not [str(w.message) for w in recwarn if "lru_cache" in str(w.message)]  # of a mask that is kept


@pytest.mark.parametrize("way", ["masked", "grouped"])
def test_is_exported(way):
    BACKEND.window = way
    sta = make(torch.float32, t_o=5).eval()
    x = tokens(sta, 4)
    expected = sta(x)  # keeps a mask, which must not end up in the program
    program = torch.export.export(sta, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(x), expected)
    torch.testing.assert_close(loaded(x.repeat(2, 1, 1, 1)), expected.repeat(2, 1, 1, 1))
    torch.testing.assert_close(sta(x), expected)  # and none of the export's is met here


def test_a_mask_is_made_once_a_layout_and_kind_of_number():
    sta = make(torch.float32)
    x = tokens(sta, 4)
    for _ in range(3):
        sta(x)
        copy.deepcopy(sta)(x)
    assert window._kept_bias.cache_info().misses == 1
    with torch.autocast("cpu", torch.bfloat16):
        sta(x)
    sta(x[:1])
    assert window._kept_bias.cache_info().misses == 3


def test_a_mask_of_an_evaluation_serves_training():
    sta = make()
    x = tokens(sta, 4)
    with torch.inference_mode():
        sta(x)
    after = results(sta, x, "masked")
    assert window._kept_bias.cache_info().misses == 1
    window._kept_bias.cache_clear()
    for a, b in zip(after, results(sta, x, "masked"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_a_mask_without_numbers_is_not_kept(kind):
    sta = make()
    x = tokens(sta, 4)
    expected = sta(x)
    window._kept_bias.cache_clear()
    if kind == "fake":
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            copied = copy.deepcopy(sta)
            assert copied(mode.from_tensor(x)).shape == expected.shape
    else:
        assert copy.deepcopy(sta).to("meta")(x.to("meta")).shape == expected.shape
    assert window._kept_bias.cache_info().currsize == 0
    assert torch.equal(sta(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_is_of_the_kind_of_number_that_the_kernel_gets_and_aligned(dtype, monkeypatch):
    """CUDA's kernels would read another kind in silence, and copy rows that are not aligned."""
    masks = []

    def note(q, k, v, attn_mask=None):
        masks.append(attn_mask)
        return attention(q, k, v, attn_mask=attn_mask)

    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(window.F, "scaled_dot_product_attention", note)
    sta = make(torch.float32, t_o=5)
    x = tokens(sta, 4)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        sta(x)
        pooled = window._bias(x, sta.key_layout(4))  # as for queries that CUDA's norm has left in fp32
    (mask,) = masks
    assert pooled.dtype == dtype
    assert mask.dtype == dtype
    assert all(step % 8 == 0 for step in mask.stride()[:-1])
    exists = sta.queries_keys_values(x)[3]
    assert torch.equal(mask, torch.zeros(exists.shape, dtype=dtype).masked_fill(~exists, float("-inf")))
