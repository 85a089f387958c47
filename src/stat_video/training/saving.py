"""Nothing is lost: whole checkpoints in good time, and an orderly end when the machine asks for one.

A checkpoint is written between two optimizer steps, never inside one, and knows how many clips of the epoch lie behind
it. Loaders hold no state: the order of an epoch follows from (seed, epoch), each clip from (seed, epoch, video, repeat)
and what a training step draws from (seed, rank, epoch, batch), so that a loader which starts at clip n of epoch e gives
what the killed one would have given next, with any number of workers. (torchdata's StatefulDataLoader keeps the same
order by saving the state of each worker, and needs their number to stay.)
"""

import io
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..config import Trainer as TrainerConfig
from ..errors import InputError, Stopped
from ..runs.files import replacing
from ..runs.run import Run
from .checkpoint import seal

log = logging.getLogger(__name__)
GO_ON, SAVE, STOP = range(3)  # what a rank wants at a step's end; all do the highest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside and renamed: a killed or failed write leaves the one before.

    ``keep`` of them are kept, the newest under its name, those before as NAME-1, NAME-2, ...
    """

    def __init__(self, keep: int = 1) -> None:
        super().__init__()
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raise InputError, and keep the old file, where the disk does not take it."""
        # Through memory: torch turns a full disk into an error of its own zip writer that does not name the cause.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path), self.keep) as file:
            for part in seal(buffer.getbuffer()):
                file.write(part)


class Signals(Callback):
    """Remembers what signals ask for, instead of being torn down by them in the middle of something.

    SIGTERM and SIGINT (Ctrl-C): stop. SIGUSR1: save; under SLURM, which sends it ahead of the time limit where it is
    told to (`--signal=USR1@120`), also put the job back into the queue. A second Ctrl-C stops at once.
    In a validation or test, which changes nothing that were to be saved, a stop is immediate.

    NOTE: in the place of Lightning's handlers, which save in the middle of a step, answer SIGTERM with exit code 0, and
    broadcast from inside the handler.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def listen(self) -> None:
        """Take the signals over from Lightning, which gives them back at its teardown."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(signum, self._note)

    def _note(self, signum: int, _: Any) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.asked is None or signum != signal.SIGUSR1:
            self.asked = signum

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Lightning has set its handlers by now."""
        self.listen()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Also outside a training."""
        self.listen()

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Likewise."""
        self.listen()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop where that was asked for."""
        self._stop_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop where that was asked for."""
        self._stop_evaluation(trainer)

    def _stop_evaluation(self, trainer: Trainer) -> None:
        if self.leaving:
            self.stop(trainer)

    @property
    def leaving(self) -> bool:
        """Whether what is asked for ends this process."""
        return self.asked is not None and (self.asked != signal.SIGUSR1 or SLURMEnvironment.detect())

    def stop(self, trainer: Trainer) -> None:
        """Raise Stopped, with a line that says how it goes on."""
        stopped = Stopped(self.asked or signal.SIGTERM)  # or: another rank was asked
        if trainer.is_global_zero:
            goes_on = self.asked == signal.SIGUSR1 and requeue()
            log.warning("%s: stopped; %s", stopped.name, goes_on or "the same command goes on")
        raise stopped


class Saving(Signals, Checkpoint):
    """Writes `run.checkpoint` at each epoch's end, every so many minutes or steps, and when a signal asks for it.

    Also before an epoch's last step where a validation follows, so that whatever happens in that costs no more.
    """

    def __init__(self, run: Run, config: TrainerConfig) -> None:
        super().__init__()
        self.run, self.config = run, config
        self.between_steps = False  # whether the state is whole, and not saved at an epoch's end

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """The clock starts."""
        super().on_train_start(trainer, module)
        self.saved = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        """A step is being taken."""
        self.between_steps = False

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, b: Any, index: int) -> None:
        """Save at a step's end where it is time to."""
        done, of, passes = index + 1, trainer.num_training_batches, trainer.accumulate_grad_batches
        validates = (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0  # type: ignore[operator]
        if done == of:  # a validation is about to come, then the epoch's end
            if validates and self._agreed(trainer, self._wish(trainer)) == STOP:
                self.stop(trainer)
            return
        if done % passes:
            return
        self.between_steps = True
        wish = self._wish(trainer)
        if validates and done + passes >= of:
            wish = max(wish, SAVE)
        if (agreed := self._agreed(trainer, wish)) >= SAVE:
            self.save(trainer)
        if agreed == STOP:
            self.stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save; all that an epoch brings is known and written."""
        self.between_steps = False
        self.save(trainer)
        if self._agreed(trainer, self._wish(trainer)) == STOP:
            self.stop(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Save where something else than the training failed between two steps: a data worker died, memory ran out.

        On one device only, as saving takes all of them.
        """
        if self.between_steps and trainer.world_size == 1 and not isinstance(exception, InputError | Stopped):
            try:
                self.save(trainer)
            except Exception as error:
                log.warning("not saved at the end (%s)", error)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """How far training has come: whole epochs, and clips of all devices in the one that is not."""
        loop = trainer.fit_loop
        epoch = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        batches = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        batches *= epoch == trainer.current_epoch  # at its end an epoch has been processed
        place = {"epoch": epoch, "clips": batches * _clips_of_a_pass(trainer)}
        checkpoint.setdefault("stat_video", {})["place"] = place

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count what lies behind in passes of now: the devices, or clips of a pass, may be others than they were."""
        clips = checkpoint["stat_video"].get("place", {}).get("clips", 0)
        if clips:
            current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            shift = clips // _clips_of_a_pass(trainer) - current["processed"]
            for key in current:
                current[key] += shift

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint; all ranks call it."""
        trainer.save_checkpoint(self.run.checkpoint, weights_only=False)  # all of it
        self.saved = time.monotonic()
        if not self.leaving:
            self.asked = None

    def _wish(self, trainer: Trainer) -> int:
        if self.asked is not None:
            return STOP if self.leaving else SAVE
        steps, minutes = self.config.save_steps, self.config.save_minutes
        due = steps is not None and trainer.global_step % steps == 0
        return SAVE if due or time.monotonic() - self.saved >= 60 * minutes else GO_ON

    def _agreed(self, trainer: Trainer, wish: int) -> int:
        """The most that any rank wants: a signal may reach one of them, and clocks differ."""
        if trainer.world_size == 1:
            return wish
        wishes = torch.tensor(wish, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
        return int(wishes)


def requeue() -> str | None:
    """Ask SLURM to run this job once more; what to say of it, None where it can't be."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("job %s could not be put back into the queue (%s)", job, error)
        return None
    return f"job {job} is put back into the queue and goes on"


def _clips_of_a_pass(trainer: Trainer) -> int:
    return trainer.datamodule.batch_size * trainer.world_size  # type: ignore[attr-defined]
