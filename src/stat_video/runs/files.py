"""Writing files so that a reader, or a killed run, sees the old whole file or the new one and nothing between."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError


def before(path: Path, n: int) -> Path:
    """Where the n-th last version of a file that is kept several times lies: last.ckpt, last-1.ckpt, last-2.ckpt."""
    return path.with_stem(f"{path.stem}-{n}") if n else path


@contextlib.contextmanager
def replacing(path: Path, keep: int = 1) -> Iterator[BinaryIO]:
    """A file beside `path` to write to; it is synced and renamed over `path` at the end of the block.

    With ``keep`` > 1 what stood there, and what stood there before that, are kept as `before` names them. Raises
    InputError where the disk does not take it (full, read-only); what stood at `path` is kept.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for n in range(keep - 1, 0, -1):  # killed in here, the newest is before(path, 1)
            with contextlib.suppress(FileNotFoundError):
                before(path, n - 1).replace(before(path, n))
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror}); what was there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left beside; for who holds the folder alone."""
    for path in folder.glob(".*.new"):
        path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, readable and atomically."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
