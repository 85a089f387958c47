"""A checkpoint's model, as its config says and with its weights."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from .. import models
from ..config import Config, from_plain
from ..errors import InputError
from ..models.base import VideoModel
from ..models.weights import load_weights
from ..progress import say
from ..runs.identity import updated
from .checkpoint import read_checkpoint
from .first_weights import named_weights

LARGEST = 10_000  # number in a model's config
SPARE = 2**31  # bytes that a model may need beyond its weights, such as its masks


def rebuild(path: Path) -> tuple[VideoModel, Config, list[str]]:
    """Return the model with its weights in evaluation mode, the config of its run, and its class names.

    Raises InputError if they don't fit together, or there is no file of this model here.
    """
    found = read_checkpoint(path)
    if found.which:
        say(f"{path}: the weights {found.which}")
    try:
        if isinstance(model_keys := found.config.get("model"), dict):
            models.find(str(model_keys.get("name")))  # its line says best what is missing
    except ValueError as error:
        raise InputError(f"{path}: {error}; STAT_VIDEO_OWN names the folder of models of one's own") from None
    try:
        # Folders are those of the machine that trained, and its data sets.
        config: Config = from_plain({**updated(found.config), "folders": {}})
    except (OmegaConfBaseException, ValueError, KeyError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: its config is of another version: {reason}") from None
    _check_size(path, config, len(found.classes), found.weights)
    model = config.build(len(found.classes))
    with named_weights(str(path)):
        load_weights(model, found.weights)
    return model.eval(), config, found.classes


def _check_size(path: Path, config: Config, num_classes: int, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError if the config describes a model much larger than its weights, before that takes memory."""

    def bytes_of(tensors: Iterable[Tensor]) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    for key, value in asdict(config.model).items():
        if any(isinstance(n, int) and abs(n) > LARGEST for n in (value if isinstance(value, list) else [value])):
            raise InputError(f"{path}: config.model.{key}={value} is absurd; {LARGEST} is the most that is read")
    with torch.device("meta"):
        model = config.build(num_classes)
    needed, there = bytes_of(chain(model.parameters(), model.buffers())), bytes_of(weights.values())
    if needed > 4 * there + SPARE:
        raise InputError(f"{path}: its config is of a model of {needed:,} bytes, its weights are {there:,}")
