"""The results below a logs folder, and the files there that can't be read."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VIEWS = r"\d+x\d+"
NEEDED = ("name", "scale", "id", "metrics", "seed", "config", "finished")


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
            if not isinstance(result, dict) or (missing := [key for key in NEEDED if key not in result]):
                raise ValueError(f"lacks {', '.join(missing)}" if isinstance(result, dict) else "is not a mapping")
            # Both become parts of file names.
            if not re.fullmatch(r"\w+", str(result["id"])) or not re.fullmatch(VIEWS, str(result["config"]["views"])):
                raise ValueError("its id or config.views is none of this project's")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found.broken.append((file, str(error)))
        else:
            found.results.append((file.parent, result))
    return found
