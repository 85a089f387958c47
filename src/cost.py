"""What training costs before it is paid for: `python src/cost.py experiment=ablation_window gpu=A100-80GB share=0.35`.

Without a word the GFLOPs of the paper beside ours; with table=6 or table=7 those of the other systems.
"""

import sys
from itertools import groupby
from typing import Any

from rich.console import Console

from stat_video import grid
from stat_video.cost import peers
from stat_video.cost.budget import Estimate, grid_table, memory_table, time_table
from stat_video.cost.config import CostConfig
from stat_video.cost.layers import by_layer, render_layers, render_table, table
from stat_video.entry import entry

WORDS = tuple(sys.argv[1:])
console = Console()


def runs(config: CostConfig) -> list[Any]:
    """The runs, as CostConfigs, that the words stand for: of an experiment without -m every row that they leave."""
    if not WORDS or config.table is not None:
        console.print(peers.render(peers.table(config.table)) if config.table else render_table(table()))
        return []
    experiment = [word.removeprefix("experiment=") for word in WORDS if word.startswith("experiment=")]
    if not experiment or {"-m", "--multirun"} & set(WORDS):
        return [config]
    others = [word for word in WORDS if not word.startswith("experiment=")]
    return [row.options for row in grid.rows(experiment[-1], others, script="cost")]


def show(results: list[list[CostConfig]]) -> None:
    """One run by layer, with its memory and time; several as a table for each experiment."""
    configs = [config for row in results for config in row]
    for _, rows in groupby(configs, key=lambda config: config.name):
        estimates = [Estimate(config, config) for config in rows]
        if len(configs) > 1:
            console.print(grid_table(estimates))
            continue
        (e,) = estimates
        for part in (render_layers(by_layer(e.model)), memory_table(e), time_table(e)):
            console.print(part)


cost = entry("cost", after=show, known=runs)(runs)  # all is known without running anything

if __name__ == "__main__":
    cost()
