"""The official files of Something-Something v2."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..splits import SPLITS
from .base import Layout, Listing, Split, labelled, read_json, read_lines

_NAME = "something-something-v2"


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read labels.json, train.json and validation.json, or test-answers.csv ('id;template') in place of the last."""
    table = read_json(files["classes"])
    try:
        classes = [name for name, _ in sorted(table.items(), key=lambda item: int(item[1]))]
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{files['classes']}: not a mapping of templates to numbers") from None
    numbers = [int(number) for number in table.values()]
    if twice := [n for n, count in Counter(numbers).items() if count > 1]:
        names = [name for name, number in table.items() if int(number) == twice[0]]
        raise InputError(f"{files['classes']}: {' and '.join(map(repr, names[:2]))} have one number, {twice[0]}")
    listing = Listing(classes)
    for split in SPLITS:
        file = files[split]
        pairs: list[tuple[str, Any]] = [("", None)]
        if file.suffix == ".csv":
            pairs = [(line.partition(";")[0], line.partition(";")[2]) for line in read_lines(file)]
        else:
            rows = read_json(file)
            with suppress(KeyError, TypeError):
                pairs = [(str(row["id"]), row["template"]) for row in rows]
            if not all(isinstance(template, str) for _, template in pairs):
                raise InputError(f"{file}: not a list of videos with id and template")
        plain = [(name, template.replace("[", "").replace("]", "")) for name, template in pairs]
        listing.entries[split] = labelled(file, plain, classes)
    return listing


LAYOUT = Layout(
    "the official JSON files of Something-Something v2",
    {
        "classes": ("labels.json", "labels/labels.json", f"{_NAME}-labels.json"),
        "train": ("train.json", "labels/train.json", f"{_NAME}-train.json"),
        "val": ("validation.json", "labels/validation.json", f"{_NAME}-validation.json"),
    },
    read,
    by_stem=True,
)
