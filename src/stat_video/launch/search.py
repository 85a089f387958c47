"""Run a search: the rows that a sweeper proposes, batch by batch, by the launcher that was asked for.

After each batch its table is written, `logs/<name>/search-<id>.csv`. A row that fails is a trial that failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from .. import metrics
from ..compose import Command, Proposal, Search
from ..config import Config
from ..data.sampling import Views
from ..errors import InputError, printable
from ..runs.identity import hash_of
from ..runs.result import Key, Result
from ..runs.searches import Trial, Trials
from .rows import Done, Launcher, Outcome, run_rows
from .sweep import by_launcher

Known = Callable[[Any], Any]


class _Ended(BaseException):
    """A signal stopped the rows: passes through a sweeper, which takes an Exception for a failed trial."""


def run_search(command: Command, known: Known, attempt: Callable[[Any], Outcome], done: Done) -> None:
    """Run a command's search and write the results of its rows into `done`; with plan=true say what it would run."""
    search = command.search
    assert search is not None
    config: Config = search.first.config
    objective = objective_of(config)
    lower = search.lower_is_better(guess=objective.name == "loss")
    trials = f"{search.trials} rows" if search.trials else "rows"
    what = f"the {'least' if lower else 'highest'} {objective} by {', '.join(search.keys)}"
    say(f"search: hydra/sweeper={search.sweeper} proposes {trials} for {what}")
    if config.plan:
        say("plan=true: which rows is only known as it goes; each costs about as much as the first that is allowed:")
        done.results.append(known(config))
        return
    file = Path(config.folders.logs) / config.name / f"search-{_id(search, objective)}.csv"
    table = Trials(search.keys, str(objective), lower)
    with by_launcher(command, [search.first], attempt) as launcher:
        batches = _Batches(launcher, known, done, objective, table, file)
        try:
            search.run(batches.run, lower)
        except _Ended:
            assert launcher.stopped is not None
            done.failures[f"stopped by {launcher.stopped.name}; the same command goes on"] = []
            done.stopped = launcher.stopped
        except InputError:
            if table.best is not None or not table.trials:
                raise
    if table.best is None and not done.stopped:
        last = f"; the last: {table.trials[-1].failed}" if table.trials else f": {search.sweeper} proposed none"
        done.failures[f"no row of the search has a result{last}"] = []
    if (best := table.best) is not None:
        run = "" if done.stopped else f", of {len(table.trials)} rows"
        say(f"best: {' '.join(best.words)} | {objective} {best.value:.4g}{run}; all in {file}")


def objective_of(config: Config) -> Key:
    """Return the figure that a search is about; InputError if a run's result has no such figure."""
    several = config.data.multi_label
    names = metrics.names(several)
    of_test = [Key("test", name, Views.parse(config.views)) for name in names]
    allowed = [Key("val", name, Views(1, 1)) for name in [*names, "loss"]] + of_test
    line = f"must be one of {', '.join(map(str, allowed))}, as a run's result has it"
    if config.objective is None:
        raise InputError(f"objective is not given: objective=FIGURE {line}")
    try:
        found = Key.parse(config.objective)
    except InputError:
        raise InputError(f"objective={config.objective}: {line}") from None
    whole = found._replace(group="")
    if whole not in allowed or (found.group and not (config.data.class_groups and found.name == "top1")):
        raise InputError(f"objective={config.objective}: {line}")
    return found


@dataclass
class _Batches:
    """Runs the rows of a sweeper's batches, and keeps their figures."""

    launcher: Launcher
    known: Known
    done: Done
    objective: Key
    table: Trials
    file: Path
    results: set[str] = field(default_factory=set)  # folders of runs that are in `done`

    def run(self, batch: Sequence[Proposal]) -> list[float | InputError]:
        """Return the objective of each row of a batch, or why there is none; raise _Ended if a signal stops it."""
        rows = [proposal.row for proposal in batch if proposal.row is not None]
        names = {p.row.words: printable(" ".join(p.words)) for p in batch if p.row is not None}
        outcomes = iter(run_rows(rows, names, self.known, self.launcher, say))
        found = []
        for proposal in batch:
            outcome = next(outcomes) if proposal.row is not None else Outcome(reason=proposal.refused)
            if outcome is None or (self.launcher.stopped and outcome.reason is not None):
                raise _Ended
            found.append(self._note(proposal, outcome))
        self.table.write(self.file)
        if self.launcher.stopped:
            raise _Ended
        if (best := self.table.best) is not None:
            say(f"{len(self.table.trials)} rows tried; the best so far: {' '.join(best.words)} | {best.value:.4g}")
        return found

    def _note(self, proposal: Proposal, outcome: Outcome) -> float | InputError:
        result, value, reason = outcome.returned, None, outcome.reason
        if isinstance(result, Result):
            value = result.metrics.get(self.objective)
            if value is None or not isfinite(value):
                value, reason = None, f"its result has no number for {self.objective}"
            if str(result.folder) not in self.results:
                self.results.add(str(result.folder))
                self.done.results.append(result)
        run = result.folder.name if isinstance(result, Result) else ""
        self.table.add(Trial(proposal.words, value, run, "" if value is not None else str(reason)))
        if value is not None:
            return value
        say(f"no result: {printable(' '.join(proposal.words))} | {reason}")
        return InputError(str(reason))


def _id(search: Search, objective: Key) -> str:
    """Return an id of a search: the same command has the same."""
    return hash_of(
        [search.sweeper, str(objective), sorted(search.fixed), sorted(search.swept), sorted(search.settings)]
    )


say = partial(print, flush=True)
