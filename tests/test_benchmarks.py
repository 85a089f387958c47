"""What benchmarks write: the table in the page comes from the run, and nothing else of the page changes."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from running import ROOT
from stat_video import models
from stat_video.compose import rows
from stat_video.config import Config

BEGIN, END = "<!-- benchmarks/{}.py writes from here -->", "<!-- to here -->"


def load(name: str) -> ModuleType:
    """A script of benchmarks/, which heads sys.path where it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("data")


@pytest.mark.parametrize(
    ("values", "more_is_better", "reached"),
    [
        ([6.0, 6.9, 30.0], True, "below"),
        ([7.0, 7.0, 1.0], True, "floor"),
        ([14.0, 20.0, 1.0], True, "aim"),
        ([15.0, 20.0, 1.0], False, "below"),
        ([14.0, 8.0, 1.0], False, "floor"),
        ([6.0, 8.0, 1.0], False, "aim"),
    ],
)
def test_a_figure_is_its_median_against_floor_and_aim(
    bench: ModuleType, values: list[float], more_is_better: bool, reached: str
) -> None:
    floor, aim = (7, 14) if more_is_better else (14, 7)
    assert bench.Figure("x", values, floor, aim, more_is_better).reached == reached


def test_the_table_takes_its_place_and_no_more(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, result = tmp_path / "data.md", tmp_path / "data.json"
    begin = BEGIN.format("data")
    page.write_text(f"# Before\n\n{begin}\nold figures\n{END}\n\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "RESULT", result)
    about = {"machine": {"cpu": "a CPU", "cores": 2}, "versions": dict.fromkeys(bench.SHOWN, "1"), "footage": "clips"}
    for value in (9.0, 8.0):
        figures = [bench.Figure("speed", [value, 7.5, 11.0], 7, 14, True, "x", "about")]
        bench.write(figures, {**about, "finished": "2026-01-02T03:04:05"})
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{begin}\n\n| figure |")
        assert text.endswith(f"{END}\n\nafter\n")
        assert f"| speed | {value} x | 7.5 to 11.0 | 7 | 14 | floor | about |" in text
        assert "old figures" not in text
        assert json.loads(result.read_text())["figures"][0]["values"] == [value, 7.5, 11.0]


@pytest.mark.parametrize(
    ("name", "page"), [("data", "data.md"), ("model", "performance.md"), ("systems", "systems.md")]
)
def test_the_page_has_the_place(name: str, page: str) -> None:
    lines = (ROOT / "docs" / page).read_text().splitlines()
    assert lines.count(BEGIN.format(name)) == lines.count(END) == 1


def test_the_page_of_the_model_is_made_of_its_figures() -> None:
    model = load("model")
    result = json.loads((ROOT / "benchmarks/results/model_cpu.json").read_text())
    assert model.page(result).strip() in (ROOT / "docs/performance.md").read_text()


def test_a_part_that_was_measured_elsewhere_says_so() -> None:
    """`--only peers` on another machine leaves the other parts as they were, and theirs."""
    model = load("model")
    about = json.loads((ROOT / "benchmarks/results/model_cpu.json").read_text())["about"]["forward"]
    other = {**about, "machine": {**about["machine"], "processor": "Another"}, "commit": None}
    lines = model.origins({"about": {"forward": about, "step": about, "peers": other}}).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["- forward, step", "- peers"]
    assert "Another, 2 cores" in lines[1]
    assert "Another" not in lines[0]


def test_the_table_of_systems_is_made_of_its_figures() -> None:
    systems = load("systems")
    result = json.loads((ROOT / "benchmarks/results/systems.json").read_text())
    assert systems.page(result).strip() in (ROOT / "docs/systems.md").read_text()
    assert "| `stat` | missing |" in systems.page({k: v for k, v in result.items() if k != "stat"})


def test_the_page_of_data_is_made_of_its_figures(bench: ModuleType) -> None:
    fed = json.loads((ROOT / "benchmarks/results/data.json").read_text())["fed"]
    assert bench.fed_part(fed).strip() in (ROOT / "docs/data.md").read_text()


def test_cores_are_clips_a_second_times_the_time_of_a_clip(bench: ModuleType) -> None:
    parts = {"read": 25.0, "crop": 5.0, "RandAugment": 40.0, "before": 100.0, "own frames": 80.0, "now": 70.0}
    ms = {"originals": {"16": {part: [2.0, value, 900.0] for part, value in [*parts.items(), ("device", 30.0)]}}}
    ms["copies"] = {"16": {part: [value / 2] for part, value in [*parts.items(), ("device", 30.0)]}}
    rates = {"originals": {"2": {way: [1.0, 7.5, 8.0] for way in bench.WAYS}}}
    about = {"machine": {"cpu": "a CPU", "cores": 2}, "finished": "2026-01-02T03:04:05"}
    text = bench.fed_part({**about, "ms": ms, "clips_per_second": rates})
    assert "| originals | 16 | 25.0 | 5.0 | 40.0 | 100.0 | 80.0 | 70.0 | 30.0 |" in text
    assert "| originals | 16 | 44 | 31 | 13 | 75 | 52 | 22 |" in text  # 440 and 750 clips/s of 100, 70 and 30 ms
    assert "originals, RandAugment on the CPU: 70.0 ms, floor 65, not reached" in text
    assert "copies, RandAugment on the device: 15.0 ms, floor 20, reached" in text
    assert "| originals | 2 | 7.5 | 7.5 | 7.5 |" in text


def test_each_part_of_a_clip_is_timed(bench: ModuleType, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mp4" for i in range(2)]
    for path in paths:
        bench.encode([np.full((bench.HEIGHT, bench.WIDTH, 3), 9 * i, np.uint8) for i in range(20)], 12, path)
    times = bench.clip_times(paths, 16, 1)
    assert {part: len(values) for part, values in times.items()} == dict.fromkeys(bench.PARTS, 2)
    assert all(value > 0 for part in ("read", "before", "now") for value in times[part])


def test_lengths_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("model")
    times = {"STAT T=16": [1.0, 2.0], "MViT-B T=16": [2.0, 5.0], "STAT T=64": [4.0, 9.0], "MViT-B T=64": [12.0, 18.0]}
    monkeypatch.setattr(model, "PAIR", dict.fromkeys(times, (torch.nn.Flatten, 2, 4, 0)))
    monkeypatch.setattr(model, "in_turns", lambda works, rounds, device: {name: times[name] for name in works})
    args = Namespace(device=torch.device("cpu"), batch=1, compile=False, rounds=2)
    rows = model.pair((16, 64), model.forward, args)
    assert [rows[T]["ratio"]["median"] for T in ("16", "64")] == [2.25, 2.5]
    assert rows["64"]["growth"] == {"median": 4.25, "min": 4.0, "max": 4.5, "rounds": 2}
    assert list(rows["16"]["seconds"]) == ["STAT T=16", "MViT-B T=16"]


@pytest.mark.parametrize("name", models.names())
def test_the_meta_device_counts_what_every_peer_computes(name: str) -> None:
    bench = load("model")
    (row,) = rows("train", Config, [f"model={name}", "scale=tiny"])
    model = row.config.build(5).eval()
    clip = bench.make_clip(row.config.clip.T, row.config.clip.crop, 1, torch.device("cpu"))
    # By products of matrices: the counter knows nothing of the CPU's own attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(clip)
    assert bench.macs(model, clip) == counter.get_total_flops() / 2 > 0


def test_time_is_counted_by_kind_of_operator() -> None:
    kind = load("model").kind_of
    assert [kind(f"aten::{name}") for name in ("addmm", "mm", "bmm")] == 3 * ["matrix products"]
    assert kind("aten::_scaled_dot_product_flash_attention_for_cpu_backward") == "attention"
    assert kind("aten::convolution_backward") == kind("aten::slow_conv3d_forward") == "convolutions"
    assert kind("aten::native_layer_norm_backward") == "layer norms"
    assert kind("aten::gelu_backward") == "GELU"
    assert kind("aten::sum") == kind("aten::add_") == "other"


def test_the_peers_make_the_same_clips(bench: ModuleType) -> None:
    clip = {"video": torch.randint(0, 256, (3, 40, 60, 80)).float()}
    assert torch.equal(bench.subsample(clip["video"])[:, [0, -1]], clip["video"][:, [0, 39]])
    for transform in (bench.StockTransform(), bench.OurTransformOnTheirClip()):
        assert transform(clip).shape == (16, 3, 224, 224)
