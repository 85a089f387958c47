"""What submitit calls in each task of a SLURM job. Imports the standard library alone, so a task starts quickly."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

HELD = (signal.SIGUSR1, signal.SIGTERM)


def ended_file(file: Path) -> Path:
    """Return where a task notes the signal that killed the process which started from `file`."""
    return file.with_suffix(".ended.json")


class RowJob:
    """Runs a row's command in a task."""

    def __init__(self, command: list[str], file: Path) -> None:
        """``file``: the frozen config that the command starts from."""
        self.command, self.file = command, file

    def __call__(self) -> None:
        """Run the command, which answers SLURM's signals itself: submitit must not.

        The signals are held back until the command has its handlers: a mask is inherited, and they stay pending.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        process = subprocess.Popen(self.command)
        for signum in HELD:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        code = process.wait()
        if code < 0:
            rank = os.environ.get("SLURM_PROCID", "0")
            reason = f"rank {rank} on {socket.gethostname()} was ended by {signal.Signals(-code).name}"
            if not ended_file(self.file).exists():  # the first one is the cause
                ended_file(self.file).write_text(json.dumps(reason))
        if code:
            raise RuntimeError(f"exit code {code}")
