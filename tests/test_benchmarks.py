"""What benchmarks write: the table in the page comes from the run, and nothing else of the page changes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from running import ROOT


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_data", ROOT / "benchmarks" / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    page.write_text(f"# Before\n\n{bench.BEGIN}\nold figures\n{bench.END}\n\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "RESULT", result)
    about = {"machine": {"cpu": "a CPU", "cores": 2}, "versions": dict.fromkeys(bench.SHOWN, "1"), "footage": "clips"}
    for value in (9.0, 8.0):
        figures = [bench.Figure("speed", [value, 7.5, 11.0], 7, 14, True, "x", "about")]
        bench.write(figures, {**about, "finished": "2026-01-02T03:04:05"})
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{bench.BEGIN}\n| figure |")
        assert text.endswith(f"{bench.END}\n\nafter\n")
        assert f"| speed | {value} x | 7.5 to 11.0 | 7 | 14 | floor | about |" in text
        assert "old figures" not in text
        assert json.loads(result.read_text())["figures"][0]["values"] == [value, 7.5, 11.0]
    (shown,) = [line for line in (ROOT / "docs/data.md").read_text().splitlines() if line == bench.BEGIN]
    assert shown  # the page has the place


def test_the_peers_make_the_same_clips(bench: ModuleType) -> None:
    clip = {"video": torch.randint(0, 256, (3, 40, 60, 80)).float()}
    assert torch.equal(bench.subsample(clip["video"])[:, [0, -1]], clip["video"][:, [0, 39]])
    for transform in (bench.StockTransform(), bench.OurTransformOnTheirClip()):
        assert transform(clip).shape == (16, 3, 224, 224)
