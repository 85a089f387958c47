"""End the run before a step whose loss or gradients are NaN or infinite can ruin the weights."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ..data.dataset import Sample
from ..errors import InputError
from ..files import replacing

NAMED = 16  # videos in the error's line; a file has all of them


class NonFinite(Callback):
    """Checks each optimizer step before it changes a weight; raises InputError, which names the videos of its batches.

    Saves the state before the step as `nonfinite.ckpt`, and leaves the run's own checkpoints as they are. Costs, per
    step, one pass over the gradients and one synchronisation with the device.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[Tensor] = []
        self.clips: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Sample, index: int) -> None:
        """Note the videos of a pass."""
        self.clips.append(batch["index"])

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Note the loss of a pass."""
        self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        """Check the loss of every pass, and the gradients except in fp16, where the scaler handles overflow."""
        values = torch.stack(self.losses).float()
        norms = [values.sum()]
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
            norms.append(norm)
        finite = torch.stack([norm.isfinite() for norm in norms]).all().float()
        if trainer.world_size > 1:  # gradients are already averaged over ranks, losses are each rank's own
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if not finite:
            self._stop(trainer, values)
        self.losses, self.clips = [], []

    def _stop(self, trainer: Trainer, losses: Tensor) -> None:
        paths = trainer.datamodule.check().videos["train"]  # type: ignore[attr-defined]
        bad = [not math.isfinite(loss) for loss in losses.tolist()]
        what = [["a gradient", "the loss"][any(bad)]]
        passes = [clips for clips, wrong in zip(self.clips, bad, strict=True) if wrong or not any(bad)]
        names = [paths[int(i)][0] for clips in passes for i in clips]
        if trainer.world_size > 1:
            of_ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(of_ranks, (what[0], names))
            what = [said for said, _ in of_ranks if said == "the loss"] or what
            names = [name for said, of_rank in of_ranks if said == what[0] for name in of_rank]
        names = sorted(set(names))
        state = self.folder / "nonfinite.ckpt"
        trainer.save_checkpoint(state, weights_only=False)
        if trainer.is_global_zero:
            with replacing(state.with_suffix(".txt")) as file:
                file.write("".join(f"{name}\n" for name in names).encode(errors="surrogateescape"))
        more = f" and {len(names) - NAMED} more in {state.with_suffix('.txt')}" if len(names) > NAMED else ""
        raise InputError(
            f"{what[0]} of step {trainer.global_step + 1} is NaN or infinite; the step is not taken, the state before "
            f"it is {state}; a lower recipe.lr or trainer.precision=32-true may help; its videos: "
            f"{', '.join(names[:NAMED])}{more}"
        )
