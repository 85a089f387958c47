"""A file of weights of any form as a model that can be tested and applied, without a training of ours."""

import math
from pathlib import Path

from torch import Tensor

from ..config import WeightsConfig
from ..data.lists import find_root, read_listing
from ..errors import InputError
from ..models.base import VideoModel
from ..models.weights import OtherClassifier, in_module, project_of, some
from ..progress import say
from ..weights.classes import known_orders, read_order
from ..weights.read import WeightFile
from .checkpoint import read_weights
from .first_weights import load_any, named_weights, refuse_other_network
from .loaded import Loaded


def of_weights(config: WeightsConfig) -> Loaded:
    """Return the model that a config describes with the weights of its file, and say how each came into it.

    Raises InputError if the file does not hold this network with its classifier, or its order of classes is not known.
    """
    if config.weights is None:
        raise InputError("weights is not given: weights=FILE")
    file = Path(config.weights).expanduser()
    found = read_weights(file)
    refuse_other_network(found, config.model, str(file))
    classes = _classes(config, found)
    model = config.build(len(classes))
    for tensor in _numbers(model).values():
        tensor.fill_(math.nan)  # so that what the file leaves out is seen: no figure is of weights that were drawn
    with named_weights(f"{file} for model={config.model.name}"):
        try:
            lines = load_any(model, found)
        except OtherClassifier as error:
            like = [f"data={n}" for n in known_orders() if f" ({len(read_order(n).names)}, " in error.line]
            other = f"; as many as {' and '.join(like)} has" if like else ""
            raise InputError(
                f"{file}: {error.line}; classes={config.classes or config.data.name} has {len(classes)}{other}"
            ) from None
    for line in lines:
        say(f"weights: {line}")
    if lacking := [name for name, tensor in _numbers(model).items() if tensor.isnan().any()]:
        kind = "no classifier" if all(in_module(name, model.classifier) for name in lacking) else "not all of the model"
        raise InputError(f"{file}: {kind} is in it, without {some(lacking)}; init={file} trains from it")
    return Loaded(model.eval(), config, classes, file)


def _numbers(model: VideoModel) -> dict[str, Tensor]:
    """Return the weights and statistics of a model by name: all that a file has to hold."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def _classes(config: WeightsConfig, found: WeightFile) -> list[str]:
    """Return the names of the classes in the order of the logits."""
    asked = config.classes
    if found.classes is not None:
        if asked is not None:
            raise InputError(f"classes={asked}: {config.weights} is a checkpoint of this project, which has its own")
        return found.classes
    if asked == "data":
        made = config.data.built_in
        return list(made.classes) if made else read_listing(find_root(config.data), config.data).classes
    if asked is None and config.data.name not in known_orders():
        raise InputError(
            f"weights={config.weights}: the order of its classes is not known; classes=FILE names them, a line each, "
            f"classes=data says that it is that of data={config.data.name}; known: {', '.join(known_orders())}"
        )
    order = read_order(asked or config.data.name)
    project = "PySlowFast" if found.settings else project_of(list(found.tensors)) or ""
    if asked is None and any(other in project for other in order.not_of):
        raise InputError(
            f"weights={config.weights}: {project}'s order of the classes of {config.data.name} was never published; "
            f"classes=FILE names them, a line each, and classes={config.data.name} takes them in alphabetical order"
        )
    say(f"classes: {order.about}")
    return order.names
