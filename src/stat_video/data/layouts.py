"""Reads the forms in which people have Kinetics, Something-Something v2, UCF101 and HMDB51.

Each gives the class names and, for each split, (name of a video, label); `find` then looks for the videos.
"""

import csv
import errno
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import named_errors
from .reader import has_video
from .splits import SPLITS

log = logging.getLogger(__name__)
VIDEOS = {
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip
_TYPES = MimeTypes()  # the standard library's table of endings, without this machine's
Entry = tuple[str, int]  # (path below the videos' folder, or name without ending if the layout is `by_stem`; label)


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


@dataclass(frozen=True)
class Split:
    """How a data set's videos are divided into training and validation where its files leave that open."""

    fold: int = 1  # of several official ones
    held_out: float = 0.2  # share of each class for validation
    seed: int = 0


@dataclass(frozen=True)
class Layout:
    """A form of a data set."""

    about: str
    files: Mapping[str, tuple[str, ...]]  # classes, train, val: where each may lie below the root
    read: Callable[[Mapping[str, Path], "Split"], Listing]  # from these files
    by_stem: bool = False  # the lists hold names instead of paths; the videos lie anywhere below their folder


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
    return [line.strip() for line in _text(file).splitlines() if line.strip()]


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


def _text(file: Path) -> str:
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


def _labelled(file: Path, pairs: Iterable[tuple[str, str]], classes: list[str]) -> list[Entry]:
    """Return (name, class name) pairs as entries; InputError names a class that is not in the list."""
    known = {name: i for i, name in enumerate(classes)}
    entries = []
    for name, label in pairs:
        if label not in known:
            raise InputError(f"{file}: '{name}' is of class '{label}', which is not among the {len(classes)} classes")
        entries.append((name, known[label]))
    return entries


def _lists(files: Mapping[str, Path], how: Split) -> Listing:
    """Read one class per line, and `path label` lists, as SlowFast, MMAction2 and PyTorchVideo do."""
    classes = read_lines(files["classes"])
    listing = Listing(classes)
    for split in SPLITS:
        lines = enumerate(read_lines(files[split]), 1)
        listing.entries[split] = [entry(files[split], i, line, len(classes)) for i, line in lines]
    return listing


def _folders(files: Mapping[str, Path], how: Split) -> Listing:
    """Read train/CLASS/VIDEO and val/CLASS/VIDEO; the classes are the folders of train, sorted by name."""
    listing = Listing([])
    found = {name: _class_folders(files[name], listing.others) for name in SPLITS}
    listing.classes = list(found["train"])
    for name, videos in found.items():
        pairs = [(str(video), label) for label, of_class in videos.items() for video in of_class]
        listing.entries[name] = _labelled(files[name], pairs, listing.classes)
    return listing


def _own(files: Mapping[str, Path], how: Split) -> Listing:
    """Read CLASS/VIDEO; hold a share of each class out for validation, at least one video and never the only one.

    Which ones follows from each name and the seed, so that a video that comes later moves few others. Files of one name
    but for the ending are taken for one recording: they are held out together.
    """
    listing = Listing([], {name: [] for name in SPLITS})
    found = _class_folders(files["train"], listing.others)
    listing.classes = list(found)
    for label, videos in enumerate(found.values()):
        recordings: dict[str, list[Path]] = {}
        for video in videos:
            recordings.setdefault(_recording(video), []).append(video)
        listing.twins += [video for of_one in recordings.values() if len(of_one) > 1 for video in of_one]
        drawn = sorted(
            recordings.values(),
            key=lambda of_one: hashlib.sha256(
                os.fsencode(f"{how.seed}/{of_one[0].parent.name}/{of_one[0].name}")
            ).digest(),
        )
        number = min(max(1, round(how.held_out * len(drawn))), len(drawn) - 1)
        held_out = {video for of_one in drawn[:number] for video in of_one}
        for video in videos:
            listing.entries["val" if video in held_out else "train"].append((str(video), label))
    return listing


def _recording(video: Path) -> str:
    """Return the name of a video without its container's ending: of a.mp4, a.webm and a folder of frames a it is a."""
    ending = video.suffix.lower()
    is_container = ending in VIDEOS or (_TYPES.guess_type(video.name)[0] or "").startswith("video/")
    return video.name[: -len(ending)] if ending and is_container and not video.is_dir() else video.name


def _class_folders(root: Path, others: list[Path]) -> dict[str, list[Path]]:
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


def _kinetics(files: Mapping[str, Path], how: Split) -> Listing:
    """Read the CSVs of DeepMind and CVDF (label, youtube_id, time_start, time_end, split); classes sorted by name."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        table = csv.DictReader(_text(files[split]).splitlines())
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
        listing.entries[split] = _labelled(files[split], rows[split], listing.classes)
    return listing


def _ssv2(files: Mapping[str, Path], how: Split) -> Listing:
    """Read labels.json, train.json and validation.json, or test-answers.csv ('id;template') in place of the last."""
    table = _json(files["classes"])
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
            rows = _json(file)
            with suppress(KeyError, TypeError):
                pairs = [(str(row["id"]), row["template"]) for row in rows]
            if not all(isinstance(template, str) for _, template in pairs):
                raise InputError(f"{file}: not a list of videos with id and template")
        plain = [(name, template.replace("[", "").replace("]", "")) for name, template in pairs]
        listing.entries[split] = _labelled(file, plain, classes)
    return listing


def _ucf101(files: Mapping[str, Path], how: Split) -> Listing:
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
        listing.entries[split] = _labelled(files[split], pairs, listing.classes)
    return listing


def _hmdb51(files: Mapping[str, Path], how: Split) -> Listing:
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


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from None


_SSV2 = "something-something-v2"
LAYOUTS = {
    "lists": Layout(
        "classes.txt, train.csv and val.csv ('path label')",
        {"classes": ("classes.txt",), "train": ("train.csv", "train.txt"), "val": ("val.csv", "val.txt")},
        _lists,
    ),
    "folders": Layout("class folders", {"train": ("train",), "val": ("val", "validation", "test")}, _folders),
    "own": Layout("class folders, without a split", {"train": (".",)}, _own),
    "kinetics": Layout(
        "the official CSVs of Kinetics",
        {
            "train": ("train.csv", "annotations/train.csv"),
            "val": ("val.csv", "validate.csv", "annotations/val.csv", "annotations/validate.csv"),
        },
        _kinetics,
        by_stem=True,
    ),
    "ssv2": Layout(
        "the official JSON files of Something-Something v2",
        {
            "classes": ("labels.json", "labels/labels.json", f"{_SSV2}-labels.json"),
            "train": ("train.json", "labels/train.json", f"{_SSV2}-train.json"),
            "val": ("validation.json", "labels/validation.json", f"{_SSV2}-validation.json"),
        },
        _ssv2,
        by_stem=True,
    ),
    "ucf101": Layout(
        "the official lists of UCF101",
        {
            "classes": ("ucfTrainTestlist/classInd.txt", "classInd.txt"),
            "train": ("ucfTrainTestlist/trainlist{fold:02d}.txt", "trainlist{fold:02d}.txt"),
            "val": ("ucfTrainTestlist/testlist{fold:02d}.txt", "testlist{fold:02d}.txt"),
        },
        _ucf101,
    ),
    "hmdb51": Layout("the official lists of HMDB51", {"classes": ("testTrainMulti_7030_splits", "splits")}, _hmdb51),
}


@named_errors()
def find(folder: Path, names: Iterable[str], by_stem: bool) -> dict[str, Path | None]:
    """Return where each video of a list is, a file or a folder of frames; None if it is not there."""
    if not by_stem:
        return {name: _at(folder, name) for name in names}
    wanted = {name: name.rpartition("/")[2] for name in names}
    index = _index(folder, set(wanted.values()))
    found: dict[str, Path | None] = {}
    for name, stem in wanted.items():
        places = index.get(stem, [])
        # Prefer the folder of the video's class if it lies in several. Kinetics' folders may have '_' for ' '.
        label = _plain(name.rpartition("/")[0])
        found[name] = min(places, key=lambda p: (_plain(p.parent.name) != label, str(p)), default=None)
    return found


def _at(folder: Path, name: str) -> Path | None:
    before, frames = split_number(name)  # MMAction2's 'folder frames label'
    try:
        if (folder / name).exists():
            return folder / name
        return folder / before if frames and (folder / before).is_dir() else None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise  # the disk is not there: nothing is known of the video
        return None


def _warn(error: OSError) -> None:
    log.warning("%s: %s; what is in it counts as absent", error.filename, error.strerror)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _index(folder: Path, stems: set[str]) -> dict[str, list[Path]]:
    """Return the files and folders of frames below `folder` by name without ending; skip what is in such folders."""
    index: dict[str, list[Path]] = {}
    been = {folder.resolve()}  # links are followed, none twice
    for at, folders, files in os.walk(folder, onerror=_warn, followlinks=True):
        folders.sort()
        for name in [f for f in folders if f in stems]:
            index.setdefault(name, []).append(Path(at, name))
            folders.remove(name)
        for link in [Path(at, name) for name in folders if Path(at, name).is_symlink()]:
            if (real := link.resolve()) in been:
                folders.remove(link.name)
            been.add(real)
        for file in sorted(files):
            path = Path(at, file)
            if path.stem in stems and is_video(path):
                index.setdefault(path.stem, []).append(path)
    return index
