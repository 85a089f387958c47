"""The videos of a test: their names and frames, as far as the data set is still on this machine."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from omegaconf.errors import OmegaConfBaseException

from ..config import Folders, from_plain
from ..data.config import DataConfig
from ..data.lists import manifest_hash, read_listing, videos_of_test
from ..data.reader import READ_ERRORS, PathHandler
from ..errors import InputError, printable
from ..runs.identity import updated
from ..runs.run import same_data
from ..training.checkpoint import read_checkpoint
from .collect import FoundRun

Frame = npt.NDArray[np.uint8]  # (H, W, 3)


class Videos:
    """Finds the videos of tests below the folders that runs name, or else below those of this machine."""

    def __init__(self, folders: Folders | None = None) -> None:
        """``folders``: of this machine; None: those of the runs alone."""
        self.folders = folders
        self._found: dict[str, list[Path] | str] = {}

    def classes(self, run: FoundRun, number: int) -> list[str]:
        """Return the names of so many classes: of the data set, else of the checkpoint, else 'class 17'."""
        with suppress(InputError):
            data = self._data(run)
            names = data.built_in.classes if data.built_in else read_listing(Path(str(data.root)), data).classes
            if len(names) == number:
                return [printable(name) for name in names]
        with suppress(InputError):
            names = (
                run.content.get("classes")
                or read_checkpoint(run.folder / str(run.content.get("checkpoint", "last.ckpt"))).classes
            )
            if len(names) == number:
                return [printable(name) for name in names]
        return [f"class {i}" for i in range(number)]

    def tested(self, run: FoundRun, labels: Sequence[int]) -> list[Path] | str:
        """Return the path of each video of a run's test, which had these labels; a text says why they are unknown."""
        if run.folds:
            of_folds = [self.tested(fold, fold.logits()[1].tolist()) for fold in run.folds]
            unknown = next((found for found in of_folds if isinstance(found, str)), None)
            return unknown or [video for found in of_folds for video in found if isinstance(video, Path)]
        recipe = run.config["recipe"]
        key = json.dumps([run.config["data"], recipe.get("val_videos"), run.content.get("manifest")])
        if key not in self._found:
            self._found[key] = self._tested(run, labels, recipe.get("val_videos"))
        return self._found[key]

    def _tested(self, run: FoundRun, labels: Sequence[int], val_videos: int | None) -> list[Path] | str:
        name = run.config["data"].get("name")
        try:
            data = self._data(run)
            if not same_data(manifest_hash(data), run.content.get("manifest")):
                return f"the data set {name} has changed since the test"
            return videos_of_test(data, labels, val_videos) or f"the lists of {name} are not those of the test"
        except InputError:  # its line has folders of this machine, which are no part of a report
            return f"the data set {name} is not on this machine"

    def _data(self, run: FoundRun) -> DataConfig:
        """Return the config of a run's data set with a folder that is there; raise InputError if none is."""
        try:
            data: DataConfig = from_plain(updated(run.config)["data"], DataConfig)
        except (OmegaConfBaseException, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{run.folder}: its data set is of another version") from error
        here = getattr(self.folders, data.setting.removeprefix("folders."), None)
        for root in filter(None, (data.root, here)):
            folder = Path(root).expanduser() / (data.built_in.folder_name if data.built_in else "")
            if folder.is_dir():
                return replace(data, root=str(root))
        if data.built_in:  # its classes and state are known without its videos
            return replace(data, root=None)
        raise InputError(f"data={data.name}: its folder is not there")


def middle_frame(video: Path) -> Frame | None:
    """Return the frame in the middle of a video, None if it can't be read."""
    try:
        frames = PathHandler().video_from_path(str(video)).frames(lambda n: [n // 2])
    except READ_ERRORS:
        return None
    frame: Frame = frames[0].numpy()
    return frame


def name_of(video: Path, count: int = 2) -> str:
    """Return the last parts of a video's path, its class's folder among them: 'val/000003.mp4'."""
    return printable("/".join(video.parts[-count:]))
