"""One class per line, and lists whose lines are `path label label ...`, as MMAction2 has them for several labels."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from .base import Entry, Layout, Listing, Split, entry, read_lists, split_number


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read one class per line, and lists of a path and as many labels as a video has, one or more."""
    return read_lists(files, _entry)


def _entry(file: Path, number: int, line: str, classes: int) -> Entry:
    rest, numbers = line, list[str]()
    while (split := split_number(rest))[1]:
        rest = split[0]
        numbers.append(split[1])
    if not numbers or not rest:
        raise InputError(f"{file}, line {number}: '{line:.200}' is not 'path label label ...'")
    entries = [entry(file, number, f"{rest} {label}", classes) for label in numbers]
    labels = sorted(label for _, label in entries if isinstance(label, int))
    if len(set(labels)) < len(labels):
        raise InputError(f"{file}, line {number}: '{line:.200}' has a label twice")
    return entries[0][0], tuple(labels)


LAYOUT = Layout(
    "classes.txt, train.csv and val.csv ('path label label ...')",
    {"classes": ("classes.txt",), "train": ("train.csv", "train.txt"), "val": ("val.csv", "val.txt")},
    read,
    multi_label=True,
)
