"""Train a STAT, or with -m sweep over several: `python src/train.py experiment=ablation_window t_o=5`."""

from itertools import groupby
from typing import Any

from rich.console import Console

from stat_video.config import Config
from stat_video.entry import entry
from stat_video.plan import plan, plan_table
from stat_video.report.table import results_table
from stat_video.training.fit import fit

console = Console(markup=False)  # names hold brackets


def show(results: list[dict[str, Any]]) -> None:
    """The last thing printed: a row for each run, a table for each experiment."""
    for _, rows in groupby(results, key=lambda result: result["name"]):
        table = plan_table if "state" in results[0] else results_table
        console.print(table(list(rows)))


@entry("train", after=show)
def train(config: Config) -> dict[str, Any]:
    """One run, or with plan=true what it would be; in a sweep Hydra calls it once a row."""
    return plan(config) if config.plan else fit(config, console)


if __name__ == "__main__":
    train()
