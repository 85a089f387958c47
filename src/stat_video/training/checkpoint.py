"""Opening a checkpoint: plain containers only, refused in one line where it is none of ours."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError

WEIGHTS = "model."  # prefix of STAT's tensors in the StatModule's state
HASHED = b"sha256 of what precedes: "
SEAL = len(HASHED) + 64 + 2  # bytes at a sealed file's end


def seal(archive: memoryview) -> list[bytes | memoryview]:
    """What torch.save wrote, a zip archive, with its SHA-256 as the archive's comment: still a file that torch loads.

    The hash is of all but the last two bytes, which say how long the comment is.
    """
    comment = HASHED + hashlib.sha256(archive[:-2]).hexdigest().encode()
    return [archive[:-2], len(comment).to_bytes(2, "little") + comment]


def intact(path: Path) -> bool:
    """Whether a sealed file is as it was written; True for one without a seal, as torch.save alone writes."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - SEAL, 0))
        told = file.read()
        if told[2 : 2 + len(HASHED)] != HASHED:
            return True
        digest, left = hashlib.sha256(), size - SEAL
        file.seek(0)
        while left and (part := file.read(min(left, 2**22))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest().encode() == told[2 + len(HASHED) :]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """{'config', 'classes', 'manifest', 'place', 'weights', 'epoch'} of a checkpoint.

    No code in it can run: it is read with weights_only, and its config is plain values, nothing of which is ever looked
    up or instantiated. Raises InputError where the file is missing, damaged, or not written by this project.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    if not intact(path):
        raise InputError(f"{path}: damaged, its content does not have the hash that it was written with")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds: zip, pickle, end of file, unsafe global
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint, or a truncated one ({reason[:120]})") from None
    ours = content.get("stat_video") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not {"config", "classes"} <= ours.keys() or "state_dict" not in content:
        raise InputError(f"{path}: a checkpoint, but not one of this project's (no 'stat_video' entry in it)")
    weights = {k.removeprefix(WEIGHTS): v for k, v in content["state_dict"].items() if k.startswith(WEIGHTS)}
    if (wrong := _not_plain(ours["config"], "config")) or (wrong := _not_plain(ours["classes"], "classes")):
        raise InputError(f"{path}: {wrong}")
    known = {key: ours.get(key) for key in ("config", "classes", "manifest", "place")}
    return {**known, "weights": weights, "epoch": content.get("epoch")}


def _not_plain(value: Any, key: str) -> str | None:
    """What in a value is no plain YAML, or asks to be interpreted ('_target_', '${oc.env:...}'); None where all is."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str) or name.startswith("_"):
                return f"{key} has a key {str(name)!r:.40}, which no config of this project has"
            if wrong := _not_plain(part, f"{key}.{name}"):
                return wrong
    elif isinstance(value, list | tuple):
        return next((wrong for i, part in enumerate(value) if (wrong := _not_plain(part, f"{key}[{i}]"))), None)
    elif isinstance(value, str):
        return f"{key} holds an interpolation, {value!r:.60}" if key.startswith("config") and "${" in value else None
    elif not isinstance(value, bool | int | float | None):
        return f"{key} is a {type(value).__name__}, where a plain value is expected"
    return None
