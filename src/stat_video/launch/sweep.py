"""Run a sweep's rows by the launcher that was asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

from ..compose import Command, Row
from ..config import Folders, Processes, Slurm
from ..errors import InputError, printable
from ..hardware import rank_zero
from .frozen import clear, launch_folder, starts_processes
from .processes import FreshProcesses
from .rows import Done, InThisProcess, Launcher, Outcome, run_rows
from .slurm import SlurmJobs


def run_sweep(command: Command, known: Callable[[Any], Any], attempt: Callable[[Any], Outcome], done: Done) -> None:
    """Run a command's rows by the launcher that `hydra/launcher` names, and write their outcomes into `done`."""
    names = short_names([row.words for row in command.rows] + [w for words in command.refused.values() for w in words])
    for reason, refused in command.refused.items():
        done.failures[reason] = [names[words] for words in refused]
    if not command.rows:
        return
    for line in done.lines():
        print(f"not run: {line}", flush=True)
    with by_launcher(command, command.rows, attempt) as launcher:
        outcomes = run_rows(command.rows, names, known, launcher, partial(print, flush=True))
    for row, outcome in zip(command.rows, outcomes, strict=True):
        if outcome is not None and outcome.reason is not None:
            done.failures.setdefault(outcome.reason, []).append(names[row.words])
    if launcher.stopped:
        left = sum(outcome is None for outcome in outcomes)
        done.failures[
            f"stopped by {launcher.stopped.name}; the same command goes on with {left} row{'s' * (left > 1)} left"
        ] = []
    done.results += [o.returned for o in outcomes if o is not None and o.reason is None]
    done.stopped = launcher.stopped


@contextmanager
def by_launcher(command: Command, rows: Sequence[Row], attempt: Callable[[Any], Outcome]) -> Iterator[Launcher]:
    """Yield the launcher that a command names, for `rows` and others of their kind; InputError if it can't run them."""
    if not rank_zero() or "TORCHELASTIC_RUN_ID" in environ:
        raise InputError("-m: a sweep starts its own processes; torchrun and srun are for a single run")
    folders = getattr(rows[0].config, "folders", Folders())  # src/predict.py and export.py have no such keys
    folder = launch_folder(Path(folders.logs))
    if command.launcher == "slurm":
        try:
            yield SlurmJobs(folder, Slurm(**command.settings))
        except KeyboardInterrupt:
            raise InputError("stopped; the jobs stay in the queue: squeue lists them, scancel ends them") from None
    elif command.launcher == "basic":
        check_in_process(rows, short_names([row.words for row in rows]))
        yield InThisProcess(attempt)
    else:
        launcher = FreshProcesses(folder, Processes(**command.settings))
        try:
            launcher.check(rows)
            with launcher.passing_signals_on():
                yield launcher
        finally:
            clear(folder)


def short_names(rows: Sequence[tuple[str, ...]]) -> Mapping[tuple[str, ...], str]:
    """Return a name for each row: its words that not all rows share; all of its words if there is one row."""
    same = set(rows[0]).intersection(*rows[1:]) if len(rows) > 1 else set()
    return {words: printable(" ".join(w for w in words if w not in same) or " ".join(words)) for words in rows}


def check_in_process(rows: Sequence[Row], names: Mapping[tuple[str, ...], str]) -> None:
    """Raise InputError if a row of `hydra/launcher=basic` would start further processes."""
    for row in rows:
        if starts_processes(row.config):
            raise InputError(
                f"{names[row.words]}: hydra/launcher=basic runs rows in this process, and this one has a process for "
                f"each of its devices; allowed is hydra/launcher=processes"
            )
