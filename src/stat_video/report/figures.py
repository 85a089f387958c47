"""The pictures of a report, as SVG for the page and as SVG and PNG files."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..cost.printed import counted_total
from ..paper import PaperRow
from ..runs.differing import differing, label_of
from .collect import Collection, FoundRun, ReportRow, mean_std

INK = "#010203"  # stands for the text colour of the page that the picture is put into
COLORS = ("#d1495b", "#2e86ab", "#e08e0b", "#5a9367", "#8367c7", "#7a6c5d", "#c95d9f", "#4c9f9b")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stat-video",  # else ids differ from one writing to the next
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": "#888888",
    "legend.frameon": False,
}
Stats = tuple[float, float | None]  # mean and standard deviation over seeds


class Picture:
    """A figure and what to say on hovering over its parts."""

    def __init__(self, name: str, title: str, width: float = 5.2, height: float = 3.4) -> None:
        self.name, self.title = name, title
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.axes: Axes = self.figure.add_subplot()
        self.hover: dict[str, str] = {}

    def tip(self, artist: Any, text: str) -> None:
        """Show text on hovering over a matplotlib artist."""
        gid = f"{self.name}-{len(self.hover)}"
        artist.set_gid(gid)
        self.hover[gid] = text

    def svg(self, ink: str = "currentColor") -> str:
        """Return an <svg> element whose text and axes have the colour `ink`."""
        return self._svg.replace(INK, ink)

    @cached_property
    def _svg(self) -> str:  # drawn once, for the page and the file
        text = io.StringIO()
        self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        self.figure.set_layout_engine("none")  # it is laid out
        svg = text.getvalue()
        svg = svg[svg.index("<svg ") :]
        for gid, tip in self.hover.items():
            svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(tip)}</title>')
        # Ids are those of the whole page, and matplotlib counts them anew in each picture.
        for mark in ('id="', 'href="#', "url(#"):
            svg = svg.replace(mark, f"{mark}{self.name}.")
        return svg

    def png(self) -> bytes:
        """Return a picture on white, 200 dots an inch."""
        data = io.BytesIO()
        self.figure.savefig(data, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        return data.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Set matplotlib as the report wants it; figures are made and written within."""
    with matplotlib.rc_context(STYLE):
        yield


def figure_1(collection: Collection, scale: str, number: int = 6, counted: bool = False) -> Picture:
    """Draw top-1 against GFLOPs of a video: our runs, at the paper scale beside the printed figures of all systems.

    The GFLOPs of the printed figures are the printed ones or, with ``counted``, those of `cost.printed`; a system that
    nothing here builds stays at its printed figure, as a hollow mark.
    """
    title = f"Top-1 against GFLOPs (Table {number}, scale {scale})"
    picture = Picture(f"figure_1_table_{number}_{scale}", title, 6.4, 4)
    rows = _table(collection, scale, number)
    if scale == "paper":
        _printed_against_cost(picture, rows, counted)
    _ours_against_cost(picture, rows)
    picture.axes.set_xscale("log")
    said = ", counted (hollow: as printed)" if counted and scale == "paper" else ""
    picture.axes.set_xlabel(f"GFLOPs of all views of a video{said}")
    picture.axes.set_ylabel("top-1, %")
    return picture


def _printed_against_cost(picture: Picture, rows: Sequence[ReportRow], counted: bool) -> None:
    methods: dict[str, list[PaperRow]] = {}
    for row in rows:
        if row.printed.gflops is not None:
            methods.setdefault(row.printed.method, []).append(row.printed)
    for i, (method, systems) in enumerate(methods.items()):
        look: Any = {"color": COLORS[i % len(COLORS)], "marker": "osv^D"[i // len(COLORS) % 5], "ms": 5}
        own = systems[0].ours
        if own:
            look = {"color": INK, "marker": "*", "ms": 9}
        recount = [counted_total(s.ref) if counted else None for s in systems]
        x, y = [c or s.gflops or 0.0 for c, s in zip(recount, systems, strict=True)], [s.top1 or 0.0 for s in systems]
        (line,) = picture.axes.plot(x, y, ls="-" if len(x) > 1 else "", lw=1, **look)
        if counted:
            hollow = [(a, b) for a, b, c in zip(x, y, recount, strict=True) if c is None]
            picture.axes.plot([a for a, _ in hollow], [b for _, b in hollow], ls="", **look, mfc="white")
        picture.tip(line, f"{method}: " + "; ".join(f"{s.id} {a:g}, {s.top1}" for a, s in zip(x, systems, strict=True)))
        label = f"{method}, printed" if own else method
        picture.axes.annotate(label, (x[-1], y[-1]), xytext=(5, 3), textcoords="offset points", fontsize=7)


def _ours_against_cost(picture: Picture, rows: Sequence[ReportRow]) -> None:
    found = [row for row in rows if row.runs and row.gflops is not None]
    if not found:
        return
    stats = [mean_std(row.values(row.metrics[0])) for row in found]
    bars = picture.axes.errorbar(
        [row.gflops or 0 for row in found],
        [m for m, _ in stats],
        _errors([s for _, s in stats]),
        marker="P",
        ms=8,
        color=COLORS[0],
        capsize=3,
    )
    text = "; ".join(f"{row.name} {row.gflops:.2f}, {m:.2f}" for row, (m, _) in zip(found, stats, strict=True))
    picture.tip(bars.lines[0], f"ours: {text}")
    for row, (m, _) in zip(found, stats, strict=True):
        picture.axes.annotate(
            f"ours, {row.name}",
            (row.gflops or 0, m),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=8,
        )


def by_axis(collection: Collection, scale: str, number: int) -> Picture:
    """Draw top-1 over the axis of a table, with that of the class groups if there are any.

    Each series is a line if the axis is of numbers, else a bar a row; at the paper scale the printed figures are one.
    """
    rows = [row for row in _table(collection, scale, number) if row.printed.ours]
    axis = rows[0].table.axis
    picture = Picture(f"table_{number}_{scale}", f"Table {number}: top-1 by {axis}, scale {scale}")
    metrics = list(dict.fromkeys(m for row in rows for m in row.metrics if "/top1" in m))
    series: list[tuple[str, list[Stats | None]]] = []
    if scale == "paper":
        series.append(("printed", [None if row.printed.top1 is None else (row.printed.top1, None) for row in rows]))
    for metric in metrics:
        if any(row.values(metric) for row in rows):
            found = [mean_std(row.values(metric)) if row.values(metric) else None for row in rows]
            series.append((metric.removeprefix("test/"), found))
    places = [row.printed.axes[axis] for row in rows]
    if all(isinstance(place, int | float) for place in places):
        _lines(picture, rows, places, series)
    else:
        _bars(picture, rows, series)
    picture.axes.set_xlabel(rows[0].table.columns[0])
    picture.axes.set_ylabel("top-1, %")
    if series:
        picture.axes.legend(fontsize=7, ncols=len(series), loc="lower center", bbox_to_anchor=(0.5, 1))
    return picture


def _lines(
    picture: Picture,
    rows: Sequence[ReportRow],
    places: Sequence[float],
    series: Sequence[tuple[str, list[Stats | None]]],
) -> None:
    for i, (label, stats) in enumerate(series):
        there = [(j, s) for j, s in enumerate(stats) if s]
        look: Any = (
            {"ls": "--", "color": INK, "lw": 1, "ms": 4} if label == "printed" else {"color": COLORS[i % len(COLORS)]}
        )
        drawn = picture.axes.errorbar(
            [places[j] for j, _ in there],
            [m for _, (m, _) in there],
            _errors([s for _, (_, s) in there]),
            marker="o",
            capsize=3,
            label=label,
            **look,
        )
        picture.tip(drawn.lines[0], f"{label}: " + "; ".join(_said(rows[j], s) for j, s in there))
    picture.axes.set_xticks(places)


def _bars(picture: Picture, rows: Sequence[ReportRow], series: Sequence[tuple[str, list[Stats | None]]]) -> None:
    width = 0.8 / max(len(series), 1)
    for i, (label, stats) in enumerate(series):
        there = [(j, s) for j, s in enumerate(stats) if s]
        drawn = picture.axes.bar(
            [j + (i - (len(series) - 1) / 2) * width for j, _ in there],
            [m for _, (m, _) in there],
            width,
            yerr=_errors([s for _, (_, s) in there]),
            color="#999999" if label == "printed" else COLORS[i % len(COLORS)],
            ecolor=INK,
            capsize=2,
            label=label,
        )
        for patch, (j, s) in zip(drawn, there, strict=True):
            picture.tip(patch, f"{label}: {_said(rows[j], s)}")
    picture.axes.set_xticks(range(len(rows)), [row.printed.label for row in rows])


def _said(row: ReportRow, stats: Stats) -> str:
    mean, std = stats
    return f"{row.printed.label} {mean:.2f}" + (f" ± {std:.2f}" if std is not None else "")


def learning_curves(rows: Sequence[ReportRow]) -> Picture:
    """Draw validation top-1 by epoch of every run of a table; a colour a row, a line a seed."""
    number, scale = rows[0].table.number, rows[0].scale
    picture = Picture(f"curves_{number}_{scale}", f"Table {number}: validation top-1, one view, scale {scale}", 5.2, 3)
    for i, row in enumerate(r for r in rows if r.runs):
        for n, run in enumerate(row.trainings):
            x, y = _epochs(run)
            label = row.name if n == 0 else None
            (line,) = picture.axes.plot(x, y, color=COLORS[i % len(COLORS)], lw=1.4, label=label)
            different = config_difference(run, _baseline(rows)) or "the baseline"
            picture.tip(line, f"{row.name}, seed {run.seed}: {different}")
    if picture.hover:
        picture.axes.legend(fontsize=7)
    picture.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    picture.axes.set_xlabel("epoch")
    picture.axes.set_ylabel("top-1, %")
    return picture


def _errors(stds: Sequence[float | None]) -> list[float] | None:
    """Return the lengths of error bars; none at all if no row has two seeds."""
    return [s or 0.0 for s in stds] if any(s is not None for s in stds) else None


def config_difference(run: FoundRun, baseline: FoundRun | None) -> str:
    """Return what the config of a run says otherwise than the baseline's, the seed aside: 'modules=CA+SA, T=32'."""
    if baseline is None:
        return ""
    varied, _ = differing([r.result["config"] for r in (run, baseline)])
    return ", ".join(f"{key}={ours}" for key, (ours, _) in varied.items() if key != "seed")


def _baseline(rows: Sequence[ReportRow]) -> FoundRun | None:
    """Return the run of a table whose model has the fewest keys off their defaults, the paper's own model first."""
    of_ours = [run for row in rows if row.printed.ours for run in row.trainings]
    runs = of_ours or [run for row in rows for run in row.trainings]
    return min(runs, key=lambda run: len(label_of(run.result["config"])), default=None)


def differences(rows: Sequence[ReportRow]) -> list[str]:
    """Return a line a run for beneath the curves: its row, its seed and what its config says otherwise."""
    baseline = _baseline(rows)
    return [
        f"{row.name}, seed {run.seed}: " + (config_difference(run, baseline) or "the baseline")
        for row in rows
        for run in row.trainings
    ]


def _epochs(run: FoundRun) -> tuple[list[int], list[float]]:
    """Return the epochs, from 1 on, and validation top-1 after each."""
    file = run.folder / "epochs.csv"
    if not file.exists():
        return [], []
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if r.get("val/top1_1x1")]
    return [int(r["epoch"]) + 1 for r in rows], [float(r["val/top1_1x1"]) for r in rows]


def _table(collection: Collection, scale: str, number: int) -> Sequence[ReportRow]:
    return next(rows for rows in collection.tables[scale] if rows[0].table.number == number)
