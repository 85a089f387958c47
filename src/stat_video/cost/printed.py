"""The GFLOPs that the paper prints, beside ours.

1 GFLOP of the paper is 1e9 multiply-adds; what is counted is said in `models/count.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from .. import paper
from ..config import Config
from ..models.base import Clip, ModelConfig
from ..models.count import gmacs
from ..paper import PaperRow
from ..progress import WideTable
from .budget import sizes
from .reruns import Rerun, reruns

TOLERANCE = 0.3  # percent: the recovered model counts as the paper's if it costs what the paper prints
CLOSE = 5  # percent: a larger difference of another system has a reason


@dataclass(frozen=True)
class CostRow:
    """A row of the paper and its GFLOPs of one view, printed and counted; None if there is no figure."""

    row: PaperRow
    source: str  # 'Table 2'
    label: str  # of the row, or which model it is
    printed: float | None
    counted: float | None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Percent of the printed figure."""
        if self.printed is None or self.counted is None:
            return None
        return 100 * (self.counted - self.printed) / self.printed

    @property
    def fits(self) -> bool:
        """Whether it is within TOLERANCE of the printed figure."""
        return self.difference is not None and abs(self.difference) <= TOLERANCE

    @property
    def total(self) -> float | None:
        """The counted GFLOPs of all views, as Tables 6 and 7 print them."""
        return None if self.counted is None else self.counted * self.row.views


def own_costs(path: Path = paper.PAPER) -> list[CostRow]:
    """Return every cost that the paper prints for its own model.

    Those are the rows of the tables that print the cost of a clip, and of the others the rows whose printed cost is
    that of other axes than the text's, once with the ones and once with the others.
    """
    rows: list[CostRow] = []
    twice: dict[str, list[PaperRow]] = {}
    tables = paper.load(path).tables
    for table in tables.values():
        own = [row for row in table.rows if row.ours and row.gflops is not None]
        for row in own:
            if table.gflops_of == "video" and row.cost_axes:
                twice.setdefault(f"{row.axes} {row.cost_axes}", []).append(row)
        if table.gflops_of == "clip" and own:
            for again in reruns(table, "paper"):
                if again.printed in own:
                    frames = f"T = {again.printed.frames}, {again.printed.label}"
                    rows.append(_own(again, f"Table {table.number}", frames, again.printed.gflops, "", {}))
    for same in twice.values():
        table = tables[same[0].table]
        again = next(r for r in reruns(table, "paper") if r.printed == same[0])
        source = f"Tables {', '.join(str(row.table) for row in same)}"
        changed = ", ".join(same[0].cost_axes)
        for more, note in ((same[0].cost_axes, "as printed"), ({}, f"the text's {changed}; default")):
            axes = {**same[0].axes, **more}
            label = ", ".join(f"{key} = {value}" for key, value in axes.items())
            rows.append(_own(again, source, label, table.gflops_per_clip(same[0]), note, more))
    return rows


def _own(again: Rerun, source: str, label: str, printed: float | None, note: str, axes: Mapping[str, Any]) -> CostRow:
    if not again.rows:
        return CostRow(again.printed, source, label, printed, None, again.why_not)
    (config,) = again.configs
    model, clip = (_with(part, axes) for part in (config.model, config.clip))
    return CostRow(again.printed, source, label, printed, gmacs(model, clip, sizes(config.data)[0]), note)


def _with(part: Any, axes: Mapping[str, Any]) -> Any:
    return replace(part, **{f.name: axes[f.name] for f in fields(part) if f.name in axes})


@cache
def system_costs(number: int, path: Path = paper.PAPER) -> Sequence[CostRow]:
    """Return every row of Table 6 or 7, counted if there is a model for it here."""
    table = paper.load(path).tables[number]
    rows = []
    for again in reruns(table, "paper"):
        row = again.printed
        label, counted, note = _counted(again)
        rows.append(CostRow(row, f"Table {number}", label, table.gflops_per_clip(row), counted, note))
    return rows


def counted_total(ref: str) -> float | None:
    """Return the counted GFLOPs of all views of a row TABLE/ID of Table 6 or 7; None if no model here is it."""
    number = int(ref.partition("/")[0])
    return next(row.total for row in system_costs(number) if row.row.ref == ref)


def _counted(again: Rerun) -> tuple[str, float | None, str]:
    """Return (which model it is, 1e9 multiply-adds of a view, note)."""
    row = again.printed
    if not again.rows:
        return "", None, again.why_not or "no model here is this system"
    counted = [(*counted_as(config, row), sizes(config.data)[0]) for config in again.configs]
    label = " and ".join(dict.fromkeys(model.label for model, _, _ in counted))
    try:
        return label, sum(gmacs(*one) for one in counted), row.note or ""
    except (ImportError, ValueError) as error:
        return label, None, str(error)


def counted_as(config: Config, row: PaperRow) -> tuple[ModelConfig, Clip]:
    """Return the model and the clip whose GFLOPs the row prints: the test's clip, or one of `counted_at` pixels."""
    clip = config.clip
    return config.model, clip if row.counted_at is None else replace(clip, test_crop=row.counted_at)


def own_table(rows: Sequence[CostRow]) -> Table:
    """Return `own_costs` for a terminal."""
    out = Table(title="GFLOPs of a clip at 224 x 224 (1 GFLOP = 1e9 multiply-adds)")
    for column in ("paper", "row"):
        out.add_column(column, no_wrap=True)
    for column in ("printed", "ours", "%"):
        out.add_column(column, justify="right")
    out.add_column("note")
    for r in rows:
        out.add_row(
            r.source,
            r.label,
            _figure(r.printed, ".1f"),
            _figure(r.counted, ".2f"),
            _figure(r.difference, "+.2f"),
            r.note,
            style="" if r.fits else "yellow",
        )
    return out


def systems_table(rows: Sequence[CostRow]) -> WideTable:
    """Return `system_costs` for a terminal."""
    out = WideTable(
        title=f"{rows[0].source}: GFLOPs printed and counted (1 GFLOP = 1e9 multiply-adds)",
        box=SIMPLE,
        padding=(0, 1),
        caption=f"printed: of a view; yellow: counted differs by more than {CLOSE} %",
    )
    for column in ("row", "which is", "views"):
        out.add_column(column, no_wrap=column == "row")
    for column in ("printed", "counted", "%", "printed, all", "counted, all"):
        out.add_column(column, justify="right", no_wrap=True)
    out.secondary = ["printed, all", "counted, all", "views", "which is"]
    for r in rows:
        far = r.difference is not None and abs(r.difference) > CLOSE
        out.add_row(
            r.row.id,
            r.label,
            f"{r.row.clips}x{r.row.crops}",
            _figure(r.printed, ",.1f"),
            _figure(r.counted, ",.1f"),
            "" if r.difference is None else f"{r.difference:+.1f}",
            _figure(r.row.gflops, ",g"),
            _figure(r.total, ",.0f"),
            style="yellow" if far else "",
        )
    return out


def notes(rows: Sequence[CostRow]) -> list[str]:
    """Return what there is to know of rows, a line each."""
    return [f"{r.row.id}: {r.note}" for r in rows if r.note]


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
