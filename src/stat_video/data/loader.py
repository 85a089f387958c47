"""Loads batches in parts, so that several data workers make one batch, and says what they hold in shared memory.

A worker that made a whole batch of 64 clips would need seconds for an epoch's first one, while the others make the next
ones; and each of them would hold its batches in shared memory.
"""

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from ..errors import InputError
from .dataset import ClipDataset, Sample

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


class BatchLoader(DataLoader[Sample]):
    """Yields batches as lists of parts, which `joined` puts together once they are on the device."""

    def __init__(
        self,
        data: ClipDataset,
        sampler: Any,
        batch_size: int,
        *,
        drop_last: bool,
        repeats: int = 1,
        workers: int = 0,
        **how: Any,
    ) -> None:
        """``repeats``: neighbours that the sampler asks for of one video; a part does not divide them."""
        part = part_of(batch_size, repeats)
        self.parts = ceil(batch_size / part)
        super().__init__(
            data,
            batch_sampler=Parts(sampler, batch_size, part, drop_last),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=prefetched(self.parts, workers) if workers else None,
            **how,
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        parts = super().__iter__()
        return iter(lambda: list(islice(parts, self.parts)), [])


def part_of(batch_size: int, repeats: int = 1) -> int:
    """Return the number of clips of a part: about PART, whole repeats."""
    return min(batch_size, repeats * max(1, PART // repeats))


def prefetched(parts: int, workers: int) -> int:
    """Return how many parts each worker makes ahead: those of two batches, all workers together, and two at least."""
    return max(2, ceil(2 * parts / workers))


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


def check_shared_memory(clip_bytes: int, batch_size: int, repeats: int, workers: int, processes: int) -> None:
    """Raise InputError if shared memory is too small for what the data workers of all processes of a node hold there.

    That would end in a bus error some steps later. They hold what is made ahead, the batch that is joined and, without
    pinned memory, the one that is trained on.
    """
    if not workers or not SHARED.is_dir():
        return
    part = part_of(batch_size, repeats)
    parts = ceil(batch_size / part)
    needed = processes * (workers * prefetched(parts, workers) + 2 * parts) * part * clip_bytes
    free = shutil.disk_usage(SHARED).free
    if needed > free:
        raise InputError(
            f"{SHARED} has {free / MIB:,.0f} MiB free, and {processes} x {workers} data workers may hold "
            f"{needed / MIB:,.0f} MiB of clips there: set a smaller trainer.workers or trainer.batch_per_device; in a "
            f"container make it larger (docker run --shm-size={ceil(needed / 2**30)}g)"
        )
