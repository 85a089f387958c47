"""Small runs of the entry scripts, each script as a user starts it: a process of its own."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ["STAT_VIDEO_LOCAL"] = "/nowhere"  # the tests do not depend on this machine's conf/local.yaml
SMALL = (
    "scale=tiny",
    "data.motion.train_videos=48",
    "data.motion.val_videos=12",
    "data.motion.frames=24",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "trainer.workers=0",
    "logger=off",
)
PROBE = (*(word.replace("data.motion", "data.probe") for word in SMALL), "recipe.epochs=1")  # of Tables 1 to 5


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
    name: str, *words: str, timeout: float = 300, largest_file: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run src/<name>.py from another folder, as it runs without the package being installed.

    The system refuses to write past `largest_file` bytes of a file, as a full disk does.
    """
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))) if largest_file else None
    return subprocess.run(
        [sys.executable, str(ROOT / "src" / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT / "tests",
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **env},
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
