"""The official CSVs of Kinetics."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split, labelled, read_text


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read the CSVs of DeepMind and CVDF (label, youtube_id, time_start, time_end, split); classes sorted by name."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        table = csv.DictReader(read_text(files[split]).splitlines())
        needed = {"label", "youtube_id", "time_start", "time_end"}
        try:
            missing, lines = needed - set(table.fieldnames or ()), [(table.line_num, row) for row in table]
        except csv.Error as error:
            raise InputError(f"{files[split]}: not a CSV file ({error})") from None
        if missing:
            raise InputError(f"{files[split]}: no column {', '.join(sorted(missing))}; it is not one of Kinetics' CSVs")
        rows[split] = []
        for number, row in lines:
            if short := sorted(key for key in needed if not row[key]):
                raise InputError(f"{files[split]}, line {number}: no {', '.join(short)}")
            try:
                times = [int(float(row[key])) for key in ("time_start", "time_end")]
            except (TypeError, ValueError, OverflowError):
                raise InputError(f"{files[split]}, line {number}: time_start and time_end are not seconds") from None
            rows[split].append((f"{row['label']}/{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}", row["label"]))
    listing = Listing(sorted({label for _, label in rows["train"]}))
    for split in SPLITS:
        listing.entries[split] = labelled(files[split], rows[split], listing.classes)
    return listing


LAYOUT = Layout(
    "the official CSVs of Kinetics",
    {
        "train": ("train.csv", "annotations/train.csv"),
        "val": ("val.csv", "validate.csv", "annotations/val.csv", "annotations/validate.csv"),
    },
    read,
    by_stem=True,
)
