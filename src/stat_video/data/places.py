"""Where the videos of a list are."""

import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..files import named_errors
from .layouts.base import is_video, split_number

log = logging.getLogger(__name__)


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
