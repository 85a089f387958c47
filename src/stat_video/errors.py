"""What a user can mend: one line that names the thing and says what is allowed; and the ranges of config keys."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any


def printable(text: str) -> str:
    """Return text with control characters as escapes, since the name of a file could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_a_line(error: BaseException) -> str:
    """Return the kind of another library's error and the first line that it says: 'RuntimeError: no such operator'."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def of_the_machine(error: BaseException) -> str | None:
    """Return in one line what a disk, a network or the shared memory refuses: 'FILE: No space left on device'.

    None for any other error, which may be a bug and keeps its trace.
    """
    if isinstance(error, OSError):
        files = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
        return ": ".join([*files[:1], error.strerror or in_a_line(error)])
    if isinstance(error, RuntimeError) and (found := NO_SPACE.search(str(error))):
        if "shared memory" in found[0] or "/torch_" in found[0]:
            return "/dev/shm, through which data workers hand over clips, is full; trainer.workers=0 needs none of it"
        return found[0]
    return None


# PyTorch's RuntimeErrors for a full disk, of which the file /torch_... is one in shared memory.
NO_SPACE = re.compile(r".*(No space left on device|unable to allocate shared memory|could not resize shared).*")
FROM_WORKER = "Caught InputError in "  # how PyTorch begins the message of an error that a data worker raised


class InputError(ValueError):
    """Bad input: a config value, a path, a video, a checkpoint. Entry scripts print it as one line, without a trace."""

    def __init__(self, message: str) -> None:
        # A name may hold a line break. What comes out of a data worker keeps those of the worker's trace.
        super().__init__(message if message.startswith(FROM_WORKER) else printable(message))

    @property
    def line(self) -> str:
        """The one line. Out of a data worker the message comes wrapped in the worker's trace: it is the last line."""
        return str(self).strip().splitlines()[-1].removeprefix(f"{__name__}.InputError: ")


@contextmanager
def refused(key: str = "") -> Iterator[None]:
    """Raise a ValueError of inside as an InputError, with the key in question before it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{key}{error}") from None


class Stopped(SystemExit):
    """A signal asked this process to stop, and it did in good order; exits with the shell's 128 + its number.

    ``requeued`` says how the SLURM job continues; None: nothing continues by itself.
    """

    def __init__(self, signum: int, requeued: str | None = None) -> None:
        super().__init__(128 + signum)
        self.name, self.requeued = signal.Signals(signum).name, requeued

    @property
    def line(self) -> str:
        """What is said of it."""
        return f"{self.name}: stopped; {self.requeued or 'the same command goes on'}"


class LostRank(InputError):
    """Another process of this run has ended or can't be reached: that is the consequence, the cause is elsewhere."""


Refusal = Callable[[Any], str | None]  # a value -> what is allowed in its place, None if the value is
UNSET: Any = object()  # the `neutral` of a field that has none


@dataclass(frozen=True)
class Retired:
    """A key that a schema no longer has: the value at which it changed nothing, for the schema's `retired`.

    ``hashed``: whether ids of runs contain that value, as they do unless the field had a `neutral`.
    """

    neutral: Any
    hashed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "neutral", json.loads(json.dumps(self.neutral)))  # as in a config's plain containers


def ranged(
    default: Any,
    low: float,
    high: float | None = None,
    *,
    above: bool = False,
    below: bool = False,
    size: bool = False,
    noise: bool = False,
    null: bool = False,
    neutral: Any = UNSET,
) -> Any:
    """Return a dataclass field for a number from `low` to `high` (None: no end), or None if that is its default.

    ``null`` takes None with another default, too.

    ``above`` and ``below`` leave out the ends themselves; ``size`` is `sized`'s; ``noise`` says that a model's key is
    how often training drops something, so that weights of another value are of the same network. ``neutral``: see
    `any_value`. A list or dict is checked number by number.
    """
    if high is None:
        words = f"more than {low}" if above else f"{low} or more"
    else:
        words = f"{'above ' if above else ''}{low} to {'below ' if below else ''}{high}"

    def refuse(value: Any) -> str | None:
        if null and value is None:
            return None
        if isinstance(value, dict):
            value = list(value.values())
        for n in value if isinstance(value, list | tuple) else [value]:
            fits = (n > low if above else n >= low) and (high is None or (n < high if below else n <= high))
            if not (fits and isfinite(n)):
                return f"allowed is {words}"
        return None

    return _field(default, refuse, neutral, size, noise)


def one_of(default: Any, allowed: Sequence[Any], *, size: bool = False, neutral: Any = UNSET) -> Any:
    """Return a dataclass field for one of the values of `allowed`; ``neutral``: see `any_value`."""

    def refuse(value: Any) -> str | None:
        return None if value in allowed else f"allowed are {', '.join(map(str, allowed))}"

    return _field(default, refuse, neutral, size)


def sized(default: Any, *, neutral: Any = UNSET) -> Any:
    """Return a dataclass field of a model's size: set by the scale, and therefore not part of a model's label."""
    return _field(default, lambda value: None, neutral, size=True)


def any_value(default: Any, *, neutral: Any = UNSET) -> Any:
    """Return a dataclass field without a range.

    ``neutral`` is the value at which a key changes nothing in a run. There the key is left out of the run's id, so that
    runs from before the key was added keep their ids and fill their rows; they count as run with that value. Give it to
    each key that is added to `Config` or below.
    """
    return _field(default, lambda value: None, neutral)


def path(default: str | None = None, *, neutral: Any = UNSET) -> Any:
    """Return a dataclass field for a path or a pattern, which the command line takes as typed (`words.literal`).

    ``neutral``: see `any_value`.
    """
    return field(default=default, metadata={"path": True, "refuse": lambda value: None, **_neutral(neutral)})


def _neutral(value: Any) -> dict[str, Any]:
    """Return the metadata of a neutral value, as it is in a config's plain containers: a tuple is a list there."""
    return {} if value is UNSET else {"neutral": json.loads(json.dumps(value))}


def _field(default: Any, refuse: Refusal, neutral: Any, size: bool = False, noise: bool = False) -> Any:
    metadata = {"refuse": refuse, "size": size, "noise": noise, **_neutral(neutral)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise InputError if a key of a dataclass is outside the range that stands beside it: '<prefix>epochs=0: ...'."""
    for f in fields(config):
        value = getattr(config, f.name)
        if value is None and f.default is None:
            continue
        if "refuse" in f.metadata and (allowed := f.metadata["refuse"](value)) is not None:
            raise InputError(f"{prefix}{f.name}={value}: {allowed}")
