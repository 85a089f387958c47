"""Class folders for training and for validation."""

from collections.abc import Mapping
from pathlib import Path

from ..splits import SPLITS
from .base import Layout, Listing, Split, class_folders, labelled


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read train/CLASS/VIDEO and val/CLASS/VIDEO; the classes are the folders of train, sorted by name."""
    listing = Listing([])
    found = {name: class_folders(files[name], listing.others) for name in SPLITS}
    listing.classes = list(found["train"])
    for name, videos in found.items():
        pairs = [(str(video), label) for label, of_class in videos.items() for video in of_class]
        listing.entries[name] = labelled(files[name], pairs, listing.classes)
    return listing


LAYOUT = Layout("class folders", {"train": ("train",), "val": ("val", "validation", "test")}, read)
