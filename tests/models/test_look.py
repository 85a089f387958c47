"""What a STAT looked at, against hand-set weights and a slow walk through the blocks."""

from itertools import product

import numpy as np
import pytest
import torch

from stat_video.models.base import Clip
from stat_video.models.stat import STA, STAT, Config
from stat_video.models.stat.look import explain, query_attention

MODULES = [("CA",), ("CA", "SA"), ("CA", "LA"), ("CA", "SA", "LA")]


def make_model(seed=0, crop=48, **kwargs):
    torch.manual_seed(seed)
    sizes = {"widths": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "heads": [1, 1, 2, 4]}
    return STAT(Config(**{**sizes, **kwargs}), Clip(T=8, crop=crop), 12).eval()


def make_clip(model, seed=0):
    c = model.clip
    return torch.randn(1, 3, c.T, c.crop, c.crop, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("modules", MODULES, ids="+".join)
@pytest.mark.parametrize("spatial_token", ["class_token", "avg_pool"])
@pytest.mark.parametrize("l_ta", [0, 1, 2])
def test_shapes_and_sums(modules, spatial_token, l_ta):
    model = make_model(modules=modules, spatial_token=spatial_token, l_ta=l_ta)
    clip = make_clip(model)
    e = explain(model, clip)
    assert e.current.shape == (4, 6, 6)
    torch.testing.assert_close(e.current.sum((1, 2)), torch.ones(4))
    assert (e.long_term is None) == ("LA" not in modules)
    assert (e.aggregation is None) == (l_ta == 0)
    for shares in (e.long_term, e.aggregation):
        if shares is not None:
            assert shares.shape == (4,)
            assert shares.min() > 0
            torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
    assert e.query == ("class token" if spatial_token == "class_token" else "mean patch")
    with torch.no_grad():
        torch.testing.assert_close(e.logits, model(clip)[0])


@torch.no_grad()
def slow_query(model, clip, block, frame, n):
    """Weights of one query on the block's keys, head by head and key by key: (L,)."""
    x = model.tokens(clip)
    for earlier in model.blocks[:block]:
        x = earlier(x)
    found = []
    sta = model.blocks[block].sta
    with sta.register_forward_pre_hook(lambda sta, x: found.append(x[0])):
        model.blocks[block](x)
    q, k, _, exists = sta.queries_keys_values(found[0])
    heads = []
    for h in range(sta.heads):
        scores = [float(q[frame, h, n] @ key) / sta.head_dim**0.5 for key in k[frame, h]]
        there = [True] * len(scores) if exists is None else exists[frame, 0, 0].tolist()
        weights = [np.exp(s) if t else 0.0 for s, t in zip(scores, there, strict=True)]
        heads.append(np.array(weights) / sum(weights))
    return np.mean(heads, 0)


@pytest.mark.parametrize(("block", "frame", "query"), [(0, 0, None), (1, 1, (2, 0)), (3, 3, (1, 1))])
@pytest.mark.parametrize("modules", MODULES, ids="+".join)
def test_one_query_in_the_models_own_attention(block, frame, query, modules):
    model = make_model(modules=modules, t_o=5)
    clip = make_clip(model)
    sta = model.blocks[block].sta
    seen = query_attention(model, clip, block, frame, query)
    n = 0 if query is None else 1 + query[0] * sta.out_grid[1] + query[1]
    slow = slow_query(model, clip, block, frame, n)
    keys = sta.key_layout(4)
    np.testing.assert_allclose(seen.current.flatten(), slow[: keys.ca], rtol=1e-4)
    inside = [i for i, d in enumerate(keys.neighbours) if 0 <= frame + d < 4]
    assert list(seen.neighbours) == [frame + keys.neighbours[i] for i in inside]
    for i, weights in zip(inside, seen.neighbours.values(), strict=True):
        np.testing.assert_allclose(weights.flatten(), slow[keys.ca + i * keys.sa :][: keys.sa], rtol=1e-4)
    assert (seen.far is None) == ("LA" not in modules)
    if seen.far is not None:
        np.testing.assert_allclose(seen.far, slow[-4:], rtol=1e-4)
    parts = [seen.current, *seen.neighbours.values(), *([] if seen.far is None else [seen.far])]
    assert sum(float(p.sum()) for p in parts) == pytest.approx(1, abs=1e-5)


def test_queries_that_are_not_there_are_refused():
    model = make_model(spatial_token="avg_pool")
    clip = make_clip(model)
    for block, frame, query in [(0, 4, (0, 0)), (0, 0, (6, 0)), (1, 0, (0, 3)), (0, 0, None)]:
        with pytest.raises(ValueError, match=r"frame 4|query \(|class token"):
            query_attention(model, clip, block, frame, query)


@pytest.mark.parametrize(("stem", "crop"), [("conv1", 48), ("conv3", 40), ("conv5", 48)])
def test_other_stems_and_odd_grids(stem, crop):
    model = make_model(stem=stem, crop=crop)
    e = explain(model, make_clip(model))
    assert e.current.shape == (4, *model.grid)
    torch.testing.assert_close(e.current.sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("spatial_token", ["class_token", "avg_pool"])
@torch.no_grad()
def test_no_preference_gives_even_maps(spatial_token):
    """Zero queries: every key that exists weighs the same, also at the clip's edges where SA has fewer."""
    model = make_model(spatial_token=spatial_token, l_ta=2, t_o=3)
    for module in model.modules():
        if hasattr(module, "qkv"):
            module.qkv.weight[: module.qkv.in_features] = 0
        if isinstance(module, STA) and module.pool_q is not None:
            module.pool_q.norm.weight.zero_()
    e = explain(model, make_clip(model))
    torch.testing.assert_close(e.current, torch.full((4, 6, 6), 1 / 36))
    torch.testing.assert_close(e.long_term, torch.full((4,), 1 / 4))
    torch.testing.assert_close(e.aggregation, torch.full((4,), 1 / 4))


@torch.no_grad()
def ask_for_channel(qkv, channel):
    """Queries are one constant; keys are the value of `channel`: a token that has it gets all the attention."""
    C = qkv.in_features
    for p in qkv.parameters():
        p.zero_()
    qkv.bias[:C] = 30.0
    qkv.weight[C : 2 * C, channel] = 1.0


@torch.no_grad()
def one_block_model(modules):
    """The first block of a tiny STAT alone (keys are patches 0 and 4 of each side of 6), asking for channel 3."""
    model = make_model(modules=modules)
    del model.blocks[1:]
    sta = model.blocks[0].sta
    ask_for_channel(sta.qkv, 3)
    sta.pool_k.conv.weight.zero_()
    sta.pool_k.conv.weight[:, 0, 1, 1, 1] = 1.0
    sta.pool_k.norm = torch.nn.Identity()
    model.norm = torch.nn.Linear(96, 192)
    return model


@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("column", [0, 4])
def test_current_shows_the_patch_that_is_asked_for(row, column):
    model = one_block_model(("CA", "LA"))
    tokens = torch.zeros(1, 4, 37, 48)
    tokens[0, 2, 1 + 6 * row + column, 3] = 1.0  # in frame 2 alone
    model.tokens = lambda clip: tokens
    current = explain(model, make_clip(model)).current
    near = {0: torch.tensor([1, 0.75, 0.5, 0.25, 0, 0]), 4: torch.tensor([0, 0.25, 0.5, 0.75, 1, 1])}  # linear
    expected = near[row][:, None] * near[column]
    torch.testing.assert_close(current[2], expected / expected.sum())
    torch.testing.assert_close(current[[0, 1, 3]], torch.full((3, 6, 6), 1 / 36))


@pytest.mark.parametrize("modules", [("CA", "LA"), ("CA", "SA", "LA")], ids="+".join)
def test_long_term_shows_the_class_token_that_is_asked_for(modules):
    model = one_block_model(modules)
    tokens = torch.zeros(1, 4, 37, 48)
    tokens[0, 1, 0, 3] = 1.0
    model.tokens = lambda clip: tokens
    e = explain(model, make_clip(model))
    torch.testing.assert_close(e.long_term, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(e.current, torch.full((4, 6, 6), 1 / 36))  # nothing left for CA: even, not NaN


def test_aggregation_shows_the_frame_that_is_asked_for():
    model = make_model(l_ta=2)
    tokens = torch.zeros(1, 4, 10, 192)
    tokens[0, 3, 0, 5] = 1.0
    model.norm.forward = lambda x: tokens
    first, last = model.aggregation.layers
    ask_for_channel(last.qkv, 5)
    for part in (first.proj, first.mlp.fc2):  # leaves the tokens as they are
        torch.nn.init.zeros_(part.weight)
    e = explain(model, make_clip(model))
    torch.testing.assert_close(e.aggregation, torch.tensor([0.0, 0.0, 0.0, 1.0]))


@pytest.mark.parametrize("spatial_token", ["class_token", "avg_pool"])
@torch.no_grad()
def test_equals_a_slow_walk_through_the_blocks(spatial_token):
    model = make_model(spatial_token=spatial_token, t_o=5)
    for module in model.modules():
        if hasattr(module, "qkv"):
            module.qkv.weight.mul_(8)  # far from even
    clip = make_clip(model)
    e = explain(model, clip)

    # Where the keys of each block sit on the 6 x 6 stem grid: its K/V stride, doubled after Q was pooled.
    keys_at = [[0, 4], [0, 2, 4], [0, 4], [0, 2, 4]]
    current, long_term, x = np.zeros((4, 6, 6)), np.zeros(4), model.tokens(clip)
    for block, at in zip(model.blocks, keys_at, strict=True):
        q, k, _, exists = block.sta.queries_keys_values(block.norm1(x))  # (4, H, N_q, D), (4, H, L, D)
        n_ca, la = len(at) ** 2, np.zeros(4)
        for i in range(4):
            weights = np.zeros(k.shape[2])
            queries = range(q.shape[2]) if spatial_token == "avg_pool" else [0]
            for h, j in product(range(q.shape[1]), queries):
                scores = (q[i, h, j] * k[i, h]).sum(1) / q.shape[-1] ** 0.5
                weights += scores.where(exists[i, 0, 0], -torch.inf).softmax(0).numpy()
            rows = [np.interp(range(6), at, row) for row in weights[:n_ca].reshape(len(at), -1)]
            block_map = np.stack([np.interp(range(6), at, column) for column in np.stack(rows).T]).T
            current[i] += block_map / block_map.sum() / 4
            la += weights[-4:]
        long_term += la / la.sum() / 4
        x = block(x)
    np.testing.assert_allclose(e.current, current, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(e.long_term, long_term, rtol=1e-4)
    assert np.ptp(current) > 0.3 / 36  # the walk had something to find
    assert np.ptp(long_term) > 0.3 / 4


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_leaves_the_model_as_it_was():
    model = make_model(stochastic_depth=0.5, head_dropout=0.5)
    clip = make_clip(model)
    expected = explain(model, clip)
    model.train()
    model.blocks[1].eval()
    modes = [m.training for m in model.modules()]
    model.head.register_forward_hook(lambda *_: None)  # someone else's
    e = explain(model, clip)
    assert [m.training for m in model.modules()] == modes
    assert hooks(model) == 1
    assert not e.logits.requires_grad
    assert torch.equal(e.logits, expected.logits)
    assert torch.equal(e.current, expected.current)


def test_leaves_the_model_as_it_was_after_an_error():
    model = make_model().train()

    def fail(x):
        raise RuntimeError("head")

    model.head.forward = fail
    with pytest.raises(RuntimeError, match="head"):
        explain(model, make_clip(model))
    assert all(m.training for m in model.modules())
    assert hooks(model) == 0


@pytest.mark.parametrize("shape", [(3, 8, 48, 48), (2, 3, 8, 48, 48), (1, 3, 8, 32, 32)])
def test_refuses_other_clips(shape):
    with pytest.raises(ValueError, match="clip"):
        explain(make_model(), torch.zeros(shape))


@pytest.mark.parametrize(("modules", "l_ta"), [(("CA", "SA", "LA"), 2), (("CA",), 0)], ids=["all", "CA alone"])
def test_the_panels_are_what_it_looked_at(modules, l_ta):
    model = make_model(modules=modules, l_ta=l_ta)
    clip = make_clip(model)
    e, panels = explain(model, clip), model.look(clip)
    assert [panel.name for panel in panels] == ["CA", "LA", "Aggregation"]
    for panel, expected in zip(panels, (e.current, e.long_term, e.aggregation), strict=True):
        if expected is None:
            assert panel.values is None
            assert panel.off.startswith("off: ")
        else:
            assert torch.equal(panel.values, expected)
    assert "class token" in panels[0].what
