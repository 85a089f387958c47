"""Lists, finds and counts the videos of a data set; anything wrong is one line before any work."""

import filecmp
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any

from ..errors import InputError, in_a_line
from ..files import named_errors
from ..paths import program
from . import layouts
from .built_in import ensure
from .config import DataConfig
from .layouts.base import Label, Layout, Listing, OtherForm
from .manifest import ABSENT, UNREADABLE, VideoRow, content_hash, manifest_path, read_manifest
from .places import find
from .splits import SPLITS

if TYPE_CHECKING:
    from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

COMPARED = 20_000  # videos of a data set without a manifest, up to which copies are looked for at the start of a run

log = logging.getLogger(__name__)


@dataclass
class Lists:
    """The class names, and for each split the videos that are there and the names of those that are not."""

    classes: list[str]
    videos: dict[str, "LabeledVideoPaths"] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # of `videos`
    absent: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)  # of a video's path, if there are groups (`data.group`)


def layout_of(config: DataConfig) -> Layout:
    """Return the layout that `data.layout` names; InputError if there is none."""
    try:
        return layouts.find(config.layout)
    except ValueError as error:
        raise InputError(str(error)) from None


def numbers_of(label: Label) -> tuple[int, ...]:
    """Return the classes of a video, one or several."""
    return label if isinstance(label, tuple) else (label,)


@named_errors()
def find_root(config: DataConfig) -> Path:
    """Return the folder of the data set, generating a built-in one; InputError names the setting if it is missing."""
    if (root := config.folder) is None:
        raise InputError(
            f"data={config.name}: its folder is not set; name the folder that holds {layout_of(config).about} "
            f"with {config.setting}=FOLDER, or once for all in conf/local.yaml"
        )
    if config.built_in is not None:
        try:
            return ensure(root, config.built_in)
        except OSError as error:  # a full or read-only disk, or a folder with files missing
            raise InputError(f"{config.setting}={config.root}: {error}") from None
    if not root.is_dir():
        if root.exists():
            raise InputError(f"{config.setting}={config.root}: must be a folder, and is a file")
        near = get_close_matches(root.name, [f.name for f in root.parent.iterdir()] if root.parent.is_dir() else [], 1)
        raise InputError(
            f"{config.setting}={config.root}: there is no such folder"
            + (f"; did you mean {root.with_name(near[0])}?" if near else "")
        )
    return root


@named_errors()
def read_listing(root: Path, config: DataConfig) -> Listing:
    """Read the lists below `root` in the form that `config.layout` names."""
    layout = layout_of(config)
    if layout.multi_label != config.multi_label:
        several = str(layout.multi_label).lower()
        raise InputError(f"data.layout={config.layout}: needs data.multi_label={several}, as its lists have labels")
    files = {}
    for key, places in layout.files.items():
        given = getattr(config, key)
        candidates = [root / given] if given else [root / place.format(fold=config.fold) for place in places]
        files[key] = next((file for file in candidates if file.exists()), candidates[0])
    try:
        listing = layout.read(files, config.split)
    except InputError as error:
        if all(file.exists() for file in files.values()) and not isinstance(error, OtherForm):
            raise
        others = ", ".join(name for name in layouts.names() if name != config.layout)
        raise InputError(
            f"{error.line}; {config.setting} names the folder that should hold {layout.about}; "
            f"for another form set data.layout to one of {others}"
        ) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"data.layout={config.layout}: its file raised {in_a_line(error)}") from error
    if (wrong := _not_as_asked(listing)) is not None:
        raise InputError(f"data.layout={config.layout}: its file returned {wrong}")
    listing.files = files
    for twice in (name for name, number in Counter(listing.classes).items() if number > 1):
        raise InputError(f"{files.get('classes', root)}: class {twice!r} stands there twice")
    for odd in (name for name in listing.classes if len(name.splitlines()) != 1 or not _is_text(name)):
        raise InputError(f"{files.get('classes', root)}: class {odd!r}: allowed are names of one line, in UTF-8")
    return listing


def _not_as_asked(listing: Any) -> str | None:
    """Return in which way what a layout has read is no Listing; None if it is one."""
    if not isinstance(listing, Listing):
        return f"a {type(listing).__name__}; must be a Listing"
    for split in SPLITS:
        entries = listing.entries.get(split)
        if not isinstance(entries, list):
            return f"entries[{split!r}] that are a {type(entries).__name__}; must be a list of (video, label)"
        for entry in entries:
            if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)):
                return f"the entry {entry!r:.80} of {split}; must be (video, label)"
            for number in numbers_of(entry[1]):
                if not isinstance(number, int) or not 0 <= number < len(listing.classes):
                    return f"the label {number!r:.40} of {entry[0]!r:.60}; must be 0 to {len(listing.classes) - 1}"
    return None


def _is_text(name: str) -> bool:
    """Return whether a name is UTF-8, as a file's name need not be, and not blank."""
    with suppress(UnicodeEncodeError):
        return bool(name.encode().strip())
    return False


def warn_of_oddities(root: Path, listing: Listing) -> None:
    """Say how the folder is read; count the files in class folders that are no videos, and videos with two labels."""
    for note in listing.notes:
        log.warning("%s", note)
    if listing.others:
        log.warning("%s: %d files are no videos and left out, first %s", root, len(listing.others), listing.others[0])
    if listing.twins:
        log.warning(
            "%s: %d videos differ from another of their class in the ending alone and share its side of the split: %s",
            root,
            len(listing.twins),
            " and ".join(video.name for video in listing.twins[:2]),
        )
    for split, entries in listing.entries.items():
        where = listing.files.get(split, root)
        twice = [name for (name, _), number in Counter(entries).items() if number > 1]
        if twice and split == "train":
            log.warning("%s: %d videos stand there more than once, first %s", where, len(twice), twice[0])
        label_of = dict(entries)
        if torn := list(dict.fromkeys(name for name, label in entries if label_of[name] != label)):
            log.warning("%s: %d videos stand there with two labels, first %s", where, len(torn), torn[0])


def manifest_hash(config: DataConfig) -> str | None:
    """Return a short name of the data set's state, None if it is not there.

    It is a hash of classes, names and labels; if `src/prepare.py` wrote a manifest, a dot and a hash of the files'
    content follow (`runs/run.py: same_data`). Of built-in videos it is the folder's name, whether or not they exist.
    """
    if config.built_in is not None:
        return config.built_in.folder_name
    if (root := config.folder) is None:
        return None
    try:
        listing = read_listing(root, config)
    except InputError:
        return None
    entries = {split: [(below(root, name), label) for name, label in listing.entries[split]] for split in SPLITS}
    listed = hashlib.sha256(repr((listing.classes, entries)).encode()).hexdigest()[:8]
    rows = read_manifest(manifest_path(root, config))
    return f"{listed}.{content_hash(rows)}" if rows else listed


def below(root: Path, path: str | Path) -> str:
    """Return the path relative to `root` if it is below it, else as it is."""
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else str(path)


def read_counts(config: DataConfig) -> tuple[int | None, int | None]:
    """Return the numbers of classes and of training videos, None if the data set is not there; generate nothing."""
    if config.built_in is not None:
        return len(config.built_in.classes), config.built_in.train_videos
    if (root := config.folder) is None:
        return None, None
    try:
        listing = read_listing(root, config)
    except InputError:
        return None, None
    return len(listing.classes), len(listing.entries["train"])


def read_lists(root: Path, config: DataConfig, val_videos: int | None = None, train_videos: int | None = None) -> Lists:
    """Read the class names and both splits; check that no class is empty and that files are as in the manifest.

    InputError if the share of absent videos is above `config.max_absent`, that of empty and unreadable ones above
    `config.max_unreadable`, or that of validation videos which are training videos above `config.max_shared`. A
    validation video that is listed several times with one label is tested once. ``val_videos`` and ``train_videos``
    keep so many, each class its share.
    """
    from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths  # takes two seconds, which a plan need not wait

    listing = read_listing(root, config)
    manifest = {row.path: row for row in read_manifest(manifest_path(root, config))}
    lists = Lists(listing.classes)
    warn_of_oddities(root, listing)
    if len(listing.classes) < 2:
        raise InputError(f"{listing.files.get('classes', root)}: {len(listing.classes)} class; 2 or more are needed")
    counted: dict[str, set[bool]] = {}  # of a split: whether folders of frames stand in it with their number
    trained: dict[tuple[int, int], Path] = {}  # of the training videos
    trained_on: dict[Path, os.stat_result] = {}
    for split in SPLITS:
        entries, of = listing.entries[split], str(listing.files.get(split, f"{root}: {split} list"))
        if split == "val":
            entries = list(dict.fromkeys(entries))
        labels = Counter(number for _, label in entries for number in numbers_of(label))
        # A validation list may leave a class out, but training on a class without a video is a mistake.
        empty = [name for i, name in enumerate(listing.classes) if not labels[i]]
        if empty and split == "train":
            raise InputError(f"{of}: no video of class {', '.join(map(repr, empty[:3]))} ({len(empty)} empty classes)")
        if not entries:
            raise InputError(f"{of}: no video in it")
        places = find(root / config.videos, (name for name, _ in entries), layout_of(config).by_stem)
        there = [(path, label) for name, label in entries if (path := places[name]) is not None]
        lists.groups |= {str(places[name]): listing.groups[name] for name, _ in entries if name in listing.groups}
        about = _about([path for path, _ in there])
        folders = [(name, path) for name, path in places.items() if path is not None and S_ISDIR(about[path].st_mode)]
        counted[split] = {path.name != Path(name).name for name, path in folders}
        _refuse_counts(of, there, about)
        lists.absent[split] = [str(root / config.videos / name) for name, _ in entries if places[name] is None]
        allow(of, "missing", lists.absent[split], len(entries), config.max_absent, "data.max_absent")
        bytes_of = {path: found.st_size for path, found in about.items() if not S_ISDIR(found.st_mode)}
        known = {
            path: manifest.get(below(root, path), manifest.get(name))
            for name, path in places.items()
            if path is not None
        }
        changed = [path for path, row in known.items() if row and not _as_in(row, bytes_of.get(path))]
        if changed:
            raise InputError(
                f"{of}: {len(changed)} videos are not as {manifest_path(root, config)} has them, first {changed[0]}; "
                f"{program('prepare')} do=verify data={config.name} looks at them anew"
            )
        broken = [p for p, _ in there if bytes_of.get(p) == 0 or ((row := known[p]) and row.status == UNREADABLE)]
        allow(of, "empty or unreadable", broken, len(entries), config.max_unreadable, "data.max_unreadable")
        if split == "train":
            trained, trained_on = _by_inode(about), about
        else:
            once = _once(there, about)
            if more := len(listing.entries[split]) - len(entries) + len(there) - len(once):
                log.warning("%s: %d lines name a video that stands there more than once; it is tested once", of, more)
            there = once
            if len(about) + len(trained_on) <= COMPARED and config.built_in is None and not manifest:
                _warn_of_copies(of, config, about, trained_on)
            shared = [path for path in about if _same_file(path, about, trained)]
            allow(of, "training videos too", shared, len(entries), config.max_shared, "data.max_shared")
        if (number := {"val": val_videos, "train": train_videos}[split]) is not None:
            there = _spread(there, number)
        lists.videos[split] = LabeledVideoPaths([(str(path), label) for path, label in there])
        lists.counts[split] = len(there)
    for split, other in (SPLITS, SPLITS[::-1]):
        if counted[split] == {True} and False in counted[other]:
            raise InputError(
                f"{listing.files.get(other, other)}: 'folder number', where the lines of "
                f"{listing.files.get(split, split)} are 'folder frames label': the labels are missing"
            )
    return lists


def videos_of_test(config: DataConfig, labels: Sequence[int], val_videos: int | None) -> list[Path] | None:
    """Return the path of each video of a test whose labels these are, in the order of the test.

    ``config`` and ``val_videos`` are the run's. Generates and checks nothing; a video may be gone since the test. None
    if the lists are those of another test. Raises InputError if there are no lists.
    """
    if config.built_in is not None and config.folder is not None:
        root = config.folder / config.built_in.folder_name
    else:
        root = find_root(config)
    entries = list(dict.fromkeys(read_listing(root, config).entries["val"]))
    places = find(root / config.videos, (name for name, _ in entries), layout_of(config).by_stem)
    about = _about([path for path in places.values() if path is not None])
    every = [(places[name] or root / config.videos / name, label) for name, label in entries]
    for videos in (every, [video for video in every if video[0] in about]):  # those absent then may be absent now
        videos = _once(videos, about)
        videos = videos if val_videos is None else _spread(videos, val_videos)
        if [label for _, label in videos] == list(labels):
            return [path for path, _ in videos]
    return None


def _once(videos: Sequence[tuple[Path, Label]], about: dict[Path, os.stat_result]) -> list[tuple[Path, Label]]:
    """Return each file once that is listed several times with one label, by links or other paths."""
    tested = _by_inode(about)
    first = {path: _same_file(path, about, tested) for path in about}
    return list(dict.fromkeys((first.get(path) or path, label) for path, label in videos))


@named_errors()
def _about(paths: Sequence[Path]) -> dict[Path, os.stat_result]:
    return {path: path.stat() for path in paths}


def _by_inode(about: dict[Path, os.stat_result]) -> dict[tuple[int, int], Path]:
    """Return the first path of each file or folder."""
    return {(found.st_dev, found.st_ino): path for path, found in reversed(about.items())}


def _same_file(path: Path, about: dict[Path, os.stat_result], others: dict[tuple[int, int], Path]) -> Path | None:
    """Return which of the others is the same file: itself, a link to it, a path through '.' or '..'; None: none is."""
    found = about[path]
    other = others.get((found.st_dev, found.st_ino))
    if other is None or other == path:
        return other
    # Some network file systems give several files one number.
    is_hard_link = found.st_nlink > 1 and not S_ISDIR(found.st_mode) and other.stat().st_size == found.st_size
    return other if is_hard_link or os.path.realpath(path) == os.path.realpath(other) else None


def _warn_of_copies(
    of: str, config: DataConfig, about: dict[Path, os.stat_result], trained_on: dict[Path, os.stat_result]
) -> None:
    """Warn of validation videos that have the content of a training video, of which a manifest would know."""
    if copies := _copies(about, trained_on):
        path, other = next(iter(copies.items()))
        log.warning(
            "%s: %d of %d videos are copies of training videos, first %s of %s, and raise the accuracy; "
            "%s do=verify data=%s names them all",
            of, len(copies), len(about), path, other, program("prepare"), config.name,
        )  # fmt: skip


def _copies(about: dict[Path, os.stat_result], trained_on: dict[Path, os.stat_result]) -> dict[Path, Path]:
    """Return the training video that each validation video has the content of, for those that have one's.

    Reads files of equal size only, and in full those that begin alike. One that cannot be read is left out.
    """
    sizes = {found.st_size for found in about.values()}
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for path, found in trained_on.items():
        if found.st_size in sizes and S_ISREG(found.st_mode):
            with suppress(OSError):
                alike.setdefault((found.st_size, _beginning(path)), []).append(path)
    sizes = {size for size, _ in alike}
    copies = {}
    for path, found in about.items():
        if found.st_size in sizes:
            with suppress(OSError):
                others = alike.get((found.st_size, _beginning(path)), ())
                apart = (other for other in others if not os.path.samestat(found, trained_on[other]))
                if other := next((other for other in apart if filecmp.cmp(path, other, shallow=False)), None):
                    copies[path] = other
    return copies


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _refuse_counts(of: str, there: Sequence[tuple[Path, Label]], about: dict[Path, os.stat_result]) -> None:
    """Raise InputError if the labels of folders are the numbers of files in them: the list has no labels."""
    folders = [(path, label) for path, label in there if S_ISDIR(about[path].st_mode)]
    step = max(1, len(folders) // 8)
    sample = folders[::step][:8]
    if len({label for _, label in sample}) > 1 and all(
        sum(not entry.name.startswith(".") for entry in os.scandir(path)) == label for path, label in sample
    ):
        raise InputError(
            f"{of}: the number after each folder is that of its pictures, such as {sample[0][1]} after "
            f"{sample[0][0].name}; the labels are missing: 'folder label' or 'folder frames label' is expected"
        )


def _spread(videos: list[tuple[Path, Label]], number: int) -> list[tuple[Path, Label]]:
    """Return so many videos, or all if there are fewer: each class its share, evenly spread over the list."""
    number = min(number, len(videos))
    by_class = sorted(range(len(videos)), key=lambda i: (videos[i][1], i))
    return [videos[i] for i in sorted(by_class[k * len(videos) // number] for k in range(number))]


def _as_in(row: VideoRow, size: int | None) -> bool:
    """Return whether a video of so many bytes (None: a folder of frames) can be the manifest's."""
    return row.status != ABSENT and (None in (row.bytes, size) or row.bytes == size)


def allow(of: str, what: str, names: Sequence[object], total: int, limit: float, key: str) -> None:
    """Raise InputError if more of a list's videos are missing or broken than is allowed; warn if any is."""
    if not names:
        return
    said = f"{of}: {len(names)} of {total} videos are {what}, first {names[0]}"
    if len(names) > limit * total:
        raise InputError(f"{said}; {key}={limit:g} is the share that is allowed")
    log.warning("%s; %s=%g allows them", said, key, limit)
