"""What a checkpoint costs: `python benchmarks/saving.py [tiny|paper] [FOLDER]`; the disk is that of FOLDER.

Weights and AdamW's two moments of the whole model, as a run writes them: beside, hashed, synced, renamed; and the check
of the hash when it is read. Medians of five.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stat_video import grid
from stat_video.training.checkpoint import intact
from stat_video.training.optim import make_optimizer
from stat_video.training.saving import AtomicCheckpointIO

CLASSES = {"tiny": 12, "paper": 400}


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(scale: str = "tiny", folder: str | None = None) -> None:
    """Print one line."""
    from stat_video.model import STAT

    (row, *_) = grid.rows("kinetics", [f"scale={scale}"])
    model = STAT(row.options.stat_config(CLASSES[scale]))
    optimizer = make_optimizer(model, row.options.recipe)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, "last.ckpt")
        write = [seconds(lambda: AtomicCheckpointIO(2).save_checkpoint(content, path)) for _ in range(5)]
        check = [seconds(lambda: intact(path)) for _ in range(5)]
        print(
            f"{scale}: {path.stat().st_size / 2**20:.0f} MB, saved in {statistics.median(write):.2f} s "
            f"({min(write):.2f} to {max(write):.2f}), hash checked in {statistics.median(check):.2f} s"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
