"""What of a data set could not be read in training and test: named and counted; too much of it ends the run."""

from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from ..data.dataset import Clip
from ..errors import InputError


class UnreadableVideos(Callback):
    """Collects the paths of unreadable videos.

    InputError where training lacks more than a share ``limit`` of its ``train_videos``: at once on one device, at the
    end of the epoch, when all know of all, on several.
    """

    def __init__(self, train_videos: int, limit: float) -> None:
        self.train_videos, self.limit = train_videos, limit
        self.paths: dict[str, set[str]] = {"train": set(), "val": set()}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Clip, _: int) -> None:
        """Note what the batch lacked."""
        if self._note("train", batch) and trainer.world_size == 1:
            self._check()

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, batch: Clip, *_: Any) -> None:
        """Note what the batch lacked."""
        self._note("val", batch)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, batch: Clip, *_: Any) -> None:
        """Note what the batch lacked."""
        self._note("val", batch)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the ranks' findings together, so that all stop or none."""
        self._gather(trainer)
        self._check()

    def result(self, trainer: Trainer) -> dict[str, list[str]]:
        """{'train', 'val'}: sorted paths, of all ranks; each rank has to ask."""
        self._gather(trainer)
        return {split: sorted(paths) for split, paths in self.paths.items()}

    def state_dict(self) -> dict[str, Any]:
        """Into the checkpoint: a resumed run reports what it met before, too."""
        return {split: sorted(paths) for split, paths in self.paths.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.paths = {split: set(paths) for split, paths in state_dict.items()}

    def _note(self, split: str, batch: Clip) -> bool:
        met = {path for path in batch["unreadable"] if path} - self.paths[split]
        self.paths[split] |= met
        return bool(met)

    def _check(self) -> None:
        lacking = len(self.paths["train"])
        if lacking > self.limit * self.train_videos:
            raise InputError(
                f"{lacking} of {self.train_videos} training videos cannot be read, among them "
                f"{min(self.paths['train'])}; data.max_unreadable={self.limit:g} is the share that is allowed, "
                f"src/prepare.py do=verify lists them all"
            )

    def _gather(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            of_ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(of_ranks, self.paths)
            for split in self.paths:
                self.paths[split] = set().union(*(paths[split] for paths in of_ranks))
