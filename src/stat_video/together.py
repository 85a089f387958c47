"""Keep the processes (ranks) of a run together: each ends, with one line, within a bounded time after another is gone.

Collectives don't do that. Before the process group exists, ranks wait in the rendezvous for a first rank that may have
ended. Later gloo waits for a host that went away until TCP gives up, after a quarter of an hour, and NCCL waits until
its watchdog aborts the process. So a thread of each rank counts up a number of its own in a store (PyTorch's TCPStore,
with its server at the first rank) and looks at the numbers of others: all at the first rank, that of the first at the
others. A rank that ends says so there. What a rank computes or waits for meanwhile plays no part.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch

from .errors import InputError, LostRank, in_a_line, printable

INTERVAL = 1.0  # seconds between two looks
GRACE = 8.0  # seconds in which a rank may end by itself after another has: it may have something to say or to save
BROKEN = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Socket Timeout")
RESTARTED = "TORCHELASTIC_RESTART_COUNT"  # the store of torchrun outlives a restart of the ranks


class Together:
    """The other ranks of a run, as seen by this one."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        store: Any,
        minutes: float,
        end: Callable[[str | None, int], None],
        children: Callable[[], Sequence[Any]] = lambda: (),
    ) -> None:
        """``store`` is a torch.distributed.Store. ``minutes``: how long a rank may not be heard of.

        ``end(line, code)`` ends this process; the line is None if another rank says it. ``children`` are ranks that
        this process has started (Popen).
        """
        self.rank, self.world_size, self.store, self.minutes = rank, world_size, store, minutes
        self.end, self.children = end, children
        self.watched = [other for other in range(world_size) if other != rank] if rank == 0 else [0]
        self.silent = dict.fromkeys(self.watched, 0.0)  # seconds; time in which this process was stopped doesn't count
        self.hosts: dict[int, str] = {}
        self.over = False  # this rank ends by itself
        self.gone: tuple[str | None, int] | None = None  # (line to print, exit code) after another rank has ended
        self.cause: str | None = None  # why that rank has ended
        self._stop = threading.Event()
        for work in (self._talk, self._watch):
            threading.Thread(target=work, daemon=True, name="together").start()

    def _talk(self) -> None:
        numbers: dict[int, int] = {}
        try:
            self.store.set(f"host/{self.rank}", socket.gethostname())
            while not self._stop.wait(INTERVAL if len(self.hosts) == len(self.watched) else INTERVAL / 20):
                self.store.add(f"alive/{self.rank}", 1)
                for other in self.watched:
                    number = self.store.add(f"alive/{other}", 0)
                    if number != numbers.get(other):
                        numbers[other], self.silent[other] = number, 0.0
                    if other not in self.hosts and self.store.check([f"host/{other}"]):
                        self.hosts[other] = self.store.get(f"host/{other}").decode()
                if self.store.check(["ended"]):
                    ended = json.loads(self.store.get("ended"))
                    if ended["rank"] != self.rank:
                        self.cause = ended["line"] and f"on rank {ended['rank']}: {ended['line']}"
                        said = ended["line"] is None or ended["host"] == socket.gethostname() or not _first_of_host()
                        self.gone = None if said else self.cause, ended["code"]
                        return
        except (RuntimeError, ValueError) as error:  # those of torch.distributed, and of a process that is ending
            if not self._stop.is_set():
                self.gone = f"the first process of the run, {self._name(0)}, has ended ({in_a_line(error)[:100]})", 2

    def _watch(self) -> None:
        last, since = time.monotonic(), None
        while not self._stop.wait(INTERVAL / 2):
            now = time.monotonic()
            passed, last = min(now - last, 2 * INTERVAL), now
            for other in self.watched:
                self.silent[other] += passed
                if self.silent[other] > 60 * self.minutes and self.gone is None:
                    self.end(
                        f"nothing was heard of {self._name(other)} for {self.minutes:g} minutes "
                        f"(trainer.timeout_minutes): it hangs, its host is down or the network between is cut; "
                        f"the same command goes on",
                        2,
                    )
                    return
            for number, child in enumerate(self.children(), 1):
                code = child.poll()
                if code and self.gone is None:
                    self.gone = f"rank {number} was ended by {how(code)}", 2
                    if code < 0 and not self.over:  # killed; Lightning kills this process, too, within 5 seconds
                        self.end(*self.gone)
                        return
            if self.gone is not None:
                since = since or now
                if now - since > GRACE and not self.over:
                    self.end(*self.gone)
                    return

    def _name(self, rank: int) -> str:
        return f"rank {rank}" + (f" on {self.hosts[rank]}" if rank in self.hosts else "")

    def ended(self, line: str | None, code: int) -> None:
        """Tell the other ranks that this one ends, with which line and exit code; the first to say so is believed.

        The first rank waits a moment for the others: the store ends with it.
        """
        self.over = True
        if self.rank and self.gone is not None:  # the store may have ended with the first rank
            self._stop.set()
            return
        with contextlib.suppress(RuntimeError, ValueError):
            if self.rank == 0 or code:
                about = {"rank": self.rank, "host": socket.gethostname(), "line": line, "code": code}
                self.store.compare_set("ended", "", json.dumps(about))
            self.store.add("left", 1)
            until = time.monotonic() + 4 * INTERVAL
            while self.rank == 0 and self.store.add("left", 0) < self.world_size and time.monotonic() < until:
                time.sleep(INTERVAL / 20)
        self._stop.set()

    def reason(self, seconds: float) -> str | None:
        """Return why another rank has ended, once that is known, at most so many seconds from now."""
        until = time.monotonic() + seconds
        while self.gone is None and time.monotonic() < until:
            time.sleep(INTERVAL / 10)
        return self.cause or (self.gone and self.gone[0])


CURRENT: list[Together] = []  # that of this process, if it is a rank of several
ON_END: list[Callable[[str], None]] = []  # called with the line before this process is ended for another's sake


def _first_of_host() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def how(code: int) -> str:
    """Return how a process has ended, by its exit code as Popen gives it."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def join(
    rank: int, world_size: int, address: str, port: int, minutes: float, *, serves: bool, **more: Any
) -> Together | None:
    """Connect to the store at the first rank and start to watch; None if this process does already, or is alone.

    ``serves``: this process has the server. Raises InputError if the store is not reached within so many minutes.
    """
    if CURRENT or world_size == 1:
        return None
    try:
        store: Any = torch.distributed.TCPStore(
            address, port, is_master=serves, timeout=timedelta(minutes=minutes), wait_for_workers=False,
            multi_tenant=True,
        )  # fmt: skip
    except RuntimeError as error:
        what = (
            f"port {port} of this host can't be listened on" if serves else f"rank 0 is not reached at {address}:{port}"
        )
        raise InputError(f"rank {rank} on {socket.gethostname()}: {what} ({in_a_line(error)[:200]})") from None
    store = torch.distributed.PrefixStore(f"stat_video/{os.environ.get(RESTARTED, '0')}", store)
    CURRENT.append(Together(rank, world_size, store, minutes, end_process, **more))
    return CURRENT[0]


def end_process(line: str | None, code: int) -> None:
    """Print a line, if there is one, and end this process at once, whatever its main thread waits for."""
    if line is not None:
        for call in ON_END:
            call(line)
        print(f"error: {printable(line)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def stand_down() -> None:
    """Let this process end by itself, as it is about to, whatever others do."""
    for current in CURRENT:
        current.over = True


def ended(line: str | None, code: int) -> None:
    """Tell the other ranks, if there are any, that this process ends."""
    while CURRENT:
        CURRENT.pop().ended(line, code)


def explained(error: BaseException) -> LostRank | None:
    """Return an error of a collective as one that says which rank was lost and why; None for other errors."""
    broken = isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN)
    if not (isinstance(error, torch.distributed.DistError) or (broken and torch.distributed.is_initialized())):
        return None
    reason = CURRENT[0].reason(GRACE / 2) if CURRENT else None
    return LostRank(reason or f"the connection to another process of the run broke ({in_a_line(error)[:200]})")
