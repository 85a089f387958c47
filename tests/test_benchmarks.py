"""What benchmarks write and measure: pages hold the figures of the result files, and peers get the same clips."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from running import ROOT


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


@pytest.mark.parametrize(
    ("script", "result", "page"),
    [("data", "data", "data"), ("model", "model_cpu", "performance"), ("systems", "systems", "systems")],
)
def test_a_page_has_the_figures_of_the_result_file(script: str, result: str, page: str) -> None:
    bench, found = load(script), json.loads((ROOT / f"benchmarks/results/{result}.json").read_text())
    part = bench.fed_part(found["fed"]) if script == "data" else bench.page(found)
    assert part.strip() in (ROOT / f"docs/{page}.md").read_text()


def test_each_part_of_a_clip_is_timed(tmp_path: Path) -> None:
    bench = load("data")
    paths = [tmp_path / f"{i}.mp4" for i in range(2)]
    for path in paths:
        bench.encode([np.full((bench.HEIGHT, bench.WIDTH, 3), 9 * i, np.uint8) for i in range(20)], 12, path)
    times = bench.clip_times(paths, 16, 1)
    assert {part: len(values) for part, values in times.items()} == dict.fromkeys(bench.PARTS, 2)
    assert all(value > 0 for part in ("read", "before", "now") for value in times[part])


def test_the_peers_make_the_same_clips() -> None:
    bench = load("data")
    clip = {"video": torch.randint(0, 256, (3, 40, 60, 80)).float()}
    assert torch.equal(bench.subsample(clip["video"])[:, [0, -1]], clip["video"][:, [0, 39]])
    for transform in (bench.StockTransform(), bench.OurTransformOnTheirClip()):
        assert transform(clip).shape == (16, 3, 224, 224)
