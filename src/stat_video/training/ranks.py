"""Several processes of one run: before the first step they have to agree on what it is."""

import json
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from ..errors import InputError


class SameOnAllRanks(Callback):
    """Stops all ranks where they have started different runs: other words, another conf/, another state of the data."""

    def __init__(self, about: dict[str, Any]) -> None:
        """``about`` is what has to be the same, in plain containers."""
        self.about = flat(about)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """InputError on the first rank, which says what differs; the others end in silence."""
        if trainer.world_size == 1:
            return
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


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{'recipe': {'lr': 1}} -> {'recipe.lr': '1'}."""
    out: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = json.dumps(value)
    return out
