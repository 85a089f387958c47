"""The searches of an experiment: a table of their trials, and each key against the objective."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..runs.searches import FILES, Trials
from .figures import COLORS, Picture, as_text
from .own import Experiment
from .tables import TextTable

MOST_KEYS = 5  # of a picture
FEW = 5  # values of a key, each of which stands on its axis
DECADES = 30.0  # a key whose highest value is so many times its lowest has a logarithmic axis


def searches(experiment: Experiment) -> list[Trials]:
    """Return the searches whose files lie beside the runs of an experiment and name one of them."""
    runs = {run.folder.name for run in experiment.runs}
    folders = sorted({run.folder.parent for run in experiment.runs})
    found = [Trials.read(file) for folder in folders for file in sorted(folder.glob(FILES))]
    return [search for search in found if search is not None and any(t.run in runs for t in search.trials)]


def search_table(search: Trials) -> TextTable:
    """Return a row per trial: what was proposed, its figure and the best so far; the best of all is set off."""
    cells, best = [], search.best
    for n, trial in enumerate(search.trials, 1):
        so_far = search.best_of(n)
        figures = ["" if t is None or t.value is None else f"{t.value:.4g}" for t in (trial, so_far)]
        values = [f"{number:.4g}" if (number := _number(v)) is not None else v for v in trial.values]
        cells.append([str(n), *values, *figures, trial.run.rpartition("-")[2] or trial.failed])
    columns = ["trial", *map(_short, search.keys), search.objective, "best so far", "run"]
    numbers = [True, *[_is_numbers(search, i) for i in range(len(search.keys))], True, True, False]
    what = "least" if search.lower else "highest"
    table = TextTable(f"Search for the {what} {search.objective}", columns, cells, numbers)
    table.marked = [trial is best for trial in search.trials]
    if failed := sum(trial.value is None for trial in search.trials):
        table.notes.append(f"Trials without a figure: {failed} of {len(search.trials)}, with the reason in its place.")
    return table


def search_picture(experiment: Experiment, search: Trials, number: int) -> Picture | None:
    """Draw the objective against each key and, trial by trial, with the best so far; None if no trial has a figure."""
    there = [i for i, trial in enumerate(search.trials) if trial.value is not None]
    if not there:
        return None
    keys = range(min(len(search.keys), MOST_KEYS))
    title = f"{experiment.name}: the {'least' if search.lower else 'highest'} {search.objective} that was searched for"
    name = f"own_{experiment.slug}_search{number or ''}"
    picture = Picture(name, title, 1.4 + 2.3 * (len(keys) + 1), 3.0, panels=len(keys) + 1)
    figures = [float(search.trials[i].value or 0.0) for i in there]
    for key, axes in zip(keys, picture.panels, strict=False):
        _dots(picture, axes, search, there, _places(axes, [search.trials[i].values[key] for i in there]), figures)
        axes.set_xlabel(as_text(_short(search.keys[key])))
    last = picture.panels[-1]
    _dots(picture, last, search, there, [i + 1.0 for i in there], figures)
    steps = [i for i in range(len(search.trials)) if search.best_of(i + 1) is not None]
    so_far = [float(best.value or 0.0) for i in steps if (best := search.best_of(i + 1)) is not None]
    last.step([i + 1 for i in steps], so_far, where="post", color=COLORS[0], lw=1.2, label="best so far")
    last.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    last.set_xlabel("trial")
    last.legend(fontsize=7)
    picture.axes.set_ylabel(search.objective)
    return picture


def _dots(
    picture: Picture, axes: Axes, search: Trials, there: Sequence[int], x: Sequence[float], y: Sequence[float]
) -> None:
    """Draw a dot for each trial that has a figure, and a star for the best."""
    for i, at, figure in zip(there, x, y, strict=True):
        trial = search.trials[i]
        best = trial is search.best
        look = {"marker": "*", "ms": 11, "color": COLORS[0]} if best else {"marker": "o", "ms": 5, "color": COLORS[1]}
        (dot,) = axes.plot(at, figure, ls="", zorder=3 if best else 2, alpha=1 if best else 0.75, **look)  # type: ignore[arg-type]
        picture.tip(dot, f"trial {i + 1}: {' '.join(trial.words)}, {figure:.4g}")


def _places(axes: Axes, values: Sequence[str]) -> list[float]:
    """Return where values stand on an axis, and make it fit: linear, logarithmic or by names."""
    numbers = [_number(value) for value in values]
    if None in numbers:
        names = sorted(set(values))
        axes.set_xticks(range(len(names)), [as_text(name) for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        return [float(names.index(value)) for value in values]
    found = [float(number or 0.0) for number in numbers]
    if min(found) > 0 and max(found) / min(found) >= DECADES:
        axes.set_xscale("log")
    elif len(set(found)) <= FEW:
        axes.set_xticks(sorted(set(found)), [f"{number:g}" for number in sorted(set(found))])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return found


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _is_numbers(search: Trials, key: int) -> bool:
    return all(_number(trial.values[key]) is not None for trial in search.trials)


def _short(key: str) -> str:
    return key.removeprefix("recipe.").removeprefix("model.").removeprefix("clip.")
