"""The official lists of UCF101."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split, labelled, read_lines, split_number


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read classInd.txt ('1 Name'), trainlist01.txt ('Class/video.avi 1') and testlist01.txt (without labels)."""
    lines = [line.partition(" ") for line in read_lines(files["classes"])]
    numbers = {name: number for number, _, name in lines}
    if [number for number, _, _ in lines] != [str(i) for i in range(1, len(lines) + 1)]:
        raise InputError(f"{files['classes']}: the classes are not numbered 1, 2, ... ('1 ApplyEyeMakeup')")
    listing = Listing([name for _, _, name in lines])
    for split in SPLITS:
        pairs = []
        for i, line in enumerate(read_lines(files[split]), 1):
            path, number = split_number(line)
            label = path.partition("/")[0]
            if number and numbers.get(label, number) != number:
                raise InputError(f"{files[split]}, line {i}: class {label} has number {numbers[label]}, not {number}")
            pairs.append((path, label))
        listing.entries[split] = labelled(files[split], pairs, listing.classes)
    return listing


LAYOUT = Layout(
    "the official lists of UCF101",
    {
        "classes": ("ucfTrainTestlist/classInd.txt", "classInd.txt"),
        "train": ("ucfTrainTestlist/trainlist{fold:02d}.txt", "trainlist{fold:02d}.txt"),
        "val": ("ucfTrainTestlist/testlist{fold:02d}.txt", "testlist{fold:02d}.txt"),
    },
    read,
)
