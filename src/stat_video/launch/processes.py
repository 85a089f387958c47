"""`hydra/launcher=processes`: run each row in a new process, on all devices of this machine or a share of them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..compose import Row
from ..config import Processes
from ..errors import InputError
from ..hardware import cores, data_workers, devices
from .frozen import FROZEN, child_environment, freeze, read_outcome
from .rows import Job, Outcome


class FreshProcesses:
    """Starts rows as processes of this machine, and passes on to them the signals that this process gets."""

    def __init__(self, folder: Path, settings: Processes) -> None:
        if settings.side_by_side < 1:
            raise InputError(f"hydra.launcher.side_by_side={settings.side_by_side}: allowed is 1 or more")
        self.folder, self.side_by_side = folder, settings.side_by_side
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
            threading.Thread(target=_relay, args=(process, f"[{name}] "), daemon=True).start()
        return _Process(process, file)


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[str]
    file: Path

    def poll(self) -> Outcome | None:
        code = self.process.poll()
        return None if code is None else read_outcome(self.file, code)


def _relay(process: subprocess.Popen[str], prefix: str) -> None:
    """Print what a process prints, each line with the row's name before it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            print(prefix + line, end="", flush=True)


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
