"""What Hydra is told before it composes: the schemas, the resolvers, conf/ and the folders of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from .. import models
from ..config import Processes, Slurm
from ..errors import InputError
from ..paths import CONF, PROJECT
from ..words import literal
from .local import groups_of, read_local


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
