"""Writing files so that a reader, or a killed run, sees the old whole file or the new one and nothing between."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` to write to; it is synced and renamed over `path` at the end of the block.

    Raises InputError where the disk does not take it (full, read-only); what stood at `path` is kept.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror}); what was there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, readable and atomically."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
