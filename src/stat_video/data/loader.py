"""Loads batches in parts, so that several data workers make one batch, and says what they hold in shared memory.

A worker that made a whole batch of 64 clips would need seconds for an epoch's first one, while the others make the next
ones; and each of them would hold its batches in shared memory.
"""

import gc
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..errors import InputError
from .dataset import ClipDataset
from .partners import with_partners
from .sample import Sample
from .storage import (
    ALONE,
    ALONE_IN_ALL,
    GONE,
    POLL,
    READY,
    STOP,
    WAIT,
    Lost,
    OnAllRanks,
    Ranks,
    Wait,
    gone,
)

log = logging.getLogger(__name__)
PART = 8  # clips of a part
SHARED = Path("/dev/shm")  # where data workers leave clips for the training process
MIB = 2**20


class Parts(Sampler[list[Any]]):
    """Cuts the batches of a sampler into parts of at most ``part`` requests; `len` is the number of batches."""

    def __init__(self, sampler: Any, batch_size: int, part: int, drop_last: bool) -> None:
        """``drop_last`` leaves out an incomplete last batch."""
        self.sampler, self.batch_size, self.part, self.drop_last = sampler, batch_size, part, drop_last

    def __len__(self) -> int:
        batches = len(self.sampler) / self.batch_size
        return int(batches) if self.drop_last else ceil(batches)

    def __iter__(self) -> Iterator[list[Any]]:
        requests = iter(self.sampler)
        while batch := list(islice(requests, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield from (batch[first : first + self.part] for first in range(0, len(batch), self.part))


@dataclass
class Missing:
    """A part that could not be read, in the place of the part: the process that trains decides what is done."""

    requests: Sequence[Any]
    reason: str
    video: str | None  # that the disk does not return; None: reading the part again would not help


class Attempts(Dataset[Sample]):
    """A ClipDataset, of which a part that cannot be read comes as `Missing`: no data worker may end the run alone."""

    def __init__(self, data: ClipDataset) -> None:
        self.data, self.videos = data, data.videos

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, request: Any) -> Sample:
        return self.data[request]

    def __getitems__(self, requests: Sequence[Any]) -> list[Sample] | list[Missing]:
        """Return the items of a part, or one `Missing`."""
        try:
            return self.data.__getitems__(requests)
        except Lost as error:
            return [Missing(requests, error.line, error.video)]
        except InputError as error:
            return [Missing(requests, error.line, None)]


def collated(items: list[Sample] | list[Missing]) -> Sample | Missing:
    """Return the part that items make."""
    return items[0] if isinstance(items[0], Missing) else default_collate(items)


class BatchLoader(DataLoader[Sample]):
    """Yields batches as lists of parts, which `joined` puts together once they are on the device.

    A video that the disk does not return is waited for here, in the process that trains and on all ranks: signals are
    answered meanwhile, and the workers' order is kept. Raises OnAllRanks on all of them if one has to end.
    """

    def __init__(
        self,
        data: ClipDataset,
        sampler: Any,
        batch_size: int,
        *,
        drop_last: bool,
        repeats: int = 1,
        workers: int = 0,
        wait: "Waiting | None" = None,
        most: int = 0,
        mixed: int = 1,
        **how: Any,
    ) -> None:
        """``repeats``: neighbours that the sampler asks for of one video; a part does not divide them.

        ``most``: batches of the rank that has the most, if they differ. ``mixed``: batches of a TrainSampler whose
        clips are mixed with each other; if there are several, each has the partners of its clips as its last part.
        """
        part = part_of(batch_size, repeats)
        self.parts = ceil(batch_size / part)
        self.data, self.wait, self.most, self.mixed = data, wait or Waiting(), most, mixed
        super().__init__(
            Attempts(data),
            collate_fn=collated,
            batch_sampler=Parts(sampler, batch_size, part, drop_last),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=prefetched(self.parts, workers, mixed) if workers else None,
            **how,
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        # Workers are forked now. What is garbage in this process must not be collected in them: an FFmpeg decoder would
        # wait without end for its threads, which a fork does not have.
        gc.freeze()
        try:
            parts = super().__iter__()
        finally:
            gc.unfreeze()
        batches = self._batches(parts)
        sampler = self.batch_sampler.sampler  # type: ignore[union-attr]
        return batches if self.mixed == 1 else with_partners(batches, self.mixed, sampler.seeds_of_steps())

    def _batches(self, parts: Iterator[Any]) -> Iterator[list[Sample]]:
        while batch := list(islice(parts, self.parts)):
            yield self.wait.for_parts(batch, self.data)
        for _ in range(self.most - len(self)):  # take part in what the other ranks agree on for theirs
            self.wait.for_parts([], self.data)


def _nothing() -> None:
    pass


class Waiting:
    """Waits for lost videos, with all ranks, until they are back, the time is over or a signal asks to stop."""

    def __init__(self, seconds: float = 0.0, ranks: Ranks | None = None) -> None:
        """``seconds``: how long to wait if the disk is gone."""
        self.seconds, self.ranks = seconds, ranks or Ranks(1)
        self.alone_left = ALONE_IN_ALL
        self.stopping: Callable[[], bool] = lambda: False  # whether a signal has asked this process to stop
        self.stop: Callable[[], None] = _nothing  # stops it; all ranks call it at once

    def for_parts(self, batch: list[Any], data: ClipDataset) -> list[Sample]:
        """Return the parts of a batch once all can be read on all ranks. A collective."""
        wait: Wait | None = None
        begun, again = time.monotonic(), False
        while True:
            error: OnAllRanks | None = None
            missing = [i for i, part in enumerate(batch) if isinstance(part, Missing)]
            if missing and wait is None:
                wait = Wait([data.videos[i][0] for i in range(len(data))], self.seconds, min(ALONE, self.alone_left))
            if missing and wait and time.monotonic() >= wait.due:
                for i in missing:
                    batch[i], error = self._read_again(batch[i], data, wait)
                    if error:
                        break
                wait.pause()
                missing = [i for i in missing if isinstance(batch[i], Missing)]
            stopping = (missing or again) and self.stopping()
            agreed = self.ranks.highest(GONE if error else STOP if stopping else WAIT if missing else READY)
            if agreed == READY:
                if again and self.ranks.is_first:
                    log.warning("going on after %.0f s of waiting", time.monotonic() - begun)
                return batch
            if agreed == GONE:
                kind, message = self.ranks.first(error and (type(error), str(error)))
                raise kind(message)
            if not again:
                line = self.ranks.first(wait.line if wait else None)
                if line and self.ranks.is_first:
                    log.warning("%s", line)
            if agreed == STOP:
                self.stop()
            again = True
            if missing:
                time.sleep(POLL)

    def _read_again(self, part: Missing, data: ClipDataset, wait: Wait) -> tuple[Any, OnAllRanks | None]:
        """Read a part again; return it as it is now, and what ends the run."""
        if part.video is None:
            return part, OnAllRanks(part.reason)
        now = collated(Attempts(data).__getitems__(part.requests))
        if not isinstance(now, Missing) or now.video is None or not wait.is_over(now.video, now.reason):
            return now, None
        if wait.disk_gone:
            return now, gone(now.reason, self.seconds)
        self.alone_left = max(0.0, self.alone_left - wait.waited)
        data.given_up.add(now.video)
        return collated(Attempts(data).__getitems__(part.requests)), None


def part_of(batch_size: int, repeats: int = 1) -> int:
    """Return the number of clips of a part: about PART, whole repeats."""
    return min(batch_size, repeats * max(1, PART // repeats))


def prefetched(parts: int, workers: int, mixed: int = 1) -> int:
    """Return how many parts each worker makes ahead, two at least.

    All workers together make those of two batches; of one more than are ``mixed``, where those are needed at once.
    """
    return max(2, ceil((mixed + 1) * parts / workers))


def joined(parts: Sequence[Sample]) -> Sample:
    """Return the batch that parts make, its tensors on their device."""
    if len(parts) == 1:
        return parts[0]
    values = {key: [part[key] for part in parts] for key in parts[0]}  # type: ignore[literal-required]
    return Sample(
        **{  # type: ignore[typeddict-item]
            key: torch.cat(of) if torch.is_tensor(of[0]) else [value for part in of for value in part]
            for key, of in values.items()
        }
    )


def check_shared_memory(
    clip_bytes: int, batch_size: int, repeats: int, workers: int, processes: int, mixed: int = 1
) -> None:
    """Raise InputError if shared memory is too small for what the data workers of all processes of a node hold there.

    That would end in a bus error some steps later. They hold what is made ahead, the batch that is joined and, without
    pinned memory, the one that is trained on.
    """
    if not workers or not SHARED.is_dir():
        return
    part = part_of(batch_size, repeats)
    parts = ceil(batch_size / part)
    ahead = workers * prefetched(parts, workers, mixed)
    needed = processes * (ahead + 2 * parts) * part * clip_bytes
    free = shutil.disk_usage(SHARED).free
    if needed > free:
        raise InputError(
            f"{SHARED} has {free / MIB:,.0f} MiB free, and {processes} x {workers} data workers may hold "
            f"{needed / MIB:,.0f} MiB of clips there: set a smaller trainer.workers or trainer.batch_per_device; in a "
            f"container make it larger (docker run --shm-size={ceil(needed / 2**30)}g)"
        )
