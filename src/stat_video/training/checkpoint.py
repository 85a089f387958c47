"""Opening a checkpoint: plain containers only, refused in one line where it is none of ours."""

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError

WEIGHTS = "model."  # prefix of STAT's tensors in the StatModule's state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """{'config', 'classes', 'manifest', 'weights', 'epoch'} of a checkpoint; no code in it can run (weights_only).

    Raises InputError where the file is missing, truncated, or not written by this project.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds: zip, pickle, end of file, unsafe global
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint, or a truncated one ({reason[:120]})") from None
    ours = content.get("stat_video") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not {"config", "classes"} <= ours.keys() or "state_dict" not in content:
        raise InputError(f"{path}: a checkpoint, but not one of this project's (no 'stat_video' entry in it)")
    weights = {k.removeprefix(WEIGHTS): v for k, v in content["state_dict"].items() if k.startswith(WEIGHTS)}
    known = {key: ours.get(key) for key in ("config", "classes", "manifest")}
    return {**known, "weights": weights, "epoch": content.get("epoch")}
