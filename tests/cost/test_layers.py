"""Costs against hand counts, and each other. Nothing here uses memory."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stat_video.cost.layers import layer_table
from stat_video.models import count
from stat_video.models.base import Clip, ModelConfig, VideoModel
from stat_video.models.stat.stat import Config

CLASSES = 400


@dataclass
class OfATest(ModelConfig):
    """A model of three kinds of multiply-adds."""

    name: str = "of_a_test"

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        return Mixed(num_classes)


class Mixed(VideoModel):
    """A convolution, a weight of its own, attention between the positions of a frame, a classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.conv(clip).flatten(2).transpose(1, 2) * self.scale  # (B, n, 8)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.head(x.mean(1))


def by_layer(config: ModelConfig | None = None, clip: Clip | None = None) -> dict[str, count.Layer]:
    return {layer.name: layer for layer in count.by_layer(config or Config(), clip or Clip(), CLASSES)}


@pytest.mark.parametrize(
    ("stem", "gmacs", "millions"),
    [("conv1", 59.5, 44.0), ("conv3", 59.05, 44.3), ("conv5", 58.7, 49.1)],
)
def test_stems_cost_about_the_same(stem, gmacs, millions):
    """Table 5: 'computational overhead and numbers of parameters remain approximately the same'."""
    arguments = Config(stem=stem), Clip(), CLASSES
    assert count.gmacs(*arguments) == pytest.approx(gmacs, rel=0.005)
    assert count.parameters(*arguments) / 1e6 == pytest.approx(millions, rel=0.005)


def test_printed_strides_of_conv5_leave_a_quarter_of_the_cost():
    printed, ours = (count.gmacs(Config(stem=stem), Clip(), CLASSES) for stem in ("conv5_printed", "conv5"))
    assert 0.2 < printed / ours < 0.33


TINY = {"widths": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "heads": [1, 1, 2, 4]}
CONFIGS = [
    (Config(), Clip()),
    (Config(t_o=5), Clip(T=32)),
    (Config(modules=["CA"], l_ta=0), Clip()),
    (Config(spatial_token="avg_pool", l_ta=2), Clip()),
    (Config(stem="conv1"), Clip()),
    (Config(stem="conv5"), Clip(crop=160)),
    (Config(**TINY, t_o=9), Clip(T=4, crop=48)),
    (OfATest(), Clip(T=4, crop=16)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c[0].label}-{c[1].T}-{c[1].crop}")
def test_layers_add_up_exactly(config):
    layers = count.by_layer(*config, CLASSES)
    assert sum(layer.macs for layer in layers) / 1e9 == count.gmacs(*config, CLASSES)
    assert sum(layer.parameters for layer in layers) == count.parameters(*config, CLASSES)
    for layer in layers:
        assert sum(layer.kinds.values()) == layer.macs
        assert min(layer.kinds.values(), default=0) >= 0


def test_a_model_of_three_kinds_counted_by_hand():
    layers, n = by_layer(OfATest(), Clip(T=4, crop=16)), 4 * 16 * 16
    assert layers["conv"].kinds == {"convolution": 27 * 3 * 8 * n}
    assert layers["Mixed itself"].kinds == {"attention": 2 * n * n * 8}
    assert layers["Mixed itself"].parameters == 8
    assert layers["head"].kinds == {"linear": 8 * CLASSES}


def hand_count(n_t, c, c_out, grid, q_grid, ca_grid, keys):
    """Multiply-adds of a block with one class token a frame: n tokens enter, n_q leave."""
    n, n_q = (1 + g * g for g in (grid, q_grid))
    # Depthwise 3x3x3 of K, V and, if the stage changes, Q.
    pooled = 27 * c * (2 * ca_grid**2 + (q_grid**2 if q_grid != grid else 0))
    qkv, proj = n * c * 3 * c, n_q * c * c
    attention = 2 * n_q * keys * c  # Q K^T and its product with V
    mlp = n_q * c * 4 * c + n_q * 4 * c * c_out
    mlp += n_q * c * c_out if c_out != c else 0  # the skip that widens
    return {"linear": n_t * (qkv + proj + mlp), "convolution": n_t * pooled, "attention": n_t * attention}


@pytest.mark.parametrize(
    ("block", "c", "c_out", "grid", "q_grid", "ca_grid", "keys"),
    [  # T = 16, t_o = 3: 8 frames; keys = CA + 2 neighbours of SA + 8 class tokens
        (0, 192, 192, 28, 28, 7, 7 * 7 + 2 * 4 * 4 + 8),
        (1, 192, 384, 28, 28, 7, 7 * 7 + 2 * 4 * 4 + 8),
        (2, 384, 384, 28, 14, 14, 14 * 14 + 2 * 7 * 7 + 8),
        (14, 768, 768, 7, 7, 7, 7 * 7 + 2 * 4 * 4 + 8),
    ],
)
def test_a_block_counted_by_hand(block, c, c_out, grid, q_grid, ca_grid, keys):
    layer = by_layer()[f"blocks.{block}"]
    assert layer.kinds == hand_count(8, c, c_out, grid, q_grid, ca_grid, keys)
    assert layer.output == (8, 1 + q_grid**2, c_out)


def test_stem_and_ends_counted_by_hand():
    layers = by_layer()
    stem = 27 * 8 * (3 * 64 * 112**2 + 64 * 96 * 56**2 + 96 * 192 * 28**2)
    assert layers["stem"].kinds == {"convolution": stem}
    assert layers["stem"].parameters == 27 * (3 * 64 + 64 * 96 + 96 * 192) + 64 + 96 + 192
    assert layers["STAT itself"].parameters == 192 * (1 + (1 + 28 * 28) + 8)
    assert layers["aggregation"].macs == 9 * 12 * 768**2 + 2 * 9 * 9 * 768
    assert layers["head"].macs == 400 * 768


def test_window_changes_only_attention():
    """Each further pair of frames adds 2 x n_sa keys to every query and touches nothing else."""
    narrow, wide = (by_layer(Config(t_o=t_o), Clip(T=32)) for t_o in (3, 7))
    changed = 0
    for name, a in narrow.items():
        b = wide[name]
        assert a.parameters == b.parameters
        for kind in ("linear", "convolution"):
            assert a.kinds.get(kind) == b.kinds.get(kind)
        if not name.startswith("blocks."):
            assert a == b
            continue
        n_t, n_q, _ = a.output
        n_sa = 7 * 7 if name in ("blocks.2", "blocks.13") else 4 * 4
        c = {"blocks.1": 192, "blocks.12": 384}.get(name, a.output[2])  # of the block, whose MLP widens
        assert b.kinds["attention"] - a.kinds["attention"] == n_t * 2 * n_q * c * 4 * n_sa
        changed += 1
    assert changed == 15


def test_nothing_is_allocated():
    class OnlyMeta(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                    self.elements += leaf.numel()
            return out

    count._counted.cache_clear()
    with OnlyMeta() as seen:
        by_layer(Config(t_o=7), Clip(T=64))
    assert seen.elements < 1000  # window offsets, no more


@pytest.mark.parametrize(("config", "last"), [(CONFIGS[0], ["59.05", "100.0", "44.30"]), (CONFIGS[-1], None)])
def test_tables_render(config, last):
    layers = count.by_layer(*config, CLASSES)
    drawn = layer_table(layers)
    assert drawn.row_count == len(layers)
    assert last is None or [c.footer for c in drawn.columns][-3:] == last
    kinds = [float(c.footer) for c in drawn.columns[2:5]]
    assert sum(kinds) == pytest.approx(float(drawn.columns[5].footer), abs=0.02)
