"""Words to one config, and its check."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import models, paths
from ..config import Config, from_plain
from ..errors import InputError
from ..paths import CONF, program
from ..words import escaped
from .grammar import Grammar, quoted
from .local import groups_of
from .wrong import one_line


@dataclass
class Row:
    """One run: the words that select it alone, and the config that they compose to."""

    words: tuple[str, ...]
    config: Any

    @property
    def command(self) -> str:
        """Return the command that runs this row."""
        return f"{program('train')} {shlex.join(self.words)}"


def compose_words(grammar: Grammar, words: Sequence[str]) -> DictConfig:
    """Compose a script's file of conf/ under words that sweep over nothing, with Hydra's own part of the config.

    Raises InputError if Hydra or OmegaConf refuses.
    """
    for word in words:
        key, _, value = word.partition("=")
        if key == "model" and grammar.of_models and value in groups_of("model"):
            _find_model(value)
    try:
        composed = hydra_compose(grammar.conf, for_hydra(grammar, words), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, AssertionError) as error:
        raise InputError(one_line(error, grammar.schema)) from None
    except ValueError as error:  # of a group that is given no name: model=null
        raise InputError(f"{' '.join(words)}: {one_line(error)}") from None
    _check_name_of_data(composed)
    return composed


def for_hydra(grammar: Grammar, words: Sequence[str]) -> list[str]:
    """Return words as Hydra gets them, with the folders of configs of the user's own."""
    own_conf = ",".join(quoted(escaped(f"file://{folder.resolve()}")) for folder in paths.own_conf())
    return [f"hydra.searchpath=[{own_conf}]", *map(grammar.for_hydra, words)]


def _check_name_of_data(composed: DictConfig) -> None:
    """Raise InputError if a data set has the name of another, whose choice would bring settings of the systems."""
    chosen, name = composed.hydra.runtime.choices.get("data"), OmegaConf.select(composed, "data.name")
    if chosen not in (None, name) and any((CONF / part / "on" / str(name)).is_dir() for part in ("model", "recipe")):
        raise InputError(
            f"data={chosen}: data.name={name} is the name of data={name}, for which systems have settings of their own "
            f"(conf/model/on/{name}); another name is allowed, and conf/model/on/{chosen} for such settings"
        )


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
            config = {str(k): plain(config, k) for k in config if k != "hydra"}
        # Merged anew, since `+key=value` goes past the schema that the composition was held against.
        found = from_plain(config, schema)
        if isinstance(found, Config):
            found.check_parts()
        return found
    except (OmegaConfBaseException, ValueError) as error:  # ValueError: a part of the config refuses its values
        raise InputError(one_line(error, schema)) from None


def plain(config: DictConfig, key: Any) -> Any:
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
