"""Results as tables for a terminal."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from .errors import printable
from .paths import program
from .progress import WideTable


def results_table(
    results: Sequence[dict[str, Any]], varied: Mapping[str, Sequence[str]], same: Mapping[str, str]
) -> WideTable:
    """Return a row a run from their result files; accuracies in percent, named with their protocol.

    ``varied`` and ``same`` are `runs.differing.differing` of the runs' configs.
    """
    metrics = [m for m in dict.fromkeys(k for r in results for k in r["metrics"]) if "/loss" not in m]
    table = WideTable(
        title=f"{results[0]['name']}, scale {', '.join(sorted({r['scale'] for r in results}))}, "
        f"data {', '.join(sorted({r['config']['data']['name'] for r in results}))}",
        caption=", ".join(f"{name} {value}" for name, value in same.items()),
    )
    for name, values in varied.items():
        table.add_column(name, justify="right" if all(_is_number(value) for value in values) else "left")
    for name in (*metrics, "train s"):
        table.add_column(name, justify="right")
    table.add_column("id")
    of_groups = [m for m in metrics if m.count("_") > 1]  # such as test/top1_5x1_far
    table.secondary = ["train s", *of_groups, *(m for m in metrics if "/top5" in m and m not in of_groups), "id"]
    for i, r in enumerate(results):
        table.add_row(
            *(values[i] for values in varied.values()), *_cells(r, metrics), f"{r['train_seconds']:.0f}", r["id"]
        )
    return table


def next_commands(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return what can be done next with runs, as lines to paste."""
    report = f"{program('report')}    # all tables, with what is new"
    if len(results) > 1:
        return [report]
    (run,) = results
    ckpt = shlex.quote(f"ckpt={run['folder']}/{run['checkpoint']}")
    views = "3x3" if run["config"]["views"] != "3x3" else "5x1"
    return [
        f"{program('predict')} {ckpt} video=FILE    # what it sees in a video",
        f"{program('evaluate')} {ckpt} views={views}    # the test with other views",
        report,
    ]


def evaluation_table(result: dict[str, Any]) -> WideTable:
    """Return the figures of one test, accuracies in percent."""
    table = WideTable()
    table.secondary = [metric for metric in result["metrics"] if metric.count("_") > 1]  # of class groups
    for metric in result["metrics"]:
        table.add_column(metric, justify="right")
    table.add_row(*_cells(result, list(result["metrics"])))
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


def _cells(result: dict[str, Any], metrics: list[str]) -> list[str]:
    values = [result["metrics"].get(metric) for metric in metrics]
    return ["missing" if value is None else f"{value:.2f}" for value in values]
