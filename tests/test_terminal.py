"""Every table at the widths that users have: no figure and no name is cut."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from running import script
from stat_video import compose, progress
from stat_video.config import Config
from stat_video.cost import printed
from stat_video.cost.budget import Estimate, grid_table, memory_table, time_table
from stat_video.cost.config import CostConfig
from stat_video.cost.layers import layer_table
from stat_video.cost.plan import plan, plan_table
from stat_video.models.count import by_layer
from stat_video.progress import WIDE, WideTable, show_table
from stat_video.runs.differing import differing
from stat_video.runs.result import Result
from stat_video.terminal import evaluation_table, prediction_table, results_table

METRICS = {
    "val/top1_1x1": 95.4167, "val/top5_1x1": 100.0, "test/top1_5x1": 95.625, "test/top5_5x1": 100.0,
    "test/top1_5x1_far": 97.17, "test/top1_5x1_near": 93.83,
}  # fmt: skip


def result(config: Config, metrics: dict[str, float] = METRICS) -> Result:
    plain = {"name": config.name, "scale": config.scale, "train_seconds": 1234.5, "id": "0a1b2c3d"}
    return Result(Path("logs"), {**plain, "metrics": metrics, "config": asdict(config)})


def results() -> Table:
    """A sweep over five things at once."""
    words = ["t_o=5", "modules=ca", "model=mvit T=32", "stem=conv1 recipe.lr=1e-4", "l_ta=2 seed=3"]
    found = [result(compose.rows("train", Config, w.split())[0].config) for w in words]
    return results_table(found, *differing([r.config for r in found]))


def plans() -> Table:
    rows = [compose.rows("train", Config, [*w.split(), "scale=paper"])[0].config for w in ("t_o=5", "model=mvit T=32")]
    return plan_table([plan(config) for config in rows])


@cache
def estimate() -> Estimate:
    """Return that of a full-size row, whose figures are long."""
    (row,) = compose.rows("cost", CostConfig, ["experiment=ablation_window", "t_o=9", "T=16"])
    return Estimate(row.config, row.config)


def systems() -> Table:
    paper_rows = [row for row in printed.paper.load().tables[7].rows if row.gflops][:4]
    label = "vivit-temporal_depth4-depth24"
    return printed.systems_table([printed.CostRow(row, "Table 7", label, 991.0, 988.2, "a note") for row in paper_rows])


TABLES: dict[str, Callable[[], Table]] = {
    "results": results,
    "evaluation": lambda: evaluation_table(Result(Path("logs"), {"metrics": METRICS})),
    "prediction": lambda: prediction_table([("moving right then left and up again " * 3, 0.5), ("zumba", 0.25)]),
    "plan": plans,
    "layers": lambda: layer_table(by_layer(*estimate().model)),
    "memory": lambda: memory_table(estimate()),
    "time": lambda: time_table(estimate()),
    "grid": lambda: grid_table([estimate(), estimate()]),
    "systems": systems,
}


def shown(table: Table, width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a terminal of so many columns, or a log, gets."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=width or WIDE, markup=False))
    show_table(table)
    return file.getvalue()


@cache
def table_of(name: str) -> Table:
    """Return a table, made once: composing takes long."""
    return TABLES[name]()


@pytest.mark.parametrize("width", [80, 120, None])
@pytest.mark.parametrize("name", TABLES)
def test_no_figure_and_no_name_is_cut(name: str, width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = deepcopy(table_of(name))
    cells = [str(cell) for column in table.columns for cell in column.cells if column.justify == "right"]
    headers = [str(column.header) for column in table.columns]
    text = shown(table, width, monkeypatch)
    assert "…" not in text
    drawn, _, left_out = text.partition("left out")
    assert max(map(len, drawn.splitlines())) <= (width or WIDE)
    for column in table.columns:
        if column.justify == "right":
            assert all(str(cell) in text for cell in column.cells), column.header
    if width is None:
        assert left_out == ""
        assert all(cell in text for cell in cells)
    missing = [header for header in headers if header not in [str(c.header) for c in table.columns]]
    assert all(header in left_out for header in missing)


def test_what_is_secondary_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def table() -> WideTable:
        made = WideTable()
        for name in ("row", "figure", "note", "id"):
            made.add_column(name)
        made.add_row("a" * 8, "12.5", "x" * 8, "0123")
        made.secondary = ["note", "id"]
        return made

    whole = shown(table(), 60, monkeypatch)
    assert "left out" not in whole
    narrow = shown(table(), 34, monkeypatch)
    assert "xxx" not in narrow
    assert "0123" in narrow
    assert "left out, as the terminal has 34 columns: note" in narrow
    narrower = shown(table(), 22, monkeypatch)
    assert "0123" not in narrower
    assert "12.5" in narrower


def test_a_log_has_room() -> None:
    """Without a terminal a script's table has all of its columns, whatever the width of one would be."""
    done = script("cost", "scale=tiny", "model=stat")
    assert done.returncode == 0, done.stderr
    assert "convolution" in done.stdout
    assert "Mpar." in done.stdout
    assert "…" not in done.stdout
    assert "left out" not in done.stdout
