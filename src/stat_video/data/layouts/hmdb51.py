"""The official lists of HMDB51."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split, read_lines


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read one file per class and fold, CLASS_test_split1.txt: 'video.avi 1' trains, 2 tests, 0 does neither."""
    folder, ending = files["classes"], f"_test_split{how.fold}.txt"
    lists = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if not lists:
        raise InputError(f"{folder}: no *{ending} in it")
    listing = Listing([file.name.removesuffix(ending) for file in lists], {split: [] for split in SPLITS})
    for label, file in enumerate(lists):
        for number, line in enumerate(read_lines(file), 1):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not name:
                raise InputError(f"{file}, line {number}: '{line}' is not 'video 0', 1 or 2")
            if use != "0":
                listing.entries[SPLITS[int(use) - 1]].append((f"{listing.classes[label]}/{name}", label))
    return listing


LAYOUT = Layout("the official lists of HMDB51", {"classes": ("testTrainMulti_7030_splits", "splits")}, read)
