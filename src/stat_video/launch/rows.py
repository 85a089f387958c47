"""Run the rows of a sweep, one after the other or side by side, by whatever launcher."""

import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..compose import Row
from ..errors import InputError, of_the_machine
from ..runs.overrides import remember
from ..runs.run import Busy

POLL_SECONDS = 0.2
BUSY_SECONDS = 5  # between two looks whether another process has finished a row
SILENT_SECONDS = 1800  # of a row, until a line says so
NAMED = 3  # rows that a line names if more than that failed for the same reason


@dataclass(frozen=True)
class Outcome:
    """The outcome of a row: what the script's task returned, or why it failed."""

    returned: Any = None
    reason: str | None = None
    busy: bool = False  # another process is running the row
    lost: bool = False  # the reason is that another process of the row is gone: the cause may be known elsewhere


@dataclass
class Done:
    """The outcome of a command: its rows' results, the failures with their rows, and the signal that stopped it."""

    results: list[Any]
    failures: dict[str, list[str]]
    stopped: signal.Signals | None = None

    def lines(self) -> list[str]:
        """Return a line for each reason why rows failed: the first of them by name, how many more, the reason.

        A row that is the word at which the reason begins is not named twice.
        """
        lines = []
        for reason, rows in self.failures.items():
            others = [row for row in rows if not reason.startswith(f"{row}:")]
            lines.append(" | ".join([*shortened(others), reason]))
        return lines


def shortened(rows: Sequence[str]) -> list[str]:
    """Return the names of rows, of many the first few and how many more there are."""
    rows = [row for row in rows if row]
    return rows if len(rows) <= NAMED + 1 else [*rows[:NAMED], f"and {len(rows) - NAMED} more rows"]


class Job(Protocol):
    """A row that was started."""

    def poll(self) -> Outcome | None:
        """Return the outcome, None while the row runs."""

    def silent(self) -> float:
        """Return for how many seconds nothing was heard of the row; 0 if that is not known."""


class Launcher(Protocol):
    """Runs rows, ``side_by_side`` at a time."""

    side_by_side: int
    stopped: signal.Signals | None  # the signal that ends the command: no further row is started

    def start(self, row: Row, name: str, slot: int) -> Job:
        """Start a row in one of the places 0 ... side_by_side - 1."""


def run_rows(
    rows: Sequence[Row],
    names: Mapping[tuple[str, ...], str],
    known: Callable[[Any], Any],
    launcher: Launcher,
    say: Callable[[str], None],
) -> list[Outcome | None]:
    """Return the outcome of each row, None for one that was stopped or not begun.

    If ``known(config)`` returns a result, the row is not run. If it raises Busy, another process has the row, which is
    then left until last. If it raises InputError, the row can't be run; while other rows run it is asked again, since
    the row may need their weights.
    """
    outcomes: list[Outcome | None] = [None] * len(rows)
    waiting, later = deque(range(len(rows))), dict.fromkeys(range(len(rows)), 0.0)
    running: dict[int, tuple[int, Job, float]] = {}
    noted = dict.fromkeys(range(len(rows)), float(SILENT_SECONDS))  # the silence after which a line is due
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
                say("")
                say(f"row {number + 1} of {len(rows)}: {names[row.words]}")
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
            except Exception as error:  # a bug, or a fault of the machine: the other rows go on
                if (reason := of_the_machine(error)) is None:
                    traceback.print_exc()
                note(number, Outcome(reason=reason or f"{type(error).__name__}: {error}"))
            else:
                if returned is not None:
                    note(number, Outcome(returned))
                    continue
                slot = free.pop()
                running[number] = slot, launcher.start(row, names[row.words], slot), time.monotonic()
        for number, (slot, job, began) in list(running.items()):
            if (outcome := job.poll()) is None:
                if (silent := job.silent()) < SILENT_SECONDS:
                    noted[number] = SILENT_SECONDS
                elif silent >= noted[number]:
                    noted[number] = 2 * silent
                    say(f"row {number + 1} of {len(rows)}: nothing was heard of it for {duration(silent)}: "
                        f"{names[rows[number].words]}")  # fmt: skip
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
    """Return a time in words: '40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class InThisProcess:
    """Runs rows one after the other in this process (`hydra/launcher=basic`): quick to start, for tiny models."""

    side_by_side = 1
    stopped: signal.Signals | None = None

    def __init__(self, attempt: Callable[[Any], Outcome]) -> None:
        self.attempt = attempt

    def start(self, row: Row, name: str, slot: int) -> Job:
        """Run a row to its end."""
        remember(row.words)
        return _Ended(self.attempt(row.config))


@dataclass(frozen=True)
class _Ended:
    outcome: Outcome

    def poll(self) -> Outcome:
        return self.outcome

    def silent(self) -> float:
        return 0
