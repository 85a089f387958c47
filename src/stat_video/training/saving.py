"""Save checkpoints often enough to lose little, and stop in good order when a signal asks for it.

A checkpoint is written between two optimizer steps, never inside one, and says how many clips of the epoch are done.
Loaders hold no state: the order of an epoch follows from (seed, epoch), each clip from (seed, epoch, video, repeat) and
what a training step draws from (seed, rank, epoch, batch). So a loader that starts at clip n of epoch e continues
exactly as the killed one would have, with any number of workers. (torchdata's StatefulDataLoader saves the state of
each worker instead, and needs their number to stay the same.)
"""

import copy
import logging
import signal
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .. import slurm_job, together
from ..config import TrainerKeys
from ..data.modules import VideoDataModule
from ..data.storage import DiskGone
from ..errors import InputError, Stopped
from ..files import replacing
from ..runs.run import Run

log = logging.getLogger(__name__)
WEIGHTS_ALONE = {"weights_alone": True}  # the `storage_options` of a checkpoint that nothing resumes from
OF_WEIGHTS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version", "stat_video")
GO_ON, SAVE, STOP = range(3)  # what a rank wants at a step's end; all ranks do the highest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a new file and renames it: a killed or failed write leaves the one before.

    Keeps the last ``keep``: the newest under its name, those before as NAME-1, NAME-2, ...
    """

    def __init__(self, keep: int = 1) -> None:
        super().__init__()
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; if the disk does not take it, raise InputError and keep the old one."""
        with replacing(Path(path), 1 if storage_options == WEIGHTS_ALONE else self.keep) as file:
            torch.save(checkpoint, file)


class CheckpointWriter(AtomicCheckpointIO):
    """Writes a checkpoint while the training goes on: in a thread, from a copy in main memory. One at a time.

    What the disk did not take is raised as InputError by the next call that comes: `raise_failed` at the end of each
    step, the next save, or `teardown`, by which the last file is whole.
    """

    def __init__(self, keep: int = 1) -> None:
        super().__init__(keep)
        self.writing: futures.Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Wait for the one before, copy this one, and begin to write it."""
        self.teardown()
        if storage_options == WEIGHTS_ALONE:
            checkpoint = {key: checkpoint[key] for key in OF_WEIGHTS}
        copied = on_host(checkpoint)
        # On CUDA nothing is copied yet: the thread waits for that, and the next step's work queues up behind it.
        done = torch.cuda.current_stream().record_event() if torch.cuda.is_initialized() else None

        def write() -> None:
            if done is not None:
                done.synchronize()
            AtomicCheckpointIO.save_checkpoint(self, copied, path, storage_options)

        thread = futures.ThreadPoolExecutor(1)
        self.writing = thread.submit(write)
        thread.shutdown(wait=False)  # the thread ends with its one task, which Python waits for before it exits

    def raise_failed(self) -> None:
        """Raise what the last write ended in, if it has ended."""
        if self.writing is not None and self.writing.done():
            self.teardown()

    def teardown(self) -> None:
        """Wait until the last checkpoint is on the disk."""
        if self.writing is not None:
            futures.wait([self.writing])
            writing, self.writing = self.writing, None
            writing.result()


def on_host(value: Any) -> Any:
    """Return a copy of a checkpoint with its tensors in main memory, where those of CUDA come when its stream does."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", non_blocking=True, copy=True)  # from CUDA to pinned memory
    if isinstance(value, dict):
        whole = copy.copy(value)  # keeps its kind, and the attributes that a state dict has
        whole.update((key, on_host(part)) for key, part in value.items())
        return whole
    return type(value)(map(on_host, value)) if type(value) in (list, tuple) else value


def save_whole(trainer: Trainer, path: Path) -> None:
    """Save a checkpoint and wait until it is on the disk. A collective: all ranks call it."""
    trainer.save_checkpoint(path, weights_only=False)  # with the optimizer's state
    wait_for_disk(trainer)


def wait_for_disk(trainer: Trainer) -> None:
    """Wait until the last checkpoint is on the disk. A collective: a rank that ends may have the others ended."""
    trainer.strategy.checkpoint_io.teardown()
    trainer.strategy.barrier()


class Signals(Callback):
    """Notes what a signal asks for, and does it at the end of the step.

    SIGTERM and SIGINT (Ctrl-C): stop. SIGUSR1: save; under SLURM, which sends it ahead of the time limit if told to
    (`--signal=USR1@120`), also put the job back into the queue and stop. So does SIGTERM where it is a preemption's
    (`slurm_job.continues`). A second Ctrl-C stops at once. Validation and testing change no state, so there a stop
    takes effect at once.

    NOTE: this replaces Lightning's handlers, which save in the middle of a step, answer SIGTERM with exit code 0, and
    broadcast from inside the handler.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def listen(self) -> None:
        """Install our handlers over Lightning's; its teardown restores those from before."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(signum, self._note)

    def _note(self, signum: int, _: Any) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.asked is None or signum != signal.SIGUSR1:
            self.asked = signum

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Listen from here: Lightning has set its own handlers by now."""
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Listen in a validation without training, too."""
        self._begin(trainer)

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Listen in a test, too."""
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        """Listen, also while the data module waits for lost videos."""
        self.listen()
        if isinstance(data := getattr(trainer, "datamodule", None), VideoDataModule):
            data.waiting.stopping = lambda: self.leaving
            data.waiting.stop = lambda: self.stop_waiting(trainer)

    def stop_waiting(self, trainer: Trainer) -> None:
        """Stop while a batch is waited for. A collective: all ranks call it."""
        self.stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop if a signal asked for it."""
        self._stop_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop if a signal asked for it."""
        self._stop_evaluation(trainer)

    def _stop_evaluation(self, trainer: Trainer) -> None:
        if self.leaving:
            self.stop(trainer)

    @property
    def leaving(self) -> bool:
        """Return whether the signal that came ends this process."""
        return self.asked is not None and (self.asked != signal.SIGUSR1 or slurm_job.in_job())

    def stop(self, trainer: Trainer) -> None:
        """Put the SLURM job back into the queue if it continues, log how the run does, and raise Stopped.

        The first rank does it. Under SLURM the others wait for it, since srun may end it when one of them has ended.
        """
        together.stand_down()
        asked = self.asked or signal.SIGTERM
        if trainer.is_global_zero:
            stopped = Stopped(asked, slurm_job.continues(asked))
            log.warning(stopped.line)
            raise stopped
        if slurm_job.in_job():
            time.sleep(slurm_job.WAIT_SECONDS)
        raise Stopped(asked)


class Saving(Signals, Checkpoint):
    """Saves `run.checkpoint` at each epoch's end, every so many minutes or steps, and when a signal asks for it.

    The run's `CheckpointWriter` writes it beside the training; a stop and the end of training wait for it.
    If a validation follows an epoch, also before its last step: a crash in the validation then costs that step alone.
    """

    def __init__(self, run: Run, config: TrainerKeys) -> None:
        super().__init__()
        self.run, self.config = run, config
        self.between_steps = False  # inside an epoch, with no step half taken
        self.group: Any = None  # what the ranks agree by

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of `trainer.save_minutes`, and make what the ranks agree by."""
        super().on_train_start(trainer, module)
        self.saved = time.monotonic()
        if trainer.world_size > 1:
            # Through the processes' own network, since an answer from the GPUs is one to wait for: at each step's end,
            # and before each pass, where Lightning asks for a SIGTERM that only its own handlers would note.
            self.group = torch.distributed.new_group(backend="gloo")
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_start(self, *_: Any) -> None:
        """Note that a step has begun."""
        self.between_steps = False

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, b: Any, index: int) -> None:
        """Save at a step's end if it is time to, or a signal asks for it; stop if asked."""
        trainer.strategy.checkpoint_io.raise_failed()  # type: ignore[attr-defined]
        done, of, passes = index + 1, trainer.num_training_batches, trainer.accumulate_grad_batches
        validates = (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0  # type: ignore[operator]
        if done == of:  # the epoch's end follows, after a validation if one is due
            if validates and self._agreed(trainer, self._wish(trainer)) == STOP:
                self._leave(trainer)
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
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save; the epoch's metrics are logged and its row is written by now."""
        self.between_steps = False
        self.save(trainer)
        if self._agreed(trainer, self._wish(trainer)) == STOP:
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Wait until the last checkpoint is on the disk."""
        wait_for_disk(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Save if something failed between two steps: a data worker died, or memory ran out. Wait for the disk.

        Saving is a collective: on several devices only if all ranks meet the error at the same point.
        """
        try:
            if self.between_steps and isinstance(exception, DiskGone):
                self.save(trainer)
                wait_for_disk(trainer)
            elif self.between_steps and trainer.world_size == 1 and not isinstance(exception, InputError | Stopped):
                self.save(trainer)
            trainer.strategy.checkpoint_io.teardown()
        except Exception as error:
            log.warning("not saved at the end (%s)", error)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the place in training: the epoch, how many of its clips are done on all devices, and whether it ends."""
        loop = trainer.fit_loop
        epoch = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        batches = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        batches *= epoch == trainer.current_epoch  # 0 at an epoch's end, when `processed` is one ahead
        place = {"epoch": epoch, "clips": batches * _clips_of_a_pass(trainer)}
        ours = checkpoint.setdefault("stat_video", {})
        ours["place"] = place
        if trainer.should_stop:  # a callback has asked for it, which Lightning does not save
            ours["stop"] = {"now": loop._can_stop_early}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Convert the clips that are done into passes: devices and clips per pass may have changed since.

        Ends the training at once if a callback had asked for it.
        """
        stop = checkpoint["stat_video"].get("stop")
        if stop is not None:
            trainer.should_stop = True
        if stop and stop["now"]:  # as Lightning has it after the last of all epochs
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            epochs["completed"] = epochs["processed"]
        clips = checkpoint["stat_video"].get("place", {}).get("clips", 0)
        if clips:
            current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            shift = clips // _clips_of_a_pass(trainer) - current["processed"]
            for key in current:
                current[key] += shift

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint, which the disk may take later. A collective: all ranks call it."""
        trainer.save_checkpoint(self.run.checkpoint, weights_only=False)  # with the optimizer's state
        self.saved = time.monotonic()
        if not self.leaving:
            self.asked = None

    def stop_waiting(self, trainer: Trainer) -> None:
        """Save if no step is half taken, and stop while a batch is waited for. A collective: all ranks call it."""
        if self.between_steps:
            self.save(trainer)
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        wait_for_disk(trainer)
        self.stop(trainer)

    def _wish(self, trainer: Trainer) -> int:
        if self.asked is not None:
            return STOP if self.leaving else SAVE
        steps, minutes = self.config.save_steps, self.config.save_minutes
        due = steps is not None and trainer.global_step % steps == 0
        return SAVE if due or time.monotonic() - self.saved >= 60 * minutes else GO_ON

    def _agreed(self, trainer: Trainer, wish: int) -> int:
        """Return the highest wish of all ranks: a signal may reach only one of them, or first, and clocks differ.

        At a stop all ranks take over the signal: the first one has to know which it was. SIGTERM outranks SIGUSR1.
        """
        if trainer.world_size == 1:
            return wish
        told = torch.tensor([wish, self.asked or 0])
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self.group)
        wish, asked = told.tolist()
        if wish == STOP:
            self.asked = asked
        return wish


def _clips_of_a_pass(trainer: Trainer) -> int:
    return trainer.datamodule.batch_size * trainer.world_size  # type: ignore[attr-defined]
