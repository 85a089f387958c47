"""What defines a run: the keys that its id is a hash of, and how configs of older versions are read.

A key that is added to `Config` or below names its `neutral` value (`errors.any_value`), a key that is removed goes into
the `retired` of its dataclass. So ids of finished runs stay, and `updated` reads every config ever written.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .. import models, trainer_arguments
from ..config import Config
from ..errors import InputError, Retired
from ..models.base import ModelConfig
from ..weights import shipped

# Keys that say where and how a run runs, not what it is.
NOT_OF_THE_RUN = ("name", "folders", "trainer", "logger", "loggers", "fresh", "objective", "plan")
HOLD = ("hold_until", "hold_epochs")  # of the recipe: change nothing in a run that is not late (`ended_as_asked`)
# Keys that repeat what another key says, HOLD, and those that say where a data set's videos are and in which form:
# which videos they are is in the hash of the lists.
NOT_DEFINING = {
    "clip": ("views",),
    "recipe": ("tiny_lr", *HOLD),
    "data": (
        "root", "setting", "scale", "layout", "classes", "train", "val", "videos", "manifest", "fold", "views",
        "first_weights", "max_absent", "max_unreadable", "max_shared", "wait_seconds",
    ),
}  # fmt: skip
# Beginning of a config.init that names a data set; the result then also names the run: trained_on=DATA/ID.
TRAINED_ON = "trained_on="
MORE = "trainer.more"  # in a definition: arguments of Lightning's Trainer that may change a result
WEIGHTS = "weights"  # in the config of a test of a published file alone, which no run of ours was trained for
CONTENT = "@sha256:"  # in a config.init that names a file: FILE@sha256:DIGEST, of which the digest counts


def definition(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that defines a run, without the keys that are at their neutral value."""
    found = deepcopy(dict(config))
    for _, part, schema in _parts(found):
        for key, neutral in _neutral(schema).items():
            if part.get(key) == neutral:
                part.pop(key, None)
        for key, retired in _retired(schema).items():
            if part.get(key, retired.neutral) != retired.neutral:
                continue
            part.pop(key, None)
            if retired.hashed:
                part[key] = retired.neutral
    more = trainer_arguments.defining((found.get("trainer") or {}).get("more") or {})
    for key in ("init", WEIGHTS):
        if isinstance(file := found.get(key), str) and CONTENT in file:
            found[key] = file[file.rindex(CONTENT) + 1 :]
    return {
        key: {k: v for k, v in value.items() if k not in NOT_DEFINING.get(key, ())}
        if isinstance(value, dict)
        else value
        for key, value in found.items()
        if key not in NOT_OF_THE_RUN
    } | ({MORE: more} if more else {})


def row_id(config: Mapping[str, Any]) -> str:
    """Return an id that the runs of one row of a table share: they differ in the seed, and in first weights of it."""
    row = {k: v for k, v in definition(config).items() if k != "seed"}
    return hash_of({**row, "init": data_of_init(row["init"])})


def data_of_init(init: str | None) -> str | None:
    """Return a config's init without the run that it names: 'trained_on=motion/0a1b2c3d' -> 'trained_on=motion'."""
    return init.partition("/")[0] if init is not None and init.startswith(TRAINED_ON) else init


def hash_of(content: Any) -> str:
    """Return eight hexadecimal digits that name plain content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def with_content(file: str, key: str = "init") -> str:
    """Return a file's name together with a digest of its content, by which runs tell files of a key apart."""
    path = shipped.file_of(file) if shipped.is_shipped(file) else Path(file).expanduser()
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{key}={file}: not a file")
        return f"{file}{CONTENT}{digest_of(path)}"
    except FileNotFoundError:
        raise InputError(f"{key}={file}: there is no such checkpoint") from None
    except OSError as error:
        raise InputError(f"{key}={file}: {error.strerror or error}") from None


def digest_of(file: Path) -> str:
    """Return sixteen hexadecimal digits that name the content of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def updated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config of any older version as this version would have written it.

    Retired keys at their neutral value are dropped. Missing keys that have a neutral value get it, which need not be
    today's default: the run was made without what they do. Other differences stay, for whoever reads the config.
    """
    found = deepcopy(dict(config))
    for _, part, schema in _parts(found):
        for key, retired in _retired(schema).items():
            if part.get(key) == retired.neutral:
                part.pop(key, None)
        for key, neutral in _neutral(schema).items():
            part.setdefault(key, deepcopy(neutral))
    return found


def foreign_keys(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the keys of this version that a run's config lacks, and those that it has and this version does not know.

    They keep a run out of the rows that it was made for: the first need a neutral value, the second are to be retired.
    """
    lacks, unknown = list[str](), list[str]()
    found = definition(updated(config))
    for prefix, part, schema in _parts(found):
        left_out = {*_neutral(schema), *_retired(schema), *NOT_DEFINING.get(prefix.rstrip("."), ())}
        left_out |= set() if prefix else set(NOT_OF_THE_RUN)
        known = {f.name for f in fields(schema)} - left_out
        lacks += [f"{prefix}{key}" for key in sorted(known - part.keys())]
        unknown += [f"{prefix}{key}" for key in sorted(part.keys() - known - left_out - {WEIGHTS, MORE})]
    return lacks, unknown


def _parts(config: dict[str, Any], schema: Any = Config, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield (prefix, part, dataclass) of a config in plain containers and each part of it, the model's `Config` too."""
    yield prefix, config, schema
    for key, kind in _nested(schema).items():
        part = config.get(key)
        if not isinstance(part, dict):
            continue
        if kind is ModelConfig:
            try:
                kind = models.find(str(part.get("name")))
            except ValueError:  # of a model whose file is gone
                continue
        yield from _parts(part, kind, f"{prefix}{key}.")


@cache
def _nested(schema: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are dataclasses themselves, with their types; 'X | None' counts as X."""
    hints = get_type_hints(schema)
    kinds = {f.name: [k for k in (hints[f.name], *get_args(hints[f.name])) if is_dataclass(k)] for f in fields(schema)}
    return {name: found[0] for name, found in kinds.items() if found}


@cache
def _neutral(schema: Any) -> dict[str, Any]:
    """Return the neutral values of a dataclass's keys; a part has one if each of its keys has."""
    parts = {key: _neutral(kind) for key, kind in _nested(schema).items() if kind is not ModelConfig}
    whole = {key: parts[key] for key in parts if len(parts[key]) == len(fields(_nested(schema)[key]))}
    return whole | {f.name: f.metadata["neutral"] for f in fields(schema) if "neutral" in f.metadata}


def _retired(schema: Any) -> Mapping[str, Retired]:
    found: Mapping[str, Retired] = getattr(schema, "retired", {})
    return found
