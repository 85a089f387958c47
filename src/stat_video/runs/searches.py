"""The trials of a search, as a table in a file that the report reads: `logs/<name>/search-<id>.csv`."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import replacing
from ..words import key_of

log = logging.getLogger(__name__)
FILES = "search-*.csv"
LAST = ("best", "run", "failed")  # columns after the objective


@dataclass(frozen=True)
class Trial:
    """One row of a search: the words that were proposed, its figure, its run's folder, or why it failed."""

    words: tuple[str, ...]
    value: float | None
    run: str
    failed: str = ""

    @property
    def values(self) -> list[str]:
        """What was proposed for each key."""
        return [word.partition("=")[2] for word in self.words]


@dataclass
class Trials:
    """The trials of one search, in order."""

    keys: Sequence[str]  # in full, in the order of a trial's words
    objective: str
    lower: bool  # is better
    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Add a trial, whose words are put into the order of the keys by the last parts of their names."""
        last = [key.rpartition(".")[2] for key in self.keys]
        words = sorted(trial.words, key=lambda w: _place(key_of(w), self.keys, last))
        self.trials.append(Trial(tuple(words), trial.value, trial.run, trial.failed))

    @property
    def best(self) -> Trial | None:
        """The trial with the best figure; None if none has one."""
        return self.best_of(len(self.trials))

    def best_of(self, first: int) -> Trial | None:
        """Return the best of the first so many trials."""
        there = [trial for trial in self.trials[:first] if trial.value is not None]
        return min(there, key=lambda t: (t.value or 0.0) * (1 if self.lower else -1), default=None)

    def write(self, file: Path) -> None:
        """Write the table, with the best figure so far beside each."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", *self.keys, self.objective, *LAST])
        for n, trial in enumerate(self.trials, 1):
            best = self.best_of(n)
            figures = ["" if value is None else repr(value) for value in (trial.value, best and best.value)]
            writer.writerow([n, *trial.values, *figures, trial.run, trial.failed])
        with replacing(file) as out:
            out.write(text.getvalue().encode())

    @classmethod
    def read(cls, file: Path) -> "Trials | None":
        """Return the trials that a file holds; None, with a warning, if it is no such table."""
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                head, *rows = list(csv.reader(lines))
            if head[0] != "trial" or tuple(head[-3:]) != LAST:
                raise ValueError("other columns")
            found = cls(head[1:-4], head[-4], False)
            for row in rows:
                words = tuple(f"{key}={value}" for key, value in zip(found.keys, row[1:-4], strict=True))
                found.trials.append(Trial(words, float(row[-4]) if row[-4] else None, row[-2], row[-1]))
        except (OSError, ValueError, IndexError, csv.Error) as error:
            log.warning("%s: no table of a search (%s)", file, error)
            return None
        values = [trial.value for trial in found.trials if trial.value is not None]
        found.lower = bool(values) and max(values) > float(rows[-1][-3] or max(values))
        return found


def _place(key: str, keys: Sequence[str], last: Sequence[str]) -> int:
    if key in keys:
        return list(keys).index(key)
    name = key.rpartition(".")[2]
    return last.index(name) if name in last else len(keys)
