"""Which operators of a model CUDA can't compute deterministically, found before a run by a forward pass.

With `torch.use_deterministic_algorithms(True)` PyTorch raises an error when such an operator runs, for most of them in
the first backward pass.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from .base import Clip, ModelConfig

# The CUDA kernels of PyTorch 2.14.1 that call `alertNotDeterministic`, as nodes of the autograd graph and as operators
# of the forward pass. NOTE: they include MaxPool3d, which the documentation lists as deterministic. Bilinear and
# trilinear interpolation and replication padding are left out: torch.nn.functional has another way for each.
BACKWARD = re.compile(
    r"AvgPool3D|AdaptiveAvgPool[23]D|AdaptiveMaxPool[23]D|FractionalMaxPool[23]D|MaxPool3DWithIndices"
    r"|UpsampleLinear1D|UpsampleBicubic2D|UpsampleBi(linear|cubic)2DAa|ReflectionPad[123]D|GridSampler[23]D"
    r"|CudnnGridSampler|CtcLoss|IndexReduce|NllLoss2D|Put|MaxUnpool[23]D|MedianBackward1|NanmedianBackward1"
)
FORWARD = {"bincount", "histc", "index_reduce", "nll_loss2d_forward", "put", "max_unpool2d", "max_unpool3d"}
ALERT = "does not have a deterministic implementation"  # in PyTorch's own error


def nondeterministic(config: ModelConfig, clip: Clip, num_classes: int) -> list[str]:
    """Return the operators of a training step that have no deterministic CUDA kernel, by PyTorch's names for them.

    The pass has tensors without numbers. A model that needs numbers in its forward pass gets noise, on the CPU.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # on CUDA torch.nn.functional then leaves out some of the operators
    try:
        with torch.device("meta"):
            model = config.build(clip, num_classes).train()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
            model.to_empty(device="cuda")
            return _operators(model, clip)
    except Exception as error:
        if name := operator_of(error):
            return [name]
    finally:
        torch.use_deterministic_algorithms(before)
    try:
        return _operators(config.build(clip, num_classes).train(), clip)
    except Exception:  # whatever is wrong with the model, its training says
        return []


def operator_of(error: BaseException) -> str | None:
    """Return the operator that PyTorch refuses as not deterministic, None if that is not what an error says."""
    return str(error).partition(ALERT)[0].strip() if ALERT in str(error) else None


def _operators(model: nn.Module, clip: Clip) -> list[str]:
    with _Forward() as forward:
        logits = model(torch.rand(2, 3, clip.T, clip.crop, clip.crop))
        loss = F.cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[-1]))
    found, seen, left = list(forward.found), set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [function for function, _ in node.next_functions]
        if _refused(node):
            found.append(re.sub(r"Backward\d+$", "", node.name()))
    return sorted(set(found))


def _refused(node: Any) -> bool:
    name = node.name()
    if name.startswith("ScatterReduce"):
        return bool(node._saved_reduce == "prod")
    if name.startswith("EmbeddingBag"):
        return bool(node._saved_mode == 2)  # max
    return BACKWARD.match(name) is not None


class _Forward(TorchDispatchMode):
    """Notes the operators of FORWARD."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.partition(".")[0].removesuffix("_")
        if name in FORWARD and not (name == "bincount" and _weights(args, kwargs) is None):
            self.found[name] = None
        return function(*args, **(kwargs or {}))


def _weights(args: Any, kwargs: Any) -> Tensor | None:
    found: Tensor | None = args[1] if len(args) > 1 else (kwargs or {}).get("weights")
    return found
