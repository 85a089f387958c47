"""torch.compile part by part: which parts, how often, and that losses and gradients are those of the plain model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from stat_video.models.base import Clip, VideoModel
from stat_video.models.parts.backend import BACKEND
from stat_video.models.parts.compiled import compile_parts
from stat_video.models.parts.recompute import recompute_units
from stat_video.models.stat.stat import STAT, Config

CLASSES = 5


class Unit(nn.Module):
    """From one width to the next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class Deep(VideoModel):
    """Ten units of ten shapes; the last two deeper inside than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.blocks = nn.ModuleList(Unit(3 + i) for i in range(8))
        self.last = nn.Sequential(Unit(11), nn.Sequential(Unit(12)))
        self.norm = nn.LayerNorm(13)
        self.head = nn.Linear(13, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.stem(clip.mean((2, 3, 4)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.last(x)))

    def units(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, Unit)]


@pytest.fixture(autouse=True)
def _from_the_start() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def run(model: VideoModel, clips: int, training: bool, shape: tuple[int, ...]) -> list[Tensor]:
    """Return loss and gradients of random clips in training, logits in validation, as Lightning runs them."""
    x = torch.randn(clips, *shape, generator=torch.Generator().manual_seed(clips))
    model.train(training).zero_grad()
    torch.manual_seed(clips)  # of dropout; these backends draw PyTorch's own numbers
    if not training:
        with torch.inference_mode():
            return [model(x)]
    loss = F.cross_entropy(model(x), torch.arange(clips))
    loss.backward()
    return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]


def programs() -> int:
    """Return how many were made, of all parts."""
    assert not counters["graph_break"]
    assert counters["frames"]["ok"] == counters["frames"]["total"]
    return counters["stats"]["unique_graphs"]


def check_two_sizes(model: VideoModel, plain: VideoModel, shapes: int, shape: tuple[int, ...]) -> None:
    """Check training, validation, training: equal to the plain model, and compiled for the first two sizes alone."""
    made = []
    for clips, training in [(2, True), (3, True), (3, False), (2, False), (2, True), (4, False), (3, True)]:
        for ours, expected in zip(run(model, clips, training, shape), run(plain, clips, training, shape), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
        made.append(programs())
    # A program for the first size, one for any number of clips, one for any number without gradients.
    assert made == [shapes, 2 * shapes, *[3 * shapes] * 5]


@pytest.fixture(params=["here", "2.11"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch as it is, and torch.compile with the arguments that 2.11 has."""
    compile_ = torch.compile

    def of_2_11(
        model: Any = None, *, fullgraph: Any = False, dynamic: Any = None, backend: Any = "inductor", mode: Any = None,
        options: Any = None, disable: Any = False,
    ) -> Any:  # fmt: skip
        how = {"fullgraph": fullgraph, "dynamic": dynamic, "mode": mode, "options": options, "disable": disable}
        return compile_(model, backend=backend, **how)

    if request.param == "2.11":
        monkeypatch.setattr(torch, "compile", of_2_11)


@pytest.mark.usefixtures("version")
def test_parts_of_a_model_with_units() -> None:
    """More shapes of a class than PyTorch compiles by default. Single layers and what holds units are left out."""
    torch.manual_seed(0)
    model = Deep()
    plain, names = copy.deepcopy(model), list(model.state_dict())
    assert compile_parts(model, backend="eager") == [*model.units(), model.stem]
    assert list(model.state_dict()) == names
    check_two_sizes(model, plain, 11, (3, 1, 2, 2))


def test_a_model_without_units_is_compiled_as_a_whole() -> None:
    torch.manual_seed(0)
    model = Deep()
    model.units = list  # type: ignore[method-assign]
    plain = copy.deepcopy(model)
    assert compile_parts(model, backend="eager") == [model]
    check_two_sizes(model, plain, 1, (3, 1, 2, 2))


class Strided(VideoModel):
    """A convolution with a stride of NumPy's numbers, as PyTorchVideo makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, CLASSES, 1)
        self.conv.stride = tuple(np.full(3, 2))

    def forward(self, clip: Tensor) -> Tensor:
        return self.conv(clip).mean((2, 3, 4))


def test_strides_of_numpy() -> None:
    torch.manual_seed(0)
    model = Strided()
    plain = copy.deepcopy(model)
    compile_parts(model, backend="aot_eager")
    check_two_sizes(model, plain, 1, (3, 2, 4, 4))


def stat(**sizes: Any) -> STAT:
    torch.manual_seed(0)
    config = Config(widths=[24, 48, 96, 192], heads=[1, 2, 4, 8], **sizes)
    return STAT(config, Clip(T=4, crop=32), CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [True, False])
def test_stat_has_no_graph_break(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stat_video.models.parts.recompute.SMALL", 0)
    monkeypatch.setattr(BACKEND, "recompute", recompute)
    model = stat(depths=[1, 1, 1, 1], stem="conv5", stochastic_depth=0.4)  # two blocks
    plain = copy.deepcopy(model)
    assert compile_parts(model, backend="eager") == [*model.blocks, model.stem, model.aggregation]
    check_two_sizes(model, plain, 4, (3, 4, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "checkpointing"), [(True, False), (False, False), (True, True)])
def test_stat_has_the_gradients_of_the_plain_model(
    recompute: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compiler's own backward pass; two of its six blocks have the same shape."""
    monkeypatch.setattr("stat_video.models.parts.recompute.SMALL", 0)
    monkeypatch.setattr(BACKEND, "recompute", recompute)
    model = stat(depths=[1, 1, 4, 1], stochastic_depth=0)  # else each rate has a program of its own at the second size
    plain = copy.deepcopy(model)
    if checkpointing:
        recompute_units(model)
    compile_parts(model, backend="aot_eager")
    check_two_sizes(model, plain, 7, (3, 4, 32, 32))
