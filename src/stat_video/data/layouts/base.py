"""What a layout gives, and how lists are read line by line."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..splits import SPLITS
from ..streams import has_video

VIDEOS = {
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip
_TYPES = MimeTypes()  # the standard library's table of endings, without this machine's
Label = int | tuple[int, ...]  # the number of a class; if a video may have several, all of them in order
Entry = tuple[str, Label]  # (path below the videos' folder, or name without ending if the layout is `by_stem`; label)


class OtherForm(InputError):
    """What a layout looks for is not in the folder."""


@dataclass
class Listing:
    """What the lists of a data set hold, whether or not the videos are there."""

    classes: list[str]
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # the lists themselves
    others: list[Path] = field(default_factory=list)  # files in class folders that are no videos
    twins: list[Path] = field(default_factory=list)  # videos that differ from another of their class in the ending only
    groups: dict[str, str] = field(default_factory=dict)  # of a video's path: what stays on one side of the split
    notes: list[str] = field(default_factory=list)  # how the folder is read, as far as that is to be said


@dataclass(frozen=True)
class Split:
    """How a data set's videos are divided into training and validation where its files leave that open."""

    fold: int = 1  # of several official ones, or of `folds`
    held_out: float = 0.2  # share of each class for validation
    seed: int = 0
    folds: int = 1
    group: str | None = None  # regular expression for what stays on one side


@dataclass(frozen=True)
class Layout:
    """A form of a data set."""

    about: str
    files: Mapping[str, tuple[str, ...]]  # classes, train, val: where each may lie below the root
    read: Callable[[Mapping[str, Path], Split], Listing]  # from these files
    by_stem: bool = False  # the lists hold names instead of paths; the videos lie anywhere below their folder
    multi_label: bool = False  # labels are tuples: a video may have several classes


def is_video(file: Path) -> bool:
    """Return whether a file is a video: by its ending, or, where that says nothing, by a video stream in it."""
    if file.name.startswith("."):
        return False
    if file.suffix.lower() in VIDEOS:
        return True
    kind = _TYPES.guess_type(file.name)[0]
    return kind.startswith("video/") if kind else file.is_file() and has_video(file)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank; InputError if it is missing, not text or empty."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def entry(file: Path, number: int, line: str, classes: int) -> Entry:
    """Read a line `path label`, separated by spaces, a comma or a tab, or MMAction2's `folder frames label`.

    A path may stand in double quotes, as CSV writers put it where it holds a comma.
    """
    path, label = split_number(line)
    if len(path) > 1 and path[0] == path[-1] == '"':
        path = path[1:-1].replace('""', '"')
    if not path or not label:
        raise InputError(f"{file}, line {number}: '{line:.200}' is not 'path label'")
    if label.startswith("-") or len(label) > 9 or int(label) >= classes:
        raise InputError(f"{file}, line {number}: label {label:.20} is outside the class list (0 to {classes - 1})")
    return path, int(label)


def read_lists(files: Mapping[str, Path], read: Callable[[Path, int, str, int], Entry]) -> Listing:
    """Read one class per line, and lists by what reads a line: (file, its number, the line, the number of classes)."""
    classes = read_lines(files["classes"])
    listing = Listing(classes)
    for split in SPLITS:
        lines = enumerate(read_lines(files[split]), 1)
        listing.entries[split] = [read(files[split], i, line, len(classes)) for i, line in lines]
    return listing


def split_number(line: str) -> tuple[str, str]:
    """Return what stands before the last spaces, comma or tab of a line, and the whole number after it; '' if none."""
    head = line.rstrip("0123456789")
    number = line[len(head) :]
    if head.endswith("-"):
        head, number = head[:-1], f"-{number}"
    path = head.rstrip()
    comma = path.endswith(",")
    if not number.strip("-") or not (comma or len(path) < len(head)):
        return line, ""
    return path[: -1 if comma else None].rstrip(), number


def read_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise InputError(
            f"{file}: a folder, where a file is expected; data.layout=folders reads class folders"
        ) from None
    except OSError as error:
        raise InputError(f"{file}: could not be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a UTF-8 text file ({error.reason} at byte {error.start})") from None
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return text


def labelled(file: Path, pairs: Iterable[tuple[str, str]], classes: list[str]) -> list[Entry]:
    """Return (name, class name) pairs as entries; InputError names a class that is not in the list."""
    known = {name: i for i, name in enumerate(classes)}
    entries: list[Entry] = []
    for name, label in pairs:
        if label not in known:
            raise InputError(f"{file}: '{name}' is of class '{label}', which is not among the {len(classes)} classes")
        entries.append((name, known[label]))
    return entries


def recording(video: Path) -> str:
    """Return the name of a video without its container's ending: of a.mp4, a.webm and a folder of frames a it is a."""
    ending = video.suffix.lower()
    is_container = ending in VIDEOS or (_TYPES.guess_type(video.name)[0] or "").startswith("video/")
    return video.name[: -len(ending)] if ending and is_container and not video.is_dir() else video.name


def class_folders(root: Path, others: list[Path]) -> dict[str, list[Path]]:
    """Return the videos in each folder of `root` by its name, sorted; add the files that are none to `others`."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    found = {}
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "@"))):
        files = sorted(file for file in folder.iterdir() if not file.name.startswith((".", "@")))
        found[folder.name] = [file for file in files if file.is_dir() or is_video(file)]
        others += sorted({*files} - {*found[folder.name]})
    if not found:
        raise OtherForm(f"{root}: no class folder in it")
    return found


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from None
