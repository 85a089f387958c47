"""Trains, validates and tests models on fake CUDA in Lightning's own loop; prints a line of JSON for each.

    python tests/fake_cuda_steps.py '{"models": ["tsm"], "words": ["scale=tiny"], "precision": "32-true", "first": ""}'

`first` is Python to run before. The process has to be started with the variables that `fake_cuda.preload` returns. A
model gets all that a run gives it but for files: its recipe's augmentation on the device, mixing, precision, loss,
clipping, optimizer and average, metrics.
"""

import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from fake_cuda import DEVICE, FakeCuda, fake_cuda
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.data.modules import VideoDataModule
from stat_video.data.randaugment import RandAugment
from stat_video.data.sample import Sample
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.runs.run import Run
from stat_video.training.fit import make_trainer, run_callbacks
from stat_video.training.module import VideoModule
from stat_video.training.saving import Saving

CLIPS, PASSES, STEPS = 4, 2, 2  # of a pass; of a step; of a run
CLASSES = [f"class {i}" for i in range(7)]
UNREADABLE = 1  # of the videos of a validation and a test


class NoHardware(CPUAccelerator):
    """Lets Lightning take any device."""

    def setup_device(self, device: torch.device) -> None:
        """Ask nothing of it."""


class OnFakeCuda(SingleDeviceStrategy):
    """One fake device. A model that is there stays: a module can't exchange fake weights for others."""

    def model_to_device(self) -> None:
        """Move the model, if it is not there."""
        assert self.model is not None
        if next(self.model.parameters()).device != DEVICE:
            super().model_to_device()

    def teardown(self) -> None:
        """Leave the model where it is."""


class Data(VideoDataModule):
    """Clips of noise that lie ready, in batches of two parts; no files and no workers."""

    def __init__(self, config: Config) -> None:
        LightningDataModule.__init__(self)
        self.config = config

    def train_dataloader(self) -> Any:
        return self._loader(PASSES * STEPS, CLIPS, self.config.clip.crop, views=1, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(1, CLIPS, self.config.clip.view_crop, views=1)

    def test_dataloader(self) -> Any:
        views = Views.parse(self.config.views)
        return self._loader(views.clips * views.crops, CLIPS, self.config.clip.view_crop, views.clips * views.crops)

    def check(self) -> Any:
        return SimpleNamespace(videos={"train": [(f"video{i}.mp4", 0) for i in range(PASSES * STEPS * CLIPS)]})

    def _loader(self, batches: int, clips: int, size: int, views: int, training: bool = False) -> Any:
        requests = [(i // views, i % views) for i in range(batches * clips)]
        parts = [requests[i : i + clips // 2] for i in range(0, len(requests), clips // 2)]
        whole = [[self._part(part, size, training) for part in parts[i : i + 2]] for i in range(0, len(parts), 2)]
        return DataLoader(Videos(whole), batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def _part(self, requests: list[tuple[int, int]], size: int, training: bool) -> Sample:
        augment, T = self.config.recipe.augment, self.config.clip.T
        part: Any = default_collate(
            [{"label": video % len(CLASSES), "index": video, "view": view} for video, view in requests]
        )
        part["video"] = torch.randint(256, (len(requests), T, 3, size, size), dtype=torch.uint8)
        part["unreadable"] = ["gone.mp4" if not training and video == UNREADABLE else "" for video, _ in requests]
        if training:
            draw = RandAugment(augment.randaugment_ops or 2, 7.0, 0.5).draw
            part["operators"] = [list(draw()) for _ in requests]
        return part


class Steps(VideoModule):
    """Leaves out what an epoch ends in: which videos there were is a question about numbers."""

    def on_validation_epoch_end(self) -> None:
        """Forget the logits."""
        self.val_accuracy.reset()

    def on_test_epoch_end(self) -> None:
        """Forget the logits."""
        self.test_accuracy.reset()


class Videos(torch.utils.data.Dataset[Any]):
    """Batches."""

    def __init__(self, batches: list[list[Sample]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Sample]:
        return self.batches[index]


class Watch(Callback):
    """Notes what a training step leaves, and what it reads of the device."""

    def __init__(self, mode: FakeCuda) -> None:
        self.mode, self.reads, self.before = mode, Counter[str](), 0
        self.no_gradient: list[str] = []
        self.misplaced: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Sample, index: int) -> None:
        self.before = len(self.mode.reads)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Sample, index: int) -> None:
        if index >= PASSES:  # the first step makes the optimizer's state
            self.reads.update(self.mode.reads[self.before :])
        loss = outputs["loss"]
        self._check("loss", [loss])
        assert loss.dtype == torch.float32, loss.dtype

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        named = [(name, p) for name, p in module.model.named_parameters() if p.requires_grad]
        self.no_gradient = [name for name, p in named if p.grad is None]
        self.misplaced |= {name for name, p in named if p.grad is not None and p.grad.dtype != p.dtype}
        self._check("gradient", (p.grad for _, p in named if p.grad is not None))

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self._check("weight", (*module.parameters(), *module.buffers()))
        for optimizer in trainer.optimizers:
            states = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
            self._check("optimizer", states)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                assert callback._average_model is not None
                self._check("averaged weight", callback._average_model.module.parameters())

    def _check(self, what: str, tensors: Iterable[Tensor]) -> None:
        self.misplaced |= {f"{what} on {x.device}" for x in tensors if x.device != DEVICE}


def steps(name: str, words: list[str], precision: str, folder: Path) -> dict[str, Any]:
    """Train a model for a few steps, validate and test it; return what was seen."""
    (row,) = rows("train", Config, [f"model={name}", "logger=off", *words])
    config: Config = row.config
    config.recipe.epochs, config.recipe.val_every = 1, 1
    module = Steps(
        config.build(len(CLASSES)), config.recipe, Normalize(*config.normalization), CLASSES, Views.parse(config.views),
        asdict(config),
    )  # fmt: skip
    with fake_cuda() as mode:
        watch, run = Watch(mode), Run(folder / name, name)
        run.folder.mkdir(parents=True)
        callbacks = [c for c in run_callbacks(config, run) if not isinstance(c, Saving)]
        hardware = {
            "strategy": OnFakeCuda(DEVICE, accelerator=NoHardware()), "devices": 1, "precision": precision,
            "enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False,
        }  # fmt: skip
        trainer = make_trainer(config, run, [watch, *callbacks], None, hardware, PASSES)
        trainer.fit(module, datamodule=Data(config))
        trained = trainer.global_step
        trainer.test(module, datamodule=Data(config), verbose=False)
    return {
        "model": name,
        "device": str(module.device),
        "steps": trained,
        "reads": watch.reads,
        "no gradient": watch.no_gradient,
        "misplaced": sorted(watch.misplaced),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    exec(told["first"])
    for model in told["models"]:
        with tempfile.TemporaryDirectory() as logs:
            print(json.dumps(steps(model, told["words"], told["precision"], Path(logs))), flush=True)
