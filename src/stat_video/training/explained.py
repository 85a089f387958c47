"""Errors of PyTorch that a user can do something about, as one line."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch

from ..errors import InputError
from ..models.deterministic import ALERT, operator_of
from .callbacks import callback_of
from .saving import Saving


@contextmanager
def out_of_memory_explained(clips: int) -> Iterator[None]:
    """Raise InputError, with one line, if the memory of a device runs out over passes of so many clips."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        fewer = f"fewer clips, such as {clips // 2}, " if clips > 1 else ""
        raise InputError(
            f"trainer.batch_per_device={clips}: the memory of the device has run out; {fewer}trainer.recompute=true "
            f"and trainer.gradient_checkpointing=true take less"
        ) from error


@contextmanager
def nondeterminism_explained() -> Iterator[None]:
    """Raise InputError, with one line, if PyTorch refuses an operator because of trainer.deterministic=true."""
    try:
        yield
    except RuntimeError as error:
        if (operator := operator_of(error)) is None:
            raise
        raise InputError(f"trainer.deterministic=true: {operator} {ALERT}; false is allowed") from error


@contextmanager
def anomaly_explained() -> Iterator[None]:
    """Raise InputError, with one line, where trainer.detect_anomaly finds NaN; PyTorch has printed where from."""
    try:
        yield
    except RuntimeError as error:
        if "returned nan values in its" not in str(error):  # only ever said in this mode
            raise
        raise InputError(f"trainer.detect_anomaly=true: {error} PyTorch's warning has its forward pass") from error


@contextmanager
def lost_worker_explained(trainer: L.Trainer) -> Iterator[None]:
    """Raise InputError, with one line, if a data worker was killed, as the system does when memory runs out."""
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        if not _is_of_lost_worker(error):
            raise
        saving = callback_of(trainer, Saving)
        if saving.asked:  # the signal that ended the worker asked this process to stop, too
            saving.stop(trainer)
        reason = str(error).partition(". ")[0] if isinstance(error, RuntimeError) else "a DataLoader worker is gone"
        raise InputError(
            f"{reason}; if memory is short, fewer trainer.workers need less; the same command goes on"
        ) from error


def _is_of_lost_worker(error: BaseException) -> bool:
    """Return whether a data worker was killed: PyTorch says so, or the batch that it was handing over breaks off."""
    frames = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return "DataLoader worker (pid" in str(error) or "_try_get_data" in frames
