"""Which models can be trained with trainer.deterministic=true on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from running import skip_without_library
from stat_video import models
from stat_video.compose import rows
from stat_video.config import Config as TrainConfig
from stat_video.models.base import Clip, ModelConfig, VideoModel
from stat_video.models.deterministic import nondeterministic

needs_cuda_build = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch is not built for CUDA")


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """A check leaves PyTorch's setting as it was."""
    assert not torch.are_deterministic_algorithms_enabled()
    yield
    assert not torch.are_deterministic_algorithms_enabled()


class Around(VideoModel):
    """A convolution, an operator on its (B, 4, T, crop, crop), a classifier."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, 1), nn.Linear(4, 5)
        self.operator = operator

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(self.operator(self.conv(clip)).flatten(2).mean(2))


@dataclass
class Config(ModelConfig):
    """Builds what it is given."""

    name: str = "around"
    operator: Callable[[Tensor], Tensor] = torch.relu

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        return Around(self.operator)


def of(operator: Callable[[Tensor], Tensor]) -> list[str]:
    return nondeterministic(Config(operator=operator), Clip(T=4, crop=8), 5)


def frames(operator: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same of each frame, (B T, C, H, W)."""
    return lambda x: operator(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)


def asking(operator: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same in a forward pass that needs a number."""
    return lambda x: operator(x) if x.mean().item() < 1e9 else x


def put(x: Tensor) -> Tensor:
    return x.clone().put_(torch.zeros(1, dtype=torch.long, device=x.device), torch.zeros(1, device=x.device))


def scattered(how: str) -> Callable[[Tensor], Tensor]:
    return lambda x: x.scatter_reduce(0, torch.zeros_like(x, dtype=torch.long), x, how)


@needs_cuda_build
@pytest.mark.parametrize(
    ("operator", "refused"),
    [
        (nn.MaxPool3d(2), "MaxPool3DWithIndices"),
        (lambda x: F.max_pool3d(x, (1, 3, 3)), "MaxPool3DWithIndices"),
        (nn.AvgPool3d((2, 1, 1)), "AvgPool3D"),
        (lambda x: F.lp_pool3d(x, 2, 2), "AvgPool3D"),
        (nn.AdaptiveAvgPool3d(2), "AdaptiveAvgPool3D"),
        (lambda x: F.interpolate(x, size=3, mode="area"), "AdaptiveAvgPool3D"),
        (nn.AdaptiveMaxPool3d(2), "AdaptiveMaxPool3D"),
        (frames(nn.AdaptiveAvgPool2d(3)), "AdaptiveAvgPool2D"),
        (frames(nn.ReflectionPad2d(1)), "ReflectionPad2D"),
        (frames(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")), "UpsampleBicubic2D"),
        (frames(lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1))), "GridSampler2D"),
        (lambda x: x.median(2)[0], "median CUDA with indices output"),
        (put, "Put"),
        (scattered("prod"), "ScatterReduce"),
        (asking(nn.MaxPool3d(2)), "MaxPool3DWithIndices"),
        (asking(lambda x: F.avg_pool3d(x, 2)), "AvgPool3D"),
    ],
)  # fmt: skip
def test_an_operator_without_a_deterministic_kernel(operator: Callable[[Tensor], Tensor], refused: str) -> None:
    assert refused in of(operator)


@needs_cuda_build
@pytest.mark.parametrize(
    "operator",
    [
        torch.relu,
        nn.AdaptiveAvgPool3d(1),  # a mean
        frames(nn.MaxPool2d(2)),
        frames(nn.AvgPool2d(2)),
        lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"),
        lambda x: F.max_pool3d(x, 2, return_indices=True)[0],
        scattered("sum"),
        lambda x: x.cumsum(2),
        asking(lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
    ],
)
def test_an_operator_with_a_deterministic_way(operator: Callable[[Tensor], Tensor]) -> None:
    assert of(operator) == []


def test_a_model_that_can_not_run_is_not_refused_here() -> None:
    """Its training says what is wrong."""
    assert of(lambda x: x @ x.new_ones(1, 7)) == []


class Ran(TorchDispatchMode):
    """Notes the operators that run, also in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.__name__.partition(".")[0])
        return function(*args, **(kwargs or {}))


@needs_cuda_build
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("stat", "csn", "mvit") else pytest.mark.slow) for n in models.names()],
)
def test_each_model_by_what_runs_in_its_backward_pass(name: str) -> None:
    """In the models here nothing but 3-D pools lacks a deterministic kernel."""
    skip_without_library(name)
    (row,) = rows("train", TrainConfig, [f"model={name}", "scale=tiny", "logger=off"])
    config, clip = row.config.model, row.config.clip
    with torch.device("meta"), Ran() as ran:
        config.build(clip, 5).train()(torch.empty(2, 3, clip.T, clip.crop, clip.crop)).sum().backward()
    pools = {"max_pool3d_with_indices_backward": "MaxPool3DWithIndices", "avg_pool3d_backward": "AvgPool3D"}
    assert nondeterministic(config, clip, 5) == sorted(pools[name] for name in ran.names & pools.keys())
