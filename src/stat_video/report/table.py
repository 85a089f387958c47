"""Results on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

AXES = ("modules", "T", "t_o", "l_ta", "stem", "spatial_token", "seed")


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a run, from their result files; accuracies in percent, named with their protocol.

    Axes on which all rows agree stand in the title.
    """
    rows = [{axis: _axis(r["config"], axis) for axis in AXES} for r in results]
    same = [a for a in AXES if len(rows) == 1 or len({row[a] for row in rows}) == 1]
    varied = [a for a in AXES if a not in same]
    metrics = [m for m in dict.fromkeys(k for r in results for k in r["metrics"]) if "/top" in m]
    table = Table(
        title=f"{results[0]['name']}, scale {', '.join(sorted({r['scale'] for r in results}))}, "
        f"data {', '.join(sorted({r['config']['data']['name'] for r in results}))}",
        caption=", ".join(f"{a} {rows[0][a]}" for a in same),
    )
    for column in (*varied, *metrics, "train s", "id"):
        table.add_column(column, justify="left" if column in ("modules", "stem", "spatial_token", "id") else "right")
    for r, row in zip(results, rows, strict=True):
        table.add_row(*(row[a] for a in varied), *_cells(r, metrics), f"{r['train_seconds']:.0f}", r["id"])
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """The figures of one test, accuracies in percent."""
    table = Table(title=f"{result['checkpoint']}, {result['videos']} videos, scale {result['scale']}")
    for metric in result["metrics"]:
        table.add_column(metric, justify="right")
    table.add_row(*_cells(result, list(result["metrics"])))
    return table


def prediction_table(top: Sequence[tuple[str, float]]) -> Table:
    """Classes and their probabilities, best first."""
    table = Table()
    table.add_column("class")
    table.add_column("probability", justify="right")
    for name, probability in top:
        table.add_row(name, f"{100 * probability:.1f} %")
    return table


def _axis(config: dict[str, Any], axis: str) -> str:
    value = config.get(axis, config["model"].get(axis))
    if axis == "modules":
        return "+".join(value)
    return str(value)


def _cells(result: dict[str, Any], metrics: list[str]) -> list[str]:
    return [f"{result['metrics'][m]:.2f}" if m in result["metrics"] else "missing" for m in metrics]
