"""Which clips of an optimizer step are mixed with which, where a device computes the step in several passes.

MixUp and CutMix mix the clips of a batch. The batch is a device's share of the step, so what is mixed does not depend
on how many clips fit into a pass: each pass comes with the partners of its clips, from any pass of the step.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from .sample import Sample


def seed_of_step(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return the seed of what a device draws once for a step of an epoch."""
    (drawn,) = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64).tolist()
    return int(drawn)


def partners(clips: int, seed: int) -> list[int]:
    """Return the partner of each of so many clips: those before them in a random order, as in a ring."""
    order = np.random.default_rng(seed).permutation(clips)
    found = np.empty(clips, dtype=int)
    found[order] = np.roll(order, 1)
    return [int(i) for i in found]


def with_partners(batches: Iterator[list[Sample]], passes: int, seeds: Iterator[int]) -> Iterator[list[Sample]]:
    """Yield the parts of each pass, then one part with the partners of its clips; the passes of a step come at once.

    ``seeds``: that of each step. An incomplete last step is left out.
    """
    for seed in seeds:
        step = [[_copied(part) for part in parts] for parts in islice(batches, passes)]
        if len(step) < passes:
            return
        places = [(part, i) for parts in step for part in parts for i in range(len(part["label"]))]
        chosen = iter(partners(len(places), seed))
        for parts in step:
            own = sum(len(part["label"]) for part in parts)
            yield [*parts, _gathered([places[n] for n in islice(chosen, own)])]


def _copied(part: Sample) -> Sample:
    """Return a part without shared memory of data workers, each tensor of which keeps a file open."""
    values = {k: v.clone() if torch.is_tensor(v) and v.is_shared() else v for k, v in part.items()}
    return values  # type: ignore[return-value]


def _gathered(places: Sequence[tuple[Sample, int]]) -> Sample:
    """Return a part that is made of single clips of other parts, in pinned memory if they are."""
    values: dict[str, Any] = {}
    for key in places[0][0]:
        of = [part[key][i] for part, i in places]  # type: ignore[literal-required]
        if torch.is_tensor(of[0]):
            pinned = places[0][0][key].is_pinned()  # type: ignore[literal-required]
            stacked = torch.stack(of)
            of = stacked.pin_memory() if pinned else stacked  # type: ignore[assignment]
        values[key] = of
    return values  # type: ignore[return-value]
