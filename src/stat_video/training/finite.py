"""End the run before a step whose loss or gradients are NaN or infinite can ruin the weights."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..data.sample import Sample
from ..errors import InputError
from ..files import replacing
from .optim import gradients
from .saving import save_whole

NAMED = 16  # videos in the error's line; a file has all of them


@dataclass
class Step:
    """What is known of an optimizer step."""

    losses: list[Tensor] = field(default_factory=list)  # of its passes
    clips: list[Tensor] = field(default_factory=list)  # the videos of its passes, by their index


class LaterStep:
    """A step that the device leaves out by itself if it is bad, which it says later; and what was before it."""

    def __init__(self, step: Step, bad: Tensor, trainer: Trainer) -> None:
        self.step = step
        self._bad = bad.to("cpu", non_blocking=True)
        self._copied = torch.cuda.current_stream(bad.device).record_event() if bad.is_cuda else None
        self._loops = trainer.fit_loop.state_dict()
        self._schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]

    def left_out(self) -> bool:
        """Return whether it was bad; waits for the device to come to it, not to what was asked of it since."""
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._bad)

    def take_back(self, trainer: Trainer) -> None:
        """Let the trainer's counters and learning rates be those before the step; no weight has changed in it."""
        trainer.fit_loop.load_state_dict(self._loops)
        for config, state in zip(trainer.lr_scheduler_configs, self._schedules, strict=True):
            config.scheduler.load_state_dict(state)
            for group, lr in zip(config.scheduler.optimizer.param_groups, config.scheduler.get_last_lr(), strict=True):
                group["lr"] = lr


class NonFinite(Callback):
    """Checks each optimizer step before it changes a weight; raises InputError, which names the videos of its batches.

    Saves the state before the step as `nonfinite.ckpt`, and leaves the run's own checkpoints as they are. Costs one
    pass over the gradients a step, whose norm `VideoModule` also clips by.

    On CUDA the host does not wait for the answer: a fused optimizer is told by the device, and leaves a bad step out.
    The host reads it before the next step is taken, anything is saved or validated, or the epoch ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = Step()
        self.unread: LaterStep | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Sample, index: int) -> None:
        """Note the videos of a pass."""
        self.step.clips.append(batch["index"])

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Note the loss of a pass."""
        self.step.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Check the loss of every pass, and the gradients except in fp16, where the scaler handles overflow."""
        self._read(trainer)
        step, self.step = self.step, Step()
        sums = [torch.stack(step.losses).float().sum()]
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            module.gradient_norm = get_total_norm(gradients(optimizer))
            sums.append(module.gradient_norm)
        bad = 1 - torch.stack([value.isfinite() for value in sums]).all().float()
        if trainer.world_size > 1:  # gradients are already averaged over ranks, losses are each rank's own
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        if self.later(trainer, optimizer):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # a fused step that finds 1 here changes nothing
            self.unread = LaterStep(step, bad, trainer)
        elif bad:
            self._stop(trainer, step)

    def later(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        """Return whether a bad step is left out on the device and read later, which spares waiting for the device.

        Not in the first step, which makes the optimizer's state, nor with averaged weights, since their average would
        take what the step left as one more step, and PyTorch's averaging waits for the device anyway.
        """
        on_cuda = trainer.strategy.root_device.type == "cuda"
        averaged = any(isinstance(c, WeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
        fused = all(group["fused"] for group in optimizer.param_groups)  # older checkpoints say that they were not
        return on_cuda and fused and bool(optimizer.state) and not averaged

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Read whether the last step was bad."""
        self._read(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Read whether the last step was bad, before the epoch's row is written."""
        self._read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read whether the last step was bad: a checkpoint counts no step that was left out."""
        self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        unread, self.unread = self.unread, None
        if unread is not None and unread.left_out():
            unread.take_back(trainer)
            self._stop(trainer, unread.step)

    def _stop(self, trainer: Trainer, step: Step) -> None:
        paths = trainer.datamodule.check().videos["train"]  # type: ignore[attr-defined]
        bad = [not math.isfinite(loss) for loss in torch.stack(step.losses).tolist()]
        what = [["a gradient", "the loss"][any(bad)]]
        passes = [clips for clips, wrong in zip(step.clips, bad, strict=True) if wrong or not any(bad)]
        names = [paths[int(i)][0] for clips in passes for i in clips]
        if trainer.world_size > 1:
            of_ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(of_ranks, (what[0], names))
            what = [said for said, _ in of_ranks if said == "the loss"] or what
            names = [name for said, of_rank in of_ranks if said == what[0] for name in of_rank]
        names = sorted(set(names))
        state = self.folder / "nonfinite.ckpt"
        save_whole(trainer, state)
        if trainer.is_global_zero:
            with replacing(state.with_suffix(".txt")) as file:
                file.write("".join(f"{name}\n" for name in names).encode(errors="surrogateescape"))
        more = f" and {len(names) - NAMED} more in {state.with_suffix('.txt')}" if len(names) > NAMED else ""
        raise InputError(
            f"{what[0]} of step {trainer.global_step + 1} is NaN or infinite; the step is not taken, the state before "
            f"it is {state}; a lower recipe.lr or trainer.precision=32-true may help; its videos: "
            f"{', '.join(names[:NAMED])}{more}"
        )
