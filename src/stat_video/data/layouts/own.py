"""Class folders without a split: CLASS/VIDEO, or CLASS/GROUP/VIDEO."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from statistics import pvariance

from ...errors import InputError
from ..splits import SPLITS
from . import folders
from .base import Layout, Listing, OtherForm, Split, class_folders, is_video, recording

MUST_BE = "must be CLASS/VIDEO or CLASS/GROUP/VIDEO"
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
Groups = Sequence[Sequence[tuple[Path, int]]]  # (video, class) of each group


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read the videos of class folders and divide them; a folder that contains train/ and val/ is divided already.

    Without groups and folds a share of each class is held out for validation: at least one video, and never all. Which
    ones follows from each name and the seed, so that a video that is added later moves few others. Files of one name
    but for the ending are taken for one recording, which is never divided; neither is a group, over all classes.

    InputError if the folder has another form, or if a class cannot be divided.
    """
    root = files["train"]
    if (divided := _divided(root, how)) is not None:
        return divided
    listing = Listing([], {name: [] for name in SPLITS})
    found = _classes(root, listing)
    listing.classes = list(found)
    if not all(found.values()):  # of a class without a video `read_lists` says it
        listing.entries["train"] = [(str(v), i) for i, videos in enumerate(found.values()) for v, _ in videos]
        return listing
    groups = _groups(root, found, how, listing)
    _refuse_undividable(root, listing, groups)
    if how.folds > 1:
        held_out = _fold(groups, how)
    elif listing.groups:
        held_out = _share_of_groups(groups, how)
    else:
        held_out = _share_of_each_class(groups, how)
    for label, videos in enumerate(found.values()):
        for video, _ in videos:
            listing.entries["val" if video in held_out else "train"].append((str(video), label))
    if unseen := sorted(set(range(len(found))) - {label for _, label in listing.entries["train"]}):
        raise InputError(
            f"{root}: no training video of class {listing.classes[unseen[0]]!r} would be left, as its groups are held "
            "out with others; must be more groups, or another data.seed, data.folds or data.held_out"
        )
    return listing


def _divided(root: Path, how: Split) -> Listing | None:
    """Return the listing of a folder that contains train/ and val/, with class folders below both; else None."""
    names = [f.name for f in _folders(root)]
    val = next((name for name in folders.LAYOUT.files["val"] if name in names), None)
    if not ("train" in names and val) and not all(get_close_matches(n.lower(), SPLIT_NAMES, 1, 0.75) for n in names):
        return None
    of_split = ("train", val) if "train" in names and val else names
    if len(of_split) < 2 or not all(_is_of_folders(root / str(name)) for name in of_split):
        return None
    if "train" not in names or val is None:
        raise OtherForm(
            f"{root}: {_some(names)} look like a split; must be train/ and val/, or named by data.layout=folders "
            f"data.train={names[0]} data.val={names[1]}"
        )
    if how.folds > 1 or how.group is not None:
        key = f"folds={how.folds}" if how.folds > 1 else f"group={how.group}"
        raise InputError(f"data.{key}: {root} contains train/ and {val}/, a split; {MUST_BE}")
    listing = folders.read({"train": root / "train", "val": root / val}, how)
    others = [name for name in names if name not in ("train", val)]
    left_out = f"; {_some(others)} left out" if others else ""
    listing.notes.append(f"{root}: train/ and {val}/ are taken as the split, as data.layout=folders does{left_out}")
    return listing


def _classes(root: Path, listing: Listing) -> dict[str, list[tuple[Path, str | None]]]:
    """Return (video, name of its group folder) of each class; OtherForm if the folders are at another level."""
    loose = [file for file in sorted(root.iterdir()) if is_video(file)] if root.is_dir() else []
    if loose and not _folders(root):
        raise OtherForm(f"{root}: no class folder in it, but {len(loose)} videos, first {loose[0].name}; {MUST_BE}")
    found = {
        name: [pair for path in paths for pair in _of_group_folder(path)]
        for name, paths in class_folders(root, listing.others).items()
    }
    if not any(found.values()):
        first = f", but {listing.others[0].relative_to(root)}" if listing.others else ""
        raise OtherForm(f"{root}: {_some(list(found))} contain no video{first}; {MUST_BE}")
    if len(found) == 1:
        (only,) = found
        inside = [f.name for f in _folders(root / only)]
        higher = f"; if {_some(inside)} are the classes, it is {root / only}" if len(inside) > 1 else ""
        raise OtherForm(f"{root}: 1 class, {only}/; 2 or more are needed{higher}")
    if loose:
        listing.notes.append(f"{root}: {len(loose)} videos in no class folder are left out, first {loose[0].name}")
    return found


def _of_group_folder(path: Path) -> list[tuple[Path, str | None]]:
    """Return (video, group) of what is in a class folder: a folder that contains video files is a group of them."""
    if not path.is_dir():
        return [(path, None)]
    inside = sorted(file for file in path.iterdir() if not file.name.startswith((".", "@")))
    if videos := [file for file in inside if is_video(file)]:
        return [(file, path.name) for file in videos]
    if inside and all(file.is_dir() for file in inside):
        raise OtherForm(f"{path}: contains folders ({inside[0].name}/) and no video; {MUST_BE}")
    return [(path, None)]  # of pictures


def _folders(path: Path) -> list[Path]:
    there = path.iterdir() if path.is_dir() else ()
    return sorted(f for f in there if f.is_dir() and not f.name.startswith((".", "@")))


def _is_of_folders(path: Path) -> bool:
    return bool(_folders(path)) and not any(is_video(file) for file in path.iterdir() if file.is_file())


def _some(names: Sequence[str]) -> str:
    return " and ".join(f"{name}/" for name in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _groups(root: Path, found: Mapping[str, Sequence[tuple[Path, str | None]]], how: Split, listing: Listing) -> Groups:
    """Return the groups: by the expression, the third folder level or the recording; note named ones in the listing."""
    groups: dict[tuple[str, ...], list[tuple[Path, int]]] = {}
    for label, (name, videos) in enumerate(found.items()):
        recordings = Counter(recording(video) for video, group in videos if group is None)
        for video, folder in videos:
            group = folder if how.group is None else _matched(how.group, video.relative_to(root / name))
            if group is not None:
                listing.groups[str(video)] = group
            elif recordings[recording(video)] > 1:
                listing.twins.append(video)
            key = (group,) if group is not None else (name, recording(video))
            groups.setdefault(key, []).append((video, label))
    if named := len(set(listing.groups.values())):
        by = "the third folder level" if how.group is None else f"data.group={how.group}"
        listing.notes.append(f"{root}: {named} groups by {by}; the videos of a group stay on one side of the split")
    return list(groups.values())


def _matched(expression: str, path: Path) -> str:
    """Return what names the group of a video, whose path is relative to its class folder."""
    match = re.search(expression, path.as_posix())
    name: str | None = match and (match[1] if match.re.groups else match[0])
    if name is None:
        raise InputError(f"data.group={expression}: does not match {path}; must match the path of each video")
    return name


def _refuse_undividable(root: Path, listing: Listing, groups: Groups) -> None:
    """Raise InputError if a class has one video, or videos of one group alone."""
    number = Counter(label for group in groups for label in _labels(group))
    if not (alone := [label for label in range(len(listing.classes)) if number[label] < 2]):
        return
    name, one = listing.classes[alone[0]], [v for group in groups for v, label in group if label == alone[0]]
    has = f"{len(one)} videos of one group" if str(one[0]) in listing.groups and len(one) > 1 else "1 video"
    what = "groups" if listing.groups else "videos"
    raise InputError(
        f"{root}: class {name!r} has {has} ({len(alone)} such classes); 2 or more {what} are needed, to train on and "
        "for validation"
    )


def _labels(group: Iterable[tuple[Path, int]]) -> set[int]:
    return {label for _, label in group}


def _drawn(groups: Groups, seed: int) -> Groups:
    """Return groups in the order of the draw."""
    return sorted(groups, key=lambda group: min(_draw(seed, video) for video, _ in group))


def _draw(seed: int, video: Path) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed}/{video.parent.name}/{video.name}")).digest()


def _share_of_each_class(groups: Groups, how: Split) -> set[Path]:
    """Return the videos that are held out of groups of one recording each: of each class its share."""
    of_class: dict[int, list[Sequence[tuple[Path, int]]]] = {}
    for group in groups:
        of_class.setdefault(group[0][1], []).append(group)
    held_out = set[Path]()
    for recordings in of_class.values():
        drawn = sorted(recordings, key=lambda of_one: _draw(how.seed, of_one[0][0]))
        number = min(max(1, round(how.held_out * len(drawn))), len(drawn) - 1)
        held_out |= {video for of_one in drawn[:number] for video, _ in of_one}
    return held_out


def _share_of_groups(groups: Groups, how: Split) -> set[Path]:
    """Return the videos of the groups that are held out.

    In the order of the draw each group is, if that brings the shares of its classes closer to `held_out` and leaves a
    training video of each; a class without a validation video counts as one that is further off than any other.
    """
    number = Counter(label for group in groups for _, label in group)
    held, held_out = Counter[int](), set[Path]()

    def off(label: int, videos: int) -> float:
        return abs(videos / number[label] - how.held_out) if videos else 1.0

    for group in _drawn(groups, how.seed):
        added = Counter(label for _, label in group)
        change = sum(off(label, held[label] + n) - off(label, held[label]) for label, n in added.items())
        if change < 0 and all(held[label] + n < number[label] for label, n in added.items()):
            held += added
            held_out |= {video for video, _ in group}
    return held_out


def _fold(groups: Groups, how: Split) -> set[Path]:
    """Return the videos of fold `how.fold`.

    Groups, the largest first, go to the fold that keeps the shares of each class in the folds most alike, as in
    scikit-learn's StratifiedGroupKFold. Classes that a group has no video of do not change with it.
    """
    if len(groups) < how.folds:
        raise InputError(f"data.folds={how.folds}: must be {len(groups)} or fewer, as many as there are groups")
    of_class = Counter(label for group in groups for _, label in group)
    counts = [Counter[int]() for _ in range(how.folds)]
    chosen: list[set[Path]] = [set() for _ in range(how.folds)]

    def unevenness(fold: int, group: Sequence[tuple[Path, int]]) -> tuple[float, int]:
        added = Counter(label for _, label in group)
        shares = [
            [(count[c] + (n if i == fold else 0)) / of_class[c] for i, count in enumerate(counts)]
            for c, n in added.items()
        ]
        return sum(map(pvariance, shares)), len(chosen[fold])

    for group in sorted(_drawn(groups, how.seed), key=len, reverse=True):
        best = min(range(how.folds), key=lambda fold: unevenness(fold, group))
        counts[best].update(label for _, label in group)
        chosen[best] |= {video for video, _ in group}
    return chosen[how.fold - 1]


LAYOUT = Layout("class folders, without a split", {"train": (".",)}, read)
