"""Reads every video of a data set once, to know what is in it: `src/prepare.py do=verify`."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

from ..errors import InputError
from ..files import replacing
from ..progress import say
from .config import DataConfig
from .layouts.base import split_number
from .limits import Limits
from .lists import allow, below, find_root, layout_of, numbers_of, read_listing, warn_of_oddities
from .manifest import (
    ABSENT,
    DAMAGED,
    OK,
    UNREADABLE,
    VideoRow,
    changes,
    counts,
    in_both_splits,
    manifest_path,
    read_manifest,
    write_manifest,
)
from .parallel import in_parallel
from .places import find
from .reader import READ_ERRORS, PathHandler, reason_of
from .splits import SPLITS
from .storage import Lost, lost, patiently

Stamp = list[int]  # size and time of a file; other numbers mean that the file has changed


def listed(root: Path, config: DataConfig) -> list[VideoRow]:
    """Return a row for each video of the lists, in their order; its status is ABSENT, or '' until it is read."""
    listing, rows = read_listing(root, config), []
    warn_of_oddities(root, listing)
    for split in SPLITS:
        names = [name for name, _ in listing.entries[split]]
        places = find(root / config.videos, names, layout_of(config).by_stem)
        for name, label in listing.entries[split]:
            place = places[name]
            path = name if place is None else below(root, place)
            names_of = "; ".join(listing.classes[number] for number in numbers_of(label))
            row = VideoRow(split, path, label, names_of, ABSENT if place is None else "")
            # A folder's list may say how many pictures it has; `inspect` compares.
            frames = (
                split_number(name)[1] if place is not None and place.is_dir() and place.name != Path(name).name else ""
            )
            rows.append(replace(row, frames=int(frames)) if frames else row)
    return rows


def inspect(root: Path, row: VideoRow, limits: Limits, raise_lost: bool = False) -> VideoRow:
    """Return the row, filled in from decoding every packet; its `frames` were those that its list promises, if any.

    With ``raise_lost`` a video that the disk does not return raises Lost; else it is unreadable.
    """
    path, promised = root / row.path, row.frames
    row = replace(row, frames=None)
    try:
        limits.check_file(path)
        with lost(path):
            size, digest = _digest(path)
        row = replace(row, bytes=size, sha256=digest)
        found = PathHandler(limits).video_from_path(str(path)).inspect()
    except READ_ERRORS as error:
        if raise_lost and isinstance(error, Lost):
            raise
        return replace(row, status=UNREADABLE, reason=reason_of(error, str(path)))
    trouble = [found.trouble] if found.trouble else []
    if promised not in (None, found.frames):
        trouble.append(f"its list says {promised} frames, {found.frames} are there")
    return replace(
        row,
        status=DAMAGED if trouble else OK,
        reason="; ".join(trouble),
        frames=found.frames,
        fps=round(found.fps, 3),
        width=found.width,
        height=found.height,
        codec=found.codec,
        pixels=found.pixels,
    )


def _digest(path: Path) -> tuple[int, str]:
    """Return the bytes and the SHA-256 of a file, or of all files of a folder with their names."""
    size, digest = 0, hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]:
        digest.update(b"" if file is path else os.fsencode(file.name))
        with file.open("rb") as content:
            while part := content.read(2**20):
                size += len(part)
                digest.update(part)
    return size, digest.hexdigest()


def verify(config: DataConfig, workers: int | None) -> list[VideoRow]:
    """Read every video, write the manifest, a summary by class and a list of what is wrong; return the rows.

    Each video is noted in a journal as soon as it is read, so that a killed verification continues there; a file that
    has changed since is read again.
    """
    root = find_root(config)
    rows = listed(root, config)
    manifest = manifest_path(root, config)
    before = read_manifest(manifest)
    journal = Journal(manifest.with_name(f".{manifest.name}.begun"))
    known = journal.read()
    present = {row.path: row for row in rows if row.status != ABSENT}  # a file may be in both lists
    todo = [row for row in present.values() if row.path not in known or _stamp(root, row) != known[row.path][0]]
    others = ", the others were read before" if len(present) > len(todo) else ""
    say(f"Reading {len(todo)} of {len(present)} videos in {root}{others}")

    paths = [str(root / path) for path in present]

    def read(row: VideoRow) -> tuple[Stamp, VideoRow]:
        try:
            return patiently(
                lambda: (_stamp(root, row), inspect(root, row, config.limits, raise_lost=True)),
                str(root / row.path),
                paths,
                config.wait_seconds,
            )
        except Lost:  # this video alone
            return _stamp(root, row), inspect(root, row, config.limits)

    for stamp, row in in_parallel(read, todo, workers, "verify"):
        journal.add(stamp, row)
        known[row.path] = (stamp, row)
    # Split, label and class are this listing's: the journal may be that of another listing.
    whole = [
        row if row.status == ABSENT else replace(known[row.path][1], split=row.split, label=row.label, name=row.name)
        for row in rows
    ]
    write_manifest(manifest, whole)
    _write_summary(manifest, whole)
    journal.remove()
    if before and (changed := changes(before, whole)):
        say(
            f"{len(changed)} videos are not as the manifest had them before, first {changed[0]}; "
            f"runs that were begun with it will not go on with this one"
        )
    return whole


def _here(path: str, flags: int) -> int:
    """Open a file, but not one elsewhere that a link in the data set names."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _stamp(root: Path, row: VideoRow) -> Stamp:
    try:
        about = (root / row.path).stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


class Journal:
    """The file of what a verification has read so far, one line per video; the video of a torn line is read again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, tuple[Stamp, VideoRow]]:
        """Return path -> (stamp of the file, row)."""
        known = {}
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else ():
            try:
                stamp, row = json.loads(line)
                known[row["path"]] = (stamp, VideoRow(**row))
            except (ValueError, TypeError, KeyError):
                continue
        return known

    def add(self, stamp: Stamp, row: VideoRow) -> None:
        """Append a line; InputError if it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", opener=_here) as file:
                file.write(f"\n{json.dumps([stamp, asdict(row)])}\n".encode())
        except OSError as error:
            raise InputError(
                f"{self.path}: could not be written ({error.strerror}); data.manifest=FILE puts the manifest elsewhere"
            ) from None

    def remove(self) -> None:
        """Remove the file, when the manifest is written."""
        self.path.unlink(missing_ok=True)


def _write_summary(manifest: Path, rows: Sequence[VideoRow]) -> None:
    by_class: dict[tuple[str, str], list[VideoRow]] = {}
    for row in rows:
        by_class.setdefault((row.split, row.name), []).append(row)
    lines = [
        [split, name, c["listed"], c["listed"] - c[ABSENT], c[OK] + c[DAMAGED]]
        for (split, name), videos in by_class.items()
        for c in [counts(videos)]
    ]
    _write_csv(
        manifest.with_name(f"{manifest.stem}_classes.csv"), ["split", "class", "expected", "present", "readable"], lines
    )
    wrong = [[row.split, row.path, row.name, row.status, row.reason] for row in rows if row.status != OK]
    wrong += [["both", a, "", "same content", f"also {b}"] for a, b in in_both_splits(rows)]
    _write_csv(
        manifest.with_name(f"{manifest.stem}_problems.csv"), ["split", "path", "class", "status", "reason"], wrong
    )


def _write_csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *lines])
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # names as the disk has them


def check_shares(config: DataConfig, rows: Sequence[VideoRow]) -> None:
    """Raise InputError if training would refuse the data set, since too many videos are absent or unreadable."""
    for split in SPLITS:
        of = f"{config.name}, {split} list"
        of_split = [row for row in rows if row.split == split]
        for what, limit in ((ABSENT, "max_absent"), (UNREADABLE, "max_unreadable")):
            names = [row.path for row in of_split if row.status == what]
            allow(of, what, names, len(of_split), getattr(config, limit), f"data.{limit}")


def summary_table(name: str, rows: Sequence[VideoRow]) -> Table:
    """Return a table of the videos by split and status."""
    table = Table(title=f"data {name}")
    shown = {split: counts([row for row in rows if row.split == split]) for split in SPLITS}
    for column in ("split", *shown[SPLITS[0]]):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, found in shown.items():
        table.add_row(split, *map(str, found.values()))
    return table
