"""Which code computes a run: a digest of the sources as this process has imported them, the commit, the versions."""

import contextlib
import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import paths
from ..paths import CLONED, PACKAGE, PROJECT
from ..registry import KINDS

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "pytorchvideo", "torchmetrics", "av")
COMPUTES = ("code", "versions")  # the parts of `provenance` that two processes of a run have to agree in


def _digest() -> str:
    """Return twelve hexadecimal digits that name the sources of this package and of the user's own parts."""
    found = hashlib.sha256()
    for root in (PACKAGE, *(folder.resolve() / kind for folder in paths.OWN for kind in KINDS)):
        for file in sorted(root.rglob("*.py")):
            hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
            if hidden or not file.is_file():  # of an editor or a notebook
                continue
            content = b""
            with contextlib.suppress(OSError):  # may not be read: importing it says why
                content = file.read_bytes()
            found.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


DIGEST = _digest()  # when the package is imported: a file that is edited later is not what this process runs


@cache
def provenance() -> Mapping[str, Any]:
    """Return `code` (DIGEST), the commit, whether a source differs from it, and the versions of Python and packages.

    A source that git does not track yet, such as a new model, counts as changed. An installed package has no commit.
    """
    tracked = _git("status", "--porcelain", "--untracked-files=no")
    untracked = _git("status", "--porcelain", "--untracked-files=all", "--", "src", "conf")
    return {
        "code": DIGEST,
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": bool(tracked or untracked),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def computing() -> dict[str, Any]:
    """Return the parts of `provenance` that the processes of a run have to agree in."""
    return {key: provenance()[key] for key in COMPUTES}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two parts of a run were computed by the same code and packages."""
    return all(one.get(key) == other.get(key) for key in COMPUTES)


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what two parts of a run differ in: 'commit 0a1b2c3 ... then, commit 4d5e6f7 ... now; torch ...'."""
    said = []
    if then.get("code") != now.get("code"):
        said.append(f"{_named(then)} then, {_named(now)} now")
    before, after = then.get("versions") or {}, now.get("versions") or {}
    said += [f"{p} {before.get(p)} then, {after.get(p)} now" for p in after if before.get(p) != after.get(p)]
    return "; ".join(said)


def _named(part: Mapping[str, Any]) -> str:
    if part.get("code") is None:
        return "unknown code"
    commit = f"commit {str(part['commit'])[:7]}" if part.get("commit") else "no commit"
    return f"{commit}{' with changes' if part.get('changed_since_commit') else ''} (sources {part['code']})"


def commits(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the commits of a run's parts in order, seven digits each, with '+' if changed: '0a1b2c3+ then 4d5e6f7'."""
    names = [
        f"{str(p['commit'])[:7]}{'+' * bool(p.get('changed_since_commit'))}" if p.get("commit") else "-" for p in parts
    ]
    return " then ".join(names)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    if not CLONED:  # the folder may be another project's
        return None
    try:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
