"""`hydra/launcher=slurm`: a SLURM job a row, by submitit; one task of it for each device.

A task runs `python src/train.py config=FILE`, what anybody could type. The command that submits stays until all rows
are done; when it ends before them, jobs stay in the queue, and the same command finds what they have finished.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runs.run import PROJECT
from ..training.hardware import MOST_WORKERS, devices
from .frozen import FROZEN, freeze, outcome_file, read_outcome
from .rows import Job, Outcome, Row

GOES_ON = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING", "RESIZING")  # states of a job that is not over


@dataclass
class Slurm:
    """Settings: `hydra.launcher.*`. What a row asks of SLURM; `trainer.num_nodes` is the number of its nodes."""

    _target_: str = "hydra_plugins.stat_video_launchers.Composing"
    side_by_side: int = 100  # jobs in the queue at a time
    cluster: str = "slurm"  # or local: the same without SLURM, as processes of this machine
    gpus_per_node: int = 8  # where trainer.devices=auto
    cpus_per_gpu: int = 8
    hours: float = 24
    warn_seconds: int = 180  # SIGUSR1 so long before the time is over
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mem_per_gpu: str | None = None  # '64GB'
    setup: list[str] = field(default_factory=list)  # shell lines before the job, such as 'module load cuda'
    more: dict[str, Any] = field(default_factory=dict)  # other sbatch options: {reservation: x}


class RowJob:
    """What submitit calls in each task of a job."""

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> None:
        """Run the command; it gets SLURM's warning itself, saves and requeues: submitit keeps out of it."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # what the command inherits
        process = subprocess.Popen(self.command)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if process.wait():
            raise RuntimeError(f"exit code {process.returncode}")


class SlurmJobs:
    """Submits rows and asks after them."""

    stopped: signal.Signals | None = None

    def __init__(self, folder: Path, settings: Slurm) -> None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # what a run takes for SLURM's warning; read when it is loaded
        try:
            import submitit
        except ImportError:
            raise InputError("hydra/launcher=slurm needs submitit: pip install 'stat-video[slurm]'") from None
        if settings.cluster not in ("slurm", "local"):
            raise InputError(f"hydra.launcher.cluster={settings.cluster}: allowed are slurm, local")
        self.folder, self.settings, self.side_by_side = folder, settings, settings.side_by_side
        path = os.pathsep.join([str(PROJECT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ["PYTHONPATH"] = path  # where the package is not installed
        try:
            self.executor = submitit.AutoExecutor(folder / "jobs", cluster=settings.cluster)
        except RuntimeError as error:
            raise InputError(f"hydra/launcher=slurm: {error}") from None

    def start(self, row: Row, slot: int) -> Job:
        """Submit it."""
        trainer = row.config.trainer
        told = self.settings.gpus_per_node if trainer.devices == "auto" and trainer.accelerator != "cpu" else None
        tasks = told or devices(trainer)
        workers = trainer.workers if trainer.workers is not None else min(MOST_WORKERS, self.settings.cpus_per_gpu)
        trainer = replace(trainer, devices=tasks, workers=workers)
        file = freeze(replace(row.config, trainer=trainer), self.folder)
        self.executor.update_parameters(**parameters(self.settings, trainer, row.config.name))
        job = self.executor.submit(RowJob([sys.executable, str(Path(sys.argv[0]).resolve()), f"{FROZEN}{file}"]))
        print(f"job {job.job_id}: {row.words}; its log: {job.paths.stdout}", flush=True)
        return _Submitted(job, file)


@dataclass(frozen=True)
class _Submitted:
    job: Any
    file: Path

    def poll(self) -> Outcome | None:
        over = self.job.done() and self.job.state not in GOES_ON  # asked first: what it left was left before
        if outcome_file(self.file).exists():
            outcome = read_outcome(self.file, 0)
            reason = f"another process has it (job {self.job.job_id})" if outcome.busy else outcome.reason
            return Outcome(outcome.returned, reason)  # a job does not wait in the queue twice
        if over:
            return Outcome(reason=f"job {self.job.job_id} ended as {self.job.state}; its log: {self.job.paths.stdout}")
        return None


def parameters(settings: Slurm, trainer: Any, name: str) -> dict[str, Any]:
    """submitit's parameters for one row."""
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
        "slurm_setup": [f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}", *settings.setup],
        "slurm_additional_parameters": {"requeue": True, **settings.more},
    }
    return {key: value for key, value in asked.items() if value is not None}
