"""What `src/cost.py` is told: the keys of `src/train.py`, and the hardware."""

from dataclasses import dataclass

from ..config import WeightsConfig
from ..errors import InputError, check_ranges, one_of, path, ranged
from .gpus import find_gpu

SYSTEMS_IN = (6, 7)  # tables of the paper that print other systems' GFLOPs


@dataclass
class Hardware:
    """On what a training would run, and what is assumed if nothing is measured."""

    gpu: str = "A100-80GB"  # a name of conf/gpus.yaml
    share: float | None = ranged(None, 0, 1, above=True)  # of the GPU's peak that training reaches; null: `measured`
    measured: str | None = path()  # check-gpu's file; null: that below the logs. Else the GPU's own share, an estimate
    gpus: list[int] = ranged([1, 8, 64], 1)  # numbers of them to show; speed grows with them
    clip_ms: float | None = ranged(None, 0)  # of one core, to read and augment a clip; null: as measured, clip_ms()
    video_mb: float | None = ranged(None, 0)  # size of a video's file, MB

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.gpus:
            raise InputError("gpus=[]: a list of numbers from 1 on is allowed")
        find_gpu(self.gpu)


@dataclass
class CostConfig(Hardware, WeightsConfig):
    """Everything that `src/cost.py` is told."""

    table: int | None = one_of(None, SYSTEMS_IN)  # show that table of the paper, other systems' GFLOPs beside ours

    def __post_init__(self) -> None:
        WeightsConfig.__post_init__(self)
        Hardware.__post_init__(self)
        find_gpu(self.gpu).kind(self.trainer.precision)
