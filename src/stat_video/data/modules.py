"""LightningDataModules: Kinetics, Something-Something v2 and the built-in motion videos, all read in the same way.

A data set is a folder with a class list (one name a line) and `path label` lists in the form of Kinetics' CSVs.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader

from ..errors import InputError
from .built_in import ensure
from .dataset import Clip, ClipDataset, TrainSampler, ViewSampler
from .motion import MotionConfig
from .probe import ProbeConfig
from .sampling import Views
from .transforms import Augment, Normalize, TrainTransform, ViewTransform


@dataclass
class DataConfig:
    """A data set and how its frames become clips."""

    name: str = "motion"
    root: str | None = None  # folder of the videos and lists
    setting: str = "folders.built_in"  # the key that a user sets to name that folder; for messages
    classes: str = "classes.txt"  # these three relative to root
    train: str = "train.csv"
    val: str = "val.csv"
    short_side: int = 256  # of the frame that views are cropped from, pixels
    mean: float = 0.45  # of the pixels, 0 to 1; SlowFast's and MViT's for Kinetics and SSv2
    std: float = 0.225
    hflip: bool = True  # off where labels name directions
    views: str = "5x1"  # the protocol that the paper tests it with
    class_groups: bool = False  # classes are named 'group: class', and accuracy is reported for each group too
    motion: MotionConfig | None = None  # only data=motion: generated when it is not there
    probe: ProbeConfig | None = None  # only data=probe, likewise

    @property
    def built_in(self) -> MotionConfig | ProbeConfig | None:
        """What to generate, where the data set is one of ours."""
        return self.motion or self.probe

    def __post_init__(self) -> None:
        if not 0 <= self.mean <= 1 or self.std <= 0:
            raise InputError(
                f"data.mean={self.mean}, data.std={self.std}: a mean from 0 to 1 and a std above 0 are allowed"
            )


@dataclass
class Lists:
    """What `check` found: the class names, and the videos of each split."""

    classes: list[str]
    videos: dict[str, LabeledVideoPaths]
    counts: dict[str, int] = field(default_factory=dict)


class VideoDataModule(LightningDataModule):
    """Train, validation (1x1) and test (`views`) loaders over one data set.

    Batches are `Clip`s with uint8 video (B, T, 3, crop, crop); the StatModule normalises on its device.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        T: int,
        crop: int,
        views: Views,
        augment: Augment,
        seed: int,
        repeats: int = 1,
        val_videos: int | None = None,
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.T, self.views, self.seed, self.repeats = config, T, views, seed, repeats
        self.val_videos, self.batch_size, self.workers = val_videos, batch_size, workers
        self.train_transform = TrainTransform(crop, augment, config.hflip)
        self.view_transform = ViewTransform(config.short_side, crop)
        self.normalize = Normalize(config.mean, config.std)
        self.lists: Lists | None = None

    def prepare_data(self) -> None:
        """Generate the built-in videos where they are missing."""
        self.check()

    def check(self) -> Lists:
        """Read class list and lists; raise InputError for what can be known to be wrong before any work."""
        if self.lists is None:
            self.lists = read_lists(find_root(self.config), self.config, self.val_videos)
        return self.lists

    def train_dataloader(self) -> DataLoader[Clip]:
        """Random clips; the last incomplete batch is left out, as all recipes here do."""
        videos = self.check().videos["train"]
        data = ClipDataset(videos, self.T, train=self.train_transform, seed=self.seed)
        sampler = TrainSampler(len(data), seed=self.seed, repeats=self.repeats, **self._ranks())
        if len(sampler) < self.batch_size:
            raise InputError(
                f"{self.config.name}: an epoch of {len(sampler)} training clips a device holds no batch of "
                f"{self.batch_size}; set recipe.batch_size or trainer.batch_per_device"
            )
        return self._loader(data, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Clip]:
        """One centre view of each validation video."""
        return self._view_loader(Views(1, 1))

    def test_dataloader(self) -> DataLoader[Clip]:
        """All views of each validation video."""
        return self._view_loader(self.views)

    def _view_loader(self, views: Views) -> DataLoader[Clip]:
        data = ClipDataset(self.check().videos["val"], self.T, view=self.view_transform, views=views)
        return self._loader(data, ViewSampler(len(data), views, **self._ranks()), drop_last=False)

    def _loader(self, data: ClipDataset, sampler: Any, drop_last: bool) -> DataLoader[Clip]:
        return DataLoader(
            data,
            self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            drop_last=drop_last,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.workers > 0,
        )

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


def find_root(config: DataConfig) -> Path:
    """Folder of the data set; the built-in one is generated. InputError names the setting where it is missing."""
    if config.root is None:
        raise InputError(
            f"data={config.name}: its folder is not set; name the folder that holds {config.classes}, {config.train} "
            f"and {config.val} with {config.setting}=FOLDER, or once for all in conf/local.yaml"
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


def manifest_hash(config: DataConfig) -> str | None:
    """What tells one state of a data set from another: a hash of its class list and lists; None where it is not there.

    Built-in videos follow from their config and the version of their generator, so they need not exist.
    """
    if config.built_in is not None:
        return config.built_in.folder_name
    if config.root is None:
        return None
    root, digest = Path(config.root).expanduser(), hashlib.sha256()
    for name in (config.classes, config.train, config.val):
        try:
            digest.update((root / name).read_bytes() + b"\0")
        except OSError:
            return None
    return digest.hexdigest()[:8]


def read_counts(config: DataConfig) -> tuple[int | None, int | None]:
    """Numbers of classes and of training videos, None where the data set is not there; nothing is generated."""
    if config.built_in is not None:
        return len(config.built_in.classes), config.built_in.train_videos
    if manifest_hash(config) is None:
        return None, None
    root = Path(str(config.root)).expanduser()
    return tuple(len(_lines(root / name, config.setting)) for name in (config.classes, config.train))  # type: ignore[return-value]


def read_lists(root: Path, config: DataConfig, val_videos: int | None = None) -> Lists:
    """Class names and labelled paths of both splits, checked: labels known, no class empty, each file there.

    ``val_videos`` keeps so many validation videos, evenly spread over the list.
    """
    classes = _lines(root / config.classes, config.setting)
    lists = Lists(classes, {})
    for split, name in (("train", config.train), ("val", config.val)):
        file = root / name
        entries = [_entry(file, i, line, len(classes)) for i, line in enumerate(_lines(file, config.setting), 1)]
        labels = Counter(label for _, label in entries)
        # A validation list may leave a class out; training on a class without a single video is a mistake.
        empty = [classes[i] for i in range(len(classes)) if not labels[i]]
        if empty and split == "train":
            raise InputError(
                f"{file}: no video of class {', '.join(map(repr, empty[:3]))} ({len(empty)} empty classes)"
            )
        missing = [path for path, _ in entries if not _has_bytes(root / path)]
        if missing:
            raise InputError(
                f"{file}: {len(missing)} of {len(entries)} videos are missing or empty, first {root / missing[0]}"
            )
        if split == "val" and val_videos is not None:
            keep = min(val_videos, len(entries))
            entries = [entries[i * len(entries) // keep] for i in range(keep)]
        lists.videos[split] = LabeledVideoPaths([(str(root / path), label) for path, label in entries])
        lists.counts[split] = len(entries)
    return lists


def _lines(file: Path, setting: str) -> list[str]:
    if not file.is_file():
        raise InputError(f"{file}: no such file; {setting} names the folder that should hold it")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a UTF-8 text file ({error.reason} at byte {error.start})") from None
    if not lines:
        raise InputError(f"{file}: the file is empty")
    return lines


def _entry(file: Path, number: int, line: str, classes: int) -> tuple[str, int]:
    path, _, label = line.rpartition(" ")
    if not path or not re.fullmatch(r"-?[0-9]+", label):
        raise InputError(f"{file}, line {number}: '{line}' is not 'path label'")
    if not 0 <= int(label) < classes:
        raise InputError(f"{file}, line {number}: label {label} is outside the class list (0 to {classes - 1})")
    return path, int(label)


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
