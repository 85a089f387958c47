"""Tell a disk that is gone from a broken video, and wait for it to come back.

A video that was there when the lists were read, and whose file the disk no longer returns, is `Lost`. If the videos
beside it are lost too, the disk is gone: the run waits for `data.wait_seconds`, then stops on all ranks. If the others
can be read, only this video is gone: it is waited for shortly and then counts as unreadable.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from ..errors import InputError

log = logging.getLogger(__name__)
SAMPLE = 8  # other videos that are tried, to tell whether the disk or one video is gone
ALONE, ALONE_IN_ALL = 10.0, 60.0  # seconds to wait for a single video, and for all such videos of a process together
SHORTEST, LONGEST = 0.2, 15.0  # seconds from one try to the next: they grow
POLL = 0.1  # seconds between two looks at the signals
READY, WAIT, STOP, GONE = range(4)  # what a rank has to say; all ranks do the highest
T = TypeVar("T")


class Lost(InputError):
    """The disk does not return a video: it is missing, or reading it failed. Nothing is known of its content."""

    video = ""  # path of the video, where the message names one of its pictures


class OnAllRanks(InputError):
    """An error that all ranks of a run raise at the same point: they can still save a checkpoint together."""


class DiskGone(OnAllRanks):
    """The videos did not come back in time."""


@contextmanager
def lost(path: Path) -> Iterator[None]:
    """Raise Lost in place of an OSError while a file or folder of a video is read from the disk."""
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise Lost(f"{path}: no such video") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{path}: {error.strerror}") from None
        raise Lost(f"{path}: could not be read ({error.strerror or error})") from None


def is_reachable(path: Path) -> bool:
    """Return whether the disk returns a byte of a file, or of the first file in a folder."""
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            with os.scandir(path) as inside:
                path = Path(next(inside))
            about = path.stat()
        if stat.S_ISREG(about.st_mode):  # opening a pipe could block
            with path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):  # else the byte could come from the system's cache
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read(1)
    except (OSError, StopIteration):
        return False
    return True


def others_reachable(path: Path, paths: Sequence[str]) -> bool:
    """Return whether at least half of up to `SAMPLE` other videos, if possible of the same folder, can be read."""
    others = [Path(other) for other in dict.fromkeys(paths) if other != str(path)]
    beside = [other for other in others if other.parent == path.parent] or others
    sample = [beside[i * len(beside) // min(SAMPLE, len(beside))] for i in range(min(SAMPLE, len(beside)))]
    return bool(sample) and 2 * sum(map(is_reachable, sample)) >= len(sample)


class Wait:
    """One outage: how long to wait, and when to try again."""

    def __init__(self, paths: Sequence[str], seconds: float, alone: float) -> None:
        """``paths``: the videos of the data set; ``seconds`` is the limit while the disk is gone, ``alone`` while only
        one video is.
        """
        self.paths, self.seconds, self.alone = paths, seconds, alone
        self.begun = self.due = time.monotonic()
        self.interval = SHORTEST
        self.line = ""  # what is waited for, once it is known
        self.disk_gone = False

    @property
    def waited(self) -> float:
        """Seconds since the first video was found lost."""
        return time.monotonic() - self.begun

    def is_over(self, video: str, reason: str) -> bool:
        """Return whether a video that is still lost has been waited for long enough."""
        self.disk_gone = not others_reachable(Path(video), self.paths)
        limit = self.seconds if self.disk_gone else min(self.seconds, self.alone)
        if self.waited >= limit:
            return True
        what = "the videos" if self.disk_gone else "this video alone"
        self.line = self.line or f"{reason}; waiting up to {limit:g} s for {what} to come back (data.wait_seconds)"
        return False

    def pause(self) -> None:
        """Set the time of the next try, or of the last."""
        ends = [self.begun + limit for limit in (self.alone, self.seconds) if limit > self.waited]
        self.due = min([time.monotonic() + self.interval, *ends])
        self.interval = min(2 * self.interval, LONGEST)

    def log_end(self) -> None:
        """Log that it is over."""
        log.warning("going on after %.0f s of waiting", self.waited)


def gone(reason: str, seconds: float) -> DiskGone:
    """Return the error of a run whose videos did not come back."""
    return DiskGone(
        f"{reason}; it was there when the lists were read, and the disk did not come back within "
        f"data.wait_seconds={seconds:g}; once it is back, the same command continues"
    )


def patiently(read: Callable[[], T], video: str, paths: Sequence[str], seconds: float) -> T:
    """Return what `read` returns of a video, one of `paths`; wait while the disk is gone.

    Raises DiskGone if it does not come back, and Lost if only the one video is missing.
    """
    wait: Wait | None = None
    told = False
    while True:
        try:
            found = read()
        except Lost as error:
            wait = wait or Wait(paths, seconds, ALONE)
            if wait.is_over(video, error.line):
                if wait.disk_gone:
                    raise gone(error.line, seconds) from None
                raise
            if not told:
                log.warning("%s", wait.line)
            told = True
            wait.pause()
            time.sleep(max(0.0, wait.due - time.monotonic()))
        else:
            if wait and told:
                wait.log_end()
            return found


class Ranks:
    """What the ranks of a run agree on, by gloo: no answer of a GPU is waited for. One rank agrees with itself."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.group: Any = None

    def highest(self, state: int) -> int:
        """Return the highest state of all ranks. A collective."""
        if self.world_size == 1:
            return state
        if self.group is None:
            self.group = torch.distributed.new_group(backend="gloo")
        states = torch.tensor(state)
        torch.distributed.all_reduce(states, torch.distributed.ReduceOp.MAX, group=self.group)
        return int(states)

    def first(self, value: Any) -> Any:
        """Return the value of the first rank that has one, None if none has. A collective."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            torch.distributed.all_gather_object(values, value, group=self.group)
        return next((found for found in values if found), None)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that says what all have to say."""
        return self.world_size == 1 or torch.distributed.get_rank() == 0
