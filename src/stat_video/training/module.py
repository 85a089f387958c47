"""Wrap a model as Lightning's module: steps, metrics, optimizer, what a checkpoint carries."""

import math
from functools import cached_property
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..config import Recipe
from ..data.partners import seed_of_step
from ..data.randaugment_device import apply_operators
from ..data.sample import Sample
from ..data.sampling import Views
from ..data.transforms import Erase, Normalize
from ..losses import check_mean
from ..models.base import VideoModel, check_logits
from ..models.trained import frozen_modules
from .criterion import Criterion
from .metrics import OF_GROUP, MeanLoss, MultiViewAccuracy
from .mixing import Mix
from .optim import gradients, lr_factor, make_optimizer

EPOCH_LOSS = ("mean_value", "weight")  # the states of MeanLoss


def _named(stage: str, views: Views, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the stage and the protocol into the names of figures: 'top1@near' -> 'test/top1_5x1_near'."""
    parts = {key: key.partition(OF_GROUP) for key in figures}
    return {f"{stage}/{name}_{views}{_ and '_'}{group}": figures[key] for key, (name, _, group) in parts.items()}


def _videos(loader: Any) -> int:
    return len(loader.dataset)


class VideoModule(LightningModule):
    """Trains and tests a VideoModel on batches of `Sample`s.

    Logs train/loss_step, train/loss_epoch, val/loss_1x1, val/<metric>_1x1 and, in a test, test/<metric>_<views>: top1
    and top5 in percent, with ``class_groups`` test/top1_<views>_<group>, and what else `stat_video.metrics` has; with
    ``multi_label`` mean_ap in their place. Checkpoints carry ``config`` and ``classes`` as plain containers, from which
    everything is rebuilt, and ``manifest``, the state of the data set.
    """

    def __init__(
        self,
        model: VideoModel,
        recipe: Recipe,
        normalize: Normalize,
        classes: list[str],
        views: Views,
        config: dict[str, Any] | None = None,
        class_groups: bool = False,
        manifest: str | None = None,
        multi_label: bool = False,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.model, self.recipe, self.classes, self.views, self.config = model, recipe, classes, views, config
        self.epochs = recipe.epochs  # more if `HoldPeak` holds the learning rate longer
        self.normalize = normalize
        self.erase = Erase(recipe.augment.erasing)
        self.mix = Mix(recipe, len(classes))
        self.multi_label, self.class_weights = multi_label, class_weights
        self.epoch_loss = MeanLoss()  # over all ranks
        self.gradient_norm: Tensor | None = None  # of the step at hand, if `NonFinite` has taken it
        grouped = classes if class_groups else []
        self.val_accuracy = MultiViewAccuracy(Views(1, 1), grouped, multi_label)
        self.test_accuracy = MultiViewAccuracy(views, grouped, multi_label)
        self.tested: tuple[Tensor, Tensor] | None = None  # logits and labels of the last test, in main memory

    @cached_property
    def criterion(self) -> Criterion:
        """The recipe's loss. Not made for a test, which goes without: the loss may be of a file that is not here."""
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=self.device)
        return Criterion(self.recipe, self.model, len(self.classes), self.multi_label, weights)

    def forward(self, video: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips as uint8 (B, T, 3, crop, crop)."""
        return self._logits(self.normalize(video))

    def _logits(self, clips: Tensor) -> Tensor:
        return check_logits(self.model, self.model(clips), len(clips), len(self.classes))

    def train(self, mode: bool = True) -> "VideoModule":
        """Set the mode of all but what `recipe.freeze` freezes: that stays in evaluation mode."""
        super().train(mode)
        for frozen in frozen_modules(self.model) if self.recipe.freeze else ():
            frozen.eval()
        return self

    def on_fit_start(self) -> None:
        """Train in training mode: `rebuild` returns a model in evaluation mode, and Lightning would leave it there."""
        self.train()

    def on_train_batch_start(self, batch: Sample, batch_index: int) -> None:
        """Seed what is drawn on the device (mixing, erasing, stochastic depth) by seed, epoch, batch and rank.

        So each rank draws its own numbers, and a resumed run draws what it would have drawn without the break.
        """
        config_seed = (self.config or {}).get("seed", 0)
        seed = seed_of_step(config_seed, self.current_epoch, batch_index, self.global_rank)
        passes = getattr(getattr(self.trainer, "datamodule", None), "mixed_passes", 1)
        if passes > 1:  # one draw for all of a step
            self.mix.seed = seed_of_step(config_seed, self.current_epoch, batch_index // passes, self.global_rank)
        self.draw_by(seed)

    def draw_by(self, seed: int) -> None:
        """Seed what is drawn on the CPU and on the module's device."""
        torch.default_generator.manual_seed(seed)  # see ClipDataset: torch.manual_seed keeps a stack trace
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def augmented(self, batch: Sample) -> Tensor:
        """Return a training batch's clips, normalised, after the operators left to the device and erasing."""
        video: Tensor = self.erase(self.normalize(apply_operators(batch["video"], batch.get("operators", []))))
        return video

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Return the loss of a batch after the operators left to the device, erasing and mixing."""
        video, labels = self.mix(self.augmented(batch), batch["label"])
        loss = check_mean(f"{type(self.model).__name__}.loss", self.model.loss(video, labels, self.criterion))
        self.epoch_loss.update(loss, len(video))
        # Lightning waits for the device at each pass to have what a bar shows, also where no bar is.
        self.log("train/loss_step", loss, prog_bar=self.trainer.progress_bar_callback is not None)
        self.log("train/loss_epoch", self.epoch_loss, on_step=False, on_epoch=True)
        return loss

    def _scored(self, batch: Sample) -> Tensor:
        """Return logits, NaN for a video that could not be read: it then counts as wrong."""
        logits = self(batch["video"])
        if unreadable := [i for i, path in enumerate(batch["unreadable"]) if path]:
            logits[unreadable] = math.nan  # waits for the device, so only where there are any
        return logits

    def on_validation_epoch_start(self) -> None:
        """Tell the metric how many videos have to come."""
        self.val_accuracy.expect(_videos(self.trainer.val_dataloaders), len(self.classes))

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Add the centre views of a batch to the metric."""
        self.val_accuracy.update(self._scored(batch), batch["label"], batch["index"], batch["view"])

    def on_validation_epoch_end(self) -> None:
        """Log the 1x1 accuracy, and the loss over the videos that can be read; reset the metric.

        Both are of the gathered logits in the order of the list, so they are the same on any number of ranks.
        """
        if self.trainer.sanity_checking:  # of a few batches alone
            self.val_accuracy.reset()
            return
        logits, labels = self.val_accuracy.gathered()
        read = ~logits.isnan().any(-1)[:, 0]
        if read.any():
            self.log("val/loss_1x1", self.criterion.plain(logits[read, 0], labels[read]))
        self.log_dict(_named("val", Views(1, 1), self.val_accuracy.figures(logits, labels)), prog_bar=True)
        self.val_accuracy.reset()

    def on_test_epoch_start(self) -> None:
        """Tell the metric how many videos have to come."""
        self.test_accuracy.expect(_videos(self.trainer.test_dataloaders), len(self.classes))

    def test_step(self, batch: Sample, batch_index: int) -> None:
        """Add a batch of views to the metric."""
        self.test_accuracy.update(self._scored(batch), batch["label"], batch["index"], batch["view"])

    def on_test_epoch_end(self) -> None:
        """Log the multi-view accuracy; keep the logits (videos, views, num_classes) and labels (videos,) in `tested`.

        All ranks gather them here, while the module is on its device: Lightning then moves it and its metrics to the
        CPU, and NCCL gathers nothing from there.
        """
        logits, labels = self.test_accuracy.gathered()
        self.tested = logits.cpu(), labels.cpu()
        self.log_dict(_named("test", self.views, self.test_accuracy.figures(logits, labels)))
        self.test_accuracy.reset()

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer, and the schedule that sets the learning rate of each step."""
        # Fused on CUDA, since such a step can leave itself out (finite.py), and AdamW on a CPU, where PyTorch's own
        # choice is the slowest. Not with fp16's scaler: Lightning then leaves the gradients scaled until the step.
        kinds = {"cuda": ("adamw", "sgd"), "cpu": ("adamw",)}.get(self.device.type, ())
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        fused = True if self.recipe.optimizer in kinds and not scaled else None
        optimizer = make_optimizer(self.model, self.recipe, fused)
        self.trainer.fit_loop.setup_data()  # to know the number of batches
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

        def factor(step: int) -> float:
            # Steps of the whole run as it now stands, also if max_steps stops it early.
            return lr_factor(step, steps=epoch * self.epochs, epoch=epoch, recipe=self.recipe)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Scale the gradients down to the norm ``gradient_clip_val``, if they have a larger one.

        NOTE: in mixed precision Lightning's own clipping refuses a fused optimizer, and it takes the norm once more.
        """
        norm, self.gradient_norm = self.gradient_norm, None
        if gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_grads_with_norm_(
                parameters, gradient_clip_val, get_total_norm(gradients(optimizer)) if norm is None else norm
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add config, classes, data state and running loss, as plain containers that weights_only=True opens."""
        known = {"config": self.config, "classes": list(self.classes), "manifest": self.manifest, "format": 1}
        # Lightning does not save the metrics of a partial epoch. Of each rank, since a sum in another order is another.
        own = torch.stack([getattr(self.epoch_loss, key) for key in EPOCH_LOSS])
        of_ranks: Any = self.all_gather(own) if self.trainer.world_size > 1 else own[None]  # (ranks, 2)
        known["epoch_loss"] = {**dict(zip(EPOCH_LOSS, of_ranks.sum(0).unbind(), strict=True)), "of_ranks": of_ranks}
        checkpoint.setdefault("stat_video", {}).update(known)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the running mean loss of a partial epoch: each rank its own, or rank 0 all of other ranks' number."""
        ours = checkpoint["stat_video"]
        if not ours.get("place", {}).get("clips"):
            return
        saved = ours["epoch_loss"]
        if len(of_ranks := saved.get("of_ranks", ())) == self.trainer.world_size:  # not of older versions
            saved = dict(zip(EPOCH_LOSS, of_ranks[self.global_rank].unbind(), strict=True))
        elif not self.trainer.is_global_zero:
            return
        for key in EPOCH_LOSS:
            getattr(self.epoch_loss, key).copy_(saved[key])
