"""The configs that rerun the printed rows of the paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import compose
from ..config import Config
from ..errors import InputError
from ..paper import PaperRow, PaperTable


@dataclass(frozen=True)
class Rerun:
    """A printed row at one scale, and what reruns it."""

    printed: PaperRow
    config: Config | None = None  # None: it can't be rerun
    command: str = ""
    why_not: str = ""  # '' for a row that nobody says how to rerun


def reruns(table: PaperTable, scale: str) -> list[Rerun]:
    """Return what reruns each row of a table: the row of its experiment with its axes, or the words of its `run`."""
    words = [f"experiment={table.experiment}", f"scale={scale}"]
    grid = compose.rows("train", Config, words, every=True)
    found = []
    for printed in table.rows:
        if printed.ours:
            match = next((row for row in grid if _agrees(row.config, printed.axes)), None)
            why = "" if match else f"no row of experiment={table.experiment} has its axes"
        else:
            match, why = _composed(words, printed)
        if match is None:
            found.append(Rerun(printed, why_not=why))
        else:
            found.append(Rerun(printed, match.config, match.command))
    return found


def _composed(words: list[str], printed: PaperRow) -> tuple[compose.Row | None, str]:
    if printed.run is None:
        return None, ""
    try:
        (row,) = compose.rows("train", Config, [*words, *printed.run.split()])
    except InputError as error:
        return None, f"{printed.run}: {error.line}"
    return row, ""


def _agrees(config: Config, axes: Mapping[str, Any]) -> bool:
    keys = {**vars(config.clip), **vars(config.model)}
    return all(key in keys and keys[key] == value for key, value in axes.items())
