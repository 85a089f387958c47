"""A list of EgoGestAR's test videos; the videos are in a clone of its repository."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split

LIST = Path(__file__).with_suffix(".csv")


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read path, class, place and split of each video; places are the groups, and the split keeps them whole."""
    if not files["train"].is_dir():
        raise InputError(f"{files['train']}: no such folder")
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    listing = Listing(sorted({row["class"] for row in rows}))
    for split in SPLITS:
        listing.entries[split] = [
            (row["path"], listing.classes.index(row["class"])) for row in rows if row["split"] == split
        ]
    listing.groups = {row["path"]: row["place"] for row in rows}
    return listing


LAYOUT = Layout(
    "testvideo/ of a clone of github.com/varunj/EgoGestAR", {"train": ("testvideo",), "val": ("testvideo",)}, read
)
