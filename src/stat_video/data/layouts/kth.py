"""The official files of KTH Actions (Schuldt, Laptev, Caputo 2004), split by person."""

import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split, labelled, read_lines

# 00sequences.txt names these persons for each part.
PERSONS = {
    "train": {11, 12, 13, 14, 15, 16, 17, 18},
    "validation": {19, 20, 21, 23, 24, 25, 1, 4},
    "test": {22, 2, 3, 5, 6, 7, 8, 9, 10},
}
PERSONS["train+validation"] = PERSONS["train"] | PERSONS["validation"]
NAME = re.compile(r"person(\d\d)_([a-z]+)_d\d")
SEQUENCE = re.compile(r"\d+\s*-\s*\d+")  # its first and last frame


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read lines 'person01_boxing_d1 frames 1-95, 96-185, ...' of 00sequences.txt, and give each person to a part.

    ``files`` has names of PERSONS for train and val. What is before the lines is a text, and a video without frames is
    missing in the original, too.

    NOTE: an example is a video file, with all of its four sequences (599 examples); the original counts each sequence
    (2,391). The frame ranges only tell which videos there are.
    """
    lines = read_lines(files["classes"])
    videos = [(match, line) for line in lines if (match := NAME.match(line))]
    if not videos:
        raise InputError(f"{files['classes']}: no line 'person01_boxing_d1 frames 1-95, ...' in it")
    there = [match for match, line in videos if SEQUENCE.search(line[match.end() :])]
    listing = Listing(sorted({match[2] for match in there}))
    parts = {split: _persons(split, files[split].name) for split in SPLITS}
    if both := parts["train"] & parts["val"]:
        raise InputError(f"data.val={files['val'].name}: must have other persons than data.train, not {min(both)}")
    for split in SPLITS:
        pairs = [(f"{match[0]}_uncomp", match[2]) for match in there if int(match[1]) in parts[split]]
        listing.entries[split] = labelled(files["classes"], pairs, listing.classes)
    listing.groups = {f"{match[0]}_uncomp": f"person{match[1]}" for match in there}
    return listing


def _persons(split: str, part: str) -> set[int]:
    if part not in PERSONS:
        raise InputError(f"data.{split}={part}: must be one of {', '.join(PERSONS)}")
    return PERSONS[part]


LAYOUT = Layout(
    "00sequences.txt, and the videos of KTH Actions anywhere below it",
    {"classes": ("00sequences.txt",), "train": ("train+validation",), "val": ("test",)},
    read,
    by_stem=True,
)
