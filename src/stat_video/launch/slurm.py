"""`hydra/launcher=slurm`: run each row as a SLURM job, by submitit, with a task for each device.

A task runs `python src/train.py config=FILE`. The command that submits waits until all rows are done. If it ends
earlier, the jobs stay in the queue, and the same command finds the runs that they have finished.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..compose import Row
from ..config import Slurm
from ..errors import InputError
from ..hardware import devices
from ..paths import PACKAGE
from .frozen import FROZEN, freeze, outcome_file, peek_outcome
from .rows import Job, Outcome
from .task import RowJob, ended_file

ENDED = ("CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")  # states of a job
# States of which SLURM requeues a job that asked for it, a moment later.
MAY_GO_ON = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
GONE = "gone"  # in the place of a state: SLURM has forgotten the job, MinJobAge (5 minutes) after its end
ASK_SECONDS = 15.0  # between two questions to SLURM about all jobs
SETTLE_SECONDS = 20.0  # from a job's end until it is believed: files come late on a shared file system
# In the job's script: requeue the job if a signal killed a task before Python could answer. srun returns 128 + signal.
TRAP = (
    "trap 'code=$?; [ $code = 138 ] || { [ $code = 143 ] && scontrol show job $SLURM_JOB_ID | "
    'grep -q "PreemptTime=[0-9]"; } && scontrol requeue $SLURM_JOB_ID\' EXIT'
)
REQUEUE_SECONDS = 180.0  # the same for MAY_GO_ON


class Queue:
    """The states of the user's jobs, by `squeue`: unlike sacct, it needs no accounting database."""

    def __init__(self) -> None:
        self.asked = -math.inf
        self.states: dict[str, str] | None = None  # None: SLURM did not answer
        self.warned = False

    def state(self, job: str) -> str | None:
        """Return a job's state or GONE; None if SLURM does not answer."""
        if time.monotonic() - self.asked >= ASK_SECONDS:
            self.asked = time.monotonic()
            self.states = self._ask()
        return None if self.states is None else self.states.get(job, GONE)

    def _ask(self) -> dict[str, str] | None:
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%A %T"]
        try:
            said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError) as error:
            if not self.warned:
                said = " ".join((getattr(error, "stderr", None) or str(error)).split())
                print(f"squeue does not answer, and is asked again ({said})", file=sys.stderr, flush=True)
            self.warned = True
            return None
        self.warned = False
        return {job: state for job, _, state in (line.strip().partition(" ") for line in said.splitlines())}


class SlurmJobs:
    """Submits rows as jobs and polls them."""

    stopped: signal.Signals | None = None

    def __init__(self, folder: Path, settings: Slurm) -> None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # the signal that a run expects; submitit reads it at import
        try:
            import submitit
        except ImportError:
            raise InputError("hydra/launcher=slurm needs submitit: pip install 'stat-video[slurm]'") from None
        if settings.cluster not in ("slurm", "local"):
            raise InputError(f"hydra.launcher.cluster={settings.cluster}: allowed are slurm, local")
        self.folder, self.settings, self.side_by_side, self.queue = folder, settings, settings.side_by_side, Queue()
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ["PYTHONPATH"] = path  # in case the package is not installed
        try:
            self.executor = submitit.AutoExecutor(folder / "jobs", cluster=settings.cluster)
        except RuntimeError as error:
            raise InputError(f"hydra/launcher=slurm: {error}") from None

    def start(self, row: Row, name: str, slot: int) -> Job:
        """Submit a row as a job."""
        trainer = row.config.trainer
        told = self.settings.gpus_per_node if trainer.devices == "auto" and trainer.accelerator != "cpu" else None
        tasks = told or devices(trainer)
        workers = self.settings.cpus_per_gpu if trainer.workers is None else trainer.workers
        trainer = replace(trainer, devices=tasks, workers=workers)
        file = freeze(replace(row.config, trainer=trainer), self.folder, row.words)
        self.executor.update_parameters(**parameters(self.settings, trainer, row.config.name))
        command = [sys.executable, str(Path(sys.argv[0]).resolve()), f"{FROZEN}{file}"]
        job = self.executor.submit(RowJob(command, file))
        self.queue.asked = -math.inf  # it does not know this job
        print(f"job {job.job_id}: {name}; its log: {job.paths.stdout}", flush=True)
        return _Submitted(job, file, self._state)

    def _state(self, job: Any) -> str | None:
        if self.settings.cluster == "slurm":
            return self.queue.state(job.job_id)
        return "COMPLETED" if job.done() else "RUNNING"


class _Submitted:
    def __init__(self, job: Any, file: Path, state: Callable[[Any], str | None]) -> None:
        self.job, self.file, self.state = job, file, state
        self.ended: tuple[str, float] | None = None  # (the state in which the job seems to have ended, since when)

    def poll(self) -> Outcome | None:
        state = self.state(self.job)
        # A file of its own accord counts at once, but for that a rank was lost: SLURM may requeue the job, and a task
        # may know why the rank has ended.
        lost = None
        if outcome_file(self.file).exists():
            outcome = peek_outcome(self.file)
            if not outcome.lost:
                outcome_file(self.file).unlink()
                reason = f"another process has it (job {self.job.job_id})" if outcome.busy else outcome.reason
                return Outcome(outcome.returned, reason)  # not busy=True: the row would be submitted again
            lost = outcome.reason
        if state is None:
            return None
        if state not in (*ENDED, *MAY_GO_ON, GONE):
            self.ended = None
            return None
        if self.ended is None or self.ended[0] != state:
            self.ended = state, time.monotonic()
        if time.monotonic() - self.ended[1] < (REQUEUE_SECONDS if state in MAY_GO_ON else SETTLE_SECONDS):
            return None
        with suppress(OSError, ValueError):
            lost = json.loads(ended_file(self.file).read_text(encoding="utf-8"))
        how = "is no longer in the queue" if state == GONE else f"ended as {state}"
        reason = f"job {self.job.job_id} {how}; its log: {self.job.paths.stdout}"
        return Outcome(reason=f"{lost}; {reason}" if lost else reason)

    def silent(self) -> float:
        """Return how old the last line of the job's log is, 0 while it waits in the queue or has none."""
        if self.state(self.job) != "RUNNING":
            return 0
        with suppress(OSError):
            return time.time() - self.job.paths.stdout.stat().st_mtime
        return 0


def parameters(settings: Slurm, trainer: Any, name: str) -> dict[str, Any]:
    """Return submitit's parameters for one row."""
    gpus = 0 if trainer.accelerator == "cpu" else trainer.devices
    asked = {
        "name": f"stat-{name}",
        "nodes": trainer.num_nodes,
        "tasks_per_node": trainer.devices,
        "gpus_per_node": gpus,
        "cpus_per_task": settings.cpus_per_gpu,
        "timeout_min": round(settings.hours * 60),
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
        "slurm_qos": settings.qos,
        "slurm_constraint": settings.constraint,
        "slurm_mem_per_gpu": settings.mem_per_gpu if gpus else None,
        "slurm_signal_delay_s": settings.warn_seconds,
        # From SLURM 22.05 to 23.02 srun does not take over the cores that sbatch was asked for. And without
        # --kill-on-bad-exit the other ranks wait for one that has failed until NCCL gives up, after half an hour.
        "slurm_srun_args": [f"--cpus-per-task={settings.cpus_per_gpu}", "--kill-on-bad-exit=1"],
        "slurm_setup": [TRAP, f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}", *settings.setup],
        "slurm_additional_parameters": {"requeue": True, **settings.more},
    }
    return {key: value for key, value in asked.items() if value is not None}
