"""The words of a script: their keys in full, what each sweeps over, and how Hydra gets them."""

import re
from dataclasses import fields
from itertools import islice
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from .. import models, trainer_arguments
from ..config import Recipe, TrainerKeys
from ..errors import InputError
from ..flags import ALLOWED
from ..models.base import Clip
from ..words import key_of, literal, nested_keys, open_keys, path_keys
from .local import groups, model_keys

SYSTEMS = "systems="
TRAINER = "trainer."

MOST_ROWS = 10_000  # of one sweep

# Folders of conf/ of which files are chosen by other choices alone.
PARTS: dict[str, Any] = {"trainer": TrainerKeys, "recipe": Recipe}
FOLLOWS = {"model/at": "model= and scale=", "model/on": "model= and data=", "recipe/on": "recipe= and data="}


class Grammar:
    """The words of a script: what each sweeps over, and how Hydra gets it."""

    def __init__(self, script: str, schema: type, conf: str) -> None:
        self.script, self.schema, self.conf, self.own = script, schema, conf, own_keys(schema)
        self.of_models = trains(schema)
        self.paths, self.open, self.nested = path_keys(schema), open_keys(schema), nested_keys(schema)
        if self.of_models:
            of_models = [f for name in models.names() for f in fields(models.find(name))]
            self.paths |= {f"model.{f.name}" for f in of_models if f.metadata.get("path")}
        self.parser = OverridesParser.create(GlobalHydra.instance().config_loader())

    def full(self, word: str) -> str:
        """Return a word's key in full: 'clip.T' for T=16, 'recipe.lr_scale.stem' for lr_scale.stem=0.1."""
        key = key_of(word)
        if key.startswith(TRAINER) and key.removeprefix(TRAINER) in trainer_arguments.PASSED:
            return f"{TRAINER}more.{key.removeprefix(TRAINER)}"
        first, dot, rest = key.partition(".")
        whole = self.own.get(first, first)
        return whole + dot + rest if not dot or whole in self.open | self.nested else key

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
                raise InputError(
                    f"{word}: has no end of values; use A,B,... or range(FROM,TO,STEP), or search it "
                    f"by hydra/sweeper=NAME (docs/search.md)"
                ) from None
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
                raise InputError(f"{word}: must be a path or an expression, or null")
            value = quoted(literal(value))
        for parent in self.open:
            if full.startswith(f"{parent}.") and equals:  # a key of the user's own, which may have dots itself
                return f"++{parent}={{{full.removeprefix(f'{parent}.')}:{value}}}"
            if full == parent:
                prefix = "++"
        if any(full.startswith(f"{parent}.") for parent in self.nested) or (full in self.nested and value[:1] == "{"):
            prefix = "++"
        return f"{prefix}{full}{equals}{value}"


def trains(schema: type) -> bool:
    """Return whether a schema has clips and a model, and so all keys of `src/train.py`."""
    return {"clip", "model"} <= {f.name for f in fields(schema)}


def own_keys(schema: type) -> dict[str, str]:
    """Return where the one-word keys are: {'T': 'clip.T', 'depth': 'model.depth', 'lr': 'recipe.lr'}.

    They are those of the models, the clip, the recipe and the trainer, but for names of groups and of the schema's own.
    """
    top = {f.name for f in fields(schema)}
    keys = {f.name: f"{part}.{f.name}" for part, of in PARTS.items() if part in top for f in fields(of)}
    if trains(schema):
        keys |= {key: f"model.{key}" for key in model_keys()} | {f.name: f"clip.{f.name}" for f in fields(Clip)}
    keys |= {"folds": "data.folds"} if "data" in top else {}
    taken = top.union(groups(), ("augment",))
    return {key: place for key, place in keys.items() if key not in taken}


def axis(grammar: Grammar, key: str, values: Any) -> str:
    """Return the word for a key of hydra.sweeper.params, where paths are swept over too."""
    values = "null" if values is None else str(values)
    several_paths = grammar.full(key) in grammar.paths and values != "null" and not values.startswith("choice(")
    return f"{key}=choice({values})" if several_paths else f"{key}={values}"


def quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
