"""A run: its id, its folder and its result.

The id is a hash of what defines the run: the resolved config without its name, folders, hardware and logging, and the
lists of its data set. So the same command finds the same folder again: a finished run is not run twice, a killed one
goes on, and a row of several tables is run once.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import models
from ..errors import InputError
from ..files import before, locked
from ..weights import shipped
from .identity import CONTENT, TRAINED_ON, definition, hash_of, updated
from .result import Result

OWN = "own"  # the data set of a user's own videos, conf/data/own.yaml


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


def label_of(config: Mapping[str, Any]) -> str:
    """Return the label of a resolved config's model; its name if its file is gone or of another version."""
    name = str(config["model"]["name"])
    try:
        return models.find(name)(**updated(config)["model"]).label
    except (ValueError, TypeError):
        return name


def first_weights_of(init: str | None) -> list[str]:
    """Return in a word whose weights a run starts from: [init_last_0a1b2c] for FILE/last.ckpt, [init_shipped_motion].

    [] for none, and for `init=trained_on=DATA`, by which a table names the runs of its rows.
    """
    if init is None or init.startswith(TRAINED_ON):
        return []
    name, _, digest = init.partition(CONTENT)
    stem = name if name.startswith(shipped.PREFIX) else f"{Path(name).stem[:30]}_{digest[:6]}"
    return [f"init_{stem}"]


@dataclass(frozen=True)
class Run:
    """A run in its folder, `logs/<name>/<scale>-<data>-T<T>-<model's label>-seed<seed>-<id>/`.

    Where there is no table that says them, on data=own, crop, epochs and first weights stand there too.
    """

    folder: Path
    id: str

    @classmethod
    def of(cls, config: dict[str, Any], logs: Path, manifest: str | None) -> "Run":
        """Return the run that a resolved config (plain containers) and the `manifest_hash` of its data define.

        Its folder is where it was begun, under whatever name. The content of the videos is not part of the id: so a
        run whose videos have changed since is found, and `training/fit.py` refuses to go on with it.
        """
        id = hash_of({**definition(config), "manifest": manifest and manifest.partition(".")[0]})
        for folder in sorted(logs.glob(f"*/*-{id}")):
            return cls(folder, id)
        about = [config["scale"], config["data"]["name"], f"T{config['clip']['T']}", label_of(config)]
        if config["data"]["name"] == OWN:
            about[3:3] = [f"crop{config['clip']['crop']}"]
            about.append(f"epochs{config['recipe']['epochs']}")
        about += first_weights_of(config.get("init"))
        if config["data"].get("folds", 1) > 1:
            about.append(f"fold{config['data']['fold']}of{config['data']['folds']}")
        about = [re.sub(r"[^\w+.=-]", "_", word) for word in about]  # they become part of a path
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

    def result(self) -> Result | None:
        """Return the result of a finished run, else None."""
        with contextlib.suppress(InputError):
            return Result.read(self.folder)
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
