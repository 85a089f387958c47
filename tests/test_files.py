"""Locks: whose they are, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from running import ROOT
from stat_video.files import locked

HOLDER = """
import os, sys, time
from pathlib import Path
from stat_video.files import locked
with locked(Path(sys.argv[1]), print):
    child = os.fork()  # as a data worker is
    if not child:
        print("up", os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(60)
"""


def taken(path: Path) -> bool:
    def busy(who: str) -> None:
        raise BlockingIOError(who)

    try:
        with locked(path, busy):
            return False
    except BlockingIOError:
        return True


def test_a_forked_process_does_not_keep_the_lock_of_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    worker = int(holder.stdout.readline().split()[1])
    try:
        assert taken(path)
        assert path.read_text().startswith(f"process {holder.pid} on ")
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # it lives
        assert not taken(path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_lock_outlives_a_fork_that_ends(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", pytest.fail):
        if not (pid := os.fork()):
            os._exit(0)
        os.waitpid(pid, 0)
        assert taken(tmp_path / "lock")
    assert not taken(tmp_path / "lock")


def test_a_lock_that_can_not_be_made_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock", pytest.fail):
        pass
    with locked(Path("/dev/full"), pytest.fail):  # a lock without a name holds
        pass
