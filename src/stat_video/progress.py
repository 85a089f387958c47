"""Show how far long work has come: a bar with rate and time left on a terminal, elsewhere a plain line a minute."""

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .errors import printable

EVERY = 60.0  # seconds between two lines
T = TypeVar("T")
WIDE = 1000  # columns of a log, where nothing is cut off
# Cells with `!python src/train.py` have a terminal that shows each redraw of a bar below the one before.
IN_NOTEBOOK = "JPY_PARENT_PID" in os.environ  # set by Jupyter for its kernels, and so for what they start
# The one console of the process; no markup, since names hold brackets.
console = Console(markup=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)


def watched() -> bool:
    """Return whether stdout is a terminal on which a bar can be redrawn in place."""
    return sys.stdout.isatty() and not IN_NOTEBOOK


def say(line: str) -> None:
    """Print a line on stdout as it is: not broken at the console's width, not coloured."""
    console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


class WideTable(Table):
    """A table that may be wider than a terminal: columns of `secondary` are then left out, the first first."""

    secondary: Sequence[str] = ()


def show_table(table: Table) -> None:
    """Print a table whole: words wrap, figures never. What is left out of a `WideTable` is named below."""
    left_out = []
    for column in table.columns:
        column.no_wrap, column.overflow = column.justify == "right", "fold"
    for name in getattr(table, "secondary", ()):
        if _least_width(table) <= console.width:
            break
        table.columns.remove(next(column for column in table.columns if column.header == name))
        left_out.append(name)
    console.print(table, width=max(console.width, _least_width(table)), crop=False)
    if left_out:
        say(f"left out, as the terminal has {console.width} columns: {', '.join(left_out)}")


def _least_width(table: Table) -> int:
    return Measurement.get(console, console.options.update(width=WIDE), table).minimum


def memory() -> str:
    """Return the peak memory of this process: on its GPU if it uses one, else in main memory."""
    torch = sys.modules.get("torch")  # torch is slow to import; do not load it only to ask this
    if torch and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB on the GPU"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS says bytes, others KiB
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GB"


class Meter:
    """Rate and time left of a loop over ``total`` things that begins now, with ``done`` of them already done."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.before = what, total, done
        self.start = self.last = time.monotonic()

    def due(self) -> bool:
        """Return whether a line is due, EVERY seconds after the last."""
        if time.monotonic() - self.last < EVERY:
            return False
        self.last = time.monotonic()
        return True

    def line(self, done: int, *more: str) -> str:
        """Return 'verify: 120 of 400, 2.5 a second, 0:01:52 left, 0.5 GB'."""
        rate = (done - self.before) / max(time.monotonic() - self.start, 1e-9)
        left = timedelta(seconds=round((self.total - done) / rate)) if rate else "unknown time"
        return ", ".join(
            [f"{self.what}: {done} of {self.total}", f"{rate:.3g} a second", f"{left} left", memory(), *more]
        )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g} a second" if task.speed else "")


def shown(items: Iterable[T], what: str, total: int, console: Console = console) -> Iterator[T]:
    """Yield the items, and show on the console how many have come."""
    if console.is_terminal and not IN_NOTEBOOK:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            yield from bar.track(items, total, description=what)
        return
    meter = Meter(what, total)
    for done, item in enumerate(items, 1):
        yield item
        if meter.due():
            console.print(meter.line(done), soft_wrap=True, highlight=False)
