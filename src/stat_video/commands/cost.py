"""What training costs before it is paid for: `python src/cost.py experiment=ablation_window gpu=A100-80GB`.

Without a word the GFLOPs of the paper beside ours; with table=6 or table=7 those of the other systems.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import cast

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.cost.budget import Estimate, grid_table, memory_table, time_table
from stat_video.cost.config import CostConfig
from stat_video.cost.layers import layer_table
from stat_video.cost.plan import total_cost
from stat_video.cost.printed import notes, own_costs, own_table, system_costs, systems_table
from stat_video.errors import InputError
from stat_video.launch.script import script
from stat_video.models.count import by_layer
from stat_video.progress import say, show_table
from stat_video.runs.settled import settled


def same(config: CostConfig) -> CostConfig:
    """Return the config: all is shown together, and nothing is run."""
    return config


def as_trained(config: CostConfig) -> CostConfig:
    """Return a config with what follows from its videos, as far as they are there."""
    with suppress(InputError):
        return cast(CostConfig, settled(config))
    return config


def show(configs: Sequence[CostConfig]) -> None:
    """Print one run by layer, with its memory and time; several as a table for each experiment."""
    if configs[0].weights is not None:
        from stat_video.training.published import of_weights

        of_weights(configs[0])  # says what of the file is in this network, or refuses
    if len(sys.argv) == 1:
        show_table(own_table(own_costs()))
    elif configs[0].table is not None:
        costs = system_costs(configs[0].table)
        show_table(systems_table(costs))
        for line in notes(costs):
            say(line)
    elif len(configs) == 1:
        config = as_trained(configs[0])
        e = Estimate(config, config)
        for table in (layer_table(by_layer(*e.model)), memory_table(e), time_table(e)):
            show_table(table)
    else:
        estimates = [Estimate(config, config) for config in map(as_trained, configs)]
        for _, rows in groupby(estimates, key=lambda estimate: estimate.config.name):
            show_table(grid_table(list(rows)))
        if len({config.name for config in configs}) > 1:
            say(total_cost(estimates))


def main() -> None:
    """Run the command line."""
    script("cost", CostConfig, same, show=show, known=same, every=True)


if __name__ == "__main__":
    main()
