"""What this machine says, and which groups there are."""

import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .. import models, paths
from ..config import SCALES, Folders, TrainerKeys
from ..errors import InputError
from ..paths import CONF, PROJECT


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
    places = [CONF, *paths.own_conf()]
    return sorted({path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()})


def groups_of(group: str) -> list[str]:
    """Return the choices of a group."""
    places = [CONF, *paths.own_conf()]
    return sorted({path.stem for place in places for path in (place / group).glob("*.yaml")})


def model_keys() -> list[str]:
    """Return the keys of all models."""
    return sorted({f.name for name in models.names() for f in fields(models.find(name)) if f.name != "name"})


def check_own_conf() -> None:
    """Raise InputError if a folder of `--config-dir` is not there."""
    for place in paths.config_dirs():
        if not place.is_dir():
            raise InputError(f"--config-dir {place}: there is no such folder")


def file_of(group: str, name: str) -> dict[str, Any]:
    """Return what the file of a choice holds, as it is written; {} if there is none or it can't be read."""
    for place in (CONF, *paths.own_conf()):
        with suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load((place / group / f"{name}.yaml").read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
    return {}
