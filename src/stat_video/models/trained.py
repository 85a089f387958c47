"""Which parameters of a model are trained, and at which depth each lies: `recipe.freeze` and `recipe.layer_decay`."""

import difflib
from collections.abc import Sequence

from torch import nn

from .base import VideoModel
from .weights import in_module

BACKBONE = "backbone"  # everything but the classifier


def parameters_of(model: VideoModel, name: str, key: str, also: Sequence[str] = ()) -> list[str]:
    """Return the parameters of the module, or the one parameter, that has this name.

    Raises ValueError with the nearest names, of those in ``also`` too, if there is none; ``key`` says where the name
    was given.
    """
    names = [parameter for parameter, _ in model.named_parameters()]
    if found := [parameter for parameter in names if in_module(parameter, name)]:
        return found
    known = [*also, *(n for n, module in model.named_modules() if n and any(True for _ in module.parameters())), *names]
    near = (
        difflib.get_close_matches(name, known, n=3)
        or list(dict.fromkeys(n.partition(".")[0] for n in [*also, *names]))[:6]
    )
    raise ValueError(f"{key}: {name!r} must be a module or parameter of the model, such as {', '.join(near)}")


def freeze(model: VideoModel, names: Sequence[str]) -> None:
    """Let no gradient reach the named parts; BACKBONE is all but the classifier.

    Raises ValueError if a part is not there, or nothing is left to train.
    """
    key = f"recipe.freeze=[{','.join(names)}]"
    for name in names:
        if name == BACKBONE:
            frozen = [n for n, _ in model.named_parameters() if not in_module(n, model.classifier)]
        else:
            frozen = parameters_of(model, name, key, also=[BACKBONE])
        for parameter in frozen:
            model.get_parameter(parameter).requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{key}: leaves nothing to train")


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """Return the largest modules that have parameters, none of which is trained.

    In training they stay in evaluation mode: batch norms keep their statistics, and nothing is dropped. A dropout
    beside the classifier has no parameters and belongs to no frozen module.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [frozen for child in module.children() for frozen in frozen_modules(child)]


def depths(model: VideoModel) -> dict[str, int]:
    """Return the depth of each parameter, as BEiT, MAE and VideoMAE number them.

    0 of what comes before the first of `VideoModel.layers` (stem, positions, class token), 1 to n of the layers, n + 1
    of what comes after the last one (norm, classifier). A parameter between two layers counts with the first of them.
    Raises ValueError if the model has no such order.
    """
    names = {module: name for name, module in model.named_modules()}
    layers = [names[layer] for layer in model.layers()]
    if not layers:
        raise ValueError(_no_order(model, "it names none"))
    found: dict[str, int] = {}
    reached, last = 0, len(layers)
    for parameter, _ in model.named_parameters():
        inside = next((n for n, layer in enumerate(layers, start=1) if in_module(parameter, layer)), None)
        depth = reached + (reached == last) if inside is None else inside
        if depth < reached:
            raise ValueError(_no_order(model, f"{parameter} comes after the next one"))
        found[parameter] = reached = depth
    if any(depth <= last for parameter, depth in found.items() if in_module(parameter, model.classifier)):
        raise ValueError(_no_order(model, f"{model.classifier} comes before the last one"))
    return found


def _no_order(model: VideoModel, why: str) -> str:
    return f"{type(model).__name__} has no order of layers: {why}"
