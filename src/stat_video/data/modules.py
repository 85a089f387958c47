"""The LightningDataModule: one for every data set, downloaded or built in."""

import os
import signal
from collections.abc import Sequence
from itertools import islice
from math import ceil
from typing import Any

import torch
from lightning import LightningDataModule

from ..errors import InputError
from ..models.base import Clip
from .augment import Augment
from .config import DataConfig
from .dataset import ClipDataset, TrainSampler, ViewSampler
from .lists import Lists, find_root, read_lists
from .loader import BatchLoader, Waiting, check_shared_memory, joined
from .sample import Sample
from .sampling import Views
from .storage import Ranks
from .transforms import Normalize, TrainTransform, ViewTransform

TERM_SECONDS = 30  # from SIGTERM to the end of a data worker, if the training process does not end it before


def ignore_signals(worker: int) -> None:
    """Ignore SIGINT and SIGUSR1 in a data worker: the training process answers a signal sent to the whole group.

    At SIGTERM, which SLURM sends to all processes of a job, the worker ends only after a while: the training process
    finishes its step and saves, which it can't if it hears that a worker is dead.
    """
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(TERM_SECONDS))


def lower_priority(worker: int) -> None:
    """Give a data worker a lower priority than the model, for a model on the CPU; and `ignore_signals`.

    The model's threads are synchronised after each operator, so a worker that delays one of them delays all.
    """
    ignore_signals(worker)
    os.nice(10)


class VideoDataModule(LightningDataModule):
    """Train, validation (1x1) and test (`views`) loaders over one data set.

    Batches are `Sample`s with uint8 video, (B, T, 3, clip.crop, clip.crop) in training and (B, T, 3, clip.view_crop,
    clip.view_crop) in validation and test; `normalize` makes them the model's input on its device. Loaders
    yield each as a list of parts, which are joined there.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        clip: Clip,
        short_side: int,
        normalization: tuple[Sequence[float], Sequence[float]] | tuple[Sequence[float], Sequence[float], str],
        views: Views,
        augment: Augment,
        seed: int,
        repeats: int = 1,
        share_frames: bool = True,
        val_videos: int | None = None,
        train_videos: int | None = None,
        batch_size: int = 16,
        step: int | None = None,
        mix: bool = False,
        workers: int = 0,
    ) -> None:
        """``short_side``: of the frames that views are cropped from, pixels; ``normalization``: (mean, std) of pixels.

        ``batch_size`` counts the clips of one pass on one device, ``step`` those of an optimizer step: all devices, all
        passes. With ``mix`` the clips of a device's share of a step are mixed, in whatever passes they come.
        """
        super().__init__()
        self.config, self.clip, self.views, self.seed = config, clip, views, seed
        self.repeats, self.share_frames = repeats, share_frames
        self.val_videos, self.train_videos = val_videos, train_videos
        self.batch_size, self.step, self.workers = batch_size, step, workers
        self.mix = mix
        self.augment = augment
        self.view_transform = ViewTransform(short_side, clip.view_crop)
        self.normalize = Normalize(*normalization)
        self.lists: Lists | None = None
        self._waiting: Waiting | None = None
        self.start = (0, 0)  # where a resumed run goes on: (epoch, clips of it that all devices have done)

    def prepare_data(self) -> None:
        """Generate the built-in videos if they are missing."""
        self.check()

    def check(self) -> Lists:
        """Read the class list and the videos' lists; InputError if anything is wrong with them."""
        if self.lists is None:
            self.lists = read_lists(find_root(self.config), self.config, self.val_videos, self.train_videos)
        return self.lists

    def train_dataloader(self) -> BatchLoader:
        """Return random clips; an incomplete last step is left out, as all recipes here do."""
        data, ranks = self._training_clips(), self._ranks()
        start = (self.start[0], self.start[1] // ranks["world_size"])
        sampler = self._training_order(len(data), start=start)
        if len(sampler) < self.batch_size:
            raise InputError(
                f"{self.config.name}: an epoch of {len(data) * self.repeats} training clips holds no step of "
                f"{self.step or self.batch_size}; set recipe.batch_size"
            )
        return self._loader(data, sampler, drop_last=True, repeats=self.repeats, mixed=self.mixed_passes)

    def first_batches(self, epoch: int, batches: int) -> BatchLoader:
        """Return at most so many first batches of an epoch of this rank, without those that theirs are mixed with."""
        data = self._training_clips()
        sampler = self._training_order(len(data))
        sampler.set_epoch(epoch)
        first = list(islice(sampler, batches * self.batch_size))
        return self._loader(data, first, drop_last=True, repeats=self.repeats)

    def _training_clips(self) -> ClipDataset:
        videos = self.check().videos["train"]
        how_read: dict[str, Any] = {
            "limits": self.config.limits,
            "raise_lost": True,
            "share_frames": self.repeats > 1 and self.share_frames,
            "num_classes": len(self.check().classes),
        }
        transform = TrainTransform(self.clip.crop, self.augment, bool(self.config.hflip))
        return ClipDataset(videos, self.clip, train=transform, seed=self.seed, **how_read)

    def _training_order(self, videos: int, start: tuple[int, int] = (0, 0)) -> TrainSampler:
        how: dict[str, Any] = {"repeats": self.repeats, "step": self.step, "start": start, **self._ranks()}
        return TrainSampler(videos, seed=self.seed, **how)

    def val_dataloader(self) -> BatchLoader:
        """Return one centre view of each validation video."""
        return self._view_loader(Views(1, 1))

    def test_dataloader(self) -> BatchLoader:
        """Return all views of each validation video."""
        return self._view_loader(self.views)

    def _view_loader(self, views: Views) -> BatchLoader:
        videos, limits = self.check().videos["val"], self.config.limits
        how: dict[str, Any] = {"limits": limits, "raise_lost": True, "num_classes": len(self.check().classes)}
        data = ClipDataset(videos, self.clip, view=self.view_transform, views=views, **how)
        if len(data) * len(views) < self._ranks()["world_size"]:
            raise InputError(
                f"{self.config.name}: {len(data) * len(views)} views of validation videos for "
                f"{self._ranks()['world_size']} devices: each needs one; set recipe.val_videos or trainer.devices"
            )
        most = ceil(ceil(len(data) * len(views) / self._ranks()["world_size"]) / self.batch_size)
        return self._loader(data, ViewSampler(len(data), views, **self._ranks()), drop_last=False, most=most)

    def _loader(self, data: ClipDataset, sampler: Any, **how: Any) -> BatchLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return BatchLoader(
            data,
            sampler,
            self.batch_size,
            workers=self.workers,
            wait=self.waiting,
            pin_memory=on_cuda,
            worker_init_fn=ignore_signals if on_cuda else lower_priority,
            **how,
        )

    def transfer_batch_to_device(self, batch: list[Sample], device: torch.device, dataloader_idx: int) -> Sample:
        """Move the parts of a batch to the device and join them there."""
        return joined([super(VideoDataModule, self).transfer_batch_to_device(p, device, dataloader_idx) for p in batch])

    @property
    def mixed_passes(self) -> int:
        """Passes of a device whose clips are mixed with each other: all of a step. 1 without mixing.

        If there are several, a batch holds the clips of a pass, then the partner of each.
        """
        return self._mixed_passes(self._ranks()["world_size"])

    def _mixed_passes(self, ranks: int) -> int:
        if not self.mix or self.step is None:
            return 1
        return max(1, self.step // ranks // self.batch_size)

    def check_shared_memory(self, processes: int, ranks: int = 1) -> None:
        """Raise InputError if shared memory is too small for the data workers of so many processes of a node.

        ``ranks``: processes of the run on all nodes, which share a step.
        """
        clip_bytes = 3 * self.clip.T * max(self.clip.crop, self.clip.view_crop) ** 2
        how = (self.batch_size, self.repeats, self.workers, processes)
        check_shared_memory(clip_bytes, *how, mixed=self._mixed_passes(ranks))

    @property
    def waiting(self) -> Waiting:
        """What waits for lost videos, with all ranks; the same for all loaders."""
        if self._waiting is None:
            self._waiting = Waiting(self.config.wait_seconds, Ranks(self._ranks()["world_size"]))
        return self._waiting

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
