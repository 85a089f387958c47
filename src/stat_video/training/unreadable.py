"""Name and count the videos that could not be read; end the run if they are too many."""

from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from ..data.dataset import Sample
from ..errors import InputError


class UnreadableVideos(Callback):
    """Collects the paths of unreadable videos.

    Raises InputError if more than a share ``limit`` of the ``train_videos`` can't be read: on one device at once, on
    several at the end of the epoch, when the ranks have told each other.
    """

    def __init__(self, train_videos: int, limit: float) -> None:
        self.train_videos, self.limit = train_videos, limit
        self.paths: dict[str, set[str]] = {"train": set(), "val": set()}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Sample, _: int
    ) -> None:
        """Note the unreadable videos of a batch."""
        if self._note("train", batch) and trainer.world_size == 1:
            self._check()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, o: Any, batch: Sample, *_: Any
    ) -> None:
        """Note the unreadable videos of a batch."""
        self._note("val", batch)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, batch: Sample, *_: Any) -> None:
        """Note the unreadable videos of a batch."""
        self._note("val", batch)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Share the paths between ranks and check the limit, so that all ranks stop or none."""
        self._gather(trainer)
        self._check()

    def result(self, trainer: Trainer) -> dict[str, list[str]]:
        """Return {'train', 'val'}: sorted paths of all ranks. A collective: all ranks call it."""
        self._gather(trainer)
        return {split: sorted(paths) for split, paths in self.paths.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the paths for the checkpoint, so that a resumed run reports those, too."""
        return {split: sorted(paths) for split, paths in self.paths.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the paths from a checkpoint."""
        self.paths = {split: set(paths) for split, paths in state_dict.items()}

    def _note(self, split: str, batch: Sample) -> bool:
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
