"""Ranks that end, hang or vanish: the others hear of it in time, and of nothing else."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
import torch

from stat_video import together
from stat_video.together import Together

MINUTES = 1.0 / 60  # of silence


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "INTERVAL", 0.05)
    monkeypatch.setattr(together, "GRACE", 0.3)


class Rank:
    """A rank, and how it was ended."""

    def __init__(self, rank: int, store: torch.distributed.Store, world_size: int = 2, **more: object) -> None:
        self.ends: list[tuple[str | None, int]] = []
        self.watch = Together(rank, world_size, store, MINUTES, lambda *how: self.ends.append(how), **more)  # type: ignore[arg-type]


def wait(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def store() -> torch.distributed.Store:
    return torch.distributed.HashStore()


def test_ranks_that_live_leave_each_other_alone(store: torch.distributed.Store) -> None:
    ranks = [Rank(rank, store, 3) for rank in range(3)]
    time.sleep(2.5 * 60 * MINUTES)
    for rank in reversed(ranks):
        rank.watch.ended(None, 0)
    time.sleep(0.5)
    assert [rank.ends for rank in ranks] == [[], [], []]


def test_a_host_is_known_long_before_the_second_look(
    store: torch.distributed.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network may be cut before: then nobody could say which host is gone."""
    monkeypatch.setattr(together, "INTERVAL", 2.0)
    ranks = [Rank(rank, store) for rank in range(2)]
    wait(lambda: all(rank.watch.hosts for rank in ranks), seconds=1)
    for rank in reversed(ranks):
        rank.watch.ended(None, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_ends_ends_the_others(first: int, store: torch.distributed.Store) -> None:
    ranks = [Rank(rank, store) for rank in range(2)]
    ranks[first].watch.ended("no such file", 2)
    wait(lambda: ranks[1 - first].ends)
    assert ranks[1 - first].ends == [(None, 2)]  # of one host: that rank has printed its line there
    assert ranks[first].ends == []


def test_a_rank_of_another_host_says_why(store: torch.distributed.Store) -> None:
    rank = Rank(1, store)
    store.set("ended", json.dumps({"rank": 0, "host": "elsewhere", "line": "no such file", "code": 2}))
    wait(lambda: rank.ends)
    assert rank.ends == [("on rank 0: no such file", 2)]


def test_a_rank_that_is_about_to_end_is_left_to_do_so(store: torch.distributed.Store) -> None:
    ranks = [Rank(rank, store) for rank in range(2)]
    ranks[1].watch.over = True  # stand_down
    ranks[0].watch.ended("no such file", 2)
    time.sleep(1)
    assert ranks[1].ends == []


@pytest.mark.parametrize("here", [0, 1])
def test_a_rank_that_falls_silent_is_named(here: int, store: torch.distributed.Store) -> None:
    rank = Rank(here, store)
    began = time.monotonic()
    wait(lambda: rank.ends)
    ((line, code),) = rank.ends
    assert 60 * MINUTES - 0.2 < time.monotonic() - began < 60 * MINUTES + 10
    assert line is not None
    assert f"rank {1 - here}" in line
    assert "trainer.timeout_minutes" in line
    assert code == 2


def test_time_in_which_this_process_was_stopped_does_not_count(
    store: torch.distributed.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended job: all ranks go on at once, each after hours of silence by its clock."""
    ranks = [Rank(rank, store) for rank in range(2)]
    time.sleep(0.2)
    clock = time.monotonic
    monkeypatch.setattr(together.time, "monotonic", lambda: clock() + 3600)
    time.sleep(0.6)
    assert [rank.ends for rank in ranks] == [[], []]


def test_a_child_that_is_killed_is_named_with_its_signal(store: torch.distributed.Store) -> None:
    child = subprocess.Popen(["sleep", "60"])
    rank = Rank(0, store, children=lambda: [child])
    time.sleep(0.2)
    child.kill()
    wait(lambda: rank.ends)
    assert rank.ends == [("rank 1 was ended by signal SIGKILL", 2)]


def test_a_first_rank_whose_store_is_gone(store: torch.distributed.Store) -> None:
    class Gone:
        def __getattr__(self, name: str) -> object:
            raise torch.distributed.DistNetworkError("Connection reset by peer")

    rank = Rank(1, Gone())  # type: ignore[arg-type]
    wait(lambda: rank.ends)
    assert "rank 0" in str(rank.ends[0][0])


def test_errors_of_collectives_and_others() -> None:
    assert together.explained(ValueError("gloo")) is None
    assert together.explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    lost = together.explained(torch.distributed.DistNetworkError("failed to recv, got 0 bytes"))
    assert lost is not None
    assert "connection" in lost.line
