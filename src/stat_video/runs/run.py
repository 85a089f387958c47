"""A run: its id, its folder and its result.

The id is a hash of what defines the run: the resolved config without its name, folders, hardware and logging, and the
lists of its data set. So the same command finds the same folder again: a finished run is not run twice, a killed one
goes on, and a row of several tables is run once.
"""

import contextlib
import hashlib
import json
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import models
from ..files import PROJECT, before, locked

# Keys that say where and how a run runs, not what it is.
NOT_OF_THE_RUN = ("name", "folders", "trainer", "logger", "fresh", "plan")
HOLD = ("hold_until", "hold_epochs")  # of the recipe: change nothing in a run that is not late (`ended_as_asked`)
# Keys that repeat what another key says, HOLD, and those that say where a data set's videos are and in which form:
# which videos they are is in the hash of the lists.
NOT_DEFINING = {
    "clip": ("views",),
    "recipe": ("tiny_lr", *HOLD),
    "data": (
        "root", "setting", "layout", "classes", "train", "val", "videos", "manifest", "fold", "views", "max_absent",
        "max_unreadable",
    ),
}  # fmt: skip
# Beginning of a config.init that names a data set; the result then also names the run: trained_on=DATA/ID.
TRAINED_ON = "trained_on="
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "pytorchvideo", "torchmetrics", "av")


class Busy(Exception):
    """Another process is running this run."""


def same_data(one: str | None, other: str | None) -> bool:
    """Return whether two `manifest_hash`es, 'lists' or 'lists.content', may be of the same state of a data set.

    An unknown content counts as equal: verifying a data set after training on it does not change it.
    """
    if one is None or other is None:
        return True
    (lists, _, content), (other_lists, _, other_content) = one.partition("."), other.partition(".")
    return lists == other_lists and (not content or not other_content or content == other_content)


def definition(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that defines a run."""
    return {
        key: {k: v for k, v in value.items() if k not in NOT_DEFINING.get(key, ())}
        if isinstance(value, dict)
        else value
        for key, value in config.items()
        if key not in NOT_OF_THE_RUN
    }


def label_of(config: dict[str, Any]) -> str:
    """Return the label of a resolved config's model; its name if its file is gone or of another version."""
    name = str(config["model"]["name"])
    try:
        return models.find(name)(**config["model"]).label
    except (ValueError, TypeError):
        return name


def row_id(config: dict[str, Any]) -> str:
    """Return an id that the runs of one row of a table share: they differ in the seed, and in first weights of it."""
    row = {k: v for k, v in definition(config).items() if k != "seed"}
    return _hash({**row, "init": data_of_init(row["init"])})


def data_of_init(init: str | None) -> str | None:
    """Return a config's init without the run that it names: 'trained_on=motion/0a1b2c3d' -> 'trained_on=motion'."""
    return init.partition("/")[0] if init is not None and init.startswith(TRAINED_ON) else init


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """A run in its folder, `logs/<name>/<scale>-<data>-T<T>-<model's label>-seed<seed>-<id>/`."""

    folder: Path
    id: str

    @classmethod
    def of(cls, config: dict[str, Any], logs: Path, manifest: str | None) -> "Run":
        """Return the run that a resolved config (plain containers) and the `manifest_hash` of its data define.

        Its folder is where it was begun, under whatever name. The content of the videos is not part of the id: so a
        run whose videos have changed since is found, and `training/fit.py` refuses to go on with it.
        """
        id = _hash({**definition(config), "manifest": manifest and manifest.partition(".")[0]})
        for folder in sorted(logs.glob(f"*/*-{id}")):
            return cls(folder, id)
        label = re.sub(r"[^\w+.=-]", "_", label_of(config))  # it becomes part of a path
        about = [config["scale"], config["data"]["name"], f"T{config['clip']['T']}", label]
        return cls(logs / config["name"] / "-".join([*about, f"seed{config['seed']}", id]), id)

    @property
    def checkpoint(self) -> Path:
        """Return the path of the newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def checkpoints(self) -> list[Path]:
        """Return `checkpoint` and the older ones that are kept, newest first; only those that exist."""
        numbered = self.folder.glob(f"{self.checkpoint.stem}-*{self.checkpoint.suffix}")
        older = sorted(int(n) for p in numbered if (n := p.stem.rpartition("-")[2]).isdigit())
        return [path for n in (0, *older) if (path := before(self.checkpoint, n)).exists()]

    @property
    def epochs_file(self) -> Path:
        """Return the path of the CSV file with a row for each epoch."""
        return self.folder / "epochs.csv"

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished run, else None."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            result: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            return result
        return None

    @property
    def state(self) -> str:
        """Return 'done', 'to resume' or 'to do'."""
        if self.result() is not None:
            return "done"
        return "to resume" if self.checkpoints else "to do"

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Lock the run against other processes; raise Busy if one has it."""

        def busy(who: str) -> None:
            raise Busy(f"{self.folder.name} is being run by {who}")

        return locked(self.folder.parents[1] / ".locks" / self.id, busy)

    def set_aside(self) -> None:
        """Rename the folder to the first free `<folder>.old-N`, so that fresh=true loses nothing."""
        if self.folder.exists():
            n = 1
            while (old := self.folder.with_name(f"{self.folder.name}.old-{n}")).exists():
                n += 1
            self.folder.rename(old)


def provenance() -> dict[str, Any]:
    """Return the commit of the code, whether files were changed since, and the versions of Python and packages."""
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
