"""The rows of a sweep, run one after the other or side by side: in fresh processes, in this one, or by SLURM.

A fresh process starts from a file that holds its row's resolved config and from nothing else (not the command line,
nor conf/), and so do the further processes of its devices: none of them can run another row, or the sweep again.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from .errors import InputError
from .runs.files import write_json
from .runs.run import Busy
from .training.hardware import cores, data_workers, devices

PARENT = "STAT_VIDEO_PARENT"  # environment: the process that a process was started for, and ends with
FROZEN = "config="  # the one word on the command line of a process that starts from a file
POLL_SECONDS = 0.2
BUSY_SECONDS = 5  # between two looks at a row that another process runs
END_SECONDS = 120  # from SIGTERM to the end by force
# What torchrun, SLURM or Lightning told this process of its place among others: not true of the ones that it starts.
PLACE = ("LOCAL_RANK", "RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
         "ROLE_WORLD_SIZE", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID",
         "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")  # fmt: skip
PLACES = ("PL_", "TORCHELASTIC_")


@dataclass
class Row:
    """One row of a sweep: what sets it apart on the command line, and its checked config."""

    words: str
    config: Any


@dataclass(frozen=True)
class Outcome:
    """What became of a row: what the script's task returned, or why it failed."""

    returned: Any = None
    reason: str | None = None
    busy: bool = False  # another process is running it


class Job(Protocol):
    """A row that was started."""

    def poll(self) -> Outcome | None:
        """None while it runs."""


class Launcher(Protocol):
    """Where rows run, ``side_by_side`` at a time."""

    side_by_side: int
    stopped: signal.Signals | None  # told to end: no further row is started

    def start(self, row: Row, slot: int) -> Job:
        """Start a row in one of the places 0 ... side_by_side - 1."""


def run_rows(
    rows: Sequence[Row], known: Callable[[Any], Any], launcher: Launcher, say: Callable[[str], None]
) -> list[Outcome | None]:
    """The outcome of each row, None where it was stopped or not begun.

    ``known(config)`` is what a row returns if that can be told without running it, else None. It raises Busy where
    another process has the row, which is then left until last, and InputError where it can't be run; while others
    run, it is asked again, since the row may need their weights.
    """
    outcomes: list[Outcome | None] = [None] * len(rows)
    waiting, later = deque(range(len(rows))), dict.fromkeys(range(len(rows)), 0.0)
    running: dict[int, tuple[int, Job, float]] = {}
    free, seconds = list(reversed(range(launcher.side_by_side))), list[float]()

    def note(number: int, outcome: Outcome) -> None:
        if outcome.busy:
            later[number] = time.monotonic() + BUSY_SECONDS
            waiting.append(number)
        else:
            outcomes[number] = outcome

    def left() -> str:
        counts = f"{sum(o is not None for o in outcomes)} done, {len(running)} running, {len(waiting)} left"
        if not seconds or not waiting:
            return counts
        each = sum(seconds) / len(seconds)
        return f"{counts}, about {duration(each * (len(waiting) + len(running) / 2) / launcher.side_by_side)} to go"

    while running or (waiting and not launcher.stopped):
        for number in [n for n in waiting if later[n] <= time.monotonic()]:
            if launcher.stopped or not free:
                break
            waiting.remove(number)
            row, first = rows[number], not later[number]
            if first:
                say(f"\nrow {number + 1} of {len(rows)}: {row.words}")
            try:
                returned = known(row.config)
            except Busy as busy:
                if first:
                    say(f"{busy}; left until last")
                note(number, Outcome(busy=True))
            except InputError as error:
                if first and running:
                    say(f"{error.line}; asked again when others are done")
                note(number, Outcome(busy=True) if running else Outcome(reason=error.line))
            else:
                if returned is not None:
                    note(number, Outcome(returned))
                    continue
                slot = free.pop()
                running[number] = slot, launcher.start(row, slot), time.monotonic()
        for number, (slot, job, began) in list(running.items()):
            if (outcome := job.poll()) is None:
                continue
            del running[number]
            free.append(slot)
            if launcher.stopped and outcome.reason is not None:
                continue  # it did not fail: it was told to end
            note(number, outcome)
            if not outcome.busy:
                seconds.append(time.monotonic() - began)
                how = "failed" if outcome.reason else "done"
                say(f"row {number + 1} of {len(rows)} {how} after {duration(seconds[-1])}; {left()}")
        if running or waiting:
            time.sleep(POLL_SECONDS)
    return outcomes


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


class InThisProcess:
    """Rows one after the other in this process (`hydra/launcher=basic`): quick to start, for tiny models."""

    side_by_side = 1
    stopped: signal.Signals | None = None

    def __init__(self, attempt: Callable[[Any], Outcome]) -> None:
        self.attempt = attempt

    def start(self, row: Row, slot: int) -> Job:
        """Run it to its end."""
        return _Ended(self.attempt(row.config))


@dataclass(frozen=True)
class _Ended:
    outcome: Outcome

    def poll(self) -> Outcome:
        return self.outcome


@dataclass
class Processes:
    """`hydra/launcher=processes`: a fresh process a row, on all devices, or side by side on a share of them each."""

    _target_: str = "hydra_plugins.stat_video_launchers.Composing"
    side_by_side: int = 1


class FreshProcesses:
    """Starts rows as processes of this machine and passes on the signals that this process gets."""

    def __init__(self, folder: Path, settings: Processes) -> None:
        if settings.side_by_side < 1:
            raise InputError(f"hydra.launcher.side_by_side={settings.side_by_side}: allowed is 1 or more")
        self.folder, self.side_by_side = folder, settings.side_by_side
        self.shares = device_shares(settings.side_by_side)
        self.stopped: signal.Signals | None = None
        self.processes: list[subprocess.Popen[str]] = []

    def check(self, rows: Sequence[Row]) -> None:
        """InputError where a row can't be run so; before the first one is."""
        for row in rows:
            trainer, share = getattr(row.config, "trainer", None), self.shares[0]
            if trainer is None:
                continue
            if trainer.num_nodes > 1:
                raise InputError(
                    f"trainer.num_nodes={trainer.num_nodes}: in a sweep rows on several nodes need hydra/launcher=slurm"
                )
            told = trainer.devices not in ("auto", -1, "-1") and trainer.accelerator != "cpu"
            if self.side_by_side > 1 and share and told and devices(trainer) > len(share):
                raise InputError(
                    f"trainer.devices={trainer.devices}: with hydra.launcher.side_by_side={self.side_by_side} a row "
                    f"has {len(share)} CUDA devices; trainer.devices=auto takes them"
                )

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SLURM's SIGUSR1 reach the running rows, once each; then no further row is started."""

        def pass_on(number: int, _: Any) -> None:
            self.stopped = signal.Signals(number)
            for process in self.processes:
                process.send_signal(number)

        before = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, row: Row, slot: int) -> Job:
        """Start it on its share of the devices and cores."""
        config = row.config
        if self.side_by_side > 1:
            workers = data_workers(config.trainer, self.side_by_side)
            config = replace(config, trainer=replace(config.trainer, workers=workers))
        environment = child_environment()
        if self.side_by_side > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.side_by_side)))
            if self.shares[slot]:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.shares[slot])
        file = freeze(config, self.folder)
        aside = self.side_by_side > 1
        process = subprocess.Popen(
            [sys.executable, str(Path(sys.argv[0]).resolve()), f"{FROZEN}{file}"],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if aside else None,
            stderr=subprocess.STDOUT if aside else None,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
        )
        self.processes = [p for p in self.processes if p.poll() is None] + [process]
        if aside:
            threading.Thread(target=_relay, args=(process, f"[{row.words}] "), daemon=True).start()
        return _Process(process, file)


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[str]
    file: Path

    def poll(self) -> Outcome | None:
        code = self.process.poll()
        return None if code is None else read_outcome(self.file, code)


def _relay(process: subprocess.Popen[str], prefix: str) -> None:
    """Lines of rows that run side by side say whose they are."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            print(prefix + line, end="", flush=True)


def device_shares(side_by_side: int) -> list[list[str]]:
    """The CUDA devices of each of the rows side by side; InputError where they can't be shared out evenly."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = (
        [d for d in told.split(",") if d] if told is not None else [str(i) for i in range(torch.cuda.device_count())]
    )
    each, over = divmod(len(found), side_by_side)
    if over:
        allowed = ", ".join(str(n) for n in range(1, len(found) + 1) if len(found) % n == 0)
        raise InputError(
            f"hydra.launcher.side_by_side={side_by_side}: the {len(found)} CUDA devices here can't be shared out "
            f"evenly; allowed are {allowed}"
        )
    return [found[i * each : (i + 1) * each] for i in range(side_by_side)]


def starts_processes(config: Any) -> bool:
    """Whether a run has several processes, one for each of its devices."""
    trainer = getattr(config, "trainer", None)
    return trainer is not None and devices(trainer) * trainer.num_nodes > 1


def check_in_process(rows: Sequence[Row]) -> None:
    """InputError where a row of `hydra/launcher=basic` would start further processes."""
    for row in rows:
        if starts_processes(row.config):
            raise InputError(
                f"{row.words}: hydra/launcher=basic runs rows in this process, and this one has a process for each of "
                f"its devices; allowed is hydra/launcher=processes"
            )


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
    file = folder / f"{len(list(folder.glob('*.config.json'))):03d}.config.json"
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
    return file.with_name(file.name.replace(".config.json", ".outcome.json"))


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


def end_with_parent() -> None:
    """End this process when the one that started it has died, even by SIGKILL: no row goes on unseen."""
    parent = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())  # for those that Lightning starts for the other devices
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
