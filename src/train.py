"""Train a STAT, or with -m sweep over several: `python src/train.py experiment=ablation_window t_o=5`."""

from typing import Any

from rich.console import Console

from stat_video.config import Config
from stat_video.entry import entry
from stat_video.report.table import results_table
from stat_video.training.fit import fit

console = Console()


@entry("train", after=lambda results: console.print(results_table(results)))
def train(config: Config) -> dict[str, Any]:
    """One run; in a sweep Hydra calls it once a row. The last thing printed is a row for each."""
    return fit(config, console)


if __name__ == "__main__":
    train()
