"""Which class each logit of a file of weights is of: known orders of published data sets, and orders against names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

FOLDER = Path(__file__).parent / "class_orders"  # a file each: its source, licence and digest, then a name a line


@dataclass(frozen=True)
class ClassOrder:
    """The classes of a data set in the order in which models number them."""

    names: list[str]
    about: str = ""  # whose order it is
    not_of: tuple[str, ...] = ()  # projects whose files are known to have another one


def known_orders() -> list[str]:
    """Return the names of the orders that this project has."""
    return sorted(file.stem for file in FOLDER.glob("*.txt"))


def read_order(name: str) -> ClassOrder:
    """Return a known order by its name, or that of a file with a name a line; InputError if there is none."""
    path = FOLDER / f"{name}.txt" if name in known_orders() else Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"classes={name}: not a text file with a name a line") from None
    except OSError:
        raise InputError(
            f"classes={name}: there is no such file; must be a file with a name a line, data, or one of "
            f"{', '.join(known_orders())}"
        ) from None
    head = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise InputError(f"classes={name}: {twice!r} stands there twice")
    if len(names) < 2:
        raise InputError(f"classes={name}: must be 2 names or more, a line each")
    not_of = next((line.removeprefix("not of:").partition("(")[0] for line in head if line.startswith("not of:")), "")
    return ClassOrder(names, head[0] if head else str(path), tuple(filter(None, map(str.strip, not_of.split(",")))))


def columns_for(order: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return for each of ``classes`` its place in ``order``, then the other places.

    Names count without case, spaces and punctuation. Raises InputError, with the first name that is missing, if
    ``order`` has not all of the classes.
    """
    plain = _plain if all(len(set(map(_plain, names))) == len(names) for names in (order, classes)) else str
    places = {plain(name): i for i, name in enumerate(order)}
    lacking = [name for name in classes if plain(name) not in places]
    if lacking:
        more = [name for name in order if plain(name) not in set(map(plain, classes))]
        which = f"only the data has {lacking[0]!r}" + (f"; only the weights have {more[0]!r}" if more else "")
        raise InputError(f"the weights are of {len(order)} classes, the data of {len(classes)}: {which}")
    first = [places[plain(name)] for name in classes]
    return first + [i for i in range(len(order)) if i not in first]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
