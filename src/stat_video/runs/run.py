"""What a run is: its id, its folder, its result; finished or not.

The id is a hash of what defines the run (the resolved config without its name, folders, hardware and logging, and the
lists of its data set), so the same command finds the same folder again: a finished run is not run twice, a killed one
goes on, and a row that stands in several tables is run once.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .files import before

NOT_OF_THE_RUN = ("name", "folders", "trainer", "logger", "fresh", "plan")  # where and how it runs, not what it is
# Where the videos are, in which form and by what they are read; what they are is in the hash of their lists.
NOT_OF_THE_DATA = (
    "root", "setting", "layout", "classes", "train", "val", "videos", "manifest", "fold", "reader",
    "max_absent", "max_unreadable",
)  # fmt: skip
TRAINED_ON = "trained_on="  # config.init that names a data set; a run's own says which run it was: trained_on=DATA/ID
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "pytorchvideo", "torchmetrics", "av")
PROJECT = Path(__file__).resolve().parents[3]


class Busy(Exception):
    """Another process is running this run."""


def same_data(one: str | None, other: str | None) -> bool:
    """Whether two `manifest_hash`es, 'lists' or 'lists.content', may be of the same state of a data set.

    A content that is not known is taken for the same: who verifies a data set after training on it has not changed it.
    """
    if one is None or other is None:
        return True
    (lists, _, content), (other_lists, _, other_content) = one.partition("."), other.partition(".")
    return lists == other_lists and (not content or not other_content or content == other_content)


def definition(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that defines a run."""
    defining = {k: v for k, v in config.items() if k not in NOT_OF_THE_RUN}
    defining["data"] = {k: v for k, v in config["data"].items() if k not in NOT_OF_THE_DATA}
    return defining


def row_id(config: dict[str, Any]) -> str:
    """Equal for the runs of one row of a table: they differ in the seed, and in first weights of that seed."""
    row = {k: v for k, v in definition(config).items() if k != "seed"}
    if str(row["init"]).startswith(TRAINED_ON):
        row["init"] = row["init"].partition("/")[0]
    return _hash(row)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """A run in its folder, `logs/<name>/<scale>-<data>-<axes>-<id>/`."""

    folder: Path
    id: str

    @classmethod
    def of(cls, config: dict[str, Any], logs: Path, manifest: str | None) -> "Run":
        """The run that a resolved config (plain containers) and the `manifest_hash` of its data define.

        It lies where it was begun, under whatever name. The content of the videos is no part of the id, so that a
        changed one meets the run that was begun without the change; `training/fit.py` then refuses to mix them.
        """
        id = _hash({**definition(config), "manifest": manifest and manifest.partition(".")[0]})
        for folder in sorted(logs.glob(f"*/*-{id}")):
            return cls(folder, id)
        stem = config["model"]["stem"] if isinstance(config["model"]["stem"], str) else "stem"
        readable = [config["scale"], config["data"]["name"], f"T{config['T']}", "+".join(config["model"]["modules"])]
        readable += [f"t_o{config['t_o']}", stem, config["model"]["spatial_token"], f"l_ta{config['l_ta']}"]
        return cls(logs / config["name"] / "-".join([*readable, f"seed{config['seed']}", id]), id)

    @property
    def checkpoint(self) -> Path:
        """The newest whole checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def checkpoints(self) -> list[Path]:
        """`checkpoint` and those kept from before it, newest first, as far as they are there."""
        numbered = self.folder.glob(f"{self.checkpoint.stem}-*{self.checkpoint.suffix}")
        older = sorted(int(n) for p in numbered if (n := p.stem.rpartition("-")[2]).isdigit())
        return [path for n in (0, *older) if (path := before(self.checkpoint, n)).exists()]

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

    @property
    def state(self) -> str:
        """'done', 'to resume' or 'to do'."""
        if self.result() is not None:
            return "done"
        return "to resume" if self.checkpoints else "to do"

    @contextlib.contextmanager
    def alone(self, wait: bool = False) -> Iterator[None]:
        """Hold the run against other processes; raises Busy, or waits, where one has it. Death lets go."""
        locks = self.folder.parents[1] / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / self.id).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                lock.seek(0)
                raise Busy(f"{self.folder.name} is being run by {lock.read().strip() or 'another process'}") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

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
