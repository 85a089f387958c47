"""Parts that are found by name: models, losses, metrics, layouts, augmentations.

Each kind is a folder of this package, and each part a file in it. Files of your own lie in a folder of the same name
below those that the environment variable STAT_VIDEO_OWN names: `$STAT_VIDEO_OWN/losses/focal.py`.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar

from . import paths

KINDS = ("models", "losses", "metrics", "layouts", "augmentations", "callbacks")
Part = TypeVar("Part")


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
        part = None
        if name in self._files():
            try:
                part = self._part(name)
            except Exception as error:
                raise ValueError(
                    f"{self.key}={name}: its file can't be imported ({type(error).__name__}: {error})"
                ) from error
        if part is None:
            raise ValueError(
                f"{self.key}={name}: allowed are {', '.join(self.names())}, and those below $STAT_VIDEO_OWN"
            )
        return part

    def names(self) -> list[str]:
        """Return the names of the parts whose files can be used."""
        found = []
        for name in self._files():
            try:
                if self._part(name) is not None:
                    found.append(name)
            except Exception:  # `find` says why
                continue
        return found

    def _files(self) -> list[str]:
        return sorted({module.name for module in iter_modules(import_module(self.package).__path__)})

    def _part(self, name: str) -> Part | None:
        part: Part | None = getattr(import_module(f"{self.package}.{name}"), self.attribute, None)
        return part if part is not None and self.fits(part) else None
