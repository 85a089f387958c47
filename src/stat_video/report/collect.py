"""The rows of the paper's tables and the runs that fill them.

A run fills a row if its definition, the seed aside, is the row's: the same model, data, recipe, scale and protocol.
What fills no row is kept beside, and what can't be read too: nothing is dropped in silence.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import grid, published
from ..cost import gmacs
from ..data.lists import read_counts
from ..runs.results import read_results
from ..runs.run import row_id, same_data
from ..training.metrics import ranks

log = logging.getLogger(__name__)
OTHER_CLASSES = 400  # of a data set that is not there, to count the cost of a row on it


@dataclass(frozen=True)
class FoundRun:
    """A finished run in its folder."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.result["seed"])

    @property
    def id(self) -> str:
        """Its id, the last part of its folder's name."""
        return str(self.result["id"])

    @property
    def commit(self) -> str:
        """First seven digits of the commit it ran at, with a '+' where files were changed since; '-' if unknown."""
        commit = self.result.get("commit")
        return f"{commit[:7]}{'+' if self.result.get('changed_since_commit') else ''}" if commit else "-"

    @cached_property
    def ranks(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """`metrics.ranks` (videos,) of the test, and the labels; None where no logits are saved that can be read."""
        file = self.folder / f"logits_{self.result['config']['views']}.pt"
        if not file.exists():
            return None
        try:
            saved = torch.load(file, weights_only=True)
            return ranks(saved["logits"], saved["labels"]).numpy(), saved["labels"].numpy()
        except Exception as error:  # torch raises many kinds
            log.warning("%s: no logits of a test (%s)", file, str(error).partition("\n")[0][:120])
            return None


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper at one scale."""

    table: published.Table
    printed: published.Row
    scale: str
    grid_row: grid.GridRow | None = None  # None for other systems than STAT, which have no runs
    command: str = ""  # what runs it
    runs: Sequence[FoundRun] = ()  # one a seed
    left_out: Sequence[FoundRun] = ()  # of another state of the data set

    @property
    def ours(self) -> bool:
        """Whether it is a STAT, which this framework runs."""
        return self.grid_row is not None

    @property
    def name(self) -> str:
        """How the rows of its table are told apart: the printed label, in Tables 6 and 7 the clip length."""
        return f"T = {self.printed.frames}" if self.printed.label == self.printed.method else self.printed.label

    @property
    def views(self) -> str:
        """Protocol of the test, '5x1'."""
        return self.grid_row.options.views if self.grid_row else f"{self.printed.clips}x{self.printed.crops}"

    @property
    def metrics(self) -> list[str]:
        """Names of its accuracies in result files, those of class groups after top-1 and top-5."""
        names = [f"test/top1_{self.views}", f"test/top5_{self.views}"]
        more = {m for run in self.runs for m in run.result["metrics"] if m.startswith(f"{names[0]}_")}
        return [*names, *sorted(more)]

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it, in percent."""
        return [run.result["metrics"][metric] for run in self.runs if metric in run.result["metrics"]]

    @cached_property
    def gflops(self) -> float | None:
        """1e9 multiply-adds as counted: of a clip, or of all views where the table prints those."""
        if self.grid_row is None:
            return None
        if self.runs and "gmacs" in self.runs[0].result:
            clip = float(self.runs[0].result["gmacs"])
        else:
            classes, _ = read_counts(self.grid_row.options.data)
            clip = gmacs(self.grid_row.options.stat_config(classes or OTHER_CLASSES))
        clips, crops = (int(n) for n in self.views.split("x"))
        return clip * (clips * crops if self.table.gflops_of == "video" else 1)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Collection:
    """All that a report is made of."""

    tables: Mapping[str, Sequence[Sequence[Row]]]  # scale: tables: rows
    others: Sequence[FoundRun] = ()  # runs that are no row of a table
    broken: Sequence[tuple[Path, str]] = ()  # files that can't be read, why
    rows: Mapping[tuple[str, str], Row] = field(init=False)  # (scale, Row.ref)

    def __post_init__(self) -> None:
        rows = {(row.scale, row.printed.ref): row for tables in self.tables.values() for t in tables for row in t}
        object.__setattr__(self, "rows", rows)


def collect(logs: Path, scales: Sequence[str]) -> Collection:
    """Read all results below `logs` and put them into the rows of Tables 1 to 7."""
    found = read_results(logs)
    runs: dict[str, list[FoundRun]] = {}
    for folder, result in found.results:
        run = FoundRun(folder, result)
        runs.setdefault(row_id(result["config"]), []).append(run)
    tables = {scale: [_rows(table, scale, runs) for table in published.load().tables.values()] for scale in scales}
    used = {r.folder for ts in tables.values() for t in ts for row in t for r in (*row.runs, *row.left_out)}
    others = [run for same in runs.values() for run in same if run.folder not in used]
    return Collection(tables, sorted(others, key=lambda run: str(run.folder)), found.broken)


def _rows(table: published.Table, scale: str, runs: Mapping[str, list[FoundRun]]) -> list[Row]:
    ours = grid.rows(table.experiment, [f"scale={scale}"])
    rows = []
    for printed in table.rows:
        match = next((row for row in ours if printed.axes and _agrees(row.config, printed.axes)), None)
        if match is None:
            rows.append(Row(table, printed, scale))
            continue
        kept, left_out = _one_state(runs.get(row_id(match.config), []))
        command = grid.command(table.experiment, match, f"scale={scale}")
        rows.append(Row(table, printed, scale, match, command, kept, left_out))
    return rows


def _agrees(config: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    flat = {**config, **config["model"]}
    return all(flat[key] == value for key, value in axes.items())


def _one_state(runs: Sequence[FoundRun]) -> tuple[list[FoundRun], list[FoundRun]]:
    """Runs on the newest state of the data set by seed, and the others: the two are never averaged."""
    if not runs:
        return [], []
    newest = max(runs, key=lambda run: str(run.result["finished"])).result.get("manifest")
    kept = [run for run in runs if same_data(run.result.get("manifest"), newest)]
    return sorted(kept, key=lambda run: run.seed), [run for run in runs if run not in kept]
