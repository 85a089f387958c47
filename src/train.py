"""Train a STAT, or with -m sweep over several: `python src/train.py experiment=ablation_window t_o=5`."""

from itertools import groupby
from typing import Any

from rich.console import Console

from stat_video.config import Config
from stat_video.entry import entry
from stat_video.plan import plan, plan_table
from stat_video.report.table import results_table
from stat_video.training.fit import finished, fit

console = Console(markup=False)  # names hold brackets


def show(results: list[dict[str, Any]]) -> None:
    """The last thing printed: a row for each run, a table for each experiment."""
    for _, rows in groupby(results, key=lambda result: result["name"]):
        table = plan_table if "state" in results[0] else results_table
        console.print(table(list(rows)))


def known(config: Config) -> dict[str, Any] | None:
    """What can be said of a run without running it: its plan with plan=true, or its result if it is finished."""
    return plan(config) if config.plan else finished(config, console)


@entry("train", after=show, known=known)
def train(config: Config) -> dict[str, Any]:
    """One run; in a sweep each row is one."""
    return fit(config, console)


if __name__ == "__main__":
    train()
