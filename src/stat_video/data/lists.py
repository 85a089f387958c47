"""Lists, finds and counts the videos of a data set; anything wrong is one line before any work."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from ..errors import InputError
from ..files import named_errors
from .built_in import ensure
from .config import DataConfig
from .layouts import LAYOUTS, Listing, OtherForm, find
from .manifest import ABSENT, UNREADABLE, VideoRow, content_hash, manifest_path, read_manifest
from .splits import SPLITS

log = logging.getLogger(__name__)


@dataclass
class Lists:
    """The class names, and for each split the videos that are there and the names of those that are not."""

    classes: list[str]
    videos: dict[str, LabeledVideoPaths] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # of `videos`
    absent: dict[str, list[str]] = field(default_factory=dict)


@named_errors()
def find_root(config: DataConfig) -> Path:
    """Return the folder of the data set, generating a built-in one; InputError names the setting if it is missing."""
    if config.root is None:
        raise InputError(
            f"data={config.name}: its folder is not set; name the folder that holds {LAYOUTS[config.layout].about} "
            f"with {config.setting}=FOLDER, or once for all in conf/local.yaml"
        )
    root = Path(config.root).expanduser()
    if config.built_in is not None:
        try:
            return ensure(root, config.built_in)
        except OSError as error:  # a full or read-only disk, or a folder with files missing
            raise InputError(f"{config.setting}={config.root}: {error}") from None
    if not root.is_dir():
        raise InputError(f"{config.setting}={config.root}: there is no such folder")
    return root


@named_errors()
def read_listing(root: Path, config: DataConfig) -> Listing:
    """Read the lists below `root` in the form that `config.layout` names."""
    layout = LAYOUTS[config.layout]
    files = {}
    for key, places in layout.files.items():
        given = getattr(config, key)
        candidates = [root / place.format(fold=config.fold) for place in ((given,) if given else places)]
        files[key] = next((file for file in candidates if file.exists()), candidates[0])
    try:
        listing = layout.read(files, config.split)
    except InputError as error:
        if all(file.exists() for file in files.values()) and not isinstance(error, OtherForm):
            raise
        others = ", ".join(name for name in LAYOUTS if name != config.layout)
        raise InputError(
            f"{error.line}; {config.setting} names the folder that should hold {layout.about}; "
            f"for another form set data.layout to one of {others}"
        ) from None
    listing.files = files
    for twice in (name for name, number in Counter(listing.classes).items() if number > 1):
        raise InputError(f"{files.get('classes', root)}: class {twice!r} stands there twice")
    for odd in (name for name in listing.classes if len(name.splitlines()) != 1 or not _is_text(name)):
        raise InputError(f"{files.get('classes', root)}: class {odd!r}: allowed are names of one line, in UTF-8")
    return listing


def _is_text(name: str) -> bool:
    """Return whether a name is UTF-8, as a file's name need not be, and not blank."""
    with suppress(UnicodeEncodeError):
        return bool(name.encode().strip())
    return False


def warn_of_oddities(root: Path, listing: Listing) -> None:
    """Count, if there are any, the files in class folders that are no videos, and the videos with two labels."""
    if listing.others:
        log.warning("%s: %d files are no videos and left out, first %s", root, len(listing.others), listing.others[0])
    for split, entries in listing.entries.items():
        label_of = dict(entries)
        if torn := list(dict.fromkeys(name for name, label in entries if label_of[name] != label)):
            where = listing.files.get(split, root)
            log.warning("%s: %d videos stand there with two labels, first %s", where, len(torn), torn[0])


def manifest_hash(config: DataConfig) -> str | None:
    """Return a short name of the data set's state, None if it is not there.

    It is a hash of classes, names and labels; if `src/prepare.py` wrote a manifest, a dot and a hash of the files'
    content follow (`runs/run.py: same_data`). Of built-in videos it is the folder's name, whether or not they exist.
    """
    if config.built_in is not None:
        return config.built_in.folder_name
    if config.root is None:
        return None
    root = Path(config.root).expanduser()
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
    if config.root is None:
        return None, None
    try:
        listing = read_listing(Path(config.root).expanduser(), config)
    except InputError:
        return None, None
    return len(listing.classes), len(listing.entries["train"])


def read_lists(root: Path, config: DataConfig, val_videos: int | None = None) -> Lists:
    """Read the class names and both splits; check that no class is empty and that files are as in the manifest.

    InputError if the share of absent videos is above `config.max_absent`, or that of empty and unreadable ones above
    `config.max_unreadable`. ``val_videos`` keeps so many validation videos, each class its share.
    """
    listing = read_listing(root, config)
    manifest = {row.path: row for row in read_manifest(manifest_path(root, config))}
    lists = Lists(listing.classes)
    warn_of_oddities(root, listing)
    if len(listing.classes) < 2:
        raise InputError(f"{listing.files.get('classes', root)}: {len(listing.classes)} class; 2 or more are needed")
    for split in SPLITS:
        entries, of = listing.entries[split], str(listing.files.get(split, f"{root}: {split} list"))
        labels = Counter(label for _, label in entries)
        # A validation list may leave a class out, but training on a class without a video is a mistake.
        empty = [name for i, name in enumerate(listing.classes) if not labels[i]]
        if empty and split == "train":
            raise InputError(f"{of}: no video of class {', '.join(map(repr, empty[:3]))} ({len(empty)} empty classes)")
        if not entries:
            raise InputError(f"{of}: no video in it")
        places = find(root / config.videos, (name for name, _ in entries), LAYOUTS[config.layout].by_stem)
        there = [(path, label) for name, label in entries if (path := places[name]) is not None]
        lists.absent[split] = [str(root / config.videos / name) for name, _ in entries if places[name] is None]
        allow(of, "missing", lists.absent[split], len(entries), config.max_absent, "data.max_absent")
        bytes_of = {path: path.stat().st_size for path, _ in there if not path.is_dir()}
        known = {
            path: manifest.get(below(root, path), manifest.get(name))
            for name, path in places.items()
            if path is not None
        }
        changed = [path for path, row in known.items() if row and not _as_in(row, bytes_of.get(path))]
        if changed:
            raise InputError(
                f"{of}: {len(changed)} videos are not as {manifest_path(root, config)} has them, first {changed[0]}; "
                f"python src/prepare.py do=verify data={config.name} looks at them anew"
            )
        broken = [p for p, _ in there if bytes_of.get(p) == 0 or ((row := known[p]) and row.status == UNREADABLE)]
        allow(of, "empty or unreadable", broken, len(entries), config.max_unreadable, "data.max_unreadable")
        if split == "val" and val_videos is not None:
            there = _spread(there, val_videos)
        lists.videos[split] = LabeledVideoPaths([(str(path), label) for path, label in there])
        lists.counts[split] = len(there)
    return lists


def _spread(videos: list[tuple[Path, int]], number: int) -> list[tuple[Path, int]]:
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
    log.warning("%s; they are counted in the result", said)
