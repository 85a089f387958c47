"""Write files atomically: a reader, or a killed run, finds the whole old file or the whole new one. Lock them."""

import contextlib
import fcntl
import json
import math
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, of_the_machine


def before(path: Path, n: int) -> Path:
    """Return the path of the n-th last version of a file that is kept several times: last.ckpt, last-1.ckpt, ..."""
    return path.with_stem(f"{path.stem}-{n}") if n else path


def with_ending(path: Path, ending: str, key: str = "out") -> Path:
    """Return a path with an ending after its whole name; InputError with the path's key if it has no name."""
    if path.name in ("", ".."):
        raise InputError(f"{key}={path}: must be a path that ends in a name")
    return path.with_name(path.name + ending)


@contextlib.contextmanager
def replacing(path: Path, keep: int = 1) -> Iterator[BinaryIO]:
    """Yield a file beside `path` to write to; sync it and rename it over `path` at the end of the block.

    With ``keep`` > 1 the versions before it are kept under the names that `before` gives. Raises InputError if the
    disk does not take the file (full, read-only); the old one then stays at `path`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for n in range(keep - 1, 0, -1):  # if killed in this loop, before(path, 1) is the newest
            with contextlib.suppress(FileNotFoundError):
                before(path, n - 1).replace(before(path, n))
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: of PyTorch's zip writer, whose context is the cause
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        raise InputError(f"{path}: could not be written ({cause.strerror}); what was there before is kept") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


_LOCKS: set[int] = set()  # descriptors of the locks that this process holds


def _close_locks() -> None:
    while _LOCKS:
        os.close(_LOCKS.pop())


# A fork inherits the descriptor, and flock holds until the last copy is closed: a data worker that outlives its killed
# parent would keep the run locked. Programs that are started (exec) don't inherit it.
os.register_at_fork(after_in_child=_close_locks)


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file until the block or this process ends, however that happens.

    If another process holds it, call ``busy`` with that process's name and wait, unless ``busy`` raises. Raises OSError
    that names the file if it can't be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _LOCKS.add(lock)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy(os.pread(lock, 1000, 0).decode(errors="replace").strip() or "another process")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # of a file system without locks, which names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        with contextlib.suppress(OSError):  # on a full disk the lock has no name, and holds
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if lock in _LOCKS:  # not in a fork
            _LOCKS.remove(lock)
            os.close(lock)


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Raise InputError in place of an OSError, for example where a file or folder may not be read."""
    try:
        yield
    except OSError as error:
        raise InputError(str(of_the_machine(error))) from error


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes left half written; call it only while no other process uses the folder."""
    for path in folder.glob(".*.new"):
        path.unlink()


def finite(content: Any) -> Any:
    """Return plain containers with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` atomically, as indented JSON; a number that is not finite is written as null."""
    with replacing(path) as file:
        file.write((json.dumps(finite(content), indent=2, allow_nan=False) + "\n").encode())
