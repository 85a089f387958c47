"""What `src/cost.py` is told."""

from dataclasses import dataclass

from ..config import Config
from ..errors import InputError
from .budget import Hardware
from .gpus import find_gpu

PEERS_IN = (6, 7)  # tables of the paper that print other systems' GFLOPs


@dataclass
class CostConfig(Hardware, Config):
    """Everything that `src/cost.py` is told: what `src/train.py` is, and the hardware."""

    table: int | None = None  # the other systems of that table of the paper, in place of a STAT

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        Hardware.__post_init__(self)
        find_gpu(self.gpu).kind(self.trainer.precision)
        if self.table not in (None, *PEERS_IN):
            raise InputError(f"table={self.table}: allowed are {', '.join(map(str, PEERS_IN))}")
