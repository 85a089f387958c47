"""Parts that are found by name: models, losses, metrics, layouts, augmentations.

Each kind is a folder of this package, and each part a file in it. Files of your own lie in a folder of the same name
below those that the environment variable STAT_VIDEO_OWN names: `$STAT_VIDEO_OWN/losses/poly.py`.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Generic, TypeVar

from . import paths
from .errors import in_a_line

KINDS = ("models", "losses", "metrics", "layouts", "augmentations", "callbacks")
Part = TypeVar("Part")


def check_own() -> None:
    """Raise ValueError if a folder of the user's own is not there, or a file in it would hide another of its name."""
    for folder in paths.OWN:
        if not folder.is_dir():
            raise ValueError(f"STAT_VIDEO_OWN: {folder}: no such folder; '{os.pathsep}' stands between several")
    configs: dict[Path, Path] = {}
    places = paths.own_conf()
    for place in (paths.CONF, *places):
        for file in sorted(place.rglob("*.yaml")) if places else ():
            if (other := configs.setdefault(file.relative_to(place), place)) != place:
                taken = other / file.relative_to(place)
                raise ValueError(f"{file}: the name is taken by {taken}; rename it")
    for kind in KINDS if paths.OWN else ():
        tree = paths.PACKAGE / ("data" if kind in ("layouts", "augmentations") else "") / kind
        first: dict[str, Path] = {}
        for place in (tree, *(folder / kind for folder in paths.OWN)):
            for module in iter_modules([str(place)]):
                if (other := first.setdefault(module.name, place)) != place:
                    raise ValueError(f"{place / module.name}: the name is taken by {other / module.name}; rename it")


class Registry(Generic[Part]):
    """The parts of one kind. A part is what its file calls ``attribute``; other files of the folder are none."""

    def __init__(
        self, package: str, path: list[str], *, key: str, attribute: str, fits: Callable[[Part], bool]
    ) -> None:
        """``path`` is the `__path__` of the package, to which the user's own folders are added.

        ``key`` is the config key that names a part, for messages. ``fits`` says whether what a file calls ``attribute``
        is such a part; it may raise, as for a file that can't be imported.
        """
        self.package, self.key, self.attribute, self.fits = package, key, attribute, fits
        path += [str(folder / package.rpartition(".")[2]) for folder in paths.OWN]

    def find(self, name: str) -> Part:
        """Return a part; ValueError names the parts there are, or says why the file can't be used."""
        known = "." not in name and f"{self.package}.{name}" in sys.modules  # a folder is slow to list
        if not known and name not in self._files():
            raise ValueError(f"{self.key}={name}: allowed are {', '.join(self.names())}")
        try:
            part = self._part(name)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{self.key}={name}: its file can't be imported ({in_a_line(error)})") from error
        if part is None:
            found = f"its file has no {self.attribute}, or one that is something else"
            raise ValueError(f"{self.key}={name}: {found}; allowed are {', '.join(self.names())}")
        return part

    def names(self) -> list[str]:
        """Return the names of the parts whose files can be used."""
        found = []
        for name in self._files():
            try:
                if self._part(name) is not None:
                    found.append(name)
            except (Exception, SystemExit):  # `find` says why
                continue
        return found

    def own(self) -> list[str]:
        """Return the names of the user's own files, whether or not they can be used; not those that begin with '_'."""
        kind = self.package.rpartition(".")[2]
        files = iter_modules([str(folder / kind) for folder in paths.OWN])
        return sorted(module.name for module in files if not module.name.startswith("_"))

    def _files(self) -> list[str]:
        return sorted({module.name for module in iter_modules(import_module(self.package).__path__)})

    def _part(self, name: str) -> Part | None:
        part: Part | None = getattr(import_module(f"{self.package}.{name}"), self.attribute, None)
        return part if part is not None and self.fits(part) else None
