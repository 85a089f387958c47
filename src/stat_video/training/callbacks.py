"""What a run writes while it trains: a row an epoch, plain lines in a log, whole checkpoints."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..runs.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside and renamed: a killed or failed write leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raise InputError, and keep the old file, where the disk does not take it."""
        # Through memory: torch turns a full disk into an error of its own zip writer that does not name the cause.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as file:
            file.write(buffer.getbuffer())


class EpochLog(Callback):
    """Appends a row of all logged values to `file` each epoch, and, off a terminal, prints plain lines.

    A resumed run keeps the rows of the epochs that its checkpoint has behind it.
    """

    def __init__(self, file: Path, say: Callable[[str], None] | None = None, every_seconds: float = 60) -> None:
        self.file, self.say, self.every_seconds = file, say, every_seconds
        self.rows: list[dict[str, str]] = []
        if file.exists():
            with file.open(newline="", encoding="utf-8") as lines:
                self.rows = list(csv.DictReader(lines))
        self.seconds_before = 0.0  # spent training before this process took over

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over the rows of a run that is resumed."""
        self.rows = [r for r in self.rows if int(r["epoch"]) < trainer.current_epoch]
        self.seconds_before = self.seconds_at_end
        self.start = self.last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training and validation time so far, resumed parts added up."""
        return self.seconds_before + time.monotonic() - self.start

    @property
    def seconds_at_end(self) -> float:
        """Training and validation time up to the last epoch's end."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """A line every minute."""
        if self.say and time.monotonic() - self.last_line > self.every_seconds:
            self.last_line = time.monotonic()
            loss = trainer.callback_metrics.get("train/loss_step", torch.tensor(float("nan")))
            self.say(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, batch {batch_index + 1}/"
                f"{trainer.num_training_batches}, loss {float(loss):.3f}, {self.seconds:.0f} s"
            )

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the row."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        row = {"epoch": str(trainer.current_epoch), "step": str(trainer.global_step), "seconds": f"{self.seconds:.1f}"}
        row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3e}"
        row |= {k: f"{v:.6g}" for k, v in sorted(values.items())}
        self.rows.append(row)
        if trainer.is_global_zero:
            columns = list(dict.fromkeys(k for r in self.rows for k in r))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns)
            writer.writeheader()
            writer.writerows(self.rows)
            with replacing(self.file) as file:
                file.write(text.getvalue().encode())
        if self.say:
            figures = [f"{k} {v:.4g}" for k, v in sorted(values.items()) if not k.startswith("train/")]
            loss = values.get("train/loss_epoch", float("nan"))
            line = ", ".join([f"train/loss {loss:.3f}", *figures, f"{self.seconds:.0f} s"])
            self.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {line}")
