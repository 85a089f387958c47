"""Does one task on each of many videos, in threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from ..progress import shown

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    do: Callable[[Item], Result], items: Sequence[Item], workers: int | None, what: str
) -> Iterator[Result]:
    """Yield results as they come, from `workers` threads (default: one a core), and show the progress.

    Threads are enough: decoding and encoding release Python's lock.
    """
    return shown(_results(do, items, workers or os.cpu_count() or 1), what, len(items))


def _results(do: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[Result]] = {pool.submit(do, item) for item in islice(waiting, 2 * workers)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    running |= {pool.submit(do, item) for item in islice(waiting, 1)}
        finally:
            pool.shutdown(cancel_futures=True)
