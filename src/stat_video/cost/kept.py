"""The rows that rerun the paper's and their multiply-adds, kept in the user's cache from one command to the next.

A row takes a quarter of a second to compose and a model as long to count; both follow from files that seldom change.
Each file of the cache is of one state of all that its values follow from, which its name is a hash of. A damaged file
and none at all are alike: everything is made anew.
"""

import inspect
import json
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from os import environ
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .. import compose, models, paths
from ..compose import Row
from ..config import Config
from ..errors import InputError
from ..files import replacing
from ..models.base import ModelConfig
from ..models.count import gmacs
from ..paths import CONF, PACKAGE, PROJECT, cache_folder
from ..runs.code import PACKAGES
from .budget import sizes

MOST_STATES = 8  # whose files stay, of each name
VARIABLE = re.compile(r"oc\.env:\s*(\w+)")  # in a config: a value of the environment


class KeptFile:
    """Values by their names in a JSON file, after a hash of them; the file's name has that of what they follow from."""

    def __init__(self, folder: Path, name: str, state: Callable[[], str]) -> None:
        self.folder, self.name, self.state, self.begun_in = folder, name, state, state()
        self.path = folder / f"{name}-{self.begun_in[:16]}.json"
        self.values: dict[str, Any] = {}
        with suppress(OSError):
            seal, _, content = self.path.read_bytes().partition(b"\n")
            if seal == _seal(content):
                self.values = json.loads(content)
        self.found = len(self.values)

    def save(self) -> None:
        """Write the file if values were added and nothing has changed meanwhile; a disk may refuse it."""
        if len(self.values) == self.found or self.state() != self.begun_in:
            return
        content = json.dumps(self.values).encode()
        with suppress(InputError), replacing(self.path) as file:
            file.write(_seal(content) + b"\n" + content)
        with suppress(OSError):
            files = sorted(self.folder.glob(f"{self.name}-*.json"), key=lambda file: file.stat().st_mtime)
            for old in files[:-MOST_STATES]:
                old.unlink()


def _seal(content: bytes) -> bytes:
    return sha256(content).hexdigest().encode()


class KeptRows:
    """Composes and counts what is not known yet.

    Whatever has a model of `$STAT_VIDEO_OWN` is made anew each time, since its file may import code from anywhere.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: where they are kept; None: `paths.cache_folder`."""
        folder = folder or cache_folder()
        self._rows = KeptFile(folder, "rows", state_of_rows)
        self._gmacs = KeptFile(folder, "gmacs", state_of_models)
        self._classes: dict[str, int] = {}  # of each data set: its lists are read once

    def rows(self, words: Sequence[str], every: bool = False) -> list[Row]:
        """Return what `compose.rows` returns for `src/train.py`; raise InputError as it does."""
        name = " ".join([*words, *["every"] * every])
        if name in self._rows.values:
            return [Row(tuple(words), restored(Config, config)) for words, config in self._rows.values[name]]
        rows = compose.rows("train", Config, words, every)
        if all(_of_this_project(row.config) for row in rows):
            self._rows.values[name] = [[row.words, asdict(row.config)] for row in rows]
        return rows

    def gmacs(self, config: Config) -> float:
        """Return 1e9 multiply-adds of one view of the test; ImportError if a library of the model is missing."""
        data = repr(config.data)
        if data not in self._classes:
            self._classes[data] = sizes(config.data)[0]
        arguments = (config.model, config.clip, self._classes[data])
        if not _of_this_project(config):
            return gmacs(*arguments)
        name = repr(arguments)
        if name not in self._gmacs.values:
            self._gmacs.values[name] = gmacs(*arguments)
        return float(self._gmacs.values[name])

    def save(self) -> None:
        """Write what was added."""
        self._rows.save()
        self._gmacs.save()


@contextmanager
def keeping(folder: Path | None = None) -> Iterator[KeptRows]:
    """Yield what is kept; what is added inside is written at the end, however that comes."""
    kept = KeptRows(folder)
    try:
        yield kept
    finally:
        kept.save()


def state_of_rows() -> str:
    """Return a hash of all that a composition follows from: conf/, the code, and this machine's settings.

    The code is all of it, since a config is checked by what any module may hold.
    """
    own = [*paths.own_conf(), *(folder / "models" for folder in paths.OWN)]
    return _hash([PACKAGE, CONF, *own], [str(PROJECT), str(own), json.dumps(compose.read_local())])


def state_of_models() -> str:
    """Return a hash of all that a count follows from."""
    return _hash([PACKAGE / "models"], [])


def _hash(folders: Sequence[Path], words: Sequence[str]) -> str:
    """Return a hash of folders' code and configs, words, variables of the environment named in them, and versions."""
    versions = [platform.python_version(), *(f"{name} {version(name)}" for name in (*PACKAGES, "omegaconf"))]
    files = sorted(path for folder in folders for end in ("*.py", "*.yaml") for path in folder.rglob(end))
    texts = [*versions, *words, *(f"{path}\n{path.read_text(encoding='utf-8')}" for path in files)]
    variables = sorted({name for text in texts for name in VARIABLE.findall(text)})
    return sha256(json.dumps([texts, [(name, environ.get(name)) for name in variables]]).encode()).hexdigest()


def _of_this_project(config: Config) -> bool:
    """Return whether a config's model is one of those that come with the project."""
    return Path(inspect.getfile(type(config.model))).is_relative_to(PACKAGE)


def restored(kind: Any, plain: Any) -> Any:
    """Return a config that `asdict` took apart and JSON kept; it was checked before that."""
    kind = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
    if kind is None or plain is None:
        return plain
    if kind is ModelConfig:
        kind = models.find(plain["name"])
    return kind(**{f.name: restored(_hints(kind)[f.name], plain[f.name]) for f in fields(kind) if f.init})


_hints = cache(get_type_hints)
