"""One class per line, and `path label` lists, as SlowFast, MMAction2 and PyTorchVideo have them."""

from collections.abc import Mapping
from pathlib import Path

from .base import Layout, Listing, Split, entry, read_lists


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read one class per line, and `path label` lists, as SlowFast, MMAction2 and PyTorchVideo do."""
    return read_lists(files, entry)


LAYOUT = Layout(
    "classes.txt, train.csv and val.csv ('path label')",
    {"classes": ("classes.txt",), "train": ("train.csv", "train.txt"), "val": ("val.csv", "val.txt")},
    read,
)
