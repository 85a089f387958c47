"""The pictures of a report, as SVG for the page and as SVG and PNG files."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from html import escape
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..cost.printed import counted_total
from ..paper import PaperRow
from .collect import Collection, ReportRow, TableRow, baseline_of, config_difference, mean_std
from .compare import accuracy_of

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
LINES = ("-", "--", ":", "-.")  # of rows beyond the number of colours


class Picture:
    """A figure and what to say on hovering over its parts."""

    def __init__(self, name: str, title: str, width: float = 5.2, height: float = 3.4, panels: int = 1) -> None:
        self.name, self.title = name, title
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.panels: list[Axes] = list(self.figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        self.axes = self.panels[0]
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

    The rows of a system are joined. The GFLOPs of the printed figures are the printed ones or, with ``counted``, those
    of `cost.printed`; a system that nothing here builds stays at its printed figure, as a hollow mark.
    """
    title = f"Top-1 against GFLOPs (Table {number}, scale {scale})"
    systems: dict[str, list[ReportRow]] = {}
    for row in _table(collection, scale, number):
        systems.setdefault(row.printed.method, []).append(row)
    legend_lines = 0 if scale == "paper" else (len(systems) + 3) // 4
    picture = Picture(f"figure_1_table_{number}_{scale}", title, 6.4, 4 + 0.17 * legend_lines)
    for i, (method, rows) in enumerate(systems.items()):
        look: Any = {"color": COLORS[i % len(COLORS)], "marker": "osv^D"[i // len(COLORS) % 5], "ms": 5}
        if rows[0].printed.ours:
            look = {"color": INK, "marker": "*", "ms": 9, "zorder": 3}
        if scale == "paper":
            _printed_against_cost(picture, method, [row.printed for row in rows], look, counted)
            look |= {"marker": "P", "ms": 8}
        _ours_against_cost(picture, method, rows, look, named=scale == "paper")
    if scale != "paper" and picture.hover:
        picture.figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    picture.axes.set_xscale("log")
    said = ", counted (hollow: as printed)" if counted and scale == "paper" else ""
    picture.axes.set_xlabel(f"GFLOPs of all views of a video{said}")
    picture.axes.set_ylabel("top-1, %")
    return picture


def _printed_against_cost(picture: Picture, method: str, rows: Sequence[PaperRow], look: Any, counted: bool) -> None:
    there = [row for row in rows if row.gflops is not None]
    if not there:
        return
    recount = [counted_total(row.ref) if counted else None for row in there]
    x = [c or row.gflops or 0.0 for c, row in zip(recount, there, strict=True)]
    y = [row.top1 or 0.0 for row in there]
    (line,) = picture.axes.plot(x, y, ls="-" if len(x) > 1 else "", lw=1, **look)
    if counted:
        hollow = [(a, b) for a, b, c in zip(x, y, recount, strict=True) if c is None]
        picture.axes.plot([a for a, _ in hollow], [b for _, b in hollow], ls="", **look, mfc="white")
    picture.tip(line, f"{method}: " + "; ".join(f"{r.id} {a:g}, {r.top1}" for a, r in zip(x, there, strict=True)))
    label = f"{method}, printed" if there[0].ours else method
    picture.axes.annotate(label, (x[-1], y[-1]), xytext=(5, 3), textcoords="offset points", fontsize=7)


def _ours_against_cost(picture: Picture, method: str, rows: Sequence[ReportRow], look: Any, named: bool) -> None:
    """Draw our runs of a system, named where they stand or else in the legend."""
    there = [row for row in rows if row.runs and row.gflops is not None]
    if not there:
        return
    stats = [mean_std(row.values(row.metrics[0])) for row in there]
    x, y = [row.gflops or 0.0 for row in there], [m for m, _ in stats]
    line: Any = {"ls": "-" if len(x) > 1 else "", "lw": 1, "capsize": 3, "label": method}
    bars = picture.axes.errorbar(x, y, _errors([s for _, s in stats]), **line, **look)
    text = "; ".join(f"{row.name} {a:.2f}, {m:.2f}" for row, a, m in zip(there, x, y, strict=True))
    picture.tip(bars.lines[0], f"ours, {method}: {text}")
    if named:
        where: Any = {"xytext": (6, -10), "textcoords": "offset points", "fontsize": 8}
        picture.axes.annotate(f"ours, {method}", (x[-1], y[-1]), **where)


def by_row(rows: Sequence[ReportRow]) -> Picture:
    """Draw the top-1 of each row of a table as a dot with its 95 % interval, the seeds as small dots around it.

    A printed figure is a diamond: on the same axis at the paper scale, else in a panel of its own, since it is of
    another model and data. The means of class groups, if there are any, are small marks without an interval. An axis
    begins and ends where the figures do.
    """
    table, scale = rows[0].table, rows[0].scale
    kept = [row for row in rows if row.runs] if table.compares_systems else [row for row in rows if row.printed.ours]
    apart = scale != "paper"
    picture = Picture(
        f"table_{table.number}_{scale}",
        f"Table {table.number}: top-1 of each row, scale {scale}",
        height=1.1 + 0.34 * len(kept),
        panels=2 if apart else 1,
    )
    ours, printed = picture.panels[0], picture.panels[-1]
    for y, row in enumerate(kept):
        if row.printed.top1 is not None:
            (mark,) = printed.plot(row.printed.top1, y, "D", ms=5, color=INK, mfc="none", ls="")
            picture.tip(mark, f"{row.name}, printed: {row.printed.top1:g}")
        if row.runs:
            draw_row(picture, ours, row, y)
    ours.set_yticks(range(len(kept)), [row.name for row in kept])
    ours.set_ylim(max(len(kept), 1) - 0.5, -0.5)
    if not table.compares_systems:
        ours.set_ylabel("\n".join(wrap(table.columns[0], 8 * len(kept))))  # as long as the axis
    ours.set_xlabel("top-1 of ours, %" if apart else "top-1, %")
    if apart:
        printed.set_xlabel("top-1 as printed, %")
    for axes in picture.panels:
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    key_of_marks(picture)
    return picture


def as_text(name: str) -> str:
    """Return a name for a picture, in which a pair of '$' would begin a formula."""
    return name.replace("$", r"\$")


def key_of_marks(picture: Picture) -> None:
    """Put what the marks of a picture's first axes mean beneath it, each once."""
    handles, labels = picture.axes.get_legend_handles_labels()
    if labels:
        unique = dict(zip(labels, handles, strict=True))
        picture.figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, fontsize=7)


def draw_row(picture: Picture, axes: Axes, row: TableRow, y: int) -> None:
    """Draw a row's mean, its interval, its seeds and the means of its class groups."""
    metric = row.metrics[0]
    values, found = row.values(metric), accuracy_of(row)
    if not values:
        return
    mean, _ = mean_std(values)
    if len(values) > 1:
        axes.plot(values, [y] * len(values), "o", ms=3, color=COLORS[1], alpha=0.45, ls="", label="a seed")
    for i, name in enumerate(m for m in row.metrics[2:] if row.values(m)):
        group = name.rpartition("_")[2]
        at = mean_std(row.values(name))[0]
        (mark,) = axes.plot(at, y, marker="v^<>"[i % 4], ms=4, color=COLORS[2 + i % 6], ls="", label=as_text(group))
        picture.tip(mark, f"{row.name}, {group}: {at:.2f}")
    said = f"{row.name}: {mean:.2f}"
    if found:
        low, high = max(found.low, 0.0), min(found.high, 100.0)
        axes.plot([low, high], [y, y], "-", lw=1.6, color=COLORS[1], label="95 % interval")
        said += f", 95 % interval {low:.2f} to {high:.2f}, {len(values)} seed{'s' * (len(values) > 1)}"
    (mark,) = axes.plot(mean, y, "o", ms=6, color=COLORS[1], ls="", label="mean")
    picture.tip(mark, said)


def learning_curves(rows: Sequence[ReportRow]) -> Picture:
    """Draw validation top-1 over the clips seen by every run of a table; a colour a row, a line a seed.

    Among other systems the paper's own rows are drawn thicker and on top.
    """
    number, scale = rows[0].table.number, rows[0].scale
    there = [row for row in rows if row.runs]
    title = f"Table {number}: validation top-1, one view, by clips seen, scale {scale}"
    picture = Picture(f"curves_{number}_{scale}", title, 5.2, 3 + 0.17 * max(0, len(there) - 6))
    for i, row in enumerate(there):
        look: Any = {"color": COLORS[i % len(COLORS)], "ls": LINES[i // len(COLORS) % len(LINES)], "lw": 1.4}
        if rows[0].table.compares_systems and row.printed.ours:
            look |= {"lw": 2.6, "zorder": 3}
        for n, run in enumerate(row.trainings):
            x, y = run.curve
            (line,) = picture.axes.plot(x, y, label=row.name if n == 0 else None, **look)
            different = config_difference(run, baseline_of(rows)) or "the baseline"
            picture.tip(line, f"{row.name}, seed {run.seed}: {different}")
    if picture.hover:
        picture.figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    picture.axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    picture.axes.set_xlabel("clips seen")
    picture.axes.set_ylabel("top-1, %")
    return picture


def _errors(stds: Sequence[float | None]) -> list[float] | None:
    """Return the lengths of error bars; none at all if no row has two seeds."""
    return [s or 0.0 for s in stds] if any(s is not None for s in stds) else None


def _table(collection: Collection, scale: str, number: int) -> Sequence[ReportRow]:
    return next(rows for rows in collection.tables[scale] if rows[0].table.number == number)
