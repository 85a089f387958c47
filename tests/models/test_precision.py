"""A module that is kept out of autocast: its copies, names, gradients, and torch.compile."""

import copy

import pytest
import torch
from torch import nn

from stat_video import compose
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.models.parts.precision import keep_out_of_autocast


def model() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    keep_out_of_autocast(made[1])
    return made


X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


def test_names_of_weights_stay():
    assert list(model().state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_copy_uses_its_own_weights():
    first, second = model(), copy.deepcopy(model())
    with torch.no_grad():
        second[1].weight.zero_()
        second[1].bias.zero_()
    assert second(X).abs().max() == 0
    assert first(X).abs().max() > 0


def test_a_gradient_passes_on_to_what_is_rounded():
    made = model()
    with torch.autocast("cpu", torch.bfloat16):
        out = made(X)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in made.parameters()
    )


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_without_autocast_it_computes_in_the_kind_of_its_weights(kind):
    made = model().to(kind)
    assert made(X.to(kind)).dtype == kind


def test_compiled_it_is_the_same():
    made = model()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    for autocast in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            one, two = made(X), compiled(X)
        assert one.dtype == two.dtype == torch.float32
        assert torch.equal(one, two)


def test_whatever_a_config_builds_has_such_a_classifier():
    """A run, an evaluation and a prediction build their model so."""
    (row,) = compose.rows("train", Config, ["scale=tiny", "trainer=cpu"])
    made = row.config.build(5).eval()
    clip = torch.randn(1, 3, row.config.clip.T, row.config.clip.crop, row.config.clip.crop)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert made(clip).dtype == torch.float32


def test_a_classifier_that_is_not_there_is_named(monkeypatch):
    (row,) = compose.rows("train", Config, ["scale=tiny", "trainer=cpu"])
    monkeypatch.setattr(type(row.config.build(5)), "classifier", "fc")
    with pytest.raises(InputError, match="model=stat: it has no module fc, its `classifier`"):
        row.config.build(5)
