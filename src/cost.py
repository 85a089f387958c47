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

console = Console(markup=False)  # names hold brackets


def show(results: list[list[Any]]) -> None:
    """One CostConfig by layer, with memory and time; several as a table for each experiment."""
    configs = [config for job in results for config in job]
    for _, rows in groupby(configs, key=lambda config: config.name):
        estimates = [Estimate(config, config) for config in rows]
        if len(configs) > 1:
            console.print(grid_table(estimates))
            continue
        (e,) = estimates
        for part in (render_layers(by_layer(e.model)), memory_table(e), time_table(e)):
            console.print(part)


@entry("cost", after=show)
def cost(config: CostConfig) -> list[Any]:
    """The runs that the words stand for: of an experiment every row that they leave."""
    words = sys.argv[1:]
    if not words:
        console.print(render_table(table()))
        return []
    if config.table is not None:
        console.print(peers.render(peers.table(config.table)))
        return []
    experiment = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if not experiment or {"-m", "--multirun"} & {*words}:
        return [config]
    others = [word for word in words if not word.startswith("experiment=")]
    return [row.options for row in grid.rows(experiment[0], others, script="cost")]


if __name__ == "__main__":
    cost()
