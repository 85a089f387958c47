"""Which command this process is, for the processes that it starts: they are given the same one with other words."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..paths import PACKAGE


def become(name: str, words: list[str]) -> None:
    """Make this process look like `python .../commands/NAME.py WORDS`."""
    script, main = str(PACKAGE / "commands" / f"{name}.py"), vars(sys.modules["__main__"])
    sys.argv = [script, *words]
    # Lightning starts `python -m` with the name in the spec; multiprocessing imports it, or the file.
    main["__spec__"], main["__file__"] = None, script


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Look like a command inside, where the program is somebody else's: a script without a main guard, a notebook."""
    argv, main = sys.argv, vars(sys.modules["__main__"])
    before: dict[str, Any] = {key: main[key] for key in ("__spec__", "__file__") if key in main}
    become(name, [])
    try:
        yield
    finally:
        sys.argv = argv
        del main["__spec__"], main["__file__"]
        main.update(before)
