"""Class folders without a split: CLASS/VIDEO, or CLASS/GROUP/VIDEO."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import pvariance

from ...errors import InputError
from ..splits import SPLITS
from . import folders
from .base import Layout, Listing, Split, class_folders, is_video, recording

SPLIT_FOLDERS = {"train", "val", "validation", "valid", "test"}


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read the videos of class folders and divide them; a folder that holds train/ and val/ alone is divided already.

    Without groups and folds a share of each class is held out for validation, at least one video and never the only
    one. Which ones follows from each name and the seed, so that a video that comes later moves few others. Files of one
    name but for the ending are taken for one recording, which is never divided. Neither is a group, of whatever class
    its videos are.
    """
    root = files["train"]
    if (divided := _divided(root)) is not None:
        return divided
    listing = Listing([], {name: [] for name in SPLITS})
    found = {name: _with_group_folders(videos) for name, videos in class_folders(root, listing.others).items()}
    listing.classes = list(found)
    if how.group is None and how.folds == 1 and not any(group for of in found.values() for _, group in of):
        held_out = _share_of_each_class(found, how, listing)
    else:
        held_out = _fold(_groups(root, found, how, listing), how)
    for label, videos in enumerate(found.values()):
        for video, _ in videos:
            listing.entries["val" if video in held_out else "train"].append((str(video), label))
    return listing


def group_of(root: Path, video: Path, expression: str | None) -> str | None:
    """Return the group of a video below `root`, as `read` divides them; None if it is in none."""
    path = video.relative_to(root)
    if expression is not None:
        match = re.search(expression, path.as_posix())
        return None if match is None else match[1] if match.re.groups else match[0]
    return path.parts[1] if len(path.parts) == 3 else None


def _divided(root: Path) -> Listing | None:
    """Return the listing of a folder that holds train/ and val/ alone, else None."""
    names = [f.name for f in root.iterdir() if f.is_dir()] if root.is_dir() else []
    there = {name for name in names if not name.startswith((".", "@"))}
    val = next((name for name in ("val", "validation", "valid", "test") if name in there), None)
    if "train" not in there or val is None or not there <= SPLIT_FOLDERS:
        return None
    listing = folders.read({"train": root / "train", "val": root / val}, Split())
    listing.note = f"{root}: train/ and {val}/ are taken as the split, as data.layout=folders does"
    return listing


def _with_group_folders(videos: Sequence[Path]) -> list[tuple[Path, str | None]]:
    """Return (video, group) of what is in a class folder: a folder in it that holds video files is a group."""
    found: list[tuple[Path, str | None]] = []
    for path in videos:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        of_group = [file for file in inside if is_video(file)]
        found += [(file, path.name) for file in of_group] or [(path, None)]
    return found


def _share_of_each_class(
    found: Mapping[str, Sequence[tuple[Path, str | None]]], how: Split, listing: Listing
) -> set[Path]:
    """Return the videos that are held out, of each class its share."""
    held_out = set[Path]()
    for videos in found.values():
        recordings = _recordings([video for video, _ in videos], listing)
        drawn = sorted(recordings, key=lambda of_one: _draw(how.seed, of_one[0]))
        number = min(max(1, round(how.held_out * len(drawn))), len(drawn) - 1)
        held_out |= {video for of_one in drawn[:number] for video in of_one}
    return held_out


def _recordings(videos: Sequence[Path], listing: Listing) -> list[list[Path]]:
    recordings: dict[str, list[Path]] = {}
    for video in videos:
        recordings.setdefault(recording(video), []).append(video)
    listing.twins += [video for of_one in recordings.values() if len(of_one) > 1 for video in of_one]
    return list(recordings.values())


def _draw(seed: int, video: Path) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed}/{video.parent.name}/{video.name}")).digest()


def _groups(
    root: Path, found: Mapping[str, Sequence[tuple[Path, str | None]]], how: Split, listing: Listing
) -> list[list[tuple[Path, int]]]:
    """Return the (video, class) of each group, by the expression, the third folder level or the recording."""
    groups: dict[object, list[tuple[Path, int]]] = {}
    for label, (name, videos) in enumerate(found.items()):
        if how.group is not None:
            for video, _ in videos:
                if (group := group_of(root, video, how.group)) is None:
                    path = video.relative_to(root)
                    raise InputError(f"data.group={how.group}: does not match {path}; must match each CLASS/VIDEO")
                groups.setdefault(group, []).append((video, label))
            continue
        for of_one in _recordings([video for video, group in videos if group is None], listing):
            groups[name, recording(of_one[0])] = [(video, label) for video in of_one]
        for video, folder in videos:
            if folder is not None:
                groups.setdefault(folder, []).append((video, label))
    return list(groups.values())


def _fold(groups: Sequence[Sequence[tuple[Path, int]]], how: Split) -> set[Path]:
    """Return the videos of fold `how.fold`; of the first one of 1 / held_out if there are no folds.

    Groups, the largest first, go to the fold that keeps the shares of each class in the folds most alike, as in
    scikit-learn's StratifiedGroupKFold.
    """
    folds = how.folds if how.folds > 1 else max(2, round(1 / how.held_out))
    if len(groups) < folds:
        raise InputError(f"data.folds={folds}: {len(groups)} groups of videos; must be as many or more")
    of_class = Counter(label for group in groups for _, label in group)
    counts = [Counter[int]() for _ in range(folds)]
    chosen: list[set[Path]] = [set() for _ in range(folds)]

    def unevenness(fold: int, group: Sequence[tuple[Path, int]]) -> tuple[float, int]:
        added = Counter(label for _, label in group)
        shares = [
            [(count[c] + (added[c] if i == fold else 0)) / number for i, count in enumerate(counts)]
            for c, number in of_class.items()
        ]
        return sum(map(pvariance, shares)), len(chosen[fold])

    drawn = sorted(groups, key=lambda group: min(_draw(how.seed, video) for video, _ in group))
    for group in sorted(drawn, key=len, reverse=True):
        best = min(range(folds), key=lambda fold: unevenness(fold, group))
        counts[best].update(label for _, label in group)
        chosen[best] |= {video for video, _ in group}
    return chosen[how.fold - 1]


LAYOUT = Layout("class folders, without a split", {"train": (".",)}, read)
