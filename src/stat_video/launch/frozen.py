"""Start processes from a file with a resolved config alone, not from the command line or conf/.

The rows of a sweep and the further devices of a run are such processes: so none of them can run another row, or the
whole sweep again. They end with the process that started them.
"""

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from ..hardware import devices, rank_zero
from ..runs.result import Result
from ..together import how
from .rows import Outcome
from .task import ended_file

PARENT = "STAT_VIDEO_PARENT"  # environment variable: id of the process that started this one, and that it ends with
WORDS = "overrides"  # in such a file, beside the keys of the config
FROZEN = "config="  # the one word on the command line of a process that starts from a file
NAME = ".config.json"  # ending of such a file, after its number
END_SECONDS = 120  # from SIGTERM to the end by force
# Variables in which torchrun, SLURM or Lightning tell a process its rank; not to be handed to those that it starts.
PLACE = ("LOCAL_RANK", "RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
         "ROLE_WORLD_SIZE", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID",
         "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")  # fmt: skip
PLACES = ("PL_", "TORCHELASTIC_")


def starts_processes(config: Any) -> bool:
    """Return whether a run has several processes, one for each of its devices."""
    trainer = getattr(config, "trainer", None)
    return trainer is not None and devices(trainer) * trainer.num_nodes > 1


@contextmanager
def frozen_for_devices(config: Any) -> Iterator[None]:
    """Make the processes that Lightning starts for further devices start from this config, not the command line."""
    if not starts_processes(config) or any(os.environ.get(name) for name in PLACE):
        yield  # there is one process, or torchrun or SLURM has started them all
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
    """Return the environment for a process to start: this one's without its rank, and with a free MASTER_PORT."""
    environment = {k: v for k, v in os.environ.items() if k not in PLACE and not k.startswith(PLACES)}
    with socket.socket() as free:
        free.bind(("", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    return {**environment, PARENT: str(os.getpid())}


def freeze(config: Any, folder: Path, words: Sequence[str] | None = None) -> Path:
    """Write a resolved config to a new file in folder, for another process to start from; return its path.

    ``words`` are those that the config was composed of, if they are known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{len(list(folder.glob(f'*{NAME}'))):03d}{NAME}"
    write_json(file, asdict(config) | ({} if words is None else {WORDS: list(words)}))
    return file


def read_frozen(file: Path) -> dict[str, Any]:
    """Return the config in such a file; InputError if it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{FROZEN}{file}: no config that a run could start from ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{FROZEN}{file}: no config that a run could start from")
    return content


def outcome_file(file: Path) -> Path:
    """Return where the process that starts from `file` writes its outcome."""
    return file.with_suffix(".outcome.json")


def leave_outcome(file: Path, outcome: Outcome) -> None:
    """Write the outcome of the process that started from `file`: the first rank's, or an earlier failure on another.

    That another rank was lost is written only if nothing is there yet that may be the cause.
    """
    ours = file.name.endswith(NAME)  # but not beside a config that a user starts from by hand
    written = outcome_file(file).exists()
    if ours and ((rank_zero() and not (outcome.lost and written)) or (outcome.reason is not None and not written)):
        result = outcome.returned
        if isinstance(result, Result):
            result = {"folder": str(result.folder), "content": dict(result.content)}
        write_json(outcome_file(file), {**vars(outcome), "returned": result})


def forget_losses(file: Path) -> None:
    """Remove what an earlier start of a requeued job has left about ranks that were lost."""
    if not (file.name.endswith(NAME) and rank_zero()):
        return
    ended_file(file).unlink(missing_ok=True)
    with suppress(OSError, ValueError):
        if json.loads(outcome_file(file).read_text(encoding="utf-8")).get("lost"):
            outcome_file(file).unlink(missing_ok=True)


def peek_outcome(file: Path) -> Outcome:
    """Return the outcome that a process wrote; OSError, ValueError or TypeError if it wrote none."""
    found = json.loads(outcome_file(file).read_text(encoding="utf-8"))
    told = found.get("returned")
    if isinstance(told, dict) and told.keys() == {"folder", "content"}:
        found["returned"] = Result(Path(told["folder"]), told["content"])
    return Outcome(**found)


def read_outcome(file: Path, code: int) -> Outcome:
    """Return the outcome that a process wrote, and remove it; if it wrote none, an outcome that says how it ended."""
    try:
        return peek_outcome(file)
    except (OSError, ValueError, TypeError):
        return Outcome(reason=f"ended by {how(code)} without a word of its own")
    finally:
        outcome_file(file).unlink(missing_ok=True)


def launch_folder(logs: Path) -> Path:
    """Return a new folder for the files that a command hands to the processes that it starts."""
    return logs / ".launched" / f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}"


def clear(folder: Path) -> None:
    """Remove a launch folder and, if it was the last, its parent."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def end_with_parent() -> bool:
    """Watch the process that started this one, and end when it has died, even by SIGKILL: no row runs on unseen.

    Returns False if no process of ours has started this one.
    """
    parent = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())  # for the processes that Lightning starts
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
