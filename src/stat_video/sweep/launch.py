"""A sweep from its composed rows to what became of them."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..training.hardware import rank_zero
from .frozen import clear, launch_folder, starts_processes
from .processes import FreshProcesses, Processes
from .rows import InThisProcess, Launcher, Outcome, Row, run_rows
from .slurm import Slurm, SlurmJobs

LAUNCHERS = ("processes", "basic", "slurm")


def run_sweep(
    rows: list[Row],
    how: str,
    settings: dict[str, Any],
    known: Callable[[Any], Any],
    attempt: Callable[[Any], Outcome],
    failures: dict[str, list[str]],
) -> tuple[list[Any], signal.Signals | None]:
    """Run the rows where `hydra/launcher` says (`how` and its settings); what they returned, the signal that ended it.

    ``failures`` holds the rows that were refused already, and gets those that fail.
    """
    if not rank_zero() or "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError("-m: a sweep starts its own processes; torchrun and srun are for a single run")
    name_apart(rows, failures)
    for reason, refused in failures.items():
        print(f"not run: {' | '.join([*refused, reason])}", flush=True)
    folder = launch_folder(Path(rows[0].config.folders.logs))
    launcher: Launcher
    with ExitStack() as stack:
        if how == "slurm":
            launcher = SlurmJobs(folder, Slurm(**settings))
        elif how == "basic":
            check_in_process(rows)
            launcher = InThisProcess(attempt)
        else:
            stack.callback(clear, folder)
            launcher = FreshProcesses(folder, Processes(**settings))
            launcher.check(rows)
            stack.enter_context(launcher.passing_signals_on())
        try:
            outcomes = run_rows(rows, known, launcher, partial(print, flush=True))
        except KeyboardInterrupt:
            if how != "slurm":
                raise
            raise InputError("stopped; the jobs stay in the queue: squeue lists them, scancel ends them") from None
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome is not None and outcome.reason is not None:
            failures.setdefault(outcome.reason, []).append(row.words)
    if launcher.stopped:
        left = sum(outcome is None for outcome in outcomes)
        failures[f"stopped by {launcher.stopped.name}; the same command goes on with the {left} rows left"] = []
    return [o.returned for o in outcomes if o is not None and o.reason is None], launcher.stopped


def name_apart(rows: list[Row], refused: dict[str, list[str]]) -> None:
    """Leave out of the rows' names the words that are the same in all of them."""
    names = [row.words.split(" ") for row in rows] + [words.split(" ") for r in refused.values() for words in r]
    same = set(names[0]).intersection(*names[1:]) if len(names) > 1 else set()

    def short(words: str) -> str:
        return " ".join(word for word in words.split(" ") if word not in same) or words

    for row in rows:
        row.words = short(row.words)
    for reason in refused:
        refused[reason] = [short(words) for words in refused[reason]]


def check_in_process(rows: list[Row]) -> None:
    """InputError where a row of `hydra/launcher=basic` would start further processes."""
    for row in rows:
        if starts_processes(row.config):
            raise InputError(
                f"{row.words}: hydra/launcher=basic runs rows in this process, and this one has a process for each of "
                f"its devices; allowed is hydra/launcher=processes"
            )
