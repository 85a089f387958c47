"""One task on each of many videos, in threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from rich.console import Console

from ..progress import shown

J = TypeVar("J")
R = TypeVar("R")


def in_parallel(
    do: Callable[[J], R], jobs: Sequence[J], workers: int | None, what: str, console: Console
) -> Iterator[R]:
    """Results as they come. Threads are enough: decoding and encoding leave Python's lock to the others."""
    return shown(_results(do, jobs, workers or os.cpu_count() or 1), what, len(jobs), console)


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
