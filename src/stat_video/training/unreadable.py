"""Name and count the videos that could not be read; end the run if they are too many."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from ..data.sample import Sample
from ..data.storage import OnAllRanks
from ..paths import program

NAMES = {"train": "training", "val": "validation"}


class UnreadableVideos(Callback):
    """Collects the paths of unreadable videos of each split, in training, validation and test.

    Raises OnAllRanks if more than a share ``limit`` of the videos of a split cannot be read: on one device at once, on
    several at the end of the epoch, validation or test, when the ranks have exchanged their paths. So a run over the
    limit has no result.
    """

    def __init__(self, videos: Mapping[str, int], limit: float, key: str = "data.max_unreadable") -> None:
        """``videos``: their number in each split; ``key``: the name of ``limit``, for the message."""
        self.videos, self.limit, self.key = videos, limit, key
        self.paths: dict[str, set[str]] = {"train": set(), "val": set()}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Sample, _: int
    ) -> None:
        """Note the unreadable videos of a batch."""
        self._note(trainer, "train", batch)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, o: Any, batch: Sample, *_: Any
    ) -> None:
        """Note the unreadable videos of a batch."""
        self._note(trainer, "val", batch)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, batch: Sample, *_: Any) -> None:
        """Note the unreadable videos of a batch."""
        self._note(trainer, "val", batch)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Share the paths between ranks and check the limit, so that all ranks stop or none."""
        self._gather(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Share the paths between ranks and check the limit, before anything is logged of the validation."""
        self._gather(trainer)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Share the paths between ranks and check the limit, before the test has a result."""
        self._gather(trainer)

    def result(self) -> dict[str, list[str]]:
        """Return {'train', 'val'}: sorted paths, of all ranks after an epoch, validation or test."""
        return {split: sorted(paths) for split, paths in self.paths.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the paths for the checkpoint, so that a resumed run reports those, too."""
        return self.result()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the paths from a checkpoint."""
        self.paths = {split: set(paths) for split, paths in state_dict.items()}

    def _note(self, trainer: Trainer, split: str, batch: Sample) -> None:
        met = {path for path in batch["unreadable"] if path} - self.paths[split]
        self.paths[split] |= met
        if met and trainer.world_size == 1:
            self._check()

    def _check(self) -> None:
        for split, paths in self.paths.items():
            if len(paths) > self.limit * self.videos[split]:
                raise OnAllRanks(
                    f"{len(paths)} of {self.videos[split]} {NAMES[split]} videos cannot be read, among them "
                    f"{min(paths)}; {self.key}={self.limit:g} is the share that is allowed, "
                    f"{program('prepare')} do=verify lists them all"
                )

    def _gather(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            of_ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(of_ranks, self.paths)
            for split in self.paths:
                self.paths[split] = set().union(*(paths[split] for paths in of_ranks))
        self._check()


@contextmanager
def said_once(trainer: Trainer) -> Iterator[None]:
    """End all ranks but the first without a line, exit code 2, if all of them raise the same error."""
    try:
        yield
    except OnAllRanks:
        if not trainer.is_global_zero:
            raise SystemExit(2) from None
        raise
