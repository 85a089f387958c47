"""STA against a slow loop over frames, heads and queries, written straight from Eqs. 1-8."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from stat_video.models.stat import STA

MODULES = [("CA",), ("CA", "SA"), ("CA", "LA"), ("CA", "SA", "LA")]


def make_sta(grid=(4, 4), seed=0, dtype=torch.float32, **kwargs):
    torch.manual_seed(seed)
    sta = STA(8, 2, grid, **kwargs).to(dtype)
    for p in sta.parameters():
        torch.nn.init.normal_(p, std=0.7)  # so that the softmax is far from uniform
    return sta


def pool_ca(pool, frames, grid):
    """Eq. 2 for one clip as a loop: {frame: (n, C)} -> the same, by explicit sums over the 3x3x3 neighbourhood."""
    n_t, (n_h, n_w), stride = len(frames), grid, pool.conv.stride[1]
    out = []
    for t in range(n_t):
        rows = []
        for y, x in product(range(0, n_h, stride), range(0, n_w, stride)):
            total = torch.zeros(frames[0].shape[-1], dtype=frames[0].dtype)
            for dt, dy, dx in product((-1, 0, 1), repeat=3):
                if 0 <= t + dt < n_t and 0 <= y + dy < n_h and 0 <= x + dx < n_w:
                    total = (
                        total + pool.conv.weight[:, 0, dt + 1, dy + 1, dx + 1] * frames[t + dt][(y + dy) * n_w + x + dx]
                    )
            rows.append(F.layer_norm(total, total.shape, pool.norm.weight, pool.norm.bias))
        out.append(torch.stack(rows))
    return out


def pool_sa(k_ca, grid, kernel, stride):
    """Eq. 3 for one frame as a loop: average over the window, what lies outside counting as zero."""
    n_h, n_w = grid
    half, rows = kernel // 2, []
    for y, x in product(range(0, n_h + 2 * half - kernel + 1, stride), range(0, n_w + 2 * half - kernel + 1, stride)):
        window = [
            k_ca[i * n_w + j]
            for i, j in product(range(y - half, y - half + kernel), range(x - half, x - half + kernel))
            if 0 <= i < n_h and 0 <= j < n_w
        ]
        rows.append(sum(window) / kernel**2)
    return torch.stack(rows)


def reference(sta, x):
    """One clip at a time, one frame, one head, one query at a time."""
    S, out = sta.first_patch, []
    C = x.shape[-1]
    D = C // sta.heads
    for clip in x:
        n_t = len(clip)
        q, k, v = (clip @ w.T + b for w, b in zip(sta.qkv.weight.chunk(3), sta.qkv.bias.chunk(3), strict=True))
        q = list(q)
        if sta.pool_q is not None:
            pooled = pool_ca(sta.pool_q, [frame[S:] for frame in q], sta.grid)
            q = [torch.cat([frame[:S], patches]) for frame, patches in zip(q, pooled, strict=True)]
        k_ca = pool_ca(sta.pool_k, [frame[S:] for frame in k], sta.grid)
        v_ca = pool_ca(sta.pool_v, [frame[S:] for frame in v], sta.grid)
        n_h, n_w = (math.ceil(n / sta.pool_k.conv.stride[1]) for n in sta.grid)
        k_sa = [pool_sa(frame, (n_h, n_w), sta.sa_kernel, sta.sa_stride) for frame in k_ca]
        v_sa = [pool_sa(frame, (n_h, n_w), sta.sa_kernel, sta.sa_stride) for frame in v_ca]
        frames = []
        for i in range(n_t):
            keys, values = [*k_ca[i]], [*v_ca[i]]
            if "SA" in sta.modules_used:
                for j in range(i - sta.t_o // 2, i + sta.t_o // 2 + 1):
                    if j != i and 0 <= j < n_t:
                        keys += [*k_sa[j]]
                        values += [*v_sa[j]]
            if "LA" in sta.modules_used:
                for j in range(n_t):
                    keys.append(k[j][0] if S else k[j].mean(0))
                    values.append(v[j][0] if S else v[j].mean(0))
            tokens = []
            for query in q[i]:
                heads = []
                for h in range(sta.heads):
                    part = slice(h * D, (h + 1) * D)
                    scores = torch.stack([query[part] @ key[part] / math.sqrt(D) for key in keys])
                    heads.append(sum(w * value[part] for w, value in zip(scores.softmax(0), values, strict=True)))
                tokens.append(sta.proj.weight @ torch.cat(heads) + sta.proj.bias)
            frames.append(torch.stack(tokens))
        out.append(torch.stack(frames))
    return torch.stack(out)


@pytest.mark.parametrize("modules", MODULES, ids="+".join)
@pytest.mark.parametrize("t_o", [1, 3, 5, 13])
def test_equals_the_loop(modules, t_o):
    """4 frames: t_o = 5 reaches over both edges from every frame but is not as wide as the clip; 13 is wider."""
    sta = make_sta(grid=(4, 4), modules=modules, t_o=t_o, kv_stride=2, dtype=torch.float64)
    compare(sta, torch.randn(2, 4, 17, 8, dtype=torch.float64))


@pytest.mark.parametrize("grid", [(3, 5), (5, 5), (1, 3)])
@pytest.mark.parametrize("kv_stride", [1, 2, 4])
def test_equals_the_loop_on_odd_grids(grid, kv_stride):
    sta = make_sta(grid=grid, q_stride=2, kv_stride=kv_stride, dtype=torch.float64)
    assert sta.out_grid == tuple(math.ceil(n / 2) for n in grid)
    compare(sta, torch.randn(1, 3, 1 + grid[0] * grid[1], 8, dtype=torch.float64))


@pytest.mark.parametrize("n_t", [1, 2])
def test_equals_the_loop_on_the_shortest_clips(n_t):
    compare(make_sta(t_o=5, dtype=torch.float64), torch.randn(2, n_t, 17, 8, dtype=torch.float64))


@pytest.mark.parametrize("modules", MODULES, ids="+".join)
def test_equals_the_loop_without_class_tokens(modules):
    """Table 3, spatial avg-pooling."""
    sta = make_sta(modules=modules, class_token=False, dtype=torch.float64)
    compare(sta, torch.randn(2, 3, 16, 8, dtype=torch.float64))


def compare(sta, x):
    results = []
    for run in (sta, lambda x: reference(sta, x)):
        sta.zero_grad()
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        (out * weight).sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad.clone() for p in sta.parameters())])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def frames_that_change(sta, x, changed_frame):
    """Which output frames differ when the tokens of one frame do."""
    other = x.clone()
    other[:, changed_frame] += torch.randn_like(other[:, changed_frame])
    difference = (sta(x) - sta(other)).abs().amax((0, 2, 3))
    return [i for i, d in enumerate(difference) if d > 1e-6]


@pytest.mark.parametrize("t_o", [1, 3, 5])
def test_a_frame_beyond_the_window_counts_only_with_la(t_o):
    """P_CA itself mixes each frame's keys with its two neighbours, so the reach is t_o // 2 + 1 frames."""
    x, reach = torch.randn(1, 11, 17, 8), t_o // 2 + 1
    near = list(range(5 - reach, 5 + reach + 1))
    assert frames_that_change(make_sta(modules=("CA", "SA"), t_o=t_o), x, 5) == near
    assert frames_that_change(make_sta(modules=("CA", "SA", "LA"), t_o=t_o), x, 5) == list(range(11))


def test_batch_members_do_not_leak():
    sta, x = make_sta(), torch.randn(3, 4, 17, 8)
    for i in range(3):
        torch.testing.assert_close(sta(x)[i], sta(x[i : i + 1])[0])


def test_gradcheck():
    sta = make_sta(grid=(3, 3), q_stride=2, kv_stride=2, dtype=torch.float64)
    x = torch.randn(1, 3, 10, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sta, (x,))


def test_weights_for_pictures_are_the_weights_used():
    sta, x = make_sta(kv_stride=2, t_o=5), torch.randn(2, 4, 17, 8)
    weights, layout = sta.attention(x)
    _, _, values, _ = sta.queries_keys_values(x)
    out = (weights @ values.unflatten(0, (2, 4))).transpose(2, 3).flatten(3)
    torch.testing.assert_close(sta.proj(out), sta(x))
    assert weights.shape[-1] == layout.ca + len(layout.neighbours) * layout.sa + layout.la
    outside = weights[:, 0, :, :, layout.ca : layout.ca + 2 * layout.sa]  # frame 0 has no frames -2 and -1
    assert outside.abs().max() == 0


@pytest.mark.parametrize("t_o", [0, 2, 4, -1])
def test_even_and_negative_windows_are_refused(t_o):
    with pytest.raises(ValueError, match=f"t_o={t_o}: .*odd and at least 1"):
        STA(8, 2, (4, 4), t_o=t_o)


@pytest.mark.parametrize("modules", [(), ("SA",), ("SA", "LA"), ("CA", "XA"), ("CA", "CA")])
def test_modules_without_ca_or_unknown_are_refused(modules):
    with pytest.raises(ValueError, match="CA alone or with"):
        STA(8, 2, (4, 4), modules=modules)


def test_a_token_count_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="16 tokens a frame"):
        make_sta()(torch.randn(1, 2, 16, 8))
