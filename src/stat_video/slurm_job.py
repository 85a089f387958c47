"""The SLURM job around this process: does it continue after a signal, and how is it put back into the queue.

Uses the standard library alone, since signals may come while everything else is still being imported.
"""

import logging
import os
import signal
import subprocess
import time
from typing import Any

log = logging.getLogger(__name__)
WARNED = (signal.SIGUSR1, signal.SIGTERM)  # what SLURM sends before a time limit, and at a preemption or scancel
WAIT_SECONDS = 20  # of the other ranks for the first one, which asks SLURM


def in_job() -> bool:
    """Return whether this process is a task of a SLURM job, by the rule of Lightning: an interactive shell is none."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def restarts() -> int:
    """Return how many times SLURM had put this job back into the queue before it was started."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdigit() else 0


def continues(signum: int) -> str | None:
    """Return a line if this job continues later, put back into the queue by this call if need be; None if it ends.

    SIGUSR1, ahead of the time limit, asks for that. SIGTERM has several senders: in SLURM 22.05 a job that is
    preempted with a grace time is still RUNNING and has a PreemptTime; it ends as FAILED if nobody requeues it. A job
    that SLURM itself requeues (a preemption without grace time, an administrator) has one restart more than when it
    was started. A job that `scancel` ends has neither.
    """
    if not in_job():
        return None
    if signum == signal.SIGUSR1:
        return requeue()
    if signum == signal.SIGTERM:
        about = show()
        if about.get("Restarts", "").isdigit() and int(about["Restarts"]) > restarts():
            return f"SLURM has put job {job_id()} back into the queue, and it continues"
        if about.get("JobState") == "RUNNING" and about.get("PreemptTime", "None") not in ("None", "Unknown"):
            return requeue()
    return None


def requeue() -> str | None:
    """Ask SLURM to run this job again; return a line that says so, or None, with a warning, if SLURM refuses."""
    if _scontrol("requeue", job_id(), wish=f"job {job_id()} could not be put back into the queue") is None:
        return None
    return f"job {job_id()} is put back into the queue and continues"


def show() -> dict[str, str]:
    """Return the fields of `scontrol show job` for this job; empty, with a warning, if SLURM does not answer."""
    wish = f"whether job {job_id()} continues is not known"
    said = _scontrol("--oneliner", "show", "job", job_id(), wish=wish) or ""
    return {key: value for key, _, value in (word.partition("=") for word in said.split())}


def job_id() -> str:
    """Return the id of this job as scontrol takes it, that of an array's task with its number."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def _scontrol(*words: str, wish: str) -> str | None:
    # In a session of its own: a signal to the process group of a task should not end it.
    try:
        return subprocess.run(
            ["scontrol", *words], check=True, capture_output=True, text=True, timeout=60, start_new_session=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.warning("%s (%s)", wish, " ".join(said.split()))
        return None


_ANSWERS = 0  # id of the process that `answer_early` was called in


def answer_early() -> None:
    """Answer SLURM's signals from now on, before there is anything to save: requeue the job if it continues, and end.

    Training installs handlers of its own later. Outside of SLURM SIGUSR1, which asks for a checkpoint, is ignored, and
    SIGTERM ends the process as ever. Signals that came before were held back if `launch.task` has started this process.
    """
    global _ANSWERS
    _ANSWERS = os.getpid()
    for signum in WARNED:
        if signal.getsignal(signum) in (signal.SIG_DFL, _answer) and (signum == signal.SIGUSR1 or in_job()):
            signal.signal(signum, _answer)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNED)


def _answer(signum: int, _: Any) -> None:
    if os.getpid() != _ANSWERS:  # a process that was forked from it, such as one that makes videos
        if signum == signal.SIGTERM:
            os._exit(128 + signum)
        return
    if not in_job():  # SIGUSR1, and there is nothing to save yet
        return
    for other in WARNED:
        signal.signal(other, signal.SIG_IGN)
    if os.environ.get("SLURM_PROCID", "0") == "0":
        how = continues(signum) or "the same command goes on"
        print(f"{signal.Signals(signum).name} before the first step; {how}", flush=True)
    else:
        time.sleep(WAIT_SECONDS)
    os._exit(128 + signum)
