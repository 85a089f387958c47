"""What one training step asks of its device: no answer while it runs, and that a bad step is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from stat_video.config import Config, Recipe
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.errors import InputError
from stat_video.models.base import VideoModel
from stat_video.runs.run import Run
from stat_video.training import module as module_file
from stat_video.training.finite import LaterStep, NonFinite
from stat_video.training.fit import make_trainer, run_callbacks
from stat_video.training.module import VideoModule

CPU = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}
PASSES = 2  # of a step
BATCHES = 12  # of an epoch


class Small(VideoModel):
    """A layer and a classifier on the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(self.layer(clip.mean((2, 3, 4))).relu())


class Data(LightningDataModule):
    """Batches that are made before the run: loading them asks nothing of any tensor."""

    batch_size = 4

    def __init__(self) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(0)
        self.batches = [
            {
                "video": torch.randint(256, (4, 2, 3, 4, 4), generator=made, dtype=torch.uint8),
                "label": torch.randint(2, (4,), generator=made),
                "index": torch.arange(4 * n, 4 * n + 4),
                "view": torch.zeros(4, dtype=torch.long),
                "unreadable": [""] * 4,
            }
            for n in range(BATCHES)
        ]

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def check(self) -> Any:
        return SimpleNamespace(videos={"train": [(f"video{n}.mp4", 0) for n in range(4 * BATCHES)]})


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: what is fused leaves a bad step out by itself, and the host reads it one step later."""
    monkeypatch.setattr(NonFinite, "later", lambda self, trainer, optimizer: bool(optimizer.state))


class Fused(Callback):
    """As on CUDA."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["fused"], group["foreach"] = True, False


def start(folder: Path, *more: Callback, precision: str = "32-true", **recipe: Any) -> Any:
    """Train an epoch; the trainer."""
    torch.manual_seed(0)
    config = Config()
    config.recipe = Recipe(epochs=1, lr=0.1, lr_batch=8, batch_size=8, **recipe)
    run = Run(folder / "run", "12345678")
    module = VideoModule(Small(), config.recipe, Normalize([0.45], [0.225]), ["a", "b"], Views(1, 1))
    callbacks = [Fused(), *run_callbacks(config, run), *more]
    trainer = make_trainer(config, run, callbacks, None, {**CPU, "precision": precision}, PASSES)
    trainer.fit(module, datamodule=Data())
    return trainer


# ----------------------------------------------------------------------------------------------------------- waits


class Waits(TorchDispatchMode):
    """Notes what would have a GPU waited for: a number that the host reads, or one that it sends."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "lift_fresh")
    METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        self.listens = False
        for name in self.METHODS:  # on a CPU some of these never come to an operator
            patch.setattr(Tensor, name, self.noted(name, getattr(Tensor, name)))

    def noted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            if self.listens:
                self.found.append(name)
            return method(*args, **kwargs)

        return noting

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.listens and operator.overloadpacket.__name__ in self.OPERATORS:
            self.found.append(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))

    @contextmanager
    def deaf(self) -> Iterator[None]:
        before, self.listens = self.listens, False
        yield
        self.listens = before


class Watch(Callback):
    """Listens for two whole steps, with all that Lightning does between their passes."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index == 2 * PASSES:
            self.waits.__enter__()
            self.waits.listens = True
        if index == 4 * PASSES:
            self.waits.listens = False
            self.waits.__exit__(None, None, None)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, later: None) -> Waits:
    waits = Waits(monkeypatch)
    left_out = LaterStep.left_out

    def read(self: LaterStep) -> bool:
        with waits.deaf():  # it waits for the device to come to the step before, which it did long ago
            return left_out(self)

    monkeypatch.setattr(LaterStep, "left_out", read)
    return waits


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_waits_for_nothing(optimizer: str, precision: str, waits: Waits, tmp_path: Path) -> None:
    start(tmp_path, Watch(waits), precision=precision, optimizer=optimizer, clip_grad_norm=0.5, label_smoothing=0.1)
    assert waits.found == []


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        (lambda loss: loss.item(), "item"),
        (lambda loss: bool(loss > 1), "__bool__"),
        (lambda loss: loss.tolist(), "tolist"),
        (lambda loss: loss.cpu(), "cpu"),
        (lambda loss: loss + torch.tensor(1.0), "lift_fresh"),
        (lambda loss: (loss > 1).nonzero(), "nonzero"),
    ],
)
def test_a_wait_would_be_seen(
    planted: Callable[[Tensor], Any], seen: str, waits: Waits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = VideoModule.training_step

    def waiting(*args: Any) -> Tensor:
        loss = step(*args)
        planted(loss.detach())
        return loss

    monkeypatch.setattr(VideoModule, "training_step", waiting)
    start(tmp_path, Watch(waits))
    assert waits.found.count(seen) == 2 * PASSES


def test_readable_videos_are_scored_without_waiting(waits: Waits) -> None:
    module = VideoModule(Small(), Recipe(), Normalize([0.45], [0.225]), ["a", "b"], Views(1, 1)).eval()
    batch = Data().batches[0]
    with waits, torch.no_grad():
        waits.listens = True
        module._scored(batch)  # type: ignore[arg-type]
        waits.listens = False
        assert waits.found == []
        logits = module._scored({**batch, "unreadable": ["", "gone.mp4", "", ""]})  # type: ignore[typeddict-item]
    assert logits.isnan().all(1).tolist() == [False, True, False, False]


# ------------------------------------------------------------------------------------------------------- a bad step


class Poison(Callback):
    """Makes a gradient infinite, or the loss of a pass NaN, in the so-many-th step from 0."""

    def __init__(self, step: int, loss: bool) -> None:
        self.step, self.loss = step, loss

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        if not self.loss and trainer.global_step == self.step:
            module.model.layer.weight.grad[0, 0] = math.inf


def stopped(folder: Path, *more: Callback, loss: bool, step: int, **recipe: Any) -> tuple[str, dict[str, Any]]:
    """The error of a run with one bad step, and its nonfinite.ckpt."""
    if loss:
        training_step = VideoModule.training_step

        def poisoned(self: VideoModule, batch: Any, index: int) -> Tensor:
            return training_step(self, batch, index) * (math.nan if index == step * PASSES else 1)

        patch = pytest.MonkeyPatch()
        patch.setattr(VideoModule, "training_step", poisoned)
    try:
        with pytest.raises(InputError) as caught:
            start(folder, Poison(step, loss), *more, **recipe)
    finally:
        if loss:
            patch.undo()
    return str(caught.value), torch.load(folder / "run" / "nonfinite.ckpt", weights_only=True)


def plain(value: Any) -> Any:
    """For comparison to the last bit."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("loss", [True, False], ids=["loss", "gradient"])
@pytest.mark.parametrize("step", [0, 3, BATCHES // PASSES - 1], ids=["first", "fourth", "last"])
def test_a_bad_step_read_later_ends_as_one_read_at_once(
    optimizer: str, loss: bool, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same line, and the same weights, optimizer's state, learning rates and place."""
    how = {"loss": loss, "step": step, "optimizer": optimizer, "warmup_epochs": 0.5}
    line, state = stopped(tmp_path / "at once", **how)
    monkeypatch.setattr(NonFinite, "later", lambda self, trainer, optimizer: bool(optimizer.state))
    later_line, later_state = stopped(tmp_path / "later", **how)
    assert f"{'the loss' if loss else 'a gradient'} of step {step + 1} is NaN or infinite" in line
    assert line.count(".mp4") == (4 if loss else 4 * PASSES)
    assert f"video{4 * PASSES * step}.mp4" in line
    assert later_line == line.replace("at once", "later")
    assert state["global_step"] == step
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch"):
        if key == "state_dict":
            assert all(weight.isfinite().all() for weight in state[key].values())
        assert plain(later_state[key]) == plain(state[key]), key
    assert later_state["stat_video"]["place"] == state["stat_video"]["place"]
    there = [sorted(path.name for path in (tmp_path / name / "run").iterdir()) for name in ("at once", "later")]
    assert there[0] == there[1]  # no row of an epoch, no checkpoint after the step


def test_no_checkpoint_counts_a_step_that_was_left_out(tmp_path: Path, later: None) -> None:
    """A save that falls between a bad step and the next one ends the run in its place."""

    class SaveAtOnce(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "run" / "other.ckpt")

    line, state = stopped(tmp_path, SaveAtOnce(), loss=True, step=3)
    assert "the loss of step 4" in line
    assert state["global_step"] == 3
    assert not (tmp_path / "run" / "other.ckpt").exists()


def test_a_good_run_is_the_same_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = start(tmp_path / "at once").lightning_module.state_dict()
    monkeypatch.setattr(NonFinite, "later", lambda self, trainer, optimizer: bool(optimizer.state))
    assert plain(start(tmp_path / "later").lightning_module.state_dict()) == plain(at_once)


@pytest.mark.parametrize(
    ("device", "fused", "state", "ema", "expected"),
    [
        ("cuda", True, True, 0.0, True),
        ("cpu", True, True, 0.0, False),
        ("cuda", None, True, 0.0, False),  # as in the checkpoints of before
        ("cuda", True, False, 0.0, False),  # SGD's momentum of a first step that is left out is never written
        ("cuda", True, True, 0.9, False),
    ],
)
def test_when_a_bad_step_is_read_later(
    device: str, fused: bool | None, state: bool, ema: float, expected: bool, tmp_path: Path
) -> None:
    config = Config()
    config.recipe = Recipe(ema=ema)
    callbacks = run_callbacks(config, Run(tmp_path, "12345678"))
    strategy = SimpleNamespace(root_device=torch.device(device))
    optimizer: Any = SimpleNamespace(param_groups=[{"fused": fused}], state={1: 2} if state else {})
    trainer: Any = SimpleNamespace(strategy=strategy, callbacks=callbacks)
    assert NonFinite(tmp_path).later(trainer, optimizer) == expected


# ------------------------------------------------------------------------------------------------------------- norm


def test_the_norm_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_file, "get_total_norm", lambda *_: pytest.fail("taken again"))
    start(tmp_path, clip_grad_norm=0.5)


def test_a_rebuilt_model_trains_in_training_mode_in_any_trainer() -> None:
    """`rebuild` returns it in evaluation mode, in which Lightning would leave it."""
    modes: list[bool] = []

    class Watched(Small):
        def forward(self, clip: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(clip)

    module = VideoModule(Watched().eval(), Recipe(), Normalize([0.45], [0.225]), ["a", "b"], Views(1, 1)).eval()
    trainer = Trainer(**CPU, max_epochs=1, limit_train_batches=2, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False)  # fmt: skip
    trainer.fit(module, datamodule=Data())
    assert modes == [True, True]
