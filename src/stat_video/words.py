"""The words of a command line before Hydra composes them: keys whose value is a path, and keys of Hydra's own."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError
from .paths import program

HYDRA = re.compile(r"hydra(?![A-Za-z0-9_])")
SWEPT = "hydra.sweeper.params"  # what an experiment sweeps over; on the command line KEY=A,B says the same
LAUNCHER = "hydra.launcher."
# Hydra's keys that do nothing here, since it composes and no more: what to use in their place.
INSTEAD = {
    "hydra.run": "folders.logs=FOLDER and name=NAME say where runs are",
    "hydra.sweep": "folders.logs=FOLDER and name=NAME say where runs are",
    "hydra.job.name": "name=NAME names an experiment",
    "hydra.job.env_set": "set the variables in the shell",
    "hydra.output_subdir": "config.json and overrides.yaml in a run's folder say what it was",
    "hydra.job.chdir": "a run works in the folder where it is started, and paths are relative to that",
    "hydra.job.num": "rows have no number, but an id",
    "hydra.job_logging": "a run's lines go to the terminal or SLURM's log, its figures to epochs.csv",
    "hydra.hydra_logging": "STAT_VIDEO_TRACE=1 in the environment prints traces",
    "hydra.verbose": "STAT_VIDEO_TRACE=1 in the environment prints traces",
    "hydra.callbacks": "callbacks=NAME or callbacks.NAME._target_=CLASS adds one of Lightning's to a run",
    "hydra.searchpath": "--config-dir DIR adds a folder of configs, STAT_VIDEO_OWN=FOLDER one with models too",
    "hydra.mode": "-m sweeps",
    "hydra.help": "--help prints the keys and groups",
    "hydra.hydra_help": "--help prints the keys and groups",
}


def key_of(word: str) -> str:
    """Return the key of a word without Hydra's +, ++ or ~ before it."""
    return word.partition("=")[0].lstrip("+~")


def is_of_hydra(word: str) -> bool:
    """Return whether a word sets a key or group of Hydra's own."""
    return HYDRA.match(key_of(word)) is not None


def check_of_hydra(word: str, multirun: bool, launchers: Sequence[str], script: str, search: bool) -> None:
    """Raise InputError for a word of Hydra's own that would do nothing; ``search``: the command has a sweeper."""
    key, value = key_of(word), word.partition("=")[2]
    if word.startswith("~"):
        raise InputError(f"{word}: nothing is deleted here; {key}=VALUE chooses another")
    of_params = key == SWEPT or key.startswith(f"{SWEPT}.")
    if key == "hydra/launcher":
        if value not in launchers:
            raise InputError(f"{word}: allowed are {', '.join(launchers)}")
    elif key == "hydra/sweeper" or (key.startswith(("hydra/sweeper/", "hydra.sweeper.")) and not of_params):
        if script != "train":
            raise InputError(f"{word}: a search is of {program('train')} -m")
        if not search and key != "hydra/sweeper":
            raise InputError(f"{word}: is of a search, hydra/sweeper=NAME; hydra.launcher.side_by_side=N runs N rows")
    elif not (of_params or key.startswith(LAUNCHER)) or key.startswith(f"{LAUNCHER}_"):
        dotted = key.replace("/", ".")
        instead = next((text for start, text in INSTEAD.items() if f"{dotted}.".startswith(f"{start}.")), None)
        allowed = "allowed of Hydra's own keys are hydra/launcher, hydra.launcher.*, hydra/sweeper, hydra.sweeper.*"
        raise InputError(f"{word}: does nothing here; {instead or allowed}")
    if not multirun:
        raise InputError(f"{word}: a sweep needs -m: {program(script)} -m ...")


def marked(schema: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Yield (key in full, field, type) of all keys of a dataclass and of the dataclasses in it."""
    types = get_type_hints(schema)
    for f in fields(schema):
        yield prefix + f.name, f, types[f.name]
        for inner in (types[f.name], *get_args(types[f.name])):
            if is_dataclass(inner):
                yield from marked(inner, f"{prefix}{f.name}.")


def path_keys(schema: Any) -> set[str]:
    """Return the keys whose value is a path: the fields made by `errors.path`."""
    return {key for key, f, _ in marked(schema) if f.metadata.get("path")}


def open_keys(schema: Any) -> set[str]:
    """Return the keys that hold keys of the user's own, such as recipe.lr_scale, and those of the launchers."""
    return set(_dicts(schema)) - nested_keys(schema) | {f"{LAUNCHER}more"}


def nested_keys(schema: Any) -> set[str]:
    """Return the keys that hold settings of the user's own, with keys in turn: callbacks.NAME.patience=3."""
    return {key for key, kind in _dicts(schema).items() if get_args(kind)[1] is Any}


def _dicts(schema: Any) -> dict[str, Any]:
    return {key: kind for key, _, kind in marked(schema) if get_origin(kind) is dict}


def escaped(value: Any) -> Any:
    r"""Return plain containers so that OmegaConf reads each text as it is: no `${...}` in it is an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list | tuple) else value


def unquoted(value: str) -> str:
    """Return what stands in quotes from end to end, as Hydra's grammar has it; any other value as it is."""
    quotes = re.fullmatch(r"""(['"])((?:(?!\1).)*)\1""", value, re.DOTALL)
    return quotes[2] if quotes else value


def literal(path: str) -> str:
    """Return a path, taken as it is typed, for OmegaConf.

    Three forms are not literal, but are after `./`: a beginning of `~` or `~/`, the home folder; one of `${...}`, an
    interpolation; and quotes from end to end, as Hydra takes them, unless there is a file of that very name.
    """
    with suppress(OSError):  # of a name that is too long
        path = path if Path(path).exists() else unquoted(path)
    expanded = os.path.expanduser(path)  # noqa: PTH111  Path drops a last slash, and fails for a user that is none
    if expanded.startswith("~"):  # no user's home: a name, which no one shall expand later
        expanded = str(Path.cwd() / path)
    start = re.match(r"\$\{[^{}]*\}", expanded)
    return (start[0] if start else "") + escaped(expanded[start.end() if start else 0 :])
