"""The pictures of experiments that are no table of the paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator

from .collect import FoundRun, TableRow
from .figures import COLORS, LINES, Picture, as_text, draw_row, key_of_marks
from .mistakes import Mistakes
from .own import MANY, Experiment, OwnRow, best_first
from .videos import Frame

MOST_DOTS = 40  # rows of a picture: the best
MOST_CLASSES = 60  # of a confusion matrix
MOST_NUMBERS = 20  # classes of a confusion matrix with figures in its cells
DARK, LIGHT, GREY = "#1d2430", "#ffffff", "#8a8f98"  # on coloured cells, which are the same on any page


def top1_by_row(experiment: Experiment) -> Picture | None:
    """Draw the top-1 of each row as a dot with its 95 % interval, the seeds as small dots around it.

    None if no test has a top-1, as those of several labels a video.
    """
    if all(row.top1 is None for row in experiment.rows):
        return None
    rows = list(experiment.rows)
    title = f"{experiment.name}: top-1 of each row"
    if len(rows) > MOST_DOTS:
        rows, title = rows[:MOST_DOTS], f"{experiment.name}: top-1 of the {MOST_DOTS} best rows of {len(rows)}"
    picture = Picture(f"own_{experiment.slug}_top1", title, height=1.1 + 0.34 * len(rows))
    for y, row in enumerate(rows):
        draw_row(picture, picture.axes, row, y)
    picture.axes.set_yticks(range(len(rows)), [as_text(row.name) for row in rows])
    picture.axes.set_ylim(len(rows) - 0.5, -0.5)
    picture.axes.set_xlabel("top-1, %")
    picture.axes.margins(x=0.1)
    picture.axes.xaxis.set_major_locator(MaxNLocator(5))
    key_of_marks(picture)
    return picture


def mean_curves(experiment: Experiment, column: str, what: str, unit: str = "") -> Picture | None:
    """Draw a column of `epochs.csv` over the clips seen: the mean over a row's seeds, in a band from least to most.

    Of more than MANY rows the others than the best are thin grey lines. None if no run has the column.
    """
    colored = list(experiment.rows) if len(experiment.rows) <= MANY else best_first(experiment.rows)[:MANY]
    title = f"{experiment.name}: {what}, by clips seen"
    picture = Picture(f"own_{experiment.slug}_{column.partition('/')[0]}", title, 5.2, 3 + 0.17 * len(colored))
    for row in experiment.rows:
        x, low, mean, high = band(row.runs, column)
        if not x:
            continue
        if row not in colored:
            picture.axes.plot(x, mean, lw=0.6, color=GREY, alpha=0.6, zorder=1)
            continue
        i = colored.index(row)
        look: Any = {"color": COLORS[i % len(COLORS)], "ls": LINES[i // len(COLORS) % len(LINES)], "lw": 1.4}
        (line,) = picture.axes.plot(x, mean, label=as_text(row.name), marker="." if len(x) == 1 else "", **look)
        if len(row.runs) > 1:
            picture.axes.fill_between(x, low, high, color=look["color"], alpha=0.18, lw=0)
        picture.tip(line, f"{row.name}: {len(row.runs)} seed{'s' * (len(row.runs) > 1)}, {mean[-1]:.4g} at the end")
    if not picture.hover:
        return None
    picture.figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    picture.axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    picture.axes.set_xlabel("clips seen")
    picture.axes.set_ylabel(f"{what.partition(',')[0]}{unit}")
    return picture


def band(runs: Sequence[FoundRun], column: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return the clips seen at epochs that all runs have, and there the least, mean and highest figure of a column."""
    curves = [dict(zip(*run.curve_of(column), strict=True)) for run in runs]
    x = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[curve[clips] for clips in x] for curve in curves])
    return x, values.min(0).tolist(), values.mean(0).tolist(), values.max(0).tolist()


def confusion_matrix(experiment: Experiment, row: OwnRow, found: Mistakes, names: Sequence[str]) -> Picture:
    """Draw in percent of each class's videos how they were classified, a row per class; for at most MOST_CLASSES."""
    n, shares = len(names), found.shares
    side = max(2.4, min(0.36 * n, 0.15 * n + 4))
    title = f"{row.name}: confusions, % of each class's videos"
    picture = Picture(_name(experiment, row, "confusion"), title, side + 2.2, side + 1.4)
    axes, font = picture.axes, 7 if n <= MOST_NUMBERS else 5
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest", aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    labels = [as_text(shorten_name(name)) for name in names]
    axes.set_xticks(range(n), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(n), labels, fontsize=font)
    axes.set_xlabel("classified as")
    axes.set_ylabel("class")
    if n <= MOST_NUMBERS:
        for a, b in np.argwhere(np.nan_to_num(shares) >= 0.5):
            color = LIGHT if shares[a, b] > 55 else DARK
            axes.text(b, a, f"{shares[a, b]:.0f}", ha="center", va="center", fontsize=7, color=color)
    return picture


def error_frames(
    experiment: Experiment, row: OwnRow, found: Mistakes, names: Sequence[str], frames: Sequence[Frame | None]
) -> Picture:
    """Draw the middle frame of each error, above it the class and what it was taken for; 'missing' without a frame."""
    columns = min(4, len(found.surest))
    lines = -(-len(found.surest) // columns)
    title = f"{row.name}: the errors with the highest score"
    picture = Picture(_name(experiment, row, "errors"), title, 1.9 * columns, 1.9 * lines)
    picture.figure.clear()
    picture.panels = list(picture.figure.subplots(lines, columns, squeeze=False).flat)
    for axes, mistake, frame in zip(picture.panels, found.surest, frames, strict=False):
        if frame is None:
            axes.text(0.5, 0.5, "missing", ha="center", va="center", color=GREY)
        else:
            axes.imshow(frame)
        said = [f"is {names[mistake.label]}", f"{100 * mistake.probability:.0f} % {names[mistake.taken_for]}"]
        axes.set_title("\n".join(as_text(shorten_name(line, 34)) for line in said), fontsize=7, loc="left")
    for axes in picture.panels:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return picture


def shorten_name(name: str, most: int = 26) -> str:
    """Return a name of at most so many characters."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _name(experiment: Experiment, row: TableRow, what: str) -> str:
    return f"own_{experiment.slug}_{experiment.rows.index(row)}_{what}"
