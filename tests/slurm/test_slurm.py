"""Sweeps and runs on a real SLURM: time limit, preemption, scancel, a node that dies, with accounting and without.

Run by `make test-slurm`. All nodes are this machine, so all traffic stays on the loopback interface.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, cluster, lacking

from running import HANGS, ROOT, SMALL
from same_runs import differences

pytestmark = pytest.mark.slurm
EPOCHS = 60  # a row takes longer than the 80 s until the time limit's signal, on a fast machine too
WORDS = (*SMALL, "T=4", "crop=32", f"recipe.epochs={EPOCHS}", "recipe.mixup=0.8", "recipe.ema=0.9")
NODES = ("n1", "n2")
EXTRA = ("n3", "n4")  # for a second allocation beside one that has NODES to itself
SWEEP = ("-m", "modules=ca,ca_sa")
LIMIT = (
    "hydra.launcher.hours=0.05",
    "hydra.launcher.warn_seconds=100",
)  # 3 minutes; the signal comes in the first 80 s
ONE_MACHINE = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


both = pytest.mark.parametrize("slurm", [False, True], ids=["none", "slurmdbd"], indirect=True, scope="module")
without_database = pytest.mark.parametrize("slurm", [False], ids=["none"], indirect=True, scope="module")
with_database = pytest.mark.parametrize("slurm", [True], ids=["slurmdbd"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def slurm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if names := lacking(request.param):
        pytest.skip(f"no SLURM here: {', '.join(names)} missing")
    with cluster(tmp_path_factory.mktemp("slurm"), request.param, NODES + EXTRA) as up:
        yield up


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of the same rows as processes of this machine, which nothing interrupts."""
    logs = tmp_path_factory.mktemp("undisturbed")
    keys = [*SWEEP, *WORDS, f"folders.built_in={data}", f"folders.logs={logs}", "trainer=ddp_cpu", "trainer.workers=0"]
    subprocess.run(
        [sys.executable, str(ROOT / "src/train.py"), *keys],
        env={**os.environ, **ONE_MACHINE},
        check=True,
        timeout=HANGS,
    )
    return logs


class Sweep:
    """The command of a sweep that submits jobs, and the cluster that it talks to."""

    def __init__(self, slurm: Cluster, data: Path, logs: Path, *words: str) -> None:
        self.slurm, self.logs, self.delay = slurm, logs, 0
        self.hurried: set[tuple[str, str]] = set()
        self.out = logs.with_suffix(".txt")
        self.keys = [*WORDS, f"folders.built_in={data}", f"folders.logs={logs}", "trainer=ddp_cpu"]
        self.keys += ["trainer.workers=1", "trainer.devices=1", "trainer.num_nodes=2"]
        launcher = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_gpu=1", "hydra.launcher.partition=gpu"]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "src/train.py"), *self.keys, *launcher, *words],
                env={**slurm.environment, **ONE_MACHINE}, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    @property
    def jobs(self) -> list[str]:
        """The ids of its jobs."""
        return re.findall(r"^job (\d+):", self.said, re.MULTILINE)

    @property
    def said(self) -> str:
        """What the command has printed."""
        return self.out.read_text(errors="replace")

    def logged(self, job: str) -> str:
        """What the tasks of a job have printed."""
        files = self.logs.glob(f".launched/*/jobs/{job}_*log.*")
        return "\n".join(file.read_text(errors="replace") for file in sorted(files))

    def until(self, true: Callable[[], object], what: str, seconds: float = HANGS / 3) -> None:
        """Wait until something is true, and let requeued jobs start at once, where SLURM waits two minutes."""
        end = time.monotonic() + seconds
        while not true():
            logs = "\n".join(self.logged(job)[-3000:] for job in self.jobs)
            assert time.monotonic() < end, f"not in time: {what}\n{self.said}\n{logs}"
            assert self.process.poll() is None or " ends" in what or "empty" in what, (
                f"the sweep has ended\n{self.said}"
            )
            self.hurry()
            time.sleep(0.3)

    def hurry(self) -> None:
        """Let requeued jobs start, `delay` seconds from now."""
        waiting = self.slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%A %r").splitlines()
        for job, _, reason in (line.partition(" ") for line in waiting):
            if reason == "BeginTime" and (again := (job, self.slurm.show(job)["Restarts"])) not in self.hurried:
                self.hurried.add(again)
                self.slurm.run("scontrol", "update", f"JobId={job}", f"StartTime=now+{self.delay}", check=False)

    def ended(self) -> int:
        """Wait for the command's end; return its exit code."""
        self.until(lambda: self.process.poll() is not None, "the sweep ends")
        return self.process.returncode

    def rows_that_save(self) -> int:
        """Return how many of its runs have a checkpoint."""
        return len(list(self.logs.rglob("last.ckpt")))


@contextmanager
def sweep(slurm: Cluster, data: Path, logs: Path, *words: str) -> Iterator[Sweep]:
    """Yield a sweep; end it and its jobs."""
    one = Sweep(slurm, data, logs, *words)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
        for job in one.jobs:
            slurm.run("scancel", "--signal=KILL", job, check=False)
            slurm.run("scancel", job, check=False)
        one.until(lambda: slurm.run("squeue", "--noheader") == "", "the queue is empty", 120)


@without_database
def test_a_sweep_goes_through_preemption_and_time_limit(
    slurm: Cluster, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with sweep(slurm, data, tmp_path / "logs", *SWEEP, *LIMIT, "trainer.save_steps=1") as one:
        one.until(lambda: len(one.jobs) == 2 and one.rows_that_save() == 2, "both rows have saved")
        urgent = slurm.batch("sleep 1", "--nodes=4", "--exclusive", "--partition=urgent")
        one.until(lambda: slurm.state(urgent) == "COMPLETED", "the job that preempts is done")
        for job in one.jobs:
            assert slurm.show(job)["Restarts"] == "1", one.logged(job)
        # The time limit's own signal, which SLURM sends.
        one.until(lambda: any("SIGUSR1" in one.logged(job) for job in one.jobs), "a time limit is answered")
        assert one.ended() == 0, one.said
        assert "SIGTERM: stopped; job" in "".join(map(one.logged, one.jobs))
        assert all(int(slurm.show(job)["Restarts"]) >= 1 for job in one.jobs)
    assert differences(undisturbed, one.logs) == []


@with_database
def test_a_sweep_goes_through_early_signals_and_a_node_that_dies(
    slurm: Cluster, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    words = (*SWEEP, "trainer.save_steps=1", "hydra.launcher.partition=two")
    with sweep(slurm, data, tmp_path / "logs", *words) as one:
        one.until(lambda: len(one.jobs) == 2, "both are submitted")
        for number, job in enumerate(one.jobs):
            one.until(lambda job=job: "Starting with" in one.logged(job), "its tasks have begun to import")
            time.sleep(1.5 * number)
            slurm.run("scancel", "--signal=USR1", job)
        for job in one.jobs:
            one.until(lambda job=job: slurm.show(job)["Restarts"] == "1", "it is put back")
        one.until(lambda: one.rows_that_save() == 2, "both rows have saved")
        one.delay = 30  # more than KillWait: the node may still be told to kill the jobs' former steps
        slurm.stop("n2", signal.SIGKILL)  # SLURM gives the node up after SlurmdTimeout, and requeues its jobs
        one.until(lambda: all(int(slurm.show(job)["Restarts"]) == 2 for job in one.jobs), "the node is given up", 200)
        slurm.start_node("n2")
        assert one.ended() == 0, one.said
    assert differences(undisturbed, one.logs) == []


@both
def test_scancel_ends_rows_and_a_row_queued_twice_ends_at_once(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    long = "recipe.epochs=2000"
    alone = ("+hydra.launcher.more.exclusive=true", "hydra.launcher.partition=two")
    with sweep(slurm, data, tmp_path / "logs", *SWEEP, *alone, long) as one:
        one.until(lambda: one.rows_that_save() == 1, "one row has saved")
        running, pending = sorted(one.jobs, key=lambda job: slurm.state(job) == "PENDING")
        assert slurm.state(pending) == "PENDING"
        slurm.run("scancel", pending)
        one.until(lambda: f"job {pending} ended as CANCELLED" in one.said or "row 2 of 2 failed" in one.said, "a line")
        # The running row again, by a script as in docs/cluster.md; srun without --kill-on-bad-exit.
        words = " ".join([*one.keys, "modules=ca", long])
        script = f"srun --kill-on-bad-exit=0 {sys.executable} {ROOT}/src/train.py {words}; echo code $?"
        twice = slurm.batch(
            f"export {' '.join(f'{k}={v}' for k, v in ONE_MACHINE.items())}\n{script}", "--nodes=2",
            "--ntasks-per-node=1", "--time=10", f"--nodelist={','.join(EXTRA)}",
        )  # fmt: skip
        log = slurm.folder / f"job-{twice}.txt"
        one.until(lambda: slurm.state(twice) in ("COMPLETED", "FAILED", "TIMEOUT"), "the second allocation ends", 200)
        assert "is being run by process" in log.read_text()
        assert "code 2" in log.read_text()
        assert slurm.state(running) == "RUNNING"
        slurm.run("scancel", running)
        assert one.ended() == 2
        assert slurm.show(running)["Restarts"] == "0"
        one.until(lambda: slurm.state(running) == "CANCELLED", "the job ends as cancelled", 60)
    assert f"job {pending} ended as CANCELLED" in one.said
    assert "SIGTERM: stopped" in one.said
    assert "UNKNOWN" not in one.said


@both
def test_a_rank_that_is_killed_is_named_with_its_signal(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    with sweep(slurm, data, tmp_path / "logs", "-m", "modules=ca") as one:
        one.until(lambda: one.rows_that_save() == 1, "the row has saved")
        (job,) = one.jobs
        os.kill(task(job, rank=1), signal.SIGKILL)
        assert one.ended() == 2
        last = one.said.splitlines()[-1]
        assert re.search(r"rank 1 on \S+ was ended by SIGKILL", last), one.said + one.logged(job)
        assert f"job {job} ended as FAILED" in last


def task(job: str, rank: int) -> int:
    """Return the id of the training process of a rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()} <= set(environment)
        if ours and any(word.endswith(b"src/train.py") for word in words):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if b"submitit" in (Path("/proc") / str(parent) / "cmdline").read_bytes():  # not a data worker
                return int(entry.name)
    raise AssertionError(f"job {job} has no rank {rank} here")
