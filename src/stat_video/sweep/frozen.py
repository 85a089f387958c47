"""Processes that start from a file that holds a resolved config and from nothing else: not the command line, nor conf/.

The rows of a sweep are such processes, and so are those of the further devices of a run: none of them can run another
row, or the sweep again. They end with the process that started them.
"""

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runs.files import write_json
from ..training.hardware import devices, rank_zero
from .rows import Outcome

PARENT = "STAT_VIDEO_PARENT"  # environment: the process that a process was started for, and ends with
FROZEN = "config="  # the one word on the command line of a process that starts from a file
NAME = ".config.json"  # after the number
END_SECONDS = 120  # from SIGTERM to the end by force
# What torchrun, SLURM or Lightning told this process of its place among others: not true of the ones that it starts.
PLACE = ("LOCAL_RANK", "RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
         "ROLE_WORLD_SIZE", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID",
         "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")  # fmt: skip
PLACES = ("PL_", "TORCHELASTIC_")


def starts_processes(config: Any) -> bool:
    """Whether a run has several processes, one for each of its devices."""
    trainer = getattr(config, "trainer", None)
    return trainer is not None and devices(trainer) * trainer.num_nodes > 1


@contextmanager
def frozen_for_devices(config: Any) -> Iterator[None]:
    """Let the processes that Lightning starts for further devices start from this config, not from the command line."""
    if not starts_processes(config) or any(os.environ.get(name) for name in PLACE):
        yield  # one process; or somebody else has started them all
        return
    folder = launch_folder(Path(config.folders.logs))
    words = sys.argv
    sys.argv = [sys.argv[0], f"{FROZEN}{freeze(config, folder)}"]
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        sys.argv = words
        clear(folder)


def child_environment() -> dict[str, str]:
    """This process's environment for one that it starts: without its place among ranks, with a port of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in PLACE and not k.startswith(PLACES)}
    with socket.socket() as free:
        free.bind(("", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    return {**environment, PARENT: str(os.getpid())}


def freeze(config: Any, folder: Path) -> Path:
    """Write a resolved config where another process will start from it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{len(list(folder.glob(f'*{NAME}'))):03d}{NAME}"
    write_json(file, asdict(config))
    return file


def read_frozen(file: Path) -> dict[str, Any]:
    """The config of such a file; InputError where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{FROZEN}{file}: no config that a run could start from ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{FROZEN}{file}: no config that a run could start from")
    return content


def outcome_file(file: Path) -> Path:
    """Where the process that starts from `file` leaves its outcome."""
    return file.with_suffix(".outcome.json")


def leave_outcome(file: Path, outcome: Outcome) -> None:
    """Of the process that started from `file`: its first rank's outcome, or what failed on another before it."""
    ours = file.name.endswith(NAME)  # not beside any config that somebody starts from by hand
    if ours and (rank_zero() or (outcome.reason is not None and not outcome_file(file).exists())):
        write_json(outcome_file(file), asdict(outcome))


def read_outcome(file: Path, code: int) -> Outcome:
    """What a process left when it ended; where it could not, how it ended."""
    try:
        return Outcome(**json.loads(outcome_file(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Outcome(reason=f"ended by {how} without a word of its own")
    finally:
        outcome_file(file).unlink(missing_ok=True)


def launch_folder(logs: Path) -> Path:
    """A new folder for what a command hands to the processes that it starts."""
    return logs / ".launched" / f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}"


def clear(folder: Path) -> None:
    """Remove a launch folder and, if it was the last, the folder of them."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def end_with_parent() -> bool:
    """End this process when the one that started it has died, even by SIGKILL: no row goes on unseen.

    False where no process of ours has started it.
    """
    parent = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())  # for those that Lightning starts for the other devices
    if parent is None:
        return False

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
    return True
