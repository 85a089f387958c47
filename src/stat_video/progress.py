"""Long work shows itself: a bar with rate and time left on a terminal, elsewhere a plain line a minute."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

EVERY = 60.0  # seconds between two lines
T = TypeVar("T")


def memory() -> str:
    """The most that this process has held: on its GPU where it uses one, else in main memory."""
    torch = sys.modules.get("torch")  # not loaded for this alone
    if torch and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB on the GPU"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GB"


class Meter:
    """Rate and time left of a loop over ``total`` things that begins now, ``done`` of them done before."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.before = what, total, done
        self.start = self.last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another line."""
        if time.monotonic() - self.last < EVERY:
            return False
        self.last = time.monotonic()
        return True

    def line(self, done: int, *more: str) -> str:
        """'verify: 120 of 400, 2.5 a second, 0:01:52 left, 0.5 GB'."""
        rate = (done - self.before) / max(time.monotonic() - self.start, 1e-9)
        left = timedelta(seconds=round((self.total - done) / rate)) if rate else "unknown time"
        return ", ".join(
            [f"{self.what}: {done} of {self.total}", f"{rate:.3g} a second", f"{left} left", memory(), *more]
        )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g} a second" if task.speed else "")


def shown(items: Iterable[T], what: str, total: int, console: Console) -> Iterator[T]:
    """The items, passed through as they come."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            yield from bar.track(items, total, description=what)
        return
    meter = Meter(what, total)
    for done, item in enumerate(items, 1):
        yield item
        if meter.due():
            console.print(meter.line(done), soft_wrap=True, highlight=False)
