"""`hydra/launcher=slurm`: run each row as a SLURM job, by submitit, with a task for each device.

A task runs `python src/train.py config=FILE`. The command that submits waits until all rows are done. If it ends
earlier, the jobs stay in the queue, and the same command finds the runs that they have finished.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..compose import Row
from ..config import Slurm
from ..errors import InputError
from ..files import PROJECT
from ..hardware import devices
from .frozen import FROZEN, freeze, outcome_file, read_outcome
from .rows import Job, Outcome

GOES_ON = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING", "RESIZING")  # states of a job not yet ended


class RowJob:
    """The function that submitit calls in each task of a job."""

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> None:
        """Run the command. It answers SLURM's warning itself by saving and requeueing, so submitit must ignore it."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # the command inherits this handler
        process = subprocess.Popen(self.command)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if process.wait():
            raise RuntimeError(f"exit code {process.returncode}")


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
        self.folder, self.settings, self.side_by_side = folder, settings, settings.side_by_side
        path = os.pathsep.join([str(PROJECT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
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
        workers = trainer.workers if trainer.workers is not None else self.settings.cpus_per_gpu
        trainer = replace(trainer, devices=tasks, workers=workers)
        file = freeze(replace(row.config, trainer=trainer), self.folder)
        self.executor.update_parameters(**parameters(self.settings, trainer, row.config.name))
        job = self.executor.submit(RowJob([sys.executable, str(Path(sys.argv[0]).resolve()), f"{FROZEN}{file}"]))
        print(f"job {job.job_id}: {name}; its log: {job.paths.stdout}", flush=True)
        return _Submitted(job, file)


@dataclass(frozen=True)
class _Submitted:
    job: Any
    file: Path

    def poll(self) -> Outcome | None:
        # Asked before the outcome file is looked for: a job writes that before it ends.
        over = self.job.done() and self.job.state not in GOES_ON
        if outcome_file(self.file).exists():
            outcome = read_outcome(self.file, 0)
            reason = f"another process has it (job {self.job.job_id})" if outcome.busy else outcome.reason
            return Outcome(outcome.returned, reason)  # not busy=True: the row would be submitted again
        if over:
            return Outcome(reason=f"job {self.job.job_id} ended as {self.job.state}; its log: {self.job.paths.stdout}")
        return None


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
        "slurm_setup": [f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}", *settings.setup],
        "slurm_additional_parameters": {"requeue": True, **settings.more},
    }
    return {key: value for key, value in asked.items() if value is not None}
