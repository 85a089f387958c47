"""What a run is: its id, its folder, its result; finished or not.

The id is a hash of what defines the run (the resolved config without folders, hardware and logging), so the same
command finds the same folder again: a finished run is not run twice, and a killed one goes on.
"""

import contextlib
import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

NOT_OF_THE_RUN = ("folders", "trainer", "logger", "fresh")  # where and how it runs, not what it is
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "pytorchvideo", "torchmetrics", "av")
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Run:
    """A run in its folder, `logs/<name>/<scale>-<axes>-<id>/`."""

    folder: Path
    id: str

    @classmethod
    def of(cls, config: dict[str, Any], logs: Path) -> "Run":
        """The run that a resolved config (plain containers) defines."""
        defining = {k: v for k, v in config.items() if k not in NOT_OF_THE_RUN}
        defining["data"] = {k: v for k, v in config["data"].items() if k not in ("root", "setting")}
        id = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:8]
        stem = config["model"]["stem"] if isinstance(config["model"]["stem"], str) else "stem"
        readable = [config["scale"], f"T{config['T']}", "+".join(config["model"]["modules"]), f"t_o{config['t_o']}"]
        readable += [stem, config["model"]["spatial_token"], f"l_ta{config['l_ta']}", f"seed{config['seed']}", id]
        return cls(logs / config["name"] / "-".join(readable), id)

    @property
    def checkpoint(self) -> Path:
        """The newest whole checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def epochs_file(self) -> Path:
        """A row an epoch."""
        return self.folder / "epochs.csv"

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            result: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            return result
        return None

    def set_aside(self) -> None:
        """Rename the folder to the first free `<folder>.old-N`, so that nothing is lost when it is run afresh."""
        if self.folder.exists():
            n = 1
            while (old := self.folder.with_name(f"{self.folder.name}.old-{n}")).exists():
                n += 1
            self.folder.rename(old)


def provenance() -> dict[str, Any]:
    """Commit of the code (with whether it was changed), and versions."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
