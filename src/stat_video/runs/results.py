"""The results below a logs folder, and the files there that can't be read."""

import csv
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import Recipe
from .identity import HOLD
from .result import Result

log = logging.getLogger(__name__)
VIEWS = r"\d+x\d+"
TOP1_OF_ONE_VIEW = "val/top1_1x1"
NEEDED = {"name": str, "scale": str, "id": str, "metrics": dict, "seed": int, "config": dict, "finished": str}
NUMBERS = ("gmacs", "parameters", "train_seconds", "wall_seconds")  # that a result may lack


@dataclass
class Results:
    """The results that were found; unreadable files are kept with their reason, not dropped in silence."""

    results: list[Result] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)  # file, what is wrong with it


def read_results(logs: Path) -> Results:
    """Return what each `logs/<name>/<run>/result.json` holds.

    Skips runs of `debug=`, and those that were set aside (`.old-N`).
    """
    found = Results()
    for file in sorted(logs.glob("*/*/result.json")):
        if ".old-" in file.parent.name:
            continue
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(result, dict) and isinstance(result.get("metrics"), dict):
                known = {k: v for k, v in result["metrics"].items() if v is not None and v == v}
                result["metrics"] = known  # without null and NaN, as of a class group without a video
            if (wrong := _wrong(result)) is not None:
                raise ValueError(wrong)
        except (OSError, ValueError, RecursionError) as error:
            found.broken.append((file, str(error)))
        else:
            if result["config"].get("debug") is None:
                found.results.append(Result(file.parent, result))
    return found


def validations(folder: Path) -> list[tuple[int, float]]:
    """Return (optimizer steps done, top-1 of one view in percent) of each validation in a run's `epochs.csv`."""
    return epoch_figures(folder, TOP1_OF_ONE_VIEW)


def epoch_figures(folder: Path, column: str) -> list[tuple[int, float]]:
    """Return (optimizer steps done, figure) of each epoch in a run's `epochs.csv` that has a figure in a column.

    Of a file that can't be read there are none, and a line says why.
    """
    file = folder / "epochs.csv"
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get(column) and row.get("step")]
        return [(int(row["step"]), float(row[column])) for row in rows]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no numbers, or not UTF-8
        log.warning("%s: its validations can't be read (%s)", file, error)
        return []


def hold_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a recipe by which a late run takes more epochs, their defaults if none does."""
    default = {key: getattr(Recipe, key) for key in HOLD}
    held = recipe.get("hold_until") is not None  # an older recipe does not have the keys
    return {key: recipe.get(key, default[key]) for key in HOLD} if held else default


def ended_as_asked(recipe: Recipe, result: Result) -> bool:
    """Return whether a finished run has the epochs that a recipe gives it, which is its own but for `hold_until`.

    A run that is not late is the same with and without, to the bit: so `hold_until` is no part of a run's id, and what
    was run before it was asked for counts, if its validations say that it would have ended there.
    """
    then = hold_of(result.config.get("recipe", {}))
    if then == hold_of(vars(recipe)):
        return True
    top1 = [value for _, value in validations(result.folder)]
    return bool(top1) and recipe.epochs_after(top1) == replace(recipe, **then).epochs_after(top1)


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
    mappings = {key: result.get(key, {}) for key in ("versions", "hardware")}
    mappings |= {f"config.{key}": result["config"].get(key, {}) for key in ("model", "data", "clip", "recipe")}
    if wrong := [key for key, value in mappings.items() if not isinstance(value, dict)]:
        return f"{wrong[0]} is no mapping"
    if not isinstance(result.get("manifest"), str | None):
        return "manifest is no text"
    history = result.get("history", [])
    if not isinstance(history, list) or not all(isinstance(part, dict) for part in history):
        return "history is no list of mappings"
    # Both become parts of file names.
    if not re.fullmatch(r"\w+", result["id"]) or not re.fullmatch(VIEWS, str(result["config"].get("views"))):
        return "its id or config.views is none of this project's"
    return None
