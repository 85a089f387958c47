"""The weights that a model starts with, of a file: of a run of this project, or of another project."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..config import Config
from ..errors import InputError
from ..models.base import ModelConfig, VideoModel
from ..models.weights import SHARE, load_foreign, load_weights, project_of
from ..runs.source import network_of
from ..weights.read import WeightFile


def load_first_weights(model: VideoModel, weights: WeightFile, config: Config, classes: list[str]) -> list[str]:
    """Load the weights of `init`; return a line for each change to them.

    Raises InputError if the weights do not fit, are not finite, or the classifier of a run of ours is of other classes
    than ``classes``.
    """
    source, new_classifier, trained_on = str(config.init), config.new_classifier, weights.classes
    with named_weights(source):
        lines = load_any(model, weights, new_classifier=new_classifier, share=config.init_share)
    if other := _other_keys(weights, config.model):
        lines.append(f"trained with {', '.join(f'model.{key}={theirs}, here {ours}' for key, theirs, ours in other)}")
    if trained_on is None:
        return lines
    if len(trained_on) != len(classes) and not new_classifier:
        raise InputError(f"init={source}: its classifier is of {len(trained_on)} classes, here are {len(classes)}")
    if trained_on != classes and not new_classifier:
        place = next(i for i, name in enumerate(trained_on) if name not in classes[i : i + 1])
        order = ", in another order" if sorted(trained_on) == sorted(classes) else ""
        raise InputError(
            f"init={source}: its classifier is of other classes than data={config.data.name}{order}: class {place} is "
            f"{trained_on[place]!r} there and {classes[place]!r} here; new_classifier=true draws a new one"
        )
    return lines


def load_any(
    model: VideoModel, weights: WeightFile, *, new_classifier: bool = False, share: float = SHARE
) -> list[str]:
    """Load the weights of a file, of this project or another; return a line for each change to them.

    Raises ValueError if they do not fit.
    """
    if weights.classes is not None:
        return load_weights(model, weights.tensors, new_classifier=new_classifier)
    return [described(weights), *load_foreign(model, weights.tensors, new_classifier=new_classifier, share=share)]


def refuse_other_network(weights: WeightFile, model: ModelConfig, source: str, given: Collection[str] = ()) -> None:
    """Raise InputError if a checkpoint of this project is of a model with other keys, but for those that are given.

    Not all of them change a shape: without this, its weights would be applied in another network.
    """
    other = [f"model.{key}={theirs}" for key, theirs, _ in _other_keys(weights, model) if key not in given]
    if other:
        raise InputError(f"{source}: its run has {', '.join(other)}; give the same, or ckpt={source} takes its config")


def _other_keys(weights: WeightFile, model: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Return (key, value there, value here) of the keys in which the model of a checkpoint differs, dropout aside."""
    theirs, ours = network_of(weights.model), network_of(asdict(model))
    return [(key, value, ours[key]) for key, value in theirs.items() if key in ours and ours[key] != value]


def described(weights: WeightFile) -> str:
    """Return which form a file has, whose names are in it, and with which settings it was written, if it says so."""
    names = project_of(list(weights.tensors))
    line = f"{weights.container}, {f'with names of {names}' if names else 'its names are of no known project'}"
    settings = ", ".join(f"{key}={value}" for key, value in weights.settings.items())
    return f"{line}; written with {settings}" if settings else line


@contextmanager
def named_weights(source: str) -> Iterator[None]:
    """Raise InputError that names the file if its weights do not fit into the model."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
