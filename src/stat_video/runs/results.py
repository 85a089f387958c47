"""The results below a logs folder, and the files there that can't be read."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VIEWS = r"\d+x\d+"
NEEDED = {"name": str, "scale": str, "id": str, "metrics": dict, "seed": int, "config": dict, "finished": str}
NUMBERS = ("gmacs", "parameters", "train_seconds")  # that a result may lack


@dataclass
class Results:
    """The results that were found; unreadable files are kept with their reason, not dropped in silence."""

    results: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)  # folder of the run, its result
    broken: list[tuple[Path, str]] = field(default_factory=list)  # file, what is wrong with it


def read_results(logs: Path) -> Results:
    """Return what each `logs/<name>/<run>/result.json` holds; skip runs that were set aside (`.old-N`)."""
    found = Results()
    for file in sorted(logs.glob("*/*/result.json")):
        if ".old-" in file.parent.name:
            continue
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if (wrong := _wrong(result)) is not None:
                raise ValueError(wrong)
        except (OSError, ValueError, RecursionError) as error:
            found.broken.append((file, str(error)))
        else:
            found.results.append((file.parent, result))
    return found


def _wrong(result: Any) -> str | None:
    """Return what in a result is not as a run writes it, None if nothing is."""
    if not isinstance(result, dict):
        return "is not a mapping"
    if missing := [key for key in NEEDED if key not in result]:
        return f"lacks {', '.join(missing)}"
    for key, kind in NEEDED.items():
        if type(result[key]) is not kind:
            return f"{key} is a {type(result[key]).__name__}, where {kind.__name__} is expected"
    numbers = {**result["metrics"], **{key: result[key] for key in NUMBERS if result.get(key) is not None}}
    for key, value in numbers.items():
        if type(value) not in (int, float):
            return f"{key} is a {type(value).__name__}, where a number is expected"
    # Both become parts of file names.
    if not re.fullmatch(r"\w+", result["id"]) or not re.fullmatch(VIEWS, str(result["config"].get("views"))):
        return "its id or config.views is none of this project's"
    return None
