"""Record which code computed each part of a run, since a run may be resumed on other code than it was begun on."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

from ..runs.code import difference, is_same

HISTORY = "history"  # its key in checkpoints and results


class CodeHistory(Callback):
    """Carries the parts of a run in its checkpoints: the `provenance` of each, and the step that it began at.

    Prints one line if a run is resumed on other code or other versions of packages.
    """

    def __init__(self, now: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.now, self.say = dict(now), say
        self.parts: list[dict[str, Any]] = [{**self.now, "step": 0}]

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the parts so far."""
        checkpoint.setdefault("stat_video", {})[HISTORY] = self.parts

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the parts of a checkpoint; those of older versions do not say what code they are of."""
        parts = list(checkpoint["stat_video"].get(HISTORY) or [{"code": None, "step": 0}])
        if not is_same(parts[-1], self.now):
            self.say(f"Resuming on other code: {difference(parts[-1], self.now)}; the result lists both")
            parts.append({**self.now, "step": int(checkpoint["global_step"])})
        self.parts = parts
