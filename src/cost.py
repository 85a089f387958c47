"""What a model costs: `python src/cost.py` beside the paper's figures, `python src/cost.py T=32 t_o=7` by layer."""

import sys

from rich.console import Console

from stat_video.config import Config
from stat_video.cost import by_layer, render_layers, render_table, table
from stat_video.entry import entry

console = Console(markup=False)  # names hold brackets


@entry("cost")
def cost(config: Config) -> None:
    """The ten rows of the paper, or with any key given that one model by layer."""
    if len(sys.argv) == 1:
        console.print(render_table(table()))
    else:
        console.print(render_layers(by_layer(config.stat_config(num_classes=400))))


if __name__ == "__main__":
    cost()
