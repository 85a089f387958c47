"""Compose the words of a command line into configs and check them. No other module imports Hydra.

A row is one config. `python src/train.py T=32` is one, `-m T=16,32` two, and `-m experiment=NAME` those that the
experiment file sweeps over (`hydra.sweeper.params`).
"""

import difflib
import os
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from . import models, paper, paths, trainer_arguments
from .config import SCALES, Config, Folders, Processes, Slurm, TrainerKeys, from_plain
from .errors import InputError
from .models.base import Clip
from .paths import CONF, PROJECT, as_run_here, program
from .registry import check_own
from .words import (
    SWEPT,
    check_of_hydra,
    escaped,
    is_of_hydra,
    key_of,
    literal,
    nested_keys,
    open_keys,
    path_keys,
    unquoted,
)

LAUNCHERS = ("processes", "basic", "slurm")
FLAGS = ("-m", "--multirun", "-h", "--help", "--cfg")
SYSTEMS = "systems="
TRAINER = "trainer."
MOST_ROWS = 10_000  # of one sweep
ALLOWED = "allowed are KEY=VALUE, -m, --help, --cfg job"
# Folders of conf/ of which files are chosen by other choices alone.
FOLLOWS = {"model/at": "model= and scale=", "model/on": "model= and data=", "recipe/on": "recipe= and data="}


@dataclass
class Row:
    """One run: the words that select it alone, and the config that they compose to."""

    words: tuple[str, ...]
    config: Any

    @property
    def command(self) -> str:
        """Return the command that runs this row."""
        return f"{program('train')} {shlex.join(self.words)}"


@dataclass
class Command:
    """A command line after reading."""

    rows: list[Row] = field(default_factory=list)
    refused: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # what is wrong: the words of such rows
    multirun: bool = False
    launcher: str = "basic"  # hydra/launcher
    settings: dict[str, Any] = field(default_factory=dict)  # hydra.launcher.*
    text: str | None = None  # --help, --cfg job: what to print instead of running anything


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
    command, words = Command(), list(words)
    try:
        check_own()
    except ValueError as error:
        raise InputError(str(error)) from None
    flags = [word for word in words if word.startswith("-")]
    if unknown := [flag for flag in flags if flag not in FLAGS]:
        raise InputError(f"{unknown[0]}: {ALLOWED}")
    command.multirun = bool({"-m", "--multirun"} & set(flags))
    if "--cfg" in flags:
        at = words.index("--cfg")
        if words[at + 1 : at + 2] != ["job"]:
            raise InputError("--cfg: allowed is --cfg job")
        del words[at + 1]
    words = [word for word in words if word not in FLAGS]
    conf = conf or script
    with composing(conf, schema):
        if {"-h", "--help"} & set(flags):
            command.text = help_text(conf)
            return command
        several = command.multirun or every
        grammar = Grammar(script, schema, conf)
        settings, words = _settings_and_words(grammar, words, command.multirun)
        for word in settings:
            if len(grammar.choices(word)) > 1:
                raise InputError(f"{word}: a setting of the launcher has one value")
        _check_words(grammar, words)
        scale = read_local().get("scale") if script in ("train", "prepare") else None
        if scale and "scale" not in map(key_of, words):
            words.insert(0, f"scale={scale}")
        systems = [word for word in words if word.startswith(SYSTEMS) and _own_keys(schema)]
        lines = _lines([word for word in words if word not in systems], grammar, command.multirun)
        if systems and not several:
            raise InputError(f"{systems[-1]}: several runs need -m: {program(script)} -m ...")
        for line, sweep in _with_systems(lines, systems[-1:], grammar):
            _read_line(command, grammar, line, settings, several and sweep)
    if "--cfg" in flags:
        for reason in command.refused:
            raise InputError(reason)
        texts = [OmegaConf.to_yaml(OmegaConf.structured(row.config)) for row in command.rows]
        command.text = "---\n".join(texts)  # a document for each row
    return command


class Grammar:
    """The words of a script: what each sweeps over, and how Hydra gets it."""

    def __init__(self, script: str, schema: type, conf: str) -> None:
        self.script, self.schema, self.conf, self.own = script, schema, conf, _own_keys(schema)
        self.paths, self.open, self.nested = path_keys(schema), open_keys(schema), nested_keys(schema)
        if self.own:
            of_models = [f for name in models.names() for f in fields(models.find(name))]
            self.paths |= {f"model.{f.name}" for f in of_models if f.metadata.get("path")}
        self.parser = OverridesParser.create(GlobalHydra.instance().config_loader())

    def full(self, word: str) -> str:
        """Return a word's key in full: 'clip.T' for T=16."""
        key = key_of(word)
        if key.startswith(TRAINER) and key.removeprefix(TRAINER) in trainer_arguments.PASSED:
            return f"{TRAINER}more.{key.removeprefix(TRAINER)}"
        return self.own.get(key, key)

    def choices(self, word: str) -> list[str]:
        """Return the words that a word sweeps over: T=16,32 -> T=16, T=32."""
        key, _, value = word.partition("=")
        if not key:
            raise InputError(f"{word or repr(word)}: {ALLOWED}")
        if self.full(word) in self.paths and not re.fullmatch(r"choice\(.*\)", value):
            return [word]  # commas and all
        override = self.parsed(word)
        try:
            if not override.is_sweep_override():
                return [word]
            if self.full(word) in self.paths:
                values = [v.text if isinstance(v, QuotedString) else str(v) for v in override.sweep_iterator()]
            else:
                values = list(islice(override.sweep_string_iterator(), MOST_ROWS + 1))
        except (HydraException, ValueError) as error:
            if override.is_interval_sweep():
                raise InputError(f"{word}: has no end of values; use A,B,... or range(FROM,TO,STEP)") from None
            raise InputError(f"{word}: {ALLOWED} ({str(error).splitlines()[0]})") from None
        if not values:
            raise InputError(f"{word}: there is no such value; glob(...) is of the choices of a group")
        if len(values) > MOST_ROWS:
            raise InputError(f"{word}: more than {MOST_ROWS} values")
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InputError(f"{word}: {twice} stands there twice")
        return [f"{override.get_key_element()}={value}" for value in values]

    def parsed(self, word: str) -> Override:
        """Return a word as Hydra reads it; InputError if it is none."""
        try:
            (override,) = self.parser.parse_overrides([word])
        except HydraException as error:
            raise InputError(f"{word}: {ALLOWED} ({str(error).splitlines()[0]})") from None
        return override

    def for_hydra(self, word: str) -> str:
        """Return a word that sweeps over nothing as Hydra's own grammar has it."""
        key, equals, value = word.partition("=")
        prefix, full = key[: len(key) - len(key.lstrip("+~"))], self.full(word)
        if full in self.paths and equals and value != "null":
            if not value:
                raise InputError(f"{word}: must be a path, or null")
            value = _quoted(literal(value))
        for parent in self.open:
            if full.startswith(f"{parent}.") and equals:  # a key of the user's own, which may have dots itself
                return f"++{parent}={{{full.removeprefix(f'{parent}.')}:{value}}}"
            if full == parent:
                prefix = "++"
        if any(full.startswith(f"{parent}.") for parent in self.nested) or (full in self.nested and value[:1] == "{"):
            prefix = "++"
        return f"{prefix}{full}{equals}{value}"


def _settings_and_words(grammar: Grammar, words: Sequence[str], multirun: bool) -> tuple[list[str], list[str]]:
    """Return (words for Hydra's launcher, the others); of hydra.sweeper.params the words that say the same."""
    settings, others = [], []
    for word in words:
        key, value = key_of(word), word.partition("=")[2]
        if not is_of_hydra(word):
            others.append(word)
            continue
        check_of_hydra(word, multirun, LAUNCHERS, grammar.script)
        if key.startswith(f"{SWEPT}.") and key != f"{SWEPT}.":
            others.append(_axis(grammar, key.removeprefix(f"{SWEPT}."), unquoted(value)))
        elif key.startswith(SWEPT):
            params = grammar.parsed(word).value()
            if not isinstance(params, dict):
                raise InputError(f'{word}: must be {{KEY:"A,B"}}; in one word KEY=A,B')
            others += [_axis(grammar, str(key), values) for key, values in params.items()]
        else:
            settings.append(word)
    return settings, others


def _axis(grammar: Grammar, key: str, values: Any) -> str:
    """Return the word for a key of hydra.sweeper.params, where paths are swept over too."""
    values = "null" if values is None else str(values)
    several_paths = grammar.full(key) in grammar.paths and values != "null" and not values.startswith("choice(")
    return f"{key}=choice({values})" if several_paths else f"{key}={values}"


def _check_words(grammar: Grammar, words: Sequence[str]) -> None:
    """Raise InputError for words of which one would be ignored: a deletion, or a key that is swept over and set too."""
    of_key: dict[str, list[str]] = {}
    for word in words:
        key = word.partition("=")[0]
        if key.startswith("~"):
            raise InputError(f"{word}: nothing is deleted here; KEY=null or GROUP=null says that there is none")
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
            base = _compose(grammar, [*combination, *settings])
        except InputError as error:
            refusals.append((error.line, combination))
        else:
            break
    else:
        for reason, combination in refusals:
            command.refused.setdefault(reason, []).append(combination)
        return
    if command.multirun:
        command.launcher = str(base.hydra.runtime.choices["hydra/launcher"])
        command.settings = {str(k): _plain(base.hydra.launcher, k) for k in base.hydra.launcher if k != "_target_"}
    given = {grammar.full(word) for word in words}  # a key is given by its one word or in full
    swept = dict(base.hydra.sweeper.params or {}) if sweep else {}
    axes = [grammar.choices(_axis(grammar, key, v)) for key, v in swept.items() if own.get(key, key) not in given]
    of_words = list(choices.values())
    experiments = sum(word.startswith("experiment=") for word in words)
    for row in product(*of_words[:experiments], *axes, *of_words[experiments:]):
        try:
            composed = base if row == combination else _compose(grammar, row)
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
        own = _compose(grammar, [word for word in line if word.startswith("experiment=")])
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


def _own_keys(schema: type) -> dict[str, str]:
    """Return where the one-word keys of a clip and of the models are: {'T': 'clip.T', 'depth': 'model.depth'}."""
    top = {f.name for f in fields(schema)}
    if not {"clip", "model"} <= top:
        return {}
    keys = {key: f"model.{key}" for key in model_keys()} | {f.name: f"clip.{f.name}" for f in fields(Clip)}
    taken = top.union(groups())
    return {key: place for key, place in keys.items() if key not in taken}


def model_keys() -> list[str]:
    """Return the keys of all models."""
    return sorted({f.name for name in models.names() for f in fields(models.find(name)) if f.name != "name"})


def _compose(grammar: Grammar, words: Sequence[str]) -> DictConfig:
    """Compose a script's file of conf/ under words that sweep over nothing, with Hydra's own part of the config.

    Raises InputError if Hydra or OmegaConf refuses.
    """
    for word in words:
        key, _, value = word.partition("=")
        if key == "model" and grammar.own and value in groups_of("model"):
            _find_model(value)
    placed = [grammar.for_hydra(word) for word in words]
    own_conf = ",".join(_quoted(escaped(f"file://{folder.resolve()}/conf")) for folder in paths.OWN)
    try:
        composed = hydra_compose(grammar.conf, [f"hydra.searchpath=[{own_conf}]", *placed], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, AssertionError) as error:
        raise InputError(one_line(error)) from None
    except ValueError as error:  # of a group that is given no name: model=null
        raise InputError(f"{' '.join(words)}: {one_line(error)}") from None
    _check_name_of_data(composed)
    return composed


def _check_name_of_data(composed: DictConfig) -> None:
    """Raise InputError if a data set has the name of another, whose choice would bring settings of the systems."""
    chosen, name = composed.hydra.runtime.choices.get("data"), OmegaConf.select(composed, "data.name")
    if chosen not in (None, name) and any((CONF / part / "on" / str(name)).is_dir() for part in ("model", "recipe")):
        raise InputError(
            f"data={chosen}: data.name={name} is the name of data={name}, for which systems have settings of their own "
            f"(conf/model/on/{name}); another name is allowed, and conf/model/on/{chosen} for such settings"
        )


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _find_model(name: str) -> None:
    """Raise InputError if a model's file can't be used."""
    try:
        models.find(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def checked(config: DictConfig | dict[str, Any], schema: type) -> Any:
    """Return a config, composed or in plain containers, as an object of its schema.

    InputError names a key or value that does not belong.
    """
    try:
        if isinstance(config, DictConfig):  # Hydra's part of it holds values that only hydra.main sets
            config = {str(k): _plain(config, k) for k in config if k != "hydra"}
        # Merged anew, since `+key=value` goes past the schema that the composition was held against.
        found = from_plain(config, schema)
        if isinstance(found, Config):
            found.check_parts()
        return found
    except (OmegaConfBaseException, ValueError) as error:  # ValueError: a part of the config refuses its values
        raise InputError(one_line(error)) from None


def _plain(config: DictConfig, key: Any) -> Any:
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@contextmanager
def composing(script: str, schema: type) -> Iterator[None]:
    """Make a script's schema, the resolvers and conf/ known to Hydra for what is composed inside."""
    _register(script, schema)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def _register(script: str, schema: type) -> None:
    """Make the resolvers, the schemas and the folders of this machine known to Hydra."""
    OmegaConf.register_new_resolver("by", by, replace=True)
    OmegaConf.register_new_resolver("at_T", at_T, replace=True)
    OmegaConf.register_new_resolver("first", first, replace=True)
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)
    store = ConfigStore.instance().store
    schemas = {
        ("hydra/launcher", "processes"): Processes,
        ("hydra/launcher", "slurm"): Slurm,
        ("schema", script): schema,
    }
    for name in groups_of("model"):
        try:
            schemas["model_keys", name] = models.find(name)
        except ValueError:  # a broken file stops only its own model: `find` says why when that is chosen
            schemas["model_keys", name] = dict
    for (group, name), node in schemas.items():
        if _stored.get((group, name)) is node:
            continue  # known, and to take it apart again takes a while
        if group == "model_keys":
            keys = OmegaConf.create({}) if node is dict else OmegaConf.structured(node(name=name))
            store(group=group, name=name, node={"model": keys}, package="_global_")
        else:
            store(group=group, name=name, node=node, package="_global_" if group == "schema" else None)
        _stored[group, name] = node
    local = read_local()
    folders = {key: folder and literal(str(folder)) for key, folder in (local.get("folders") or {}).items()}
    store(name="this_machine", node={"folders": folders}, package="_global_")
    store(name="this_trainer", node={"trainer": local.get("trainer") or {}}, package="_global_")


_stored: dict[tuple[str, str], type] = {}  # (group, name): the schema that Hydra knows by it


def by(key: Any, values: Any) -> Any:
    """Return the value of a key in a table, else that of `_`: `${by:${scale},{tiny:18,paper:50}}`."""
    table = {str(k): v for k, v in dict(values).items()}
    if str(key) not in table and "_" not in table:
        raise InputError(f"{key}: allowed are {', '.join(table)}")
    return table.get(str(key), table.get("_"))


def at_T(T: int, values: Any) -> Any:
    """`${at_T:${clip.T},{16:3,32:5,64:7}}`: that of the longest listed clip that T reaches, else the shortest's."""
    table = {int(k): v for k, v in dict(values).items()}
    reached = [length for length in table if length <= T]
    return table[max(reached) if reached else min(table)]


def first(*values: Any) -> Any:
    """Return the first value that is not null: `${first:${clip.views},${data.views}}`."""
    return next((value for value in values if value is not None), None)


def read_local() -> dict[str, Any]:
    """Return what conf/local.yaml says: scale, folders, trainer keys; {} without it. InputError if it says more."""
    path = Path(os.environ.get("STAT_VIDEO_LOCAL", PROJECT / "conf" / "local.yaml"))
    if not path.exists():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    allowed = {"scale": SCALES} | {
        key: tuple(f.name for f in fields(of)) for key, of in (("folders", Folders), ("trainer", TrainerKeys))
    }
    if not isinstance(content, dict) or content.keys() - allowed.keys():
        raise InputError(f"{path}: allowed keys are {', '.join(allowed)}; see conf/local.example.yaml")
    for key, names in allowed.items():
        given = content.get(key, [])
        for name in [given] if isinstance(given, str) else given:
            if name not in names:
                raise InputError(f"{path}: {key}: '{name}' is not one of {', '.join(names)}")
    return content


def groups() -> list[str]:
    """Return the names of the groups: the folders of conf/ and of the user's own conf/."""
    places = [CONF, *(folder / "conf" for folder in paths.OWN)]
    return sorted({path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()})


def groups_of(group: str) -> list[str]:
    """Return the choices of a group."""
    places = [CONF, *(folder / "conf" for folder in paths.OWN)]
    return sorted({path.stem for place in places for path in (place / group).glob("*.yaml")})


def help_text(script: str) -> str:
    """Return the head of conf/<script>.yaml, and the groups with their choices."""
    lines = (CONF / f"{script}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines[: next(i for i, ln in enumerate(lines) if ln[:1] != "#")]]
    chosen = hydra_compose(script, return_hydra_config=True).hydra.runtime.choices
    listed = [f"  {group}: {', '.join(groups_of(group))}" for group in groups() if group in chosen]
    return as_run_here("\n".join([*head, *(["", "groups (GROUP=CHOICE):", *listed] if listed else [])]))


def one_line(error: BaseException) -> str:
    """Return what is wrong and what is allowed, in one line."""
    if isinstance(error, InputError):
        return error.line
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause.__cause__, InputError):  # raised in a resolver
        return cause.__cause__.line
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(cause)
    text = str(error)
    if isinstance(error, MissingConfigException):
        options = re.search(r"Available options in '(.+?)':\n((?:\t.*\n?)+)", text)
        if options:
            names = ", ".join(line.strip() for line in options[2].splitlines())
            asked = re.search(r"'logger/(\w+)'", text)
            hint = f"; beside W&B: loggers={asked[1]}" if asked and asked[1] in groups_of("loggers") else ""
            return f"{text.splitlines()[0].rstrip('.')}; allowed in '{options[1]}': {names}{hint}"
    if missing := re.search(r"Could not override '(.+?)'\.\s*No match in the defaults list", text):
        return _unknown_group(missing[1])
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if isinstance(error, AssertionError) and "Unexpected type for root" in text:  # OmegaConf does not name the key
        keys = [f.f_locals["key"] for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "update"]
        key = str(keys[0] if keys else "key")
        parent = key.rpartition(".")[0]
        return f"{key}: {parent} is null in this composition and has no keys; choose a group option that sets it"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown_key(error: OmegaConfBaseException) -> str:
    """Return a line with the unknown key, the nearest known one, what is allowed, and which model has such a key."""
    full_key = str(error.full_key)
    parent, _, key = full_key.rpartition(".")
    if parent == "trainer" and (instead := trainer_arguments.instead(key)):
        return f"{full_key}: {instead}"
    keys = sorted(f.name for f in fields(error.object_type)) if is_dataclass(error.object_type) else []
    words = [] if parent else [*groups(), *(f.name for f in fields(Clip)), *model_keys()]
    near = difflib.get_close_matches(key, [*keys, *words], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    if parent == "model":
        name = str(getattr(error.object_type, "__module__", "")).partition(f"{models.__name__}.")[2].partition(".")[0]
        owners = [other for other in models.names() if key in {f.name for f in fields(models.find(other))}]
        of = (
            f"a key of model={' and model='.join(owners)}, not of model={name}" if owners else f"no key of model={name}"
        )
        return f"{key}: {of}{guess}; allowed: {', '.join(keys)}"
    allowed = f"; allowed {f'in {parent}' if parent else 'keys'}: {', '.join(keys)}" if keys else ""
    return f"unknown key '{full_key}'{guess}{allowed}" + (f"; groups: {', '.join(groups())}" if not parent else "")


def _unknown_group(group: str) -> str:
    """Return a line that says which models have a group that this composition does not have."""
    owners = []
    for folder in (CONF, *(own / "conf" for own in paths.OWN)):
        for path in sorted((folder / "model").glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            defaults = content.get("defaults", []) if isinstance(content, dict) else []
            if any(isinstance(default, dict) and f"/{group}" in default for default in defaults):
                owners.append(f"model={path.stem}")
    if owners:
        return f"{group}: a group of {' and '.join(owners)} alone"
    return f"{group}: no group of this script; allowed are {', '.join(groups())}"
