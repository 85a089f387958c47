"""Costs against the paper's printed figures, a hand count, and each other. Nothing here uses memory."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stat_video import published
from stat_video.cost import layers as cost
from stat_video.model import STATConfig


def test_ten_rows_are_within_tolerance_of_the_paper():
    rows = cost.table()
    assert [r.source for r in rows] == ["Table 1"] * 4 + ["Table 2"] * 4 + ["Tables 6, 7"] * 2
    for row in rows[:9]:
        assert abs(row.difference) <= 0.3, row
        assert row.fits
    at_5, at_7 = rows[8:]
    assert (at_5.config.t_o, at_7.config.t_o) == (5, 7)
    assert at_5.printed == at_7.printed == pytest.approx(2172 / 9)  # Table 6; 724 / 3 in Table 7
    assert at_7.ours == pytest.approx(243.95, abs=0.01)
    assert not at_7.fits
    assert "default" in at_7.note


def test_printed_figures_come_from_the_file(tmp_path):
    text = published.PAPER.read_text(encoding="utf-8")
    changed = tmp_path / "paper.yaml"
    changed.write_text(text.replace("gflops: 120.1", "gflops: 130").replace("2172", "1800"), encoding="utf-8")
    rows = cost.table(changed)
    assert [r.printed for r in rows if "SA-5" in r.label or r.config.T == 64] == [130, 200, 200]
    assert [r.fits for r in rows].count(False) == 3


@pytest.mark.parametrize(
    ("stem", "gmacs", "millions"),
    [("conv1", 59.5, 44.0), ("conv3", 59.05, 44.3), ("conv5", 58.7, 49.1)],
)
def test_stems_cost_about_the_same(stem, gmacs, millions):
    """Table 5: 'computational overhead and numbers of parameters remain approximately the same'."""
    config = STATConfig(stem=stem)
    assert cost.gmacs(config) == pytest.approx(gmacs, rel=0.005)
    assert cost.parameters(config) / 1e6 == pytest.approx(millions, rel=0.005)


def test_printed_strides_of_conv5_leave_a_quarter_of_the_cost():
    assert 0.2 < cost.gmacs(STATConfig(stem="conv5_printed")) / cost.gmacs(STATConfig(stem="conv5")) < 0.33


CONFIGS = [
    STATConfig(),
    STATConfig(T=32, t_o=5),
    STATConfig(modules=("CA",), l_ta=0),
    STATConfig(spatial_token="avg_pool", l_ta=2),
    STATConfig(stem="conv1"),
    STATConfig(stem="conv5", crop=160),
    STATConfig(T=4, crop=48, widths=(24, 48, 96, 192), depths=(1, 1, 2, 1), heads=(1, 1, 2, 4), t_o=9),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.stem}-{c.T}-{c.crop}-l{c.l_ta}")
def test_layers_add_up_exactly(config):
    layers = cost.by_layer(config)
    assert sum(layer.macs for layer in layers) / 1e9 == cost.gmacs(config)
    assert sum(layer.parameters for layer in layers) == cost.parameters(config)
    for layer in layers:
        assert not layer.parts or sum(layer.parts.values()) == layer.macs
        assert set(layer.parts) in (set(), set(cost.PARTS))
        assert min(layer.parts.values(), default=0) >= 0
    convs = len(config.convs)
    assert layers[convs - 1].grid == layers[convs].grid == config.grid
    assert layers[convs - 1].frames == config.n_t


def hand_count(n_t, c, c_out, grid, q_grid, ca_grid, keys):
    """Multiply-adds of a block with one class token a frame: n tokens enter, n_q leave."""
    n, n_q = (1 + g * g for g in (grid, q_grid))
    # Depthwise 3x3x3 of K, V and, where the stage changes, Q.
    pooled = 27 * c * (2 * ca_grid**2 + (q_grid**2 if q_grid != grid else 0))
    qkv, proj = n * c * 3 * c, n_q * c * c
    attention = 2 * n_q * keys * c  # Q K^T and its product with V
    mlp = n_q * c * 4 * c + n_q * 4 * c * c_out
    mlp += n_q * c * c_out if c_out != c else 0  # the skip that widens
    parts = {"qkv": qkv, "pool": pooled, "attention": attention, "proj": proj, "mlp": mlp}
    return {part: n_t * macs for part, macs in parts.items()}


@pytest.mark.parametrize(
    ("block", "c", "c_out", "grid", "q_grid", "ca_grid", "keys"),
    [  # T = 16, t_o = 3: 8 frames; keys = CA + 2 neighbours of SA + 8 class tokens
        (1, 192, 192, 28, 28, 7, 7 * 7 + 2 * 4 * 4 + 8),
        (2, 192, 384, 28, 28, 7, 7 * 7 + 2 * 4 * 4 + 8),
        (3, 384, 384, 28, 14, 14, 14 * 14 + 2 * 7 * 7 + 8),
        (15, 768, 768, 7, 7, 7, 7 * 7 + 2 * 4 * 4 + 8),
    ],
)
def test_a_block_counted_by_hand(block, c, c_out, grid, q_grid, ca_grid, keys):
    layer = next(layer for layer in cost.by_layer(STATConfig()) if layer.name == f"block {block}")
    assert dict(layer.parts) == hand_count(8, c, c_out, grid, q_grid, ca_grid, keys)
    assert layer.keys == keys
    assert (layer.frames, layer.grid) == (8, (q_grid, q_grid))


def test_stem_and_ends_counted_by_hand():
    layers = {layer.name: layer for layer in cost.by_layer(STATConfig())}
    assert layers["stem 1"].macs == 27 * 3 * 64 * 8 * 112 * 112
    assert layers["stem 2"].macs == 27 * 64 * 96 * 8 * 56 * 56
    assert layers["stem 2"].parameters == 27 * 64 * 96 + 96
    assert layers["embedding"].parameters == 192 * (1 + (1 + 28 * 28) + 8)
    assert layers["aggregation"].macs == 9 * 12 * 768**2 + 2 * 9 * 9 * 768
    assert layers["head"].macs == 400 * 768


def test_window_changes_only_attention():
    """Each further pair of frames adds 2 x n_sa keys to every query and touches nothing else."""
    narrow, wide = cost.by_layer(STATConfig(T=32, t_o=3)), cost.by_layer(STATConfig(T=32, t_o=7))
    changed = 0
    for a, b in zip(narrow, wide, strict=True):
        assert a.parameters == b.parameters
        if not a.parts:
            assert a.macs == b.macs
            continue
        assert {p: n for p, n in a.parts.items() if p != "attention"} == {
            p: n for p, n in b.parts.items() if p != "attention"
        }
        n_sa = 7 * 7 if a.name in ("block 3", "block 14") else 4 * 4
        assert b.keys - a.keys == 4 * n_sa
        assert b.parts["attention"] * a.keys == a.parts["attention"] * b.keys  # proportional to the keys
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

    cost._count.cache_clear()
    with OnlyMeta() as seen:
        cost.by_layer(STATConfig(T=64, t_o=7))
    assert seen.elements < 1000  # window offsets, no more
    assert all(p.is_meta for p in cost._count(STATConfig(T=64, t_o=7))[0].parameters())


def test_tables_render():
    rows = cost.table()
    assert cost.render_table(rows).row_count == 10
    layers = cost.by_layer(STATConfig())
    drawn = cost.render_layers(layers)
    assert drawn.row_count == len(layers)
    assert [c.footer for c in drawn.columns][-3:] == ["59.05", "100.0", "44.30"]


def test_the_readme_shows_what_is_counted():
    """Each row of its GFLOPs table, to the last digit."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for r in cost.table():
        assert f"| {r.source} | {r.label} | {r.printed:.1f} | {r.ours:.2f} | {r.difference:+.2f} |" in readme
