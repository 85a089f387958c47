"""Work in threads: every result once, and none lost to an error beside it."""

from __future__ import annotations

import threading
import time

import pytest

from stat_video.data.parallel import in_parallel


@pytest.mark.parametrize("workers", [1, 3])
def test_each_result_comes_once(workers: int) -> None:
    assert sorted(in_parallel(lambda n: n * n, range(20), workers, "squares")) == [n * n for n in range(20)]


def test_what_was_begun_beside_an_error_is_not_lost() -> None:
    begun, both = [], threading.Barrier(2)

    def do(n: int) -> int:
        begun.append(n)
        if n < 2:
            both.wait(timeout=60)
        if n == 0:
            raise ValueError("broken")
        time.sleep(0.2)
        return n

    done: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        done.extend(in_parallel(do, range(50), 2, "numbers"))
    assert 1 in done
    assert sorted(done) == sorted(set(begun) - {0})
    assert len(begun) < 10


def test_an_error_of_several_is_raised() -> None:
    def do(n: int) -> int:
        raise ValueError(str(n))

    with pytest.raises(ValueError, match=r"\d"):
        list(in_parallel(do, range(5), 2, "numbers"))
