"""Results as tables for a terminal."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from .errors import printable
from .paths import program
from .progress import WideTable
from .runs.result import Key, Result


def results_table(results: Sequence[Result], varied: Mapping[str, Sequence[str]], same: Mapping[str, str]) -> WideTable:
    """Return a row a run from their result files; accuracies in percent, named with their protocol.

    ``varied`` and ``same`` are `runs.differing.differing` of the runs' configs.
    """
    metrics = [key for key in dict.fromkeys(key for r in results for key in r.metrics) if key.name != "loss"]
    table = WideTable(
        title=f"{results[0].name}, scale {', '.join(sorted({r.scale for r in results}))}, "
        f"data {', '.join(sorted({r.config['data']['name'] for r in results}))}",
        caption=", ".join(f"{name} {value}" for name, value in same.items()),
    )
    for name, values in varied.items():
        table.add_column(name, justify="right" if all(_is_number(value) for value in values) else "left")
    for name in (*map(str, metrics), "train s"):
        table.add_column(name, justify="right")
    table.add_column("id")
    of_groups = [str(key) for key in metrics if key.group]
    top5 = [str(key) for key in metrics if key.name == "top5" and not key.group]
    table.secondary = ["train s", *of_groups, *top5, "id"]
    for i, r in enumerate(results):
        table.add_row(
            *(values[i] for values in varied.values()), *_cells(r, metrics), f"{r.content['train_seconds']:.0f}", r.id
        )
    return table


def next_commands(results: Sequence[Result]) -> list[str]:
    """Return what can be done next with runs, as lines to paste."""
    report = f"{program('report')}    # all tables, with what is new"
    if len(results) > 1:
        return [report]
    (run,) = results
    ckpt = shlex.quote(f"ckpt={run.checkpoint}")
    views = "3x3" if run.config["views"] != "3x3" else "5x1"
    best = shlex.quote(f"ckpt={run.folder / 'best.ckpt'}")
    return [
        *([f"{program('evaluate')} {best}    # the test of the best weights"] if run.content.get("best") else []),
        f"{program('predict')} {ckpt} video=FILE    # what it sees in a video",
        f"{program('evaluate')} {ckpt} views={views}    # the test with other views",
        report,
    ]


def evaluation_table(result: Result) -> WideTable:
    """Return the figures of one test, accuracies in percent."""
    table = WideTable()
    table.secondary = [str(key) for key in result.metrics if key.group]
    for key in result.metrics:
        table.add_column(str(key), justify="right")
    table.add_row(*_cells(result, list(result.metrics)))
    return table


def prediction_table(top: Sequence[tuple[str, float]]) -> Table:
    """Return classes and their probabilities, best first."""
    table = Table()
    table.add_column("class")
    table.add_column("probability", justify="right")
    for name, probability in top:
        table.add_row(printable(name), f"{100 * probability:.1f} %")
    return table


def predictions_table(predictions: Sequence[Any]) -> WideTable:
    """Return a row a video: its likeliest class, or why it can't be read."""
    table = WideTable()
    table.add_column("video")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for p in predictions:
        best, probability = (p.top[0][0], f"{100 * p.top[0][1]:.1f} %") if p.top else (p.reason, "-")
        table.add_row(printable(str(p.video)), printable(best), probability, style="" if p.top else "yellow")
    return table


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return value == "-"
    return True


def _cells(result: Result, metrics: list[Key]) -> list[str]:
    values = [result.metrics.get(key) for key in metrics]
    return ["missing" if value is None else f"{value:.2f}" for value in values]
