"""What a run and a test have in common once they are over: logits, hardware, and what was lacking."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from scipy.stats import binom
from torch import Tensor

from ..data.lists import below, find_root
from ..data.modules import VideoDataModule
from ..files import replacing
from ..progress import say
from ..runs.identity import hash_of
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


def say_chance(top1: float, labels: Tensor, num_classes: int, init: str | None) -> None:
    """Print that a test's top-1, in percent, may be chance, if it may, and what to try.

    Chance is the larger of 1 / num_classes and the share of the most frequent class among labels (videos,): so many
    correct answers or more come by it with a probability above 5 %.
    """
    number = len(labels)
    chance = max(1 / num_classes, int(labels.bincount().max()) / number)
    if binom.sf(round(top1 / 100 * number) - 1, number, chance) <= 0.05:
        return
    ways = ["a longer run (recipe.epochs)", "another rate (lr)", *(["first weights (init=)"] if init is None else [])]
    say(
        f"The test's top-1, {top1:.1f} % of {number} videos, may be chance, which is {100 * chance:.1f} %. Try "
        f"{', '.join(ways)}; `debug=overfit` shows whether the model learns at all"
    )


def hardware_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return what a Trainer computes on, for the result."""
    return {
        "device": str(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
    }


def save_logits(module: VideoModule, data: VideoDataModule, path: Path) -> tuple[Tensor, Tensor]:
    """Save and return the test's logits (videos, views, num_classes) and labels (videos,), in the order of the list.

    Beside them stand the videos' paths below the data set's folder, and a number of each one's group if there are
    groups (`data.group`): the same name has the same number in any test.
    """
    assert module.tested is not None
    logits, labels = module.tested
    if module.trainer.is_global_zero:
        content = {"logits": logits, "labels": labels, "views": str(module.views), **_videos_of(data)}
        with replacing(path) as file:
            torch.save(content, file)
    return logits, labels


def _videos_of(data: VideoDataModule) -> dict[str, Any]:
    """Return the names of a test's videos and the numbers of their groups, for the file of its logits."""
    root, lists = find_root(data.config), data.check()
    paths = [path for path, _ in lists.videos["val"]]
    found: dict[str, Any] = {"videos": [below(root, path) for path in paths]}
    if all(path in lists.groups for path in paths):
        found["groups"] = torch.tensor([int(hash_of(lists.groups[path]), 16) for path in paths])
    return found
