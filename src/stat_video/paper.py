"""The paper's published numbers: `conf/paper.yaml` (Tables 1-7 and the claims of the text).

Accuracies are in percent. GFLOPs are 1e9 multiply-adds: of a clip in Tables 1 and 2, of all views in 6 and 7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from .paths import CONF

PAPER = CONF / "paper.yaml"
LIMITS = {"greater": "by", "best": "", "close": "within", "ratio": "at_most"}  # a claim's form: the key of its limit


@dataclass(frozen=True)
class PaperRow:
    """One row of a table; None if the paper has '-' or the table no such column."""

    table: int
    id: str  # unique in its table
    label: str  # its first cell as printed
    method: str
    frames: str  # of a clip; '8+32' for two pathways
    clips: int
    crops: int
    group: str | None = None  # heading above it, e.g. 'Transformers'
    backbone: str | None = None
    pretrain: str | None = None
    gflops: float | None = None
    top1: float | None = None
    top5: float | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)  # keys of clip.* and model.*; empty for other systems
    run: tuple[str, ...] = ()  # of another system: the words of each run that reruns it; several: an ensemble
    cost_axes: Mapping[str, Any] = field(default_factory=dict)  # axes of the printed GFLOPs that are not the row's
    counted_at: int | None = None  # height and width of the clip of the printed GFLOPs; None: the test's
    kernels: tuple[tuple[int, ...], ...] = ()  # Table 5: (time, height, width) of each convolution
    strides: tuple[tuple[int, ...], ...] = ()
    note: str | None = None

    @property
    def ref(self) -> str:
        """How claims name it: 'TABLE/ID'."""
        return f"{self.table}/{self.id}"

    @property
    def ours(self) -> bool:
        """Whether it is of the paper's own model."""
        return bool(self.axes)

    @property
    def models(self) -> list[str]:
        """The model of each run of another system, by its name."""
        return [word.removeprefix("model=") for run in self.run for word in run.split() if word.startswith("model=")]

    @property
    def views(self) -> int:
        """Forward passes a video."""
        return self.clips * self.crops


@dataclass(frozen=True, eq=False)  # `load` makes each table once
class PaperTable:
    """One table of the paper, and the experiment that reruns it."""

    number: int
    title: str
    experiment: str
    dataset: str
    gflops_of: str  # 'clip' or 'video' (all views)
    columns: tuple[str, ...]  # as printed
    rows: tuple[PaperRow, ...]

    @property
    def axis(self) -> str:
        """The key of `axes` in which its own rows differ; the first one if there are two."""
        own = [row.axes for row in self.rows if row.axes]
        return next(key for key in own[0] if any(axes[key] != own[0][key] for axes in own))

    @property
    def compares_systems(self) -> bool:
        """Whether it has rows of other systems."""
        return not all(row.ours for row in self.rows)

    def gflops_per_clip(self, row: PaperRow) -> float | None:
        """Return the GFLOPs of one forward pass: the printed ones, divided by the views if the table prints of all."""
        if row.gflops is None or self.gflops_of == "clip":
            return row.gflops
        return row.gflops / row.views


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and what must hold between the rows' metric for it to hold."""

    id: str
    quote: str
    metric: str
    form: str  # a key of LIMITS
    rows: tuple[str, ...]  # PaperRow.ref; for 'best' the best one and then those that it is the best of
    limit: float | None = None  # greater: the difference stated; close: the widest spread; ratio: the largest
    note: str | None = None

    def holds(self, values: Mapping[str, float]) -> bool | None:
        """Return whether it holds for {PaperRow.ref: metric}, the paper's or ours; None if one of its rows is missing.

        Of a stated difference only the sign is asked for, not the size.
        """
        if any(ref not in values for ref in self.rows):
            return None
        ours = [values[ref] for ref in self.rows]
        slack = 1e-9  # 78.6 - 78.5 is a little over 0.1 in floating point
        match self.form:
            case "greater":
                return all(a > b for a, b in pairwise(ours))
            case "best":
                return ours[0] >= max(ours[1:])
            case "close":
                return max(ours) - min(ours) <= (self.limit or 0) + slack
            case _:
                return ours[0] / ours[1] <= (self.limit or 0) + slack


@dataclass(frozen=True)
class Paper:
    """All that `conf/paper.yaml` holds."""

    tables: Mapping[int, PaperTable]
    claims: tuple[Claim, ...]

    def rows(self) -> Iterable[PaperRow]:
        """Return the rows of all tables in their order."""
        return (row for table in self.tables.values() for row in table.rows)

    def others(self) -> list[str]:
        """Return the names of the models that rerun rows of other systems, sorted."""
        return sorted({name for row in self.rows() for name in row.models})

    def row(self, ref: str) -> PaperRow:
        """Return the row that a claim calls TABLE/ID."""
        return {row.ref: row for row in self.rows()}[ref]

    def values(self, metric: str) -> dict[str, float]:
        """Return {PaperRow.ref: value} of each row that has one; what `Claim.holds` takes."""
        return {row.ref: getattr(row, metric) for row in self.rows() if getattr(row, metric) is not None}


@cache
def load(path: Path = PAPER) -> Paper:
    """Read the file. A key that is missing or unknown is a KeyError or TypeError; tests hold the figures."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    paper = Paper({number: _table(number, **entry) for number, entry in data["tables"].items()}, ())
    return replace(paper, claims=tuple(_claim(paper, **entry) for entry in data["claims"]))


def _table(
    number: int, rows: list[dict[str, Any]], columns: list[str], defaults: Mapping[str, Any] | None = None, **texts: str
) -> PaperTable:
    found = tuple(_row(number, row, defaults or {}) for row in rows)
    return PaperTable(number, columns=tuple(columns), rows=found, **texts)


def _row(number: int, own: Mapping[str, Any], defaults: Mapping[str, Any]) -> PaperRow:
    data = {**defaults, **own}
    data["axes"] = {**defaults.get("axes", {}), **own.get("axes", {})}
    data |= {"label": str(data.get("label", data["method"])), "frames": str(data["frames"])}
    if isinstance(data.get("run"), str):
        data["run"] = [data["run"]]
    data["run"] = tuple(data.get("run", ()))
    for name in ("kernels", "strides"):
        data[name] = tuple(tuple(triple) for triple in data.get(name, ()))
    return PaperRow(number, **data)


def _claim(paper: Paper, metric: str, **data: Any) -> Claim:
    (form,) = data.keys() & LIMITS
    rows, limit = [paper.row(ref) for ref in data.pop(form)], data.pop(LIMITS[form], None)
    if form == "best":
        table, best = paper.tables[rows[0].table], rows[0]
        others = [r for r in table.rows if (r.method != best.method if table.compares_systems else r != best)]
        rows += [r for r in others if getattr(r, metric) is not None]
    return Claim(metric=metric, form=form, rows=tuple(row.ref for row in rows), limit=limit, **data)
