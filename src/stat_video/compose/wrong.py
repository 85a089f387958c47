"""What is wrong with words, in one line."""

import difflib
import re
import traceback
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from .. import models, paths, trainer_arguments
from ..config import Config
from ..errors import InputError
from ..models.base import Clip
from ..paths import CONF
from ..words import marked
from .grammar import trains
from .local import groups, groups_of, model_keys

# Words of other frameworks, and what does it here.
INSTEAD = {"ckpt_path": "the same command resumes; init=FILE starts from weights, src/evaluate.py ckpt=FILE tests",
           "ckpt": "src/evaluate.py ckpt=FILE tests; init=FILE starts from its weights",
           "train": "src/evaluate.py ckpt=FILE tests without training",
           "test": "each run is tested at its end"}  # fmt: skip
CHOICES = {"wandb": "logger=offline or online is W&B", "many_loggers": "loggers=[csv,tensorboard] are beside W&B",
           "model_checkpoint": "each run saves last.ckpt, callbacks=best the best weights too"}  # fmt: skip
# Names of other frameworks for keys of ours.
ELSEWHERE = {"learning_rate": "lr", "max_epochs": "epochs", "num_epochs": "epochs", "num_workers": "workers",
             "gpus": "devices", "num_gpus": "devices", "wd": "weight_decay", "gradient_clip_val": "clip_grad_norm",
             "accumulate_grad_batches": "batch_per_device", "num_frames": "T", "crop_size": "crop"}  # fmt: skip


def one_line(error: BaseException, schema: Any = Config) -> str:
    """Return what is wrong and what must be, in one line; ``schema`` of the script whose words they are."""
    if isinstance(error, InputError):
        return error.line
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause.__cause__, InputError):  # raised in a resolver
        return cause.__cause__.line
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(cause, schema)
    text = str(error)
    if inside := re.search(r"In '(\w+)/([^']+)'.*Key '(\w+)' not in '\w+'\s+full_key: \1\.", text, re.DOTALL):
        group, name, key = inside.groups()
        if key in {f.name for f in fields(Config)}:
            return f"conf/{group}/{name}.yaml: sets {key} inside of {group}; its first line must be # @package _global_"
    if isinstance(error, MissingConfigException):
        options = re.search(r"Available options in '(.+?)':\n((?:\t.*\n?)+)", text)
        if options:
            names = ", ".join(line.strip() for line in options[2].splitlines())
            asked = re.search(r"'logger/(\w+)'", text)
            hint = f"; beside W&B: loggers={asked[1]}" if asked and asked[1] in groups_of("loggers") else ""
            hint += next((f"; {line}" for name, line in CHOICES.items() if f"/{name}'" in text), "")
            return f"{text.splitlines()[0].rstrip('.')}; allowed in '{options[1]}': {names}{hint}"
    if missing := re.search(r"Could not override '(.+?)'\.\s*No match in the defaults list", text):
        return _unknown_group(missing[1], schema)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        kind = _kind(str(cause), cause.full_key, schema)
        return f"{cause.full_key}: {f'must be {kind}' if kind else str(cause).splitlines()[0]}"
    if isinstance(error, AssertionError) and "Unexpected type for root" in text:  # OmegaConf does not name the key
        keys = [f.f_locals["key"] for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "update"]
        key = str(keys[0] if keys else "key")
        parent = key.rpartition(".")[0]
        return f"{key}: {parent} is null in this composition and has no keys; choose a group option that sets it"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _kind(text: str, key: str, schema: Any) -> str | None:
    """Return of which kind the value of a key must be, if what OmegaConf says is that it is of another kind."""
    null = re.match("field '.*' is not Optional", text)
    if not null and not re.match(r"Cannot merge \w+ with \w+", text):
        return None
    default = OmegaConf.select(OmegaConf.structured(schema), key)
    if isinstance(default, DictConfig):
        return "{KEY: VALUE}, or {} for none"
    if isinstance(default, ListConfig):
        return "a list, or [] for none"
    return "given, and not null" if null else None


def _groups_of(schema: Any) -> list[str]:
    """Return the groups of a script: those of a script that trains, else those that have a key of its own."""
    keys = {f.name for f in fields(schema)}
    return groups() if trains(schema) else [group for group in groups() if group in keys]


def _unknown_key(error: OmegaConfBaseException, schema: Any) -> str:
    """Return a line with the unknown key, the nearest known one, what is allowed, and which model has such a key."""
    full_key = str(error.full_key)
    parent, _, key = full_key.rpartition(".")
    if parent == "trainer" and (instead := trainer_arguments.instead(key)):
        return f"{full_key}: {instead}"
    if not parent and key in INSTEAD:
        return f"unknown key '{key}': {INSTEAD[key]}"
    if not parent and key in trainer_arguments.PASSED:
        return f"unknown key '{key}' (did you mean trainer.{key}?)"
    keys = sorted(f.name for f in fields(error.object_type)) if is_dataclass(error.object_type) else []
    words = [] if parent else _groups_of(schema)
    words += [*(f.name for f in fields(Clip)), *model_keys()] if not parent and trains(schema) else []
    whole = (
        []
        if not trains(schema)
        else [name for name, _, _ in marked(Config) if name.startswith(("recipe.", "trainer.", "clip."))]
    )
    words += [] if parent else [name.rpartition(".")[2] for name in whole]
    same = [name for name in whole if name.rpartition(".")[2] == ELSEWHERE.get(key, key) and name != full_key]
    near = same[:1] or difflib.get_close_matches(key, [*keys, *words], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    if parent == "model":
        name = str(getattr(error.object_type, "__module__", "")).partition(f"{models.__name__}.")[2].partition(".")[0]
        owners = [other for other in models.names() if key in {f.name for f in fields(models.find(other))}]
        of = (
            f"a key of model={' and model='.join(owners)}, not of model={name}" if owners else f"no key of model={name}"
        )
        return f"{key}: {of}{guess}; allowed: {', '.join(keys)}"
    allowed = f"; allowed {f'in {parent}' if parent else 'keys'}: {', '.join(keys)}" if keys else ""
    return f"unknown key '{full_key}'{guess}{allowed}" + (
        f"; groups: {', '.join(_groups_of(schema))}" if not parent else ""
    )


def _unknown_group(group: str, schema: Any) -> str:
    """Return a line that says which models have a group that this composition does not have."""
    owners = []
    for folder in (CONF, *paths.own_conf()):
        for path in sorted((folder / "model").glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            defaults = content.get("defaults", []) if isinstance(content, dict) else []
            if any(isinstance(default, dict) and f"/{group}" in default for default in defaults):
                owners.append(f"model={path.stem}")
    if owners:
        return f"{group}: a group of {' and '.join(owners)} alone"
    return f"{group}: no group of this script; must be one of {', '.join(_groups_of(schema))}"
