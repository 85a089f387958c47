"""One class per line, and `path label` lists, as SlowFast, MMAction2 and PyTorchVideo have them."""

from collections.abc import Mapping
from pathlib import Path

from ..splits import SPLITS
from .base import Layout, Listing, Split, entry, read_lines


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read one class per line, and `path label` lists, as SlowFast, MMAction2 and PyTorchVideo do."""
    classes = read_lines(files["classes"])
    listing = Listing(classes)
    for split in SPLITS:
        lines = enumerate(read_lines(files[split]), 1)
        listing.entries[split] = [entry(files[split], i, line, len(classes)) for i, line in lines]
    return listing


LAYOUT = Layout(
    "classes.txt, train.csv and val.csv ('path label')",
    {"classes": ("classes.txt",), "train": ("train.csv", "train.txt"), "val": ("val.csv", "val.txt")},
    read,
)
