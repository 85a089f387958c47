"""What a run and a test have in common once they are over: logits, hardware, and what was lacking."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ..files import replacing
from ..progress import say
from ..runs.result import Result
from .module import VideoModule

MEANS = {
    "absent": "Videos of the lists that are not there, and stand in no figure",
    "unreadable": "Videos that could not be read, drawn anew in training and wrong in the test",
}


def say_lacking(result: Result) -> None:
    """Print how many videos were absent or unreadable, if any."""
    for what in ("absent", "unreadable"):
        counts = {split: n if isinstance(n, int) else len(n) for split, n in result.content.get(what, {}).items()}
        if any(counts.values()):
            say(f"{MEANS[what]}: {', '.join(f'{n} in {split}' for split, n in counts.items() if n)}")


def hardware_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return what a Trainer computes on, for the result."""
    return {
        "device": str(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
    }


def save_logits(module: VideoModule, path: Path) -> tuple[Tensor, Tensor]:
    """Save and return the test's logits (videos, views, num_classes) and labels (videos,), in the order of the list."""
    assert module.tested is not None
    logits, labels = module.tested
    if module.trainer.is_global_zero:
        with replacing(path) as file:
            torch.save({"logits": logits, "labels": labels, "views": str(module.views)}, file)
    return logits, labels
