"""One task on each of many videos, in threads, with progress that suits a terminal as well as a log."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

J = TypeVar("J")
R = TypeVar("R")
SECONDS = 30  # between two lines of progress in a log


def in_parallel(
    do: Callable[[J], R], jobs: Sequence[J], workers: int | None, what: str, console: Console
) -> Iterator[R]:
    """Results as they come. Threads are enough: decoding and encoding leave Python's lock to the others."""
    results = _results(do, jobs, workers or os.cpu_count() or 1)
    if console.is_terminal:
        yield from track(results, what, len(jobs), console=console)
        return
    began = said = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if (now := time.monotonic()) - said > SECONDS:
            said, left = now, (now - began) / done * (len(jobs) - done)
            console.print(f"{what}: {done} of {len(jobs)}, {left / 60:.0f} minutes left", soft_wrap=True)


def _results(do: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    waiting = iter(jobs)
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[R]] = {pool.submit(do, job) for job in islice(waiting, 2 * workers)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    running |= {pool.submit(do, job) for job in islice(waiting, 1)}
        finally:
            pool.shutdown(cancel_futures=True)
