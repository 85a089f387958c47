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
                failed = [future for future in finished if future.exception() is not None]
                if failed:  # what was begun beside it is done, too, and not to be lost
                    finished |= {future for future in running if not future.cancel()}
                    running = set()
                for future in finished:
                    if future.exception() is None:
                        yield future.result()
                        running |= {pool.submit(do, item) for item in islice(waiting, 0 if failed else 1)}
                for future in failed:
                    future.result()  # raises
        finally:
            pool.shutdown(cancel_futures=True)
