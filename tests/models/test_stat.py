"""The whole model: shapes, checks, initialisation, and weights that move between models."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from stat_video.models.base import Clip
from stat_video.models.stat import STAT, Config, Conv
from stat_video.models.weights import load_weights

TINY = {
    "widths": [12, 24, 48, 96],
    "depths": [1, 1, 2, 1],
    "heads": [1, 1, 2, 4],
    "stochastic_depth": 0.0,
    "head_dropout": 0.0,
}


def tiny(T: int = 16, crop: int = 64, num_classes: int = 7, **changes) -> STAT:
    torch.manual_seed(0)
    return Config(**(TINY | changes)).build(Clip(T=T, crop=crop), num_classes)


def clip(model: STAT, batch: int = 2) -> torch.Tensor:
    c = model.clip
    return torch.randn(batch, 3, c.T, c.crop, c.crop, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "conv1"},
        {"stem": "conv3"},
        {"stem": "conv5"},
        {"stem": "conv5_printed"},
        {"stem": [Conv((1, 7, 7), (1, 8, 8), 24)]},
        {"stem": [{"kernel": [3, 3, 3], "stride": [4, 4, 4], "channels": 12}]},
        {"spatial_token": "avg_pool"},
        {"spatial_token": "avg_pool", "modules": ("CA",), "l_ta": 0},
        {"l_ta": 0},
        {"l_ta": 4},
        {"T": 8, "t_o": 9},
        {"crop": 40},
    ],
)
def test_trains_a_step_with_every_choice(changes):
    """Logits of the right shape, and a gradient for every parameter.

    But for Q's pooling in the last block, which works on patch queries that nobody reads where class tokens go on.
    """
    model = tiny(**changes)
    logits = model(clip(model))
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    if model.class_token is not None:
        dead = [name for name in dead if not name.startswith(f"blocks.{len(model.blocks) - 1}.sta.pool_q")]
    assert dead == []


@pytest.mark.parametrize(("stem", "n_t", "grid", "first"), [
    ("conv1", 8, 56, 0), ("conv3", 8, 28, 1), ("conv5", 8, 14, 2), ("conv5_printed", 4, 7, 2),
])  # fmt: skip
def test_stems_end_where_table_5_says(stem, n_t, grid, first):
    with torch.device("meta"):
        model = STAT(Config(stem=stem))
    assert (model.n_t, model.grid, model.config.first_stage) == (n_t, (grid, grid), first)


def test_the_recovered_layout():
    """15 blocks in stages (2, 11, 2) of widths 192, 384, 768; K_CA is 7 x 7 but at a stage change, K_SA follows."""
    with torch.device("meta"):
        model = STAT()
    assert [b.norm1.normalized_shape[0] for b in model.blocks] == [192] * 2 + [384] * 11 + [768] * 2
    assert [b.sta.grid[0] for b in model.blocks] == [28] * 3 + [14] * 11 + [7]
    assert [b.sta.ca_grid[0] for b in model.blocks] == [7, 7, 14] + [7] * 10 + [14, 7]
    assert [b.sta.key_layout(8).sa for b in model.blocks] == [16, 16, 49] + [16] * 10 + [49, 16]
    assert [b.widen is not None for b in model.blocks] == [i in (1, 12) for i in range(15)]
    assert {b.sta.head_dim for b in model.blocks} == {96}
    rates = [b.stochastic_depth.rate for b in model.blocks]
    assert rates == pytest.approx([0.2 * i / 14 for i in range(15)])


def test_logits_in_training_and_in_evaluation():
    model = tiny()
    x = clip(model)
    torch.testing.assert_close(model.train()(x), model.eval()(x))


@pytest.mark.parametrize("stem", ["conv1", "conv3", "conv5"])
def test_logits_without_gradients_are_the_same(stem):
    """Where GELU works in place; the clip stays as it was."""
    model, x = tiny(stem=stem).eval(), clip(tiny(stem=stem))
    before, expected = x.clone(), model(x)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected.detach())
    assert torch.equal(x, before)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_clips():
    from stat_video.models.parts.vit import StochasticDepth

    torch.manual_seed(0)
    drop, x = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    out = drop.train()(x)
    assert ((out == 0).all((1, 2)) | (out == 1 / 0.75).all((1, 2))).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_linear_weights_have_mvits_std_at_the_last_width():
    torch.manual_seed(0)
    model = STAT(Config(depths=[1, 1, 1, 1]))
    assert model.blocks[-1].sta.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].sta.qkv.weight.std().item() == pytest.approx(0.04, rel=0.05)


@pytest.mark.parametrize("l_ta", [1, 4])
def test_the_aggregation_starts_near_the_mean_of_the_frame_tokens(l_ta):
    aggregation = tiny(l_ta=l_ta).aggregation
    tokens = F.layer_norm(torch.randn(16, 8, 96), (96,))
    alike = F.cosine_similarity(aggregation(tokens), tokens.mean(1), dim=-1)
    assert alike.mean() > 0.5  # about 0 where values and projections are drawn at random


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes", [{}, {"t_o": 5}, {"stochastic_depth": 0.5}, {"spatial_token": "avg_pool", "l_ta": 0}]
)
def test_a_pass_takes_no_values_from_python_and_gives_none(changes):
    """Each would have a GPU waited for."""
    model = tiny(**changes)
    with Operators() as seen:
        model(clip(model)).sum().backward()
    assert any(name.startswith("_scaled_dot_product") for name in seen.names)
    assert not seen.names & {"lift_fresh", "_local_scalar_dense", "nonzero"}


def test_weights_go_over_as_they_are():
    old, new = tiny(), tiny(t_o=9, modules=("CA", "SA"))
    torch.nn.init.normal_(new.head.weight)
    assert load_weights(new, old.state_dict()) == []
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


@pytest.mark.parametrize("spatial_token", ["class_token", "avg_pool"])
def test_positions_are_interpolated_to_another_clip_and_crop(spatial_token):
    """A field that is linear in time and space stays nearly so (torch's bicubic bends it by 0.05 a position at most,
    away from the borders); the class token's position stays.
    """
    old = tiny(spatial_token=spatial_token)
    new = tiny(T=32, crop=128, spatial_token=spatial_token)
    S = int(spatial_token == "class_token")
    with torch.no_grad():
        ramp = torch.arange(8.0)
        old.pos_temporal.copy_(ramp[None, :, None, None].expand_as(old.pos_temporal))
        grid = (ramp[:, None] * 10 + ramp).flatten()
        old.pos_spatial[0, 0, S:] = grid[:, None]
    changes = load_weights(new, old.state_dict())
    assert len(changes) == 2
    assert all("interpolated from" in line for line in changes)
    places = (torch.arange(16) + 0.5) / 2 - 0.5
    inner = slice(1, 15)
    torch.testing.assert_close(new.pos_temporal[0, inner, 0, 0], places[inner])
    expected = places[:, None] * 10 + places
    got = new.pos_spatial[0, 0, S:, 0].view(16, 16)
    inner = slice(4, 12)  # bicubic looks two positions around
    torch.testing.assert_close(got[inner, inner], expected[inner, inner], atol=0.05 * 11, rtol=0)
    if S:
        assert torch.equal(new.pos_spatial[0, 0, 0], old.pos_spatial[0, 0, 0])
    assert new(clip(new)).shape == (2, 7)


def test_what_does_not_fit_is_refused_and_named():
    old = tiny()
    with pytest.raises(ValueError, match=r"head.weight \(7, 96\), here \(5, 96\).*new_classifier=true"):
        load_weights(tiny(num_classes=5), old.state_dict())
    with pytest.raises(ValueError, match=r"missing aggregation\.layers\.1"):
        load_weights(tiny(l_ta=2), old.state_dict())
    with pytest.raises(ValueError, match="unknown class_token"):
        load_weights(tiny(spatial_token="avg_pool"), old.state_dict())
    with pytest.raises(ValueError, match="do not fit"):
        load_weights(tiny(widths=(12, 24, 48, 192)), old.state_dict())


def test_a_refused_load_leaves_the_model_as_it_was():
    new = tiny(num_classes=5)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    with pytest.raises(ValueError):
        load_weights(new, tiny().state_dict())
    assert all(torch.equal(before[k], v) for k, v in new.state_dict().items())


@pytest.mark.parametrize("depths", [(1, 1, 2, 1), (1, 1, 1, 2)])
def test_the_last_block_leaves_out_what_nobody_reads(depths):
    """Logits and gradients are those of a last block that computes all tokens."""
    results = []
    for whole in (False, True):
        model = tiny(depths=depths).double()
        assert model.blocks[-1].sta.class_queries_only
        if whole:
            model.blocks[-1].sta.class_queries_only = False
        logits = model(clip(model).double())
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.requires_grad)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_without_class_tokens_the_last_block_is_whole():
    assert not tiny(spatial_token="avg_pool").blocks[-1].sta.class_queries_only


@pytest.mark.parametrize("stem", ["conv3", "conv1"])
def test_what_is_made_again_changes_nothing_and_is_not_kept(stem, monkeypatch):
    """What is kept is what the CPU's allocator gave out in the forward pass and has not got back."""
    results, kept = [], []
    for smallest in (0, 2**40):
        monkeypatch.setattr("stat_video.models.parts.recompute.SMALL", smallest)
        model = tiny(stem=stem)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            logits = model(clip(model))
        kept.append(sum(e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"))
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    for again, plain in zip(*results, strict=True):
        assert torch.equal(again, plain)
    assert 0 < kept[0] < 0.85 * kept[1]
