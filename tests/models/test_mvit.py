"""MViT: torchvision's network, its cost, and positions that move to another clip."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.video import mvit_v1_b

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.mvit import Config, MViT
from stat_video.models.weights import load_foreign, load_weights

TINY = {"depths": [1, 1, 2, 2], "width": 24, "stochastic_depth": 0.0, "head_dropout": 0.0}


@pytest.fixture(scope="module")
def network():
    """torchvision's, with positions that are not small."""
    torch.manual_seed(0)
    network = mvit_v1_b().eval()
    with torch.no_grad():
        for p in network.pos_encoding.parameters():
            p.normal_()
    return network


def test_it_is_torchvisions(network):
    """Logits at the size that torchvision's is built for, to the rounding of the fused attention."""
    model = MViT(Config(), Clip(T=16, crop=224), 400).eval()
    assert load_foreign(model, network.state_dict()) == [
        "313 of 313 tensors taken from 313 in the file, 0 of them renamed"
    ]
    x = torch.randn(1, 3, 16, 224, 224)
    with torch.no_grad():
        logits, expected = model(x), network(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_torchvisions_weights_at_another_size(network):
    """A short clip of small frames takes them with interpolated positions, and another class list without the head."""
    model = MViT(Config(), Clip(T=32, crop=64), 5)
    with pytest.raises(ValueError, match=r"head.1.weight \(400, 768\), here \(5, 768\)"):
        load_foreign(model, network.state_dict())
    assert load_foreign(model, network.state_dict(), new_classifier=True) == [
        "311 of 313 tensors taken from 313 in the file, 0 of them renamed",
        "left in the file: head.1.weight, head.1.bias",
        "drawn anew: head.1.weight, head.1.bias",
        "pos_encoding.spatial_pos: interpolated from (3136, 96) to (256, 96)",
        "pos_encoding.temporal_pos: interpolated from (8, 96) to (16, 96)",
    ]
    torch.testing.assert_close(
        model.pos_encoding.temporal_pos.T[None],
        F.interpolate(network.pos_encoding.temporal_pos.T[None], 16, mode="linear"),
    )


def test_a_field_of_positions_keeps_its_form():
    """Linear in rows and columns: so it stays, away from the borders."""
    old, new = MViT(Config(**TINY), Clip(T=8, crop=48), 5), MViT(Config(**TINY), Clip(T=8, crop=96), 5)
    rows = torch.arange(12.0)
    with torch.no_grad():
        old.pos_encoding.spatial_pos.copy_((10 * rows[:, None] + rows).flatten()[:, None].expand(-1, 24))
    assert len(load_weights(new, old.state_dict())) == 1
    places = (torch.arange(24) + 0.5) / 2 - 0.5
    inner = slice(6, 18)
    got = new.pos_encoding.spatial_pos[:, 0].view(24, 24)[inner, inner]
    torch.testing.assert_close(got, (10 * places[:, None] + places)[inner, inner], atol=0.05 * 11, rtol=0)


@pytest.mark.parametrize(("T", "printed"), [(16, 353 / 5), (32, 850 / 5), (64, 4095 / 9)])
def test_the_printed_cost(T, printed):
    """Table 6, of one view; parameters: torchvision's page of its weights at T = 16."""
    clip = Clip(T=T, crop=224)
    assert gmacs(Config(), clip, 400) == pytest.approx(printed, rel=0.01)
    assert parameters(Config(), clip, 400) == 36_610_672 + (T - 16) // 2 * 96


def test_attention_in_slow_motion():
    """The fused attention is softmax(q k / sqrt(D)) v, head by head, of pooled queries, keys and values."""
    torch.manual_seed(0)
    model = MViT(Config(**TINY | {"heads": 2}), Clip(T=4, crop=32), 5).double().eval()
    block = next(b for b in model.blocks if b.attn.pool_q is not None)
    attention, grid = block.attn, (2, 8, 8)
    x = torch.randn(2, 1 + 128, block.norm1.normalized_shape[0], dtype=torch.float64)
    C = x.shape[-1]
    heads = attention.num_heads
    rows = attention.qkv(x)
    out = []
    for h in range(heads):
        part = [rows[..., i * C + h * C // heads : i * C + (h + 1) * C // heads][:, None] for i in range(3)]
        pools = (attention.pool_q, attention.pool_k, attention.pool_v)
        q, k, v = (pool(piece, grid)[0][:, 0] for pool, piece in zip(pools, part, strict=True))
        weights = (q @ k.transpose(1, 2) / (C // heads) ** 0.5).softmax(-1)
        out.append(weights @ v)
    expected = attention.project(torch.cat(out, -1))
    y, new_grid = attention(x, grid)
    torch.testing.assert_close(y, expected)
    assert new_grid == (2, 4, 4)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"T": 9}, "T=9: multiples of 2 are allowed"),
        ({"crop": 50}, "crop=50: multiples of 4 are allowed"),
        ({"crop": 48, "test_crop": 64}, "clip.test_crop=64: .*crop=48 alone is allowed"),
    ],
)
def test_clips_that_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        Config().check(Clip(**clip))


@pytest.mark.parametrize("crop", [4, 36, 52])
def test_odd_grids(crop):
    model = MViT(Config(**TINY), Clip(T=2, crop=crop), 5)
    assert model(torch.randn(2, 3, 2, crop, crop)).shape == (2, 5)
