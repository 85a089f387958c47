"""The configs that rerun the printed rows of the paper."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from .. import compose
from ..config import Config
from ..errors import InputError
from ..paper import PaperRow, PaperTable
from .kept import KeptRows, keeping


@dataclass(frozen=True)
class Rerun:
    """A printed row at one scale, and the runs that rerun it."""

    printed: PaperRow
    rows: tuple[compose.Row, ...] = ()  # several: an ensemble, whose scores are averaged; none: it can't be rerun
    why_not: str = ""  # '' for a row that nobody says how to rerun

    @property
    def configs(self) -> list[Config]:
        """Return the config of each run."""
        return [row.config for row in self.rows]


_found: dict[tuple[PaperTable, str], Sequence[Rerun]] = {}  # a table is composed once a process


def reruns(table: PaperTable, scale: str, kept: KeptRows | None = None) -> Sequence[Rerun]:
    """Return what reruns each row of a table: the row of its experiment with its axes, or the words of its `run`."""
    if (table, scale) not in _found:
        with nullcontext(kept) if kept else keeping() as rows:
            _found[table, scale] = find_reruns(table, scale, rows)
    return _found[table, scale]


def find_reruns(table: PaperTable, scale: str, kept: KeptRows) -> Sequence[Rerun]:
    """Return what `reruns` returns, composed anew but for what is kept."""
    words = [f"experiment={table.experiment}", f"scale={scale}"]
    grid = kept.rows(words, every=True)
    found = []
    for printed in table.rows:
        if printed.ours:
            match = tuple(row for row in grid if _agrees(row.config, printed.axes))[:1]
            why = "" if match else f"no row of experiment={table.experiment} has its axes"
            found.append(Rerun(printed, match, why))
        else:
            found.append(_composed(words, printed, kept))
    return found


def _composed(words: list[str], printed: PaperRow, kept: KeptRows) -> Rerun:
    rows = []
    for run in printed.run:
        try:
            rows += kept.rows([*words, *run.split()])
        except InputError as error:
            return Rerun(printed, why_not=f"{run}: {error.line}")
    return Rerun(printed, tuple(rows))


def _agrees(config: Config, axes: Mapping[str, Any]) -> bool:
    keys = {**vars(config.clip), **vars(config.model)}
    return all(key in keys and keys[key] == value for key, value in axes.items())
