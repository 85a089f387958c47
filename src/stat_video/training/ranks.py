"""Check before the first step that all processes of a run have the same config."""

import json
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from ..errors import InputError
from ..runs.differing import flat


class SameOnAllRanks(Callback):
    """Stops all ranks if they have started different runs: with other words, another conf/ or other data."""

    def __init__(self, about: dict[str, Any]) -> None:
        """``about`` is what has to be the same, in plain containers."""
        self.about = {key: json.dumps(value) for key, value in flat(about)}
        self.checked = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Once, raise InputError on the first rank, which says what differs; end the others silently, exit code 2."""
        if trainer.world_size == 1 or self.checked:
            return
        self.checked = True
        of_ranks: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(of_ranks, self.about)
        different = [
            f"{key} is {of_ranks[0].get(key)} on rank 0, {other.get(key)} on rank {rank}"
            for rank, other in enumerate(of_ranks)
            for key in sorted(of_ranks[0].keys() | other.keys())
            if of_ranks[0].get(key) != other.get(key)
        ]
        if different and trainer.global_rank > 0:
            raise SystemExit(2)
        if different:
            more = f" ({len(different) - 3} more)" if len(different) > 3 else ""
            raise InputError(f"the processes of this run have different configs: {'; '.join(different[:3])}{more}")
