"""Small runs of the entry scripts, each script in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANGS = 1500  # seconds after which a process counts as hung; a machine that is busy with other things is slow, not red
os.environ["STAT_VIDEO_LOCAL"] = "/nowhere"  # the tests do not depend on this machine's conf/local.yaml
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "xdg")  # rows that a test has composed serve the others
SMALL = (
    "scale=tiny",
    "T=4",
    "crop=32",
    "data.motion.train_videos=48",
    "data.motion.val_videos=12",
    "data.motion.frames=24",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "trainer.workers=0",
    "logger=off",
)
PROBE = (*(word.replace("data.motion", "data.probe") for word in SMALL), "recipe.epochs=1")  # of Tables 1 to 5

LIBRARIES = {"videomae": "transformers"}  # that a model is built from, and that only an extra installs


def skip_without_library(model: str) -> None:
    """Skip the test if the library that a model is built from is not installed."""
    if model in LIBRARIES:
        pytest.importorskip(LIBRARIES[model])


@dataclass(frozen=True)
class Place:
    """Folders of a test file."""

    folder: Path

    @property
    def keys(self) -> tuple[str, ...]:
        return self.keys_with(self.folder / "logs")

    def keys_with(self, logs: Path) -> tuple[str, str]:
        """With other logs, for what would be found finished there."""
        return (f"folders.built_in={self.folder / 'data'}", f"folders.logs={logs}")


def script(
    name: str, *words: str, root: Path = ROOT, timeout: float = HANGS, largest_file: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run src/<name>.py of a copy of the project from another folder, as it runs without the package being installed.

    It is forked from a process that has the libraries loaded (forking.py). The system refuses to write past
    `largest_file` bytes of a file, as a full disk does.
    """
    with tempfile.TemporaryDirectory() as out:
        request = {
            "script": str(root / "src" / f"{name}.py"),
            "words": words,
            "folder": str(ROOT / "tests"),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **env},
            "stdout": f"{out}/stdout",
            "stderr": f"{out}/stderr",
            "largest_file": largest_file,
        }
        with _asking:
            server = _forking()
            assert server.stdin is not None
            assert server.stdout is not None
            print(json.dumps(request), file=server.stdin, flush=True)
            pid = int(server.stdout.readline())
            late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            late.start()
            code = int(server.stdout.readline())
            late.cancel()
        texts = [(Path(out) / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr")]
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired([name, *words], timeout, *texts)
        return subprocess.CompletedProcess([name, *words], code, *texts)


_asking = threading.Lock()


@cache
def _forking() -> subprocess.Popen[str]:
    """Start the process that scripts are forked from; it ends with this one, which holds its stdin."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forking.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a script refused its input."""
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("motion: ")]  # its progress
    assert done.returncode == 2, done.stderr + done.stdout
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    return lines[0]


def only(pattern: str, folder: Path) -> Path:
    """The one file below folder that matches."""
    (path,) = folder.rglob(pattern)
    return path


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
