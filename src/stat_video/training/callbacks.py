"""Show a run while it trains: a row per epoch in a file, and lines in a log or a bar on a terminal."""

import csv
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from ..files import replacing
from ..progress import Meter, memory
from .profiling import LoaderClock

log = logging.getLogger(__name__)
Say = Callable[[str], None]
C = TypeVar("C", bound=Callback)


class WaitingForData:
    """Logs once, with `advice`, that a run waits for its data, as soon as that is sure: an epoch may take hours."""

    SHARE = 0.1  # of the steps' time, from which on it is said
    LEFT_OUT, STEPS, SECONDS = 10, 50, 60.0  # the first steps, in which workers start; the least to judge by

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.steps = -self.LEFT_OUT
        self.waited = self.stepped = 0.0
        self.said = False

    def add(self, waited: float, stepped: float) -> None:
        """Take the seconds of a step, of which `waited` went by before its batch was there."""
        self.steps += 1
        if self.steps <= 0 or self.said:
            return
        self.waited, self.stepped = self.waited + waited, self.stepped + stepped
        enough = self.steps >= self.STEPS and self.stepped >= self.SECONDS
        if enough and self.waited > self.SHARE * self.stepped:
            self.said = True
            share = self.waited / self.stepped
            log.warning(
                "%.0f %% of the time so far went into waiting for data; what helps: %s", 100 * share, self.advice
            )


class EpochLog(Callback):
    """Appends one row of all logged values per epoch to `file`, and prints it as a line.

    A resumed run keeps the rows of the epochs before its checkpoint, and the times measured in a partial epoch. Each
    row has `train/data_wait`, the share of the steps' time that the first rank waited for its loader.
    """

    def __init__(self, file: Path, say: Say | None = None, waiting: WaitingForData | None = None) -> None:
        self.file, self.say, self.waiting = file, say, waiting
        self.rows: list[dict[str, str]] = []
        if file.exists():
            with file.open(newline="", encoding="utf-8") as lines:
                self.rows = list(csv.DictReader(lines))
        self.seconds_before = 0.0  # spent training by processes before this one
        self.start = time.monotonic()
        self.waited = self.stepped = 0.0  # seconds of this epoch
        self.all_waited = self.all_stepped = 0.0  # of the epochs before
        self.clock = LoaderClock()

    def state_dict(self) -> dict[str, float]:
        """Return the times measured so far, for the checkpoint."""
        times = {key: getattr(self, key) for key in ("waited", "stepped", "all_waited", "all_stepped")}
        return {"seconds": self.seconds, **times}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the times from a checkpoint."""
        for key, value in state_dict.items():
            setattr(self, "seconds_before" if key == "seconds" else key, value)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Drop the rows of epochs that a resumed run trains again."""
        self.rows = [r for r in self.rows if int(r["epoch"]) < trainer.current_epoch]
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return training and validation time so far, summed over all processes of a resumed run."""
        return self.seconds_before + time.monotonic() - self.start

    @property
    def seconds_at_end(self) -> float:
        """Return training and validation time up to the last epoch's end."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0

    @property
    def data_wait(self) -> float:
        """Return the share of all steps' time that went into waiting for the loader."""
        stepped = self.all_stepped + self.stepped
        return (self.all_waited + self.waited) / stepped if stepped else 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        """Add the time of this step, from asking for its batch to here."""
        stepped, waited = time.monotonic() - self.clock.begun, self.clock.waited
        self.stepped, self.waited, self.clock.waited = self.stepped + stepped, self.waited + waited, 0.0
        if self.waiting:
            self.waiting.add(waited, stepped)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the row of the epoch, and print it."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):  # they are of an earlier epoch
            values = {k: v for k, v in values.items() if not k.startswith("val/")}
        values["train/data_wait"] = self.waited / self.stepped if self.stepped else 0.0
        for logger in trainer.loggers:
            logger.log_metrics({"train/data_wait": values["train/data_wait"]}, trainer.global_step)
        row = {"epoch": str(trainer.current_epoch), "step": str(trainer.global_step), "seconds": f"{self.seconds:.1f}"}
        row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3e}"
        row |= {k: f"{v:.6g}" for k, v in sorted(values.items())}
        self.rows.append(row)
        self.all_waited, self.all_stepped = self.all_waited + self.waited, self.all_stepped + self.stepped
        self.waited = self.stepped = 0.0
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


def callback_of(trainer: Trainer, kind: type[C]) -> C:
    """Return the first callback of that kind among a trainer's."""
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]


def share_of_waiting(trainer: Trainer) -> str:
    """Return the share of the epoch's steps' time so far that went into waiting for the loader: '4 %'."""
    epoch = callback_of(trainer, EpochLog)
    return f"{100 * epoch.waited / epoch.stepped:.0f} %" if epoch.stepped else "0 %"


class StepLines(Callback):
    """Prints a plain line a minute of training, validation and test, for a log."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.meter: Meter | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        """Start the meter of an epoch at the first batch that this process trains on."""
        name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, batches"
        if self.meter is None or self.meter.what != name:
            self.meter = Meter(name, int(trainer.num_training_batches), index)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, b: Any, index: int) -> None:
        """Print a line if a minute has passed."""
        if self.meter and self.meter.due():
            loss = trainer.callback_metrics.get("train/loss_step", torch.tensor(float("nan")))
            self.say(
                self.meter.line(index + 1, f"{share_of_waiting(trainer)} waiting for data", f"loss {float(loss):.3f}")
            )

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the meter of a validation."""
        self.meter = Meter("validation, batches", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, o: Any, b: Any, i: int, *_: Any
    ) -> None:
        """Print a line if a minute has passed."""
        if self.meter and self.meter.due():
            self.say(self.meter.line(i + 1))

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the meter of a test."""
        self.meter = Meter("test, batches", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, b: Any, i: int, *_: Any) -> None:
        """Print a line if a minute has passed."""
        if self.meter and self.meter.due():
            self.say(self.meter.line(i + 1))


class Bar(RichProgressBar):
    """Lightning's progress bar, with memory and the share of waiting beside the loss; it counts epochs from 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        # Padded, so that the bars of training and validation begin in one column.
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the figures to show behind the bar."""
        waiting = {"waiting for data": share_of_waiting(trainer)} if trainer.training else {}
        figures = super().get_metrics(trainer, pl_module)
        figures.pop("v_num", None)  # the logger's version: part of a W&B id
        return {**figures, "memory": memory(), **waiting}
