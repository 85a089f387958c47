"""A search: a Sweeper plugin of Hydra proposes words, and each proposal is a row like any other.

Plugins are written for `hydra.main`. What they are handed here is Hydra's own: the composed config, whose params they
read, and a Launcher, to which they give a batch of proposals at a time. It returns the objective of each.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import InputError, in_a_line
from ..paths import program
from ..words import key_of
from .composed import Row, checked, compose_words
from .grammar import SYSTEMS, Grammar, axis
from .known import composing
from .local import file_of
from .scale import with_scale

HPARAMS = "hparams_search"  # the group of files that say what is searched
SWEEPER = "hydra/sweeper"
WAYS = ("direction", "maximize", "minimize")  # keys of sweepers, for which way is better
Value = float | InputError


@dataclass(frozen=True)
class Proposal:
    """The words that a sweeper proposes, and the row that they make; why it is refused, if it is."""

    words: tuple[str, ...]
    row: Row | None
    refused: str | None = None


@dataclass
class Search:
    """What a sweeper is to search, and how."""

    grammar: Grammar
    sweeper: str  # name of the plugin
    fixed: Sequence[str]  # the words of every row
    swept: Sequence[str]  # the words that the sweeper is given
    settings: Sequence[str]  # the words of Hydra's own
    params: dict[str, Any]  # hydra.sweeper.params, as far as no word says the same
    base: DictConfig
    first: Row  # a row of the search, of the first value of everything: for checks before any work

    @property
    def keys(self) -> list[str]:
        """The keys that are searched, in full."""
        return [self.grammar.full(word) for word in (*self.params, *self.swept)]

    @property
    def trials(self) -> int | None:
        """How many rows the sweeper will propose, if its config says so."""
        return self.base.hydra.sweeper.get("n_trials")

    def lower_is_better(self, guess: bool) -> bool:
        """Return whether the user's settings of the sweeper say that less is better; ``guess`` if they say nothing."""
        for key, name, value in _keys(self.base.hydra.sweeper):
            if name in WAYS and key in self._given:
                return _is_low(name, value)
        return guess

    def run(self, evaluate: Callable[[list[Proposal]], list[Value]], lower: bool) -> None:
        """Let the sweeper propose, batch by batch; ``evaluate`` returns the objective of each, or why it has none.

        Raises InputError, in one line, for what the plugin refuses.
        """
        grammar = self.grammar
        with composing(grammar.conf, grammar.schema), tempfile.TemporaryDirectory() as folder:
            base = compose_words(grammar, [*self.fixed, *self.settings])
            with open_dict(base):
                self._settle(base.hydra.sweeper, lower)
                base.hydra.sweep.dir = base.hydra.runtime.output_dir = folder
            context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())

            def task(batch: Sequence[Sequence[str]]) -> list[Value]:
                return evaluate([self.proposal(words) for words in batch])

            try:
                with _launching_by(RowLauncher(task)) as plugins:
                    told: Any = {"hydra_context": context, "task_function": task, "config": base}
                    plugins.instantiate_sweeper(**told).sweep(list(self.swept))
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"{SWEEPER}={self.sweeper}: {in_a_line(error)}") from error

    def proposal(self, words: Sequence[str]) -> Proposal:
        """Return the row of words that the sweeper proposes."""
        proposed = tuple(words)
        try:
            return Proposal(proposed, _row(self.grammar, [*self.fixed, *proposed]))
        except InputError as error:
            return Proposal(proposed, None, error.line)

    def _settle(self, sweeper: DictConfig, lower: bool) -> None:
        """Set in a sweeper's config what nobody has said: the way, a seed, and that a failed row is no end.

        With the seed of the run the same command proposes the same rows, and so finds those that are finished.
        """
        sweeper.params = self.params
        for key, name, value in list(_keys(sweeper)):
            if key in self._given:
                continue
            parent = OmegaConf.select(sweeper, key.removeprefix("hydra.sweeper").rpartition(".")[0].lstrip(".") or ".")
            parent = sweeper if parent is None else parent
            if name == "direction":
                parent[name] = "minimize" if lower else "maximize"
            elif name in WAYS and isinstance(value, bool):
                parent[name] = (name == "minimize") is lower
            elif name == "seed" and value is None:
                parent[name] = self.first.config.seed
            elif name == "max_failure_rate":
                parent[name] = 1.0

    @property
    def _given(self) -> set[str]:
        """The keys of hydra.sweeper that words or the file of a search or an experiment say."""
        found = {key_of(word) for word in self.settings}
        for word in self.fixed:
            if key_of(word) in (HPARAMS, "experiment"):
                said = file_of(key_of(word), word.partition("=")[2]).get("hydra", {}).get("sweeper") or {}
                found |= {key for key, _, _ in _keys(OmegaConf.create(said))}
        return found


def search_of(grammar: Grammar, words: list[str], settings: Sequence[str]) -> Search:
    """Return the search that words ask for; InputError if they don't say one."""
    for word in words:
        if word.startswith(("seeds=", SYSTEMS)):
            raise InputError(f"{word}: not allowed in a search; seed=N is that of its rows")
    words = sorted(dict.fromkeys(words), key=lambda word: not word.startswith("experiment="))
    swept = [word for word in words if _sweeps(grammar, word)]
    if chosen := [word for word in swept if key_of(word) in ("experiment", HPARAMS)]:
        raise InputError(f"{chosen[0]}: must be one in a search")
    fixed = list(with_scale(grammar, [word for word in words if word not in swept]))
    try:
        base = compose_words(grammar, [*fixed, *settings])
    except InputError as error:
        raise InputError(_not_installed(error.line)) from None
    name = str(base.hydra.runtime.choices[SWEEPER])
    if name == "basic":
        raise InputError(
            f"{HPARAMS}: names no sweeper; {SWEEPER}=NAME does, or `- override /{SWEEPER}: NAME` in its file"
        )
    given = {grammar.full(word) for word in words}
    params = OmegaConf.to_container(base.hydra.sweeper.get("params") or OmegaConf.create({}))
    assert isinstance(params, dict)
    left = {str(key): value for key, value in params.items() if grammar.full(str(key)) not in given}
    if not (left or swept):
        raise InputError(f"{SWEEPER}={name}: there is nothing to search; KEY=interval(A,B) or KEY=choice(A,B,...)")
    for key in ("n_trials", "n_jobs"):
        if isinstance(number := base.hydra.sweeper.get(key), int) and number < 1:
            raise InputError(f"hydra.sweeper.{key}={number}: must be 1 or more")
    spaces = [*swept, *(axis(grammar, key, value) for key, value in left.items())]
    return Search(grammar, name, fixed, swept, settings, left, base, _first_row(grammar, fixed, spaces))


def refuse_alone(grammar: Grammar, words: Sequence[str]) -> None:
    """Raise InputError for the words of a search in a command that is none."""
    for word in words:
        key = key_of(word)
        if key == "objective" and word != "objective=null":
            raise InputError(f"{word}: is of a search, {program('train')} -m {SWEEPER}=NAME ... (docs/search.md)")
        if key != HPARAMS or word == f"{HPARAMS}=null":
            continue
        if grammar.script != "train":
            raise InputError(f"{word}: a search is of {program('train')} -m")
        given = {grammar.full(other) for other in words}
        said = file_of(HPARAMS, word.partition("=")[2]).get("hydra", {}).get("sweeper", {}).get("params") or {}
        if open_ := [key for key in said if grammar.full(str(key)) not in given]:
            raise InputError(f"{word}: a search needs -m; {open_[0]}=VALUE beside it is a row of it")


def _sweeps(grammar: Grammar, word: str) -> bool:
    if grammar.full(word) in grammar.paths:
        return len(grammar.choices(word)) > 1
    return grammar.parsed(word).is_sweep_override()


def _row(grammar: Grammar, words: Sequence[str]) -> Row:
    row = tuple(words)
    return Row(row, checked(compose_words(grammar, row), grammar.schema))


def _first_row(grammar: Grammar, fixed: Sequence[str], spaces: Sequence[str]) -> Row:
    """Return a row of the first value of each space, else of the last: InputError if neither is allowed."""
    refused = None
    for last in (False, True):
        try:
            return _row(grammar, [*fixed, *(_one_value(grammar, word, last) for word in spaces)])
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _one_value(grammar: Grammar, word: str, last: bool) -> str:
    """Return the word for the first or last value of what a word sweeps over."""
    override = grammar.parsed(word)
    if override.is_interval_sweep():
        interval: Any = override.value()
        low, high = interval.start, interval.end
        if not low < high:
            raise InputError(f"{word}: must be interval(LOW,HIGH)")
        return f"{override.get_key_element()}={high if last else low}"
    return grammar.choices(word)[-1 if last else 0]


def _not_installed(line: str) -> str:
    """Return a refusal of Hydra's, with what to install if it is of a sweeper that is not there."""
    missing = re.search(rf"Could not find '{SWEEPER}/(\w+)'", line)
    if missing is None:
        return line
    return f"{SWEEPER}={missing[1]}: there is no such sweeper here: pip install 'stat-video[search]', or its own plugin"


def _keys(node: Any, prefix: str = "hydra.sweeper") -> Iterator[tuple[str, str, Any]]:
    """Yield (key in full, its last part, value) of a sweeper's config, but for its params."""
    for name in node:
        value = None
        with suppress(Exception):  # missing, or an interpolation of hydra.main's
            value = node[name]
        if isinstance(value, DictConfig):
            if name != "params":
                yield from _keys(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", str(name), value


def _is_low(name: str, value: Any) -> bool:
    if name == "direction":
        return str(getattr(value, "name", value)).lower() == "minimize"
    return bool(value) == (name == "minimize")


class RowLauncher(Launcher):
    """Gives the batches of a sweeper to `Search.run`."""

    def __init__(self, evaluate: Callable[[Sequence[Sequence[str]]], list[Value]]) -> None:
        self.evaluate = evaluate

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Need nothing of what a launcher of Hydra's is given."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return the objective of each proposal of a batch."""
        logging.disable(logging.NOTSET)
        try:
            values = self.evaluate([tuple(words) for words in job_overrides])
        finally:
            logging.disable(logging.WARNING)
        return [_returned(words, value) for words, value in zip(job_overrides, values, strict=True)]


@contextmanager
def _launching_by(launcher: Launcher) -> Iterator[Plugins]:
    """Make sweepers get a launcher of ours: Hydra takes those of a config from the namespace hydra_plugins alone."""
    plugins = Plugins.instance()
    plugins.instantiate_launcher = lambda **told: launcher  # type: ignore[method-assign]
    logging.disable(logging.WARNING)  # between batches: what plugins say of each trial is said by us
    try:
        yield plugins
    finally:
        logging.disable(logging.NOTSET)
        del plugins.instantiate_launcher


class _Failed(JobReturn):
    """A row without an objective: asking for it raises, as Hydra has it, but without a line on stderr."""

    def __init__(self, words: Sequence[str], reason: InputError) -> None:
        super().__init__(overrides=words, status=JobStatus.FAILED)
        self.reason = reason

    def __getattribute__(self, name: str) -> Any:
        if name == "return_value":
            raise self.reason
        return super().__getattribute__(name)


def _returned(words: Sequence[str], value: Value) -> JobReturn:
    if isinstance(value, InputError):
        return _Failed(words, value)
    found = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
    found.return_value = value
    return found
