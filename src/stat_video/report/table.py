"""Results on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

AXES = ("modules", "T", "t_o", "l_ta", "stem", "spatial_token", "seed")


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a run, from their result files; accuracies in percent, named with their protocol."""
    varied, same = varied_axes([r["config"] for r in results])
    metrics = [m for m in dict.fromkeys(k for r in results for k in r["metrics"]) if "/top" in m]
    table = Table(
        title=f"{results[0]['name']}, scale {', '.join(sorted({r['scale'] for r in results}))}, "
        f"data {', '.join(sorted({r['config']['data']['name'] for r in results}))}",
        caption=same,
    )
    for column in (*varied, *metrics, "train s", "id"):
        table.add_column(column, justify="left" if column in ("modules", "stem", "spatial_token", "id") else "right")
    for i, r in enumerate(results):
        table.add_row(
            *(values[i] for values in varied.values()), *_cells(r, metrics), f"{r['train_seconds']:.0f}", r["id"]
        )
    return table


def varied_axes(configs: Sequence[dict[str, Any]]) -> tuple[dict[str, list[str]], str]:
    """The axes on which runs differ, each with the value of every run; and in words those on which all agree."""
    values = {axis: [_axis(config, axis) for config in configs] for axis in AXES}
    same = [axis for axis in AXES if len(configs) == 1 or len(set(values[axis])) == 1]
    varied = {axis: values[axis] for axis in AXES if axis not in same}
    return varied, ", ".join(f"{axis} {values[axis][0]}" for axis in same)


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
