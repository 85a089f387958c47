"""Keep the weights of the best validation beside the last ones: `callbacks=best`."""

import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ..errors import InputError
from .saving import WEIGHTS_ALONE

BEST = "best.ckpt"  # in the run's folder


class Best(Checkpoint):
    """Writes `best.ckpt` in the run's folder after each validation that is better than all before.

    It holds the weights that were validated, averaged ones with `recipe.ema`, and says of which epoch they are and by
    which figure. A checkpoint of the run has the best figure so far, so a resumed run keeps the same weights. Of equal
    figures the first one counts. All ranks have the same figures, so they decide alike.
    """

    def __init__(self, monitor: str, mode: str = "max") -> None:
        if mode not in ("max", "min"):
            raise InputError(f"mode={mode}: must be max or min")
        super().__init__()
        self.monitor, self.mode = monitor, mode
        self.best: dict[str, Any] | None = None
        self._writing = False

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the file if this validation of the training is the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if math.isnan(value) or (self.best is not None and not self._better(value, self.best["value"])):
            return
        self.best = {"metric": self.monitor, "value": value, "epoch": trainer.current_epoch + 1}
        self._writing = True
        file = Path(trainer.default_root_dir) / BEST
        trainer.save_checkpoint(file, weights_only=False, storage_options=WEIGHTS_ALONE)
        self._writing = False

    def _better(self, value: float, than: float) -> bool:
        return value > than if self.mode == "max" else value < than

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say in `best.ckpt`, and in no other checkpoint, of which validation it is."""
        if self._writing:
            checkpoint.setdefault("stat_video", {})["best"] = self.best

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation so far, for the run's own checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best validation before a break."""
        self.best = state_dict["best"]
