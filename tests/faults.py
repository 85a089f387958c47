"""Training runs that meet a fault at a chosen event: a program of its own, which forks a process for each run.

`python tests/faults.py JOBS` takes a JSON list of `Job`s and prints a list of their exit codes, -s for death by
signal s. The libraries are loaded once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from running import HANGS, ROOT

PART = 2**22  # bytes of a checkpoint of 15 MB or more
EVENTS = (  # at which a signal comes; 'nan', 'worker' and 'group' are faults of their own
    "setup",  # before the first step of a process
    "step",  # inside a forward pass
    "optimizer",  # between the gradients and the weights' change
    "between",  # between two passes
    "validating",
    "testing",
    "writing",  # a part of a checkpoint is in the new file
    "renaming",  # the old one has its new name, the new one has not
    "epoch row",  # half of epochs.csv is written
)


@dataclass
class Job:
    """One start of `src/train.py`."""

    words: Sequence[str]
    out: str  # file for what it prints
    at: str | None = None
    count: int = 1  # at the so-many-th time that the event comes in this process
    signal: int = signal.SIGKILL


def run(jobs: Sequence[Job]) -> list[int]:
    """Run them one after another; their exit codes."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), json.dumps([asdict(job) for job in jobs])],
        capture_output=True,
        text=True,
        timeout=HANGS,
        cwd=ROOT / "tests",
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    codes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return codes


def strike(job: Job) -> Callable[[], bool]:
    """To be called whenever the job's event comes; whether it was the one that counts."""
    left = job.count

    def come() -> bool:
        nonlocal left
        left -= 1
        if left == 0 and job.at == "worker":
            os.kill(multiprocessing.active_children()[0].pid, job.signal)
        elif left == 0 and job.at == "group":
            os.killpg(0, job.signal)
        elif left == 0 and job.at != "nan":
            os.kill(os.getpid(), job.signal)
        return left == 0

    return come


def wrap(owner: Any, name: str, come: Callable[[], bool], after: bool = False) -> None:
    """Let an event come before, or after, each call of a function."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not after:
            come()
        result = original(*args, **kwargs)
        if after:
            come()
        return result

    setattr(owner, name, wrapped)


class Interrupted:
    """A file with an event once `PART` bytes are in it."""

    def __init__(self, file: BinaryIO, come: Callable[[], bool]) -> None:
        self.file, self.come, self.left = file, come, PART

    def write(self, content: bytes) -> int:
        """Write, and let the event come if it is time to."""
        done = self.file.write(content)
        before, self.left = self.left, self.left - done
        if self.left <= 0 < before:
            self.file.flush()
            self.come()
        return done

    def flush(self) -> None:
        """Write what is left in memory."""
        self.file.flush()


def prepare(job: Job) -> None:
    """Set the trap."""
    from stat_video.training import callbacks, saving
    from stat_video.training.module import VideoModule

    come = strike(job)
    if job.at == "setup":
        wrap(VideoModule, "configure_optimizers", come)
    elif job.at == "step":
        wrap(VideoModule, "training_step", come)
    elif job.at == "optimizer":
        wrap(saving.Saving, "on_before_optimizer_step", come)
    elif job.at == "nan":
        step = VideoModule.training_step
        VideoModule.training_step = lambda *args: step(*args) * (float("nan") if come() else 1)
    elif job.at in ("between", "worker", "group"):
        wrap(saving.Saving, "on_train_batch_end", come, after=True)
    elif job.at == "validating":
        wrap(VideoModule, "validation_step", come)
    elif job.at == "testing":
        wrap(VideoModule, "test_step", come)
    elif job.at == "writing":
        saving_to = saving.replacing

        @contextmanager
        def interrupted(path: Path, keep: int) -> Iterator[Any]:
            with saving_to(path, keep) as file:
                yield Interrupted(file, come)

        saving.replacing = interrupted
    elif job.at == "renaming":
        replace = Path.replace

        def replaced(self: Path, target: Path) -> Path:
            done = replace(self, target)
            if Path(target).stem == "last-1":
                come()
            return done

        Path.replace = replaced
    elif job.at == "epoch row":
        replacing = callbacks.replacing

        def late(path: Path) -> Any:
            come()
            return replacing(path)

        callbacks.replacing = late


def child(job: Job) -> None:
    """Of a forked process: be `src/train.py`."""
    os.setsid()  # a group of its own
    out = os.open(job.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        prepare(job)
        sys.argv = ["train.py", *job.words]
        runpy.run_path(str(ROOT / "src" / "train.py"), run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """All jobs of the command line."""
    sys.path.insert(0, str(ROOT / "src"))
    import train  # noqa: F401  # and with it the libraries

    codes = []
    for job in json.loads(sys.argv[1]):
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            child(Job(**job))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
