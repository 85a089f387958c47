"""What is wrong with words, in one line."""

import difflib
import re
import traceback
from dataclasses import fields, is_dataclass

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from .. import models, paths, trainer_arguments
from ..config import Config
from ..errors import InputError
from ..models.base import Clip
from ..paths import CONF
from ..words import marked
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
    if not parent and key in INSTEAD:
        return f"unknown key '{key}': {INSTEAD[key]}"
    if not parent and key in trainer_arguments.PASSED:
        return f"unknown key '{key}' (did you mean trainer.{key}?)"
    keys = sorted(f.name for f in fields(error.object_type)) if is_dataclass(error.object_type) else []
    words = [] if parent else [*groups(), *(f.name for f in fields(Clip)), *model_keys()]
    whole = [name for name, _, _ in marked(Config) if name.startswith(("recipe.", "trainer.", "clip."))]
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
    return f"unknown key '{full_key}'{guess}{allowed}" + (f"; groups: {', '.join(groups())}" if not parent else "")


def _unknown_group(group: str) -> str:
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
    return f"{group}: no group of this script; allowed are {', '.join(groups())}"
