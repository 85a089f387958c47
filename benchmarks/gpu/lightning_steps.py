"""Training steps of the real VideoModule in Lightning's loop, on clips that lie ready: no data set, no workers."""

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback
from torch.utils.data import DataLoader

from stat_video.compose import rows
from stat_video.config import Config
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.hardware import choose_backends, choose_pass_here, lightning_arguments
from stat_video.models.parts.backend import BACKEND
from stat_video.runs.run import Run
from stat_video.training.fit import make_trainer, run_callbacks
from stat_video.training.module import VideoModule
from stat_video.training.saving import Saving

from .measure import FULL, TINY_WORDS, Sizes
from .report import Settings


class Steps:
    """The module and the loop of one run, with the callbacks of `fit` but for the one that writes checkpoints."""

    def __init__(self, settings: Settings, sizes: Sizes, batch: int = 16, words: tuple[str, ...] = ()) -> None:
        cuda, full = torch.cuda.is_available(), sizes is FULL
        told = ["scale=paper"] if full else ["scale=tiny", *TINY_WORDS]
        told += ["logger=off"]
        told += ["trainer=gpu" if cuda else "trainer=cpu", f"recipe.batch_size={batch}", *words]
        told += [f"folders.logs={settings.work / 'steps'}", f"folders.built_in={settings.work / 'data'}"]
        (row,) = rows("train", Config, told)
        self.config = row.config
        choose_backends(self.config.trainer)
        BACKEND.recompute = choose_pass_here(self.config, sizes.classes).recompute
        clip, classes = self.config.clip, [f"class {i}" for i in range(sizes.classes)]
        self.module = VideoModule(
            self.config.build(len(classes)),
            self.config.recipe,
            Normalize(*self.config.normalization),
            classes,
            Views(1, 1),
            asdict(self.config),
        )
        shape = batch, clip.T, 3, clip.crop, clip.crop
        self.batches = [
            {
                "video": torch.randint(256, shape, dtype=torch.uint8),
                "label": torch.randint(len(classes), (batch,)),
                "index": torch.arange(batch),
                "view": torch.zeros(batch, dtype=torch.long),
                "unreadable": [""] * batch,
            }
            for _ in range(2)
        ]
        if cuda:
            for made in self.batches:
                made["video"] = made["video"].pin_memory()
        self.run_of = Run(settings.work / "steps" / "run", "steps")

    def run(self, steps: int, before: Callable[[int], Any] = lambda done: None) -> list[float]:
        """Train for so many steps, calling `before` with the number done; return the ms between their beginnings."""
        begins: list[float] = []

        class Watch(Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                before(len(begins))
                if torch.cuda.is_available():
                    torch.cuda.synchronize() if len(begins) in (0, steps - 1) else None
                begins.append(time.perf_counter())

        callbacks = [c for c in run_callbacks(self.config, self.run_of) if not isinstance(c, Saving)]
        hardware = {**lightning_arguments(self.config.trainer), "logger": False}
        self.config.recipe.max_steps = steps
        self.run_of.folder.mkdir(parents=True, exist_ok=True)
        trainer = make_trainer(self.config, self.run_of, [Watch(), *callbacks], None, hardware, 1)
        trainer.fit(self.module, train_dataloaders=Repeated(self.batches, steps).loader())
        return [1e3 * (b - a) for a, b in pairwise(begins)]


class Repeated(torch.utils.data.Dataset[Any]):
    """The batches over and over."""

    def __init__(self, batches: list[dict[str, Any]], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index % len(self.batches)]

    def loader(self) -> "DataLoader[Any]":
        """Return a loader that hands them on as they are."""
        return DataLoader(self, batch_size=None)
