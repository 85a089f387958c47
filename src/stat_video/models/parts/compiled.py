"""torch.compile of a model part by part."""

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..base import VideoModel

SHAPES = 8  # programs of a part that PyTorch keeps by default: training, evaluation, and other numbers of clips


def compile_parts(model: VideoModel, **how: Any) -> list[nn.Module]:
    """Compile a model in place and return its parts that are compiled; ``how`` is torch.compile's.

    The parts are `model.units()`, and beside them each child of the model that has several layers: a single layer is
    one kernel already. A model without units is compiled as a whole. Units of one shape share their programs: one for
    the first number of clips, at the second one for any number.
    """
    units = list(model.units())
    of_units = {module for unit in units for module in unit.modules()}
    beside = [child for child in model.children() if any(child.children()) and of_units.isdisjoint(child.modules())]
    parts: list[nn.Module] = [*units, *beside] if units else [model]
    for module in model.modules():
        if isinstance(module, _ConvNd):  # PyTorchVideo's strides are NumPy's numbers, which the compiler refuses
            module.stride = tuple(map(int, module.stride))
    # PyTorch counts the programs of all modules of a class together, and past the limit it runs them uncompiled. It
    # reads the limit at each compilation, so it is raised for the process; PyTorch 2.11 has no argument for it.
    from torch._dynamo import config  # here, since importing the compiler takes a second

    config.recompile_limit = max(config.recompile_limit, SHAPES * len(parts))
    for part in parts:
        part.compile(**how)
    return parts
