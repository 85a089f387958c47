"""What a model costs part by part, for a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE

from ..models.count import Layer
from ..progress import WideTable

KINDS = ("linear", "convolution", "attention")  # of multiply-adds


def layer_table(layers: Sequence[Layer]) -> WideTable:
    """Return a row a part of `models.count.by_layer`, with the sum of all beneath."""
    total, weights = sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)
    table = WideTable(
        title="Cost of a view by layer, GMACs",
        show_footer=True,
        box=SIMPLE,
        padding=(0, 1),
        caption="output: shape without the batch; Mpar.: 1e6 parameters",
    )
    table.add_column("layer", "all", no_wrap=True)
    table.add_column("output")
    for kind in KINDS:
        table.add_column(kind, _giga(sum(layer.kinds.get(kind, 0) for layer in layers)), justify="right")
    table.add_column("whole", _giga(total), justify="right")
    table.add_column("%", "100.0", justify="right")
    table.add_column("Mpar.", f"{weights / 1e6:.2f}", justify="right")
    table.secondary = ["Mpar.", "output"]
    for layer in layers:
        table.add_row(
            layer.name,
            " x ".join(map(str, layer.output)),
            *(_giga(layer.kinds[kind]) if layer.kinds.get(kind) else "" for kind in KINDS),
            _giga(layer.macs),
            f"{100 * layer.macs / max(total, 1):.1f}",
            f"{layer.parameters / 1e6:.2f}",
        )
    return table


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.2f}" if macs >= 5e6 or not macs else f"{macs / 1e9:.2g}"
