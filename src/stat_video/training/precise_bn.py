"""Compute batch norm's statistics anew before a validation or the end of a run: `recipe.precise_bn`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import ceil

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.modules import VideoDataModule
from ..data.partners import seed_of_step
from .module import VideoModule


class PreciseBN(Callback):
    """Sets the running statistics to those of the weights as they are, over so many batches, as PySlowFast does.

    After the last step of each epoch that is validated, and of the run: so a checkpoint has what was validated. The
    batches are the first ones of the next epoch, the same after a kill and on any number of devices that divides
    their number; each device computes its share, and all get the statistics of all.

    NOTE: PySlowFast takes the batches of one device, and computes them on each.
    """

    def __init__(self, batches: int, seed: int) -> None:
        self.batches, self.seed = batches, seed

    def on_train_batch_end(self, trainer: Trainer, module: VideoModule, o: object, b: object, index: int) -> None:  # type: ignore[override]
        """Compute them if a validation or the end of the run follows."""
        epoch, validated_each = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
        if trainer.global_step == trainer.max_steps or (
            index + 1 == trainer.num_training_batches and (epoch % validated_each == 0 or epoch == trainer.max_epochs)
        ):
            self.compute(trainer, module)

    def compute(self, trainer: Trainer, module: VideoModule) -> None:
        """Set the statistics of all batch norms. A collective: all ranks call it."""
        data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
        epoch, passes = trainer.current_epoch + 1, ceil(self.batches / trainer.world_size)

        def clips() -> Iterator[Tensor]:
            for index, parts in enumerate(data.first_batches(epoch, passes)):
                batch = data.transfer_batch_to_device(parts, module.device, 0)
                module.draw_by(seed_of_step(self.seed, epoch, index, trainer.global_rank))
                yield module.augmented(batch)

        with trainer.precision_plugin.forward_context():
            set_statistics(module.model, clips(), trainer.world_size)


@torch.no_grad()
def set_statistics(model: nn.Module, batches: Iterable[Tensor], ranks: int = 1) -> None:
    """Set the running mean and variance of each batch norm to those over batches of clips, of all ranks together.

    The variance is the mean of the batches' own, as PyTorch's running one, and that of their means. The model has to be
    in training mode.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    if not norms:
        return
    with _last_batch_alone(norms):
        sums, count = torch.zeros(2, sum(m.num_features for m in norms), dtype=torch.float64), 0
        for clips in batches:
            model(clips)
            mean, variance = (
                torch.cat([getattr(m, f"running_{key}").double() for m in norms]) for key in ("mean", "var")
            )
            sums, count = sums.to(mean.device) + torch.stack((mean, variance + mean**2)), count + 1
        if ranks > 1:
            torch.distributed.all_reduce(sums)
        means, squares = sums / (count * ranks)
    sizes = [m.num_features for m in norms]
    for m, mean, square in zip(norms, means.split(sizes), squares.split(sizes), strict=True):
        m.running_mean.copy_(mean)  # type: ignore[union-attr]
        m.running_var.copy_(square - mean**2)  # type: ignore[union-attr]


@contextmanager
def _last_batch_alone(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let the running statistics be those of the last batch; all is as it was after, also what counts the batches."""
    before = [(m.momentum, [(b, b.clone()) for b in m.buffers(recurse=False)]) for m in norms]
    for m in norms:
        m.momentum = 1.0
    try:
        yield
    finally:
        for m, (momentum, buffers) in zip(norms, before, strict=True):
            m.momentum = momentum
            for buffer, value in buffers:
                buffer.copy_(value)
