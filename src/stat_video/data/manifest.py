"""The manifest of a data set: what reading every video found, one row per video."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from ..errors import InputError
from ..files import replacing
from ..paths import program
from .config import DataConfig
from .layouts.base import Label

OK, DAMAGED, UNREADABLE, ABSENT = STATUSES = ("ok", "damaged", "unreadable", "absent")


@dataclass(frozen=True)
class VideoRow:
    """One video of a list. What is unknown of an absent or unreadable one is empty."""

    split: str
    path: str  # below the data set's folder; of an absent one the name in the list
    label: Label
    name: str  # of the class, or of several: 'a; b'
    status: str  # ok; damaged: some frames are lost; unreadable: all are; absent: there is no file
    reason: str = ""
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str = ""
    pixels: str = ""
    bytes: int | None = None
    sha256: str = ""  # of the file, or of all pictures of a folder


COLUMNS = [f.name for f in fields(VideoRow)]


def manifest_path(root: Path, config: DataConfig) -> Path:
    """Return where the manifest of the data set at `root` is."""
    name = "manifest.csv" if config.fold == 1 else f"manifest_{config.fold}.csv"
    return root / (config.manifest or name)  # an absolute path stays what it is


def write_manifest(path: Path, rows: Sequence[VideoRow]) -> None:
    """Write the manifest: the same data give the same bytes, whenever and in whatever order they were read."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    quoting = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:  # Python 3.11 leaves a carriage return, which a name may hold, unquoted
        quoted = "\r" in row.path + row.reason + row.name
        (quoting if quoted else writer).writerow({**asdict(row), "label": label_text(row.label)})
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # names as the disk has them


def read_manifest(path: Path) -> list[VideoRow]:
    """Return the rows, [] if there is no manifest; InputError if the file is something else."""
    if not path.is_file():
        return []
    about = path.stat()
    return list(_read(path, about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=4)  # planning a table reads the same manifest for each of its rows
def _read(path: Path, mtime_ns: int, size: int) -> tuple[VideoRow, ...]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            if table.fieldnames != COLUMNS:
                raise ValueError
            return tuple(_row(row) for row in table)
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"{path}: not a manifest; remove it, or write it with {program('prepare')} do=verify"
        ) from None


def _row(row: dict[str, str]) -> VideoRow:
    if row["status"] not in STATUSES:
        raise ValueError
    numbers = {key: int(row[key]) if row[key] else None for key in ("frames", "width", "height", "bytes")}
    fps = float(row["fps"]) if row["fps"] else None
    return VideoRow(**{**row, **numbers, "label": _label(row["label"]), "fps": fps})  # type: ignore[arg-type]


def label_text(label: Label) -> str:
    """Return a label as it stands in a manifest: '3', or '3;7;' of a video that may have several."""
    return "".join(f"{number};" for number in label) if isinstance(label, tuple) else str(label)


def _label(text: str) -> Label:
    return tuple(int(number) for number in text.split(";")[:-1]) if ";" in text else int(text)


def content_hash(rows: Sequence[VideoRow]) -> str:
    """Return a hash of the files' content, not of how well they decode: another FFmpeg may judge that differently."""
    content = sorted((row.split, row.path, row.label, row.sha256) for row in rows)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


def changes(before: Sequence[VideoRow], now: Sequence[VideoRow]) -> list[str]:
    """Return the paths of videos that were added, removed or have other content."""
    then, after = ({row.path: row.sha256 for row in rows} for rows in (before, now))
    return sorted(path for path in then.keys() | after.keys() if then.get(path) != after.get(path))


def counts(rows: Sequence[VideoRow]) -> dict[str, int]:
    """Return the number of videos that are listed, and that of each status."""
    found = Counter(row.status for row in rows)
    return {"listed": len(rows), **{status: found[status] for status in STATUSES}}


def in_both_splits(rows: Sequence[VideoRow]) -> list[tuple[str, str]]:
    """Return (training path, validation path) of files with the same content, on which a test would prove nothing."""
    train = {row.sha256: row.path for row in rows if row.split == "train" and row.sha256}
    return [(train[row.sha256], row.path) for row in rows if row.split == "val" and row.sha256 in train]
