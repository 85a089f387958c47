"""A command line as the rows that it stands for."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from hydra import __version__ as HYDRA_VERSION
from omegaconf import DictConfig

from .. import paper
from ..errors import InputError
from ..flags import HYDRA_HELP, read_flags
from ..paths import program
from ..registry import check_own
from ..words import SWEPT, check_of_hydra, is_of_hydra, key_of, unquoted
from .composed import Row, checked, compose_words, plain
from .grammar import FOLLOWS, MOST_ROWS, SYSTEMS, Grammar, axis
from .known import composing
from .local import check_own_conf, groups, groups_of, read_local
from .scale import where_from, with_scale
from .search import HPARAMS, Search, refuse_alone, search_of
from .shown import help_text, shown

BASIC = "hydra/sweeper=basic"
SEVERAL = ("callbacks", "loggers")  # groups of which several files may be chosen, ...
OPTIONAL = (*SEVERAL, "debug", "experiment", HPARAMS)  # ... and of which none is
FOLDS = ("data.folds", "folds")  # with -m: each fold of them, as seeds=3 is each seed
LAUNCHERS = ("processes", "basic", "slurm")


@dataclass
class Command:
    """A command line after reading."""

    rows: list[Row] = field(default_factory=list)
    refused: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # what is wrong: the words of such rows
    multirun: bool = False
    launcher: str = "basic"  # hydra/launcher
    settings: dict[str, Any] = field(default_factory=dict)  # hydra.launcher.*
    search: Search | None = None  # in the place of rows: what proposes them
    text: str | None = None  # --help, --cfg, --info: what to print instead of running anything
    given: list[tuple[Sequence[str], Sequence[str]]] = field(
        default_factory=list
    )  # the words of each row as they were given, and its own
    notes: list[str] = field(default_factory=list)  # lines to print before anything is run


def rows(script: str, schema: type, words: Sequence[str], every: bool = False, conf: str | None = None) -> list[Row]:
    """Return the rows of a script under words (`read`).

    Raises InputError if one of them is not allowed.
    """
    command = read(script, schema, words, every, conf)
    for reason, refused in command.refused.items():
        raise InputError(f"{' '.join(refused[0])} | {reason}" if len(command.rows) else reason)
    return command.rows


def read(script: str, schema: type, words: Sequence[str], every: bool = False, conf: str | None = None) -> Command:
    """Return what a command line asks for: its rows, those that are refused, and where they are to run.

    ``conf`` is the name of its file in conf/, the script's own without; ``every`` takes all rows of an experiment
    without -m.

    `seeds=3` means `seed=0,1,2`, `experiment=a,b` one sweep after another, and `systems=all` the rows of the other
    systems of the experiment's table too. Raises InputError for words that belong to no row.
    """
    command, flags = Command(), read_flags(words)
    words, conf = _chosen(flags.words), conf or script
    command.multirun = flags.multirun
    check_own_conf()
    try:
        check_own()
    except ValueError as error:
        raise InputError(str(error)) from None
    if "--version" in flags.given:
        command.text = f"stat-video {import_module(__name__.partition('.')[0]).__version__}, Hydra {HYDRA_VERSION}"
    if "--hydra-help" in flags.given:
        command.text = HYDRA_HELP
    if command.text is not None:
        return command
    with composing(conf, schema):
        if "--help" in flags.given:
            command.text = help_text(conf)
            return command
        several = command.multirun or every
        grammar = Grammar(script, schema, conf)
        search = command.multirun and any(
            word.startswith(f"{HPARAMS}=") or (word.startswith("hydra/sweeper=") and word != BASIC) for word in words
        )
        settings, words = _settings_and_words(grammar, words, command.multirun, search)
        _check_words(grammar, words)
        scale = read_local().get("scale") if script in ("train", "prepare") else None
        of_machine = bool(scale) and "scale" not in map(key_of, words)
        if of_machine:
            words.insert(0, f"scale={scale}")
        systems = [word for word in words if word.startswith(SYSTEMS) and grammar.of_models]
        lines = _lines([word for word in words if word not in systems], grammar, command.multirun)
        if systems and not several:
            raise InputError(f"{systems[-1]}: several runs need -m: {program(script)} -m ...")
        if search:
            command.search = search_of(grammar, words, settings)
            command.rows = [command.search.first]
            command.launcher, command.settings = _launcher(command.search.base)
        else:
            refuse_alone(grammar, words)
            for line, sweep in _with_systems(lines, systems[-1:], grammar):
                _read_line(command, grammar, line, settings, several and sweep)
        command.notes = where_from(command.given, of_machine)
        if flags.values:
            for reason in command.refused:
                raise InputError(reason)
            texts = [shown(grammar, row, settings, flags) for row in command.rows]
            command.text = "---\n".join(texts)  # a document for each row
    return command


def _settings_and_words(
    grammar: Grammar, words: Sequence[str], multirun: bool, search: bool
) -> tuple[list[str], list[str]]:
    """Return (words for Hydra's launcher and sweeper, the others); hydra.sweeper.params become words of the others."""
    settings, others = [], []
    for word in words:
        key, value = key_of(word), word.partition("=")[2]
        if not is_of_hydra(word):
            others.append(word)
            continue
        check_of_hydra(word, multirun, LAUNCHERS, grammar.script, search)
        if key.startswith(f"{SWEPT}.") and key != f"{SWEPT}.":
            others.append(axis(grammar, key.removeprefix(f"{SWEPT}."), unquoted(value)))
        elif key.startswith(SWEPT):
            params = grammar.parsed(word).value()
            if not isinstance(params, dict):
                raise InputError(f'{word}: must be {{KEY:"A,B"}}; in one word KEY=A,B')
            others += [axis(grammar, str(key), values) for key, values in params.items()]
        elif word != BASIC:
            if len(grammar.choices(word)) > 1:
                raise InputError(f"{word}: a setting of the {key[6:].partition('.')[0]} has one value")
            settings.append(word)
    return settings, others


def _launcher(base: DictConfig) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of the launcher in a composed config."""
    launcher = base.hydra.launcher
    return str(base.hydra.runtime.choices["hydra/launcher"]), {
        str(k): plain(launcher, k) for k in launcher if k != "_target_"
    }


def _chosen(words: Sequence[str]) -> list[str]:
    """Return the words without GROUP=null and what it takes back; InputError for a choice that is none.

    Hydra takes no null there, and of a list for a group of one choice the last one.
    """
    found, known = list[str](), groups()
    for word in words:
        key, _, value = word.partition("=")
        group = key_of(word)
        if group not in known or "@" in key or key.startswith("~"):
            found.append(word)
        elif value == "null" and group in OPTIONAL:
            found = [other for other in found if key_of(other) != group]
        elif value == "null" or (value.startswith("[") and group not in SEVERAL):
            raise InputError(f"{word}: must be one of {', '.join(groups_of(group))}")
        else:
            found.append(word)
    return found


def _check_words(grammar: Grammar, words: Sequence[str]) -> None:
    """Raise InputError for words of which one would be ignored: a deletion, or a key that is swept over and set too."""
    of_key: dict[str, list[str]] = {}
    for word in words:
        key = word.partition("=")[0]
        if key.startswith("~"):
            raise InputError(f"{word}: nothing is deleted here; KEY=null says that there is none, as debug=null does")
        if key_of(word) == "data.scale":
            raise InputError(f"{word}: is of a data set's file in conf/data/; scale=tiny or scale=paper chooses")
        if (folder := key_of(word).partition("@")[0]) in FOLLOWS:
            raise InputError(f"{word}: follows from {FOLLOWS[folder]}, and can't be chosen itself")
        of_key.setdefault("seed" if key == "seeds" else grammar.full(word), []).append(word)
    for key, same in of_key.items():
        # Of plain values the last one counts, as in Hydra: so a command can be repeated with a change at its end.
        if len(same) > 1 and any(w.startswith(("seeds=", SYSTEMS)) or len(grammar.choices(w)) > 1 for w in same):
            raise InputError(f"{' '.join(same)}: {key} is given {len(same)} times; a key that is swept is given once")


def _read_line(command: Command, grammar: Grammar, words: list[str], settings: Sequence[str], sweep: bool) -> None:
    """Add the rows of one sweep to a command."""
    own, schema, script = grammar.own, grammar.schema, grammar.script
    words = list(reversed(dict.fromkeys(reversed(words))))  # of two that are alike the last one counts
    # The experiment first, so that a row's words read like the command that somebody would type.
    words.sort(key=lambda word: not word.startswith("experiment="))
    choices = {word: grammar.choices(word) for word in words}
    for word, values in choices.items():
        if len(values) > 1 and not command.multirun:
            raise InputError(f"{word}: several runs need -m: {program(script)} -m ...")
        _check_commas(grammar, word, command.multirun)
    # Any row that composes says where the rows run and what the experiment sweeps over.
    refusals = []
    for combination in product(*choices.values()):
        try:
            base = compose_words(grammar, [*with_scale(grammar, combination), *settings])
        except InputError as error:
            refusals.append((error.line, combination))
        else:
            break
    else:
        for reason, combination in refusals:
            command.refused.setdefault(reason, []).append(combination)
        return
    if command.multirun:
        command.launcher, command.settings = _launcher(base)
    given = {grammar.full(word) for word in words}  # a key is given by its one word or in full
    swept = dict(base.hydra.sweeper.params or {}) if sweep else {}
    axes = [grammar.choices(axis(grammar, key, v)) for key, v in swept.items() if own.get(key, key) not in given]
    of_words = list(choices.values())
    experiments = sum(word.startswith("experiment=") for word in words)
    for chosen in product(*of_words[:experiments], *axes, *of_words[experiments:]):
        row = with_scale(grammar, chosen)
        command.given.append((chosen, row))
        try:
            composed = base if chosen == combination else compose_words(grammar, row)
            config = checked(composed, schema)
        except InputError as error:
            command.refused.setdefault(error.line, []).append(row)
        else:
            command.rows.append(Row(row, config))


def _lines(words: Sequence[str], grammar: Grammar, multirun: bool) -> list[list[str]]:
    """Return the sweeps that words stand for: one for each experiment."""
    experiments = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(experiments) > 1:
        raise InputError(
            f"experiment= is given {len(experiments)} times; allowed is experiment={','.join(experiments)}"
        )
    lines: list[list[str]] = [[]]
    for word in words:
        key, _, value = word.partition("=")
        options = [word]
        if key == "seeds":
            if not re.fullmatch("[1-9][0-9]*", value):
                raise InputError(f"{word}: allowed is a number of seeds, 1 or more")
            if len(value) > 5:
                raise InputError(f"{word}: more than {MOST_ROWS} values")
            options = ["seed=" + ",".join(map(str, range(int(value))))]
        elif key in FOLDS and value != "1" and "data.fold" not in map(key_of, words):
            if not re.fullmatch("[1-9][0-9]?", value):
                raise InputError(f"{word}: must be a number of folds, 1 to 99")
            lines = [[*line, f"data.folds={value}"] for line in lines]
            options = ["data.fold=" + ",".join(str(fold + 1) for fold in range(int(value)))]
        elif key == "experiment":
            options = grammar.choices(word)
        if options != [word] and not multirun:
            raise InputError(f"{word}: several runs need -m: {program(grammar.script)} -m ...")
        lines = [[*line, option] for option in options for line in lines]
    return lines


def _with_systems(
    lines: Sequence[list[str]], systems: Sequence[str], grammar: Grammar
) -> Iterator[tuple[list[str], bool]]:
    """Yield (words, whether to sweep) for each experiment's own rows and those of other systems in its table.

    ``systems`` is systems=all, or of a list of models; nothing leaves the lines as they are. Raises InputError for a
    model that none of the tables has.
    """
    if not systems:
        yield from ((line, True) for line in lines)
        return
    asked = systems[0].removeprefix(SYSTEMS)
    found: list[tuple[str, list[str], bool]] = []  # model, words, sweep
    of_others = set()
    for line in lines:
        if chosen_model := [word for word in line if word.startswith("model=")]:
            raise InputError(f"{chosen_model[0]}: not allowed beside {SYSTEMS}{asked}")
        own = compose_words(grammar, [word for word in line if word.startswith("experiment=")])
        found.append((str(own.model.name), line, True))
        runs = {
            run: name
            for table in paper.load().tables.values()
            for row in table.rows
            for run, name in zip(row.run, row.models, strict=True)
            if f"experiment={table.experiment}" in line
        }
        for run, name in runs.items():
            of_others.add(name)
            found.append((name, [*run.split(), *line], False))
    names = list(dict.fromkeys(name for name, _, _ in found))
    chosen = names if asked == "all" else asked.strip("[]").split(",")
    if not of_others:
        with_others = [t.experiment for t in paper.load().tables.values() if t.compares_systems]
        raise InputError(f"{SYSTEMS}{asked}: needs one of {', '.join(f'experiment={name}' for name in with_others)}")
    if unknown := [name for name in chosen if name not in names]:
        raise InputError(f"{SYSTEMS}{asked}: {unknown[0] or 'no name'}: allowed are all, or of {','.join(names)}")
    yield from ((words, sweep) for name, words, sweep in found if name in chosen)


def _check_commas(grammar: Grammar, word: str, multirun: bool) -> None:
    """Raise InputError if a path with commas looks like several: it is not there, and all of its parts are."""
    parts = word.partition("=")[2].split(",")
    if not multirun or len(parts) < 2 or grammar.full(word) not in grammar.paths:
        return
    with suppress(OSError):  # of a name that is too long
        if not Path(",".join(parts)).exists() and all(part and Path(part).exists() for part in parts):
            key = key_of(word)
            raise InputError(f"{word}: a path is taken whole; {key}=choice({','.join(parts)}) sweeps over several")
