"""The weights that no gradient reaches are named at the first step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stat_video.errors import InputError
from stat_video.training.untrained import Untrained


def after_a_backward_pass(*, weights: int, frozen: bool) -> nn.Module:
    """A module whose `model` has so many layers that its pass does not use."""
    model = nn.ModuleDict({"used": nn.Linear(2, 2)})
    model.update({f"unused{i}": nn.Linear(2, 2, bias=False).requires_grad_(not frozen) for i in range(weights)})
    model["used"](torch.ones(1, 2)).sum().backward()
    return nn.ModuleDict({"model": model})


def asked(module: nn.Module, ranks: int) -> list[str]:
    said: list[str] = []
    callback = Untrained(said.append)
    for _ in range(2):  # it asks once
        callback.on_before_optimizer_step(SimpleNamespace(world_size=ranks), module, None)
    return said


def test_one_process_is_told_which_weights_stay():
    (line,) = asked(after_a_backward_pass(weights=2, frozen=False), ranks=1)
    assert line == "No gradient reaches unused0.weight, unused1.weight: the first step leaves them as they were drawn"
    (line,) = asked(after_a_backward_pass(weights=6, frozen=False), ranks=1)
    assert "unused3.weight and 2 more: " in line


@pytest.mark.parametrize("ranks", [1, 2])
def test_frozen_weights_and_used_ones_are_no_matter(ranks):
    assert asked(after_a_backward_pass(weights=2, frozen=True), ranks) == []
    assert asked(after_a_backward_pass(weights=0, frozen=False), ranks) == []


def test_several_ranks_are_refused_in_one_line():
    """Else DDP ends the run in the second step."""
    with pytest.raises(
        InputError, match=r"^no gradient reaches unused0.weight: on several devices .* trainer.devices=1"
    ):
        asked(after_a_backward_pass(weights=1, frozen=False), ranks=2)
