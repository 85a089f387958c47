"""The LightningDataModule of Kinetics, Something-Something v2 and the rest, and of the built-in videos."""

import signal
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from ..errors import InputError
from .config import DataConfig
from .dataset import Clip, ClipDataset, TrainSampler, ViewSampler
from .lists import Lists, find_root, read_lists
from .reader_torchcodec import require_torchcodec
from .sampling import Views
from .transforms import Augment, Normalize, TrainTransform, ViewTransform


def ignore_signals(worker: int) -> None:
    """Of a data worker: what is sent to all processes of a group is the training's to answer."""
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


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
        step: int | None = None,
        workers: int = 0,
    ) -> None:
        """``batch_size`` clips of a device and pass, ``step`` of an optimizer step: all devices, all passes."""
        super().__init__()
        self.config, self.T, self.views, self.seed, self.repeats = config, T, views, seed, repeats
        self.val_videos, self.batch_size, self.step, self.workers = val_videos, batch_size, step, workers
        self.train_transform = TrainTransform(crop, augment, config.hflip)
        self.view_transform = ViewTransform(config.short_side, crop)
        self.normalize = Normalize(config.mean, config.std)
        self.lists: Lists | None = None
        self.start = (0, 0)  # of a resumed run: its epoch, and the clips of all devices that lie behind in it

    def prepare_data(self) -> None:
        """Generate the built-in videos where they are missing."""
        self.check()

    def check(self) -> Lists:
        """Read class list and lists; raise InputError for what can be known to be wrong before any work."""
        if self.config.reader == "torchcodec":
            require_torchcodec()
        if self.lists is None:
            self.lists = read_lists(find_root(self.config), self.config, self.val_videos)
        return self.lists

    def train_dataloader(self) -> DataLoader[Clip]:
        """Random clips; the last incomplete step is left out, as all recipes here do."""
        videos = self.check().videos["train"]
        data = ClipDataset(videos, self.T, train=self.train_transform, seed=self.seed, reader=self.config.reader)
        ranks = self._ranks()
        start = (self.start[0], self.start[1] // ranks["world_size"])
        how: dict[str, Any] = {"repeats": self.repeats, "step": self.step, "start": start, **ranks}
        sampler = TrainSampler(len(data), seed=self.seed, **how)
        if len(sampler) < self.batch_size:
            raise InputError(
                f"{self.config.name}: an epoch of {len(data) * self.repeats} training clips holds no step of "
                f"{self.step or self.batch_size}; set recipe.batch_size"
            )
        return self._loader(data, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Clip]:
        """One centre view of each validation video."""
        return self._view_loader(Views(1, 1))

    def test_dataloader(self) -> DataLoader[Clip]:
        """All views of each validation video."""
        return self._view_loader(self.views)

    def _view_loader(self, views: Views) -> DataLoader[Clip]:
        videos, reader = self.check().videos["val"], self.config.reader
        data = ClipDataset(videos, self.T, view=self.view_transform, views=views, reader=reader)
        if len(data) * len(views) < self._ranks()["world_size"]:
            raise InputError(
                f"{self.config.name}: {len(data) * len(views)} views of validation videos for "
                f"{self._ranks()['world_size']} devices: each needs one; set recipe.val_videos or trainer.devices"
            )
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
            worker_init_fn=ignore_signals,
        )

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
