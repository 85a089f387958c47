"""Hold the learning rate at its peak longer in a run that is late: `recipe.hold_until`."""

from typing import Any

from lightning import Callback, Trainer

from ..config import Recipe
from ..progress import say
from .module import VideoModule


class HoldPeak(Callback):
    """Asks `Recipe.epochs_after` at each epoch's end, and lets the run and its learning rate go on for so long.

    A checkpoint has the validations so far, from which a resumed run knows its epochs. All ranks have the same figures,
    so they decide alike.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.top1: list[float] = []  # of the validations so far, one an epoch, in percent

    def on_train_epoch_end(self, trainer: Trainer, module: VideoModule) -> None:  # type: ignore[override]
        """Note the epoch's validation; print a line if it makes the run longer."""
        if (top1 := trainer.callback_metrics.get("val/top1_1x1")) is None:
            return  # recipe.max_steps has ended the run before
        before = self.recipe.epochs_after(self.top1)
        self.top1.append(float(top1))
        if self._set(trainer, module) > before:
            say(
                f"val/top1_1x1 is below recipe.hold_until={self.recipe.hold_until:g}: the learning rate stays at its "
                f"peak for an epoch more, {module.epochs} epochs in all"
            )

    def on_save_checkpoint(self, trainer: Trainer, module: VideoModule, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        """Add the validations so far."""
        checkpoint.setdefault("stat_video", {})["top1"] = self.top1

    def on_load_checkpoint(self, trainer: Trainer, module: VideoModule, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        """Go on with the epochs that the checkpoint's validations ask for."""
        self.top1 = list(checkpoint["stat_video"].get("top1", []))
        self._set(trainer, module)

    def _set(self, trainer: Trainer, module: VideoModule) -> int:
        trainer.fit_loop.max_epochs = module.epochs = self.recipe.epochs_after(self.top1)
        return module.epochs
