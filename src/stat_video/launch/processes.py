"""`hydra/launcher=processes`: run each row in a new process, on all devices of this machine or a share of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..compose import Row
from ..config import Processes
from ..errors import InputError
from ..hardware import cores, data_workers, devices
from .frozen import END_SECONDS, FROZEN, child_environment, freeze, read_outcome
from .rows import Job, Outcome

RELAY_SECONDS = 5.0  # for the last lines of a process that has ended, which a process of its own may still hold open


class FreshProcesses:
    """Starts rows as processes of this machine, and passes on to them the signals that this process gets."""

    def __init__(self, folder: Path, settings: Processes) -> None:
        if settings.side_by_side < 1:
            raise InputError(f"hydra.launcher.side_by_side={settings.side_by_side}: allowed is 1 or more")
        if settings.hours is not None and not settings.hours > 0:
            raise InputError(f"hydra.launcher.hours={settings.hours}: must be above 0, or null for no limit")
        self.folder, self.side_by_side, self.hours = folder, settings.side_by_side, settings.hours
        self.shares = device_shares(settings.side_by_side)
        self.stopped: signal.Signals | None = None
        self.processes: list[subprocess.Popen[str]] = []

    def check(self, rows: Sequence[Row]) -> None:
        """Raise InputError if a row can't be run in this way; called before the first one runs."""
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
        """Pass SIGTERM, SIGINT and SLURM's SIGUSR1 on to the running rows; start no further row after the first two."""

        def pass_on(number: int, _: Any) -> None:
            if number != signal.SIGUSR1:
                self.stopped = signal.Signals(number)
            for process in self.processes:
                process.send_signal(number)

        before = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, row: Row, name: str, slot: int) -> Job:
        """Start a row on its share of the devices and cores."""
        config = row.config
        if self.side_by_side > 1:
            workers = data_workers(config.trainer, self.side_by_side)
            config = replace(config, trainer=replace(config.trainer, workers=workers))
        environment = child_environment()
        if self.side_by_side > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.side_by_side)))
            if self.shares[slot]:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.shares[slot])
        file = freeze(config, self.folder, row.words)
        aside = self.side_by_side > 1
        piped = aside or not sys.stdout.isatty()  # on a terminal a row alone shows its bar there
        process = subprocess.Popen(
            [sys.executable, str(Path(sys.argv[0]).resolve()), f"{FROZEN}{file}"],
            env=environment,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.STDOUT if aside else None,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
        )
        self.processes = [p for p in self.processes if p.poll() is None] + [process]
        return _Process(process, file, f"[{name}] " if aside else "", self.hours)


class _Process:
    def __init__(self, process: subprocess.Popen[str], file: Path, prefix: str, hours: float | None) -> None:
        self.process, self.file, self.prefix, self.hours = process, file, prefix, hours
        self.began = self.heard = time.monotonic()
        self.ending: float | None = None  # since when the process is asked to end, its time being over
        self.relay = threading.Thread(target=self._relay, daemon=True)
        if process.stdout is not None:
            self.relay.start()

    def poll(self) -> Outcome | None:
        code = self.process.poll()
        if code is not None:
            if self.process.stdout is not None:
                self.relay.join(RELAY_SECONDS)  # what the row has printed comes before what is said of its end
            outcome = read_outcome(self.file, code)
            return outcome if self.ending is None or outcome.reason is None else Outcome(reason=self._over())
        now = time.monotonic()
        if self.ending is None and self.hours is not None and now - self.began > 3600 * self.hours:
            self.ending = now
            self.process.terminate()  # it saves, as by any SIGTERM
        elif self.ending is not None and now - self.ending > END_SECONDS:
            self.process.kill()  # the further processes of the row end with it
        return None

    def silent(self) -> float:
        return time.monotonic() - self.heard if self.process.stdout is not None else 0

    def _over(self) -> str:
        return f"its time is over, hydra.launcher.hours={self.hours:g}; the same command goes on"

    def _relay(self) -> None:
        """Print what the process prints; of several rows each line with the row's name before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard = time.monotonic()
            if line.strip() or not self.prefix:
                print(self.prefix + line, end="", flush=True)


def device_shares(side_by_side: int) -> list[list[str]]:
    """Return the CUDA devices of each of the rows side by side; InputError if they can't be shared out evenly."""
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
