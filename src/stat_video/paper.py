"""The paper's published numbers: `conf/paper.yaml`, read and checked (Tables 1-7 and the claims of the text).

Accuracies are in percent. GFLOPs are 1e9 multiply-adds: of a clip in Tables 1 and 2, of all views in 6 and 7.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).parents[2] / "conf" / "paper.yaml"
METRICS = ("gflops", "top1", "top5")
LIMITS = {"by": "greater", "within": "close", "at_most": "ratio"}  # a claim's limit: the form that it belongs to
FORMS = ("greater", "best", "close", "ratio")


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
    form: str  # one of FORMS
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

    def row(self, ref: str) -> PaperRow:
        """Return the row that a claim calls TABLE/ID; ValueError names the rows there are."""
        for row in self.rows():
            if row.ref == ref:
                return row
        number = ref.split("/")[0]
        there = [row.id for row in self.rows() if str(row.table) == number]
        raise ValueError(f"{ref}: no such row; Table {number} has {', '.join(there) or 'none'}")

    def values(self, metric: str) -> dict[str, float]:
        """Return {PaperRow.ref: value} of each row that has one; what `Claim.holds` takes."""
        return {row.ref: getattr(row, metric) for row in self.rows() if getattr(row, metric) is not None}


def table(number: int, path: Path = PAPER) -> list[PaperRow]:
    """Return the rows of one table of the paper."""
    tables = load(path).tables
    if number not in tables:
        raise ValueError(f"Table {number}: {path.name} has Tables {', '.join(map(str, tables))}")
    return list(tables[number].rows)


@cache
def load(path: Path = PAPER) -> Paper:
    """Read and check the file; ValueError with one line if it is malformed."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        _check(data, "the file", {"tables": dict, "claims": list})
        tables = {number: _table(number, entry) for number, entry in data["tables"].items()}
        paper = Paper(tables, ())
        paper = Paper(tables, tuple(_claim(entry, paper) for entry in data["claims"]))
        _unique("claims", [claim.id for claim in paper.claims])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return paper


def _table(number: Any, data: Any) -> PaperTable:
    where = f"Table {number}"
    if not isinstance(number, int):
        raise ValueError(f"{where}: tables are numbered")
    texts = {"title": str, "experiment": str, "dataset": str, "gflops_of": str}
    _check(data, where, {**texts, "columns": list, "rows": list}, defaults=dict)
    if data["gflops_of"] not in ("clip", "video"):
        raise ValueError(f"{where}: gflops_of is {data['gflops_of']!r}; clip or video is allowed")
    rows = tuple(_row(number, i, entry, data.get("defaults", {})) for i, entry in enumerate(data["rows"], 1))
    _unique(where, [row.id for row in rows])
    return PaperTable(number, columns=tuple(data["columns"]), rows=rows, **{name: data[name] for name in texts})


def _row(number: int, i: int, data: Any, defaults: dict[str, Any]) -> PaperRow:
    where = f"Table {number}, row {i}"
    if not isinstance(data, dict):
        raise ValueError(f"{where}: is {data!r}; a mapping is allowed")
    where += f" ({data.get('id')})"
    axes = [d["axes"] for d in (defaults, data) if "axes" in d]
    if any(not isinstance(a, dict) for a in axes):
        raise ValueError(f"{where}: axes is {axes[-1]!r}; a mapping is allowed")
    data = {"label": {**defaults, **data}.get("method"), **defaults, **data}
    data["axes"] = {name: value for a in axes for name, value in a.items()}
    needed = {"id": str, "label": (str, int), "method": str, "frames": (str, int), "clips": int, "crops": int}
    texts = dict.fromkeys(("group", "backbone", "pretrain", "note"), (str, type(None)))
    rerun = {"run": (str, list), "cost_axes": dict, "counted_at": int}
    numbers = dict.fromkeys(METRICS, (int, float, type(None)))
    _check(data, where, needed, **texts, **numbers, **rerun, axes=dict, kernels=list, strides=list)
    if data.get("run") and data["axes"]:
        raise ValueError(f"{where}: has axes and run; a row is found by its axes or rerun by its words")
    data["run"] = (data["run"],) if isinstance(data.get("run"), str) else tuple(data.get("run", ()))
    if wrong := [word for run in data["run"] for word in str(run).split() if not re.fullmatch(r"[\w.]+=\S+", word)]:
        raise ValueError(f"{where}: run has {wrong[0]!r}; words KEY=VALUE are allowed")
    if data.get("counted_at", 1) < 1:
        raise ValueError(f"{where}: counted_at is {data['counted_at']}; pixels, at least 1")
    if data["clips"] < 1 or data["crops"] < 1:
        raise ValueError(f"{where}: {data['clips']} clips x {data['crops']} crops; each is at least 1")
    for name in METRICS:
        value = data.get(name)
        if value is not None and not 0 < value <= (100 if name.startswith("top") else float("inf")):
            raise ValueError(f"{where}: {name} is {value}, outside its range")
    if None not in (top := (data.get("top1"), data.get("top5"))) and top[0] > top[1]:
        raise ValueError(f"{where}: top1 {top[0]} is above top5 {top[1]}")
    for name in ("kernels", "strides"):
        if any(not isinstance(t, list) or len(t) != 3 for t in data.get(name, ())):
            raise ValueError(f"{where}: {name} is {data[name]}; a list of [time, height, width] is allowed")
        data[name] = tuple(tuple(triple) for triple in data.get(name, ()))
    if len(data["kernels"]) != len(data["strides"]):
        raise ValueError(f"{where}: {len(data['kernels'])} kernels but {len(data['strides'])} strides")
    return PaperRow(number, **(data | {name: str(data[name]) for name in ("label", "frames")}))


def _claim(data: Any, paper: Paper) -> Claim:
    where = f"claim {data.get('id') if isinstance(data, dict) else data}"
    needed = {"id": str, "quote": str, "metric": str}
    form_kinds, limit_kinds = dict.fromkeys(FORMS, list), dict.fromkeys(LIMITS, (int, float))
    _check(data, where, needed, **form_kinds, **limit_kinds, note=str)
    if data["metric"] not in METRICS:
        raise ValueError(f"{where}: metric is {data['metric']!r}; {', '.join(METRICS)} are allowed")
    forms, limits = [f for f in FORMS if f in data], [name for name in LIMITS if name in data]
    if len(forms) != 1:
        raise ValueError(f"{where}: has {forms or 'no form'}; exactly one of {', '.join(FORMS)} is allowed")
    form = forms[0]
    least, most = {"best": (1, 1), "ratio": (2, 2)}.get(form, (2, 99))
    if not least <= len(data[form]) <= most:
        raise ValueError(f"{where}: {form} names {len(data[form])} rows; {least} to {most} are allowed")
    allowed = [name for name, owner in LIMITS.items() if owner == form]
    if limits != allowed and not (form == "greater" and not limits):
        raise ValueError(f"{where}: {form} goes with {allowed or 'no limit'}, not {limits or 'none'}")
    rows = [paper.row(str(ref)) for ref in data[form]]
    if form == "best":
        table, best = paper.tables[rows[0].table], rows[0]
        others = [r for r in table.rows if (r.method != best.method if table.compares_systems else r != best)]
        rows += [r for r in others if getattr(r, data["metric"]) is not None]
    refs = tuple(row.ref for row in rows)
    limit = data[limits[0]] if limits else None
    return Claim(data["id"], data["quote"], data["metric"], form, refs, limit, data.get("note"))


def _check(data: Any, where: str, needed: Mapping[str, Any], **optional: Any) -> None:
    """Raise ValueError if data is no mapping with these keys, of these types."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: is {type(data).__name__}; a mapping is allowed")
    kinds = {**needed, **optional}
    if missing := [name for name in needed if name not in data]:
        raise ValueError(f"{where}: {', '.join(missing)} missing")
    if unknown := [str(name) for name in data if name not in kinds]:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; allowed are {', '.join(kinds)}")
    for name, value in data.items():
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r}, of the wrong kind")


def _unique(where: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} twice")
