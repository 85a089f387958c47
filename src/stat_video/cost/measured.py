"""The share of a GPU's peak that a training step reaches, as `make check-gpu` has measured it."""

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .gpus import GPU

PLACE = Path("gpu") / "check_gpu.json"  # below the logs, if no file is named


def measured_share(file: Path, gpu: GPU, T: int) -> float | None:
    """Return the share at T frames that a file has of a kind of GPU, in bf16.

    None if it is of another GPU or clip length, or its sizes are those of a trial. Raises InputError for a file that
    can't be read or is none of check-gpu's.
    """
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        if found["schema"] != 1:
            raise ValueError(f"schema {found['schema']}, where 1 is expected")
        whole = found["machine"]["device"] == "cuda" and found["sizes"] == "full"
        advice = found["advice"]
        share = advice["share"].get(str(T)) if whole and advice.get("gpu") == gpu.name and "share" in advice else None
        if share is not None and not (isinstance(share, int | float) and 0 < share <= 1):
            raise ValueError(f"a share of {share}")
    except OSError as error:
        raise InputError(f"measured={file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"measured={file}: none of check-gpu's files ({error})") from None
    return share
