"""What the framework asks of a model is asked where the model is built and where it speaks."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from stat_video import compose, hardware
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.models.base import Clip, ModelConfig, VideoModel, check_logits
from stat_video.models.count import Uncounted, gmacs, parameters, step_gmacs
from stat_video.models.memory import step_memory
from stat_video.training.optim import parameter_groups


class Mean(VideoModel):
    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.head = head or nn.Linear(3, 5)

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(clip.mean((2, 3, 4)))


class Silent(VideoModel):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)


class Branching(Mean):
    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip if clip.mean() > 0 else -clip)


@pytest.fixture(scope="module")
def config() -> Config:
    (row,) = compose.rows("train", Config, ["scale=tiny", "trainer=cpu"])
    return row.config


def with_model(config: Config, make: object) -> Config:
    """Return the config with a model that `make` returns; None: its Config has no build."""

    @dataclass
    class Own(ModelConfig):
        name: str = "mine"

    if make:
        Own.build = lambda self, clip, num_classes: make()  # type: ignore[method-assign, operator]
    return replace(config, model=Own())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (None, "models/mine.py: its Config has no build"),
        (lambda: nn.Linear(3, 5), "its Config.build returned a Linear; a VideoModel is asked for"),
        (lambda: None, "its Config.build returned a NoneType; a VideoModel is asked for"),
        (Silent, "Silent has no forward"),
        (lambda: Mean(nn.LazyLinear(5)), "head.weight has no size"),
    ],
)
def test_a_model_that_is_not_as_asked_is_one_line(config, make, says):
    with pytest.raises(InputError, match=f"^model=mine: {says}"):
        with_model(config, make).build(5)
    assert isinstance(with_model(config, Mean).build(5), Mean)


def test_logits_are_clips_by_classes_of_numbers():
    model, logits = Mean(), torch.zeros(2, 5)
    assert check_logits(model, logits, 2, 5) is logits
    assert check_logits(model, logits.bfloat16(), 2, 5).dtype == torch.bfloat16
    for wrong, said in (
        (logits[0], "torch.float32 (5,)"),
        (torch.zeros(2, 6), "torch.float32 (2, 6)"),
        (torch.zeros(1, 5), "torch.float32 (1, 5)"),
        (torch.zeros(2, 5, dtype=torch.int64), "torch.int64 (2, 5)"),
        ((logits, logits), "a tuple"),
        (None, "a NoneType"),
    ):
        with pytest.raises(InputError) as raised:
            check_logits(model, wrong, 2, 5)
        assert str(raised.value) == f"Mean.forward returned {said} for 2 clips; logits (2, 5) are asked for"


def test_a_pass_that_asks_for_numbers_is_not_counted(config):
    model, clip = with_model(config, Branching).model, Clip(T=4, crop=8)
    for count in (lambda: gmacs(model, clip, 5), lambda: step_gmacs(model, clip, 5)):
        with pytest.raises(Uncounted, match=r"^model=mine: its cost can't be counted "):
            count()
    with pytest.raises(Uncounted, match=r"^model=mine: its cost can't be counted "):
        step_memory(model, clip, 5, mixed=False, checkpointing=False)
    assert parameters(model, clip, 5) == 20


def test_a_pass_is_not_chosen_by_a_memory_that_cannot_be_counted(config, monkeypatch):
    """On a GPU: both keys that rest on the count have to be told."""
    own = with_model(config, Branching)
    monkeypatch.setattr(hardware, "device_memory", lambda trainer: 80 * 2**30)
    for keys in ({"batch_per_device": "auto"}, {"batch_per_device": 4, "recompute": "auto"}):
        with pytest.raises(InputError, match=r"can't be counted .* trainer.batch_per_device=N and trainer.recompute=t"):
            hardware.choose_pass_here(replace(own, trainer=replace(own.trainer, **keys)), 5)
    told = replace(own, trainer=replace(own.trainer, batch_per_device=4, recompute=True))
    assert hardware.choose_pass_here(told, 5) == hardware.Pass(4, recompute=True)


def test_a_frozen_model_has_nothing_to_train(config):
    model = Mean().requires_grad_(False)
    with pytest.raises(InputError, match="Mean has nothing to train"):
        parameter_groups(model, config.recipe)
    model.head.bias.requires_grad_(True)
    assert parameter_groups(model, config.recipe)
