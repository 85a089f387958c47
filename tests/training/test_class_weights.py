"""Weights of classes and the focal loss, against scikit-learn, PyTorch, torchvision and slow loops; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from test_fit import check_one_line, fit
from test_fit import config_of as run_of
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from running import Place
from stat_video import losses
from stat_video.config import Recipe
from stat_video.errors import InputError
from stat_video.models.base import VideoModel
from stat_video.training.class_weights import class_weights
from stat_video.training.criterion import Criterion

CLASSES = ["jump", "run", "sit"]


class Any3(VideoModel):
    """A model for the messages of a criterion."""


def criterion(weights: list[float] | None, multi_label: bool = False, **keys: Any) -> Criterion:
    given = None if weights is None else torch.tensor(weights)
    return Criterion(Recipe(**keys), Any3(), 3, multi_label, given)


def drawn(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


def test_balanced_weights_without_videos() -> None:
    """A class that has none weighs nothing, and is not counted."""
    assert class_weights("balanced", CLASSES, [0, 2, 2, 2]) == [2.0, 0.0, pytest.approx(2 / 3)]
    with pytest.raises(InputError, match="is for one class a video"):
        class_weights("balanced", CLASSES, [])


def test_balanced_weights_are_scikit_learns() -> None:
    labels = [0] * 7 + [1] * 2 + [2] * 5
    found = class_weights("balanced", CLASSES, labels)
    assert found == pytest.approx(compute_class_weight("balanced", classes=torch.arange(3).numpy(), y=labels).tolist())


def test_weights_by_list_and_by_name() -> None:
    assert class_weights(None, CLASSES, []) is None
    assert class_weights([1, 2, 3], CLASSES, []) == [1.0, 2.0, 3.0]
    assert class_weights({"sit": 4}, CLASSES, []) == [1.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([1, 2], "2 weights; must be 3"),
        ({"rum": 2}, "recipe.class_weights.rum: must be one of the classes, such as run"),
    ],
)
def test_weights_of_other_classes_are_refused(asked: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        class_weights(asked, CLASSES, [])
    check_one_line(caught.value, says)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("target", [torch.tensor([0, 2, 2, 1, 0]), drawn(1).softmax(-1)])
def test_training_is_weighted_as_by_pytorch_and_validation_is_not(smoothing: float, target: torch.Tensor) -> None:
    weights = [0.5, 2.0, 3.0]
    found = criterion(weights, label_smoothing=smoothing)
    expected = nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=smoothing)
    assert torch.equal(found(drawn(), target), expected(drawn(), target))
    assert torch.equal(found.plain(drawn(), target), nn.CrossEntropyLoss()(drawn(), target))


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("target", [torch.tensor([0, 2, 2, 1, 0]), drawn(1).softmax(-1)])
def test_focal_is_a_slow_loop(gamma: float, smoothing: float, target: torch.Tensor) -> None:
    found = criterion(None, loss="focal", loss_keys={"gamma": gamma}, label_smoothing=smoothing)(drawn(), target)
    total = 0.0
    for logits, of in zip(drawn().double(), target, strict=True):
        shares = [float(c == of) for c in range(3)] if of.ndim == 0 else of.tolist()
        for p, share in zip((logits.exp() / logits.exp().sum()).tolist(), shares, strict=True):
            total -= (share * (1 - smoothing) + smoothing / 3) * (1 - p) ** gamma * float(torch.tensor(p).log())
    assert float(found) == pytest.approx(total / 5, rel=1e-5)
    if gamma == 0:
        torch.testing.assert_close(found, nn.CrossEntropyLoss(label_smoothing=smoothing)(drawn(), target))


@pytest.mark.parametrize("keys", [{}, {"gamma": 1.0}, {"alpha": 0.7}, {"alpha": -1, "gamma": 3.0}])
def test_focal_of_several_labels_is_torchvisions(keys: dict[str, float]) -> None:
    """In training and validation."""
    target = (drawn(2) > 0).float()
    expected = sigmoid_focal_loss(drawn(), target, **keys, reduction="mean")
    found = criterion(None, True, loss="focal", loss_keys=keys)
    torch.testing.assert_close(found(drawn(), target), expected)
    torch.testing.assert_close(found.plain(drawn(), target), expected)


@pytest.mark.parametrize("several", [False, True])
def test_focal_has_gradients_where_a_class_is_certain(several: bool) -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    criterion(None, several, loss="focal")(logits, torch.tensor([[1.0, 0.0, 0.0]])).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "keys", "several", "weighted", "says"),
    [
        ("cross_entropy", {}, True, False, "recipe.loss=cross_entropy: is of one class a video; with data.multi_label"),
        (
            "binary_cross_entropy",
            {},
            True,
            True,
            "recipe.class_weights: must be null, recipe.loss=binary_cross_entropy",
        ),
        ("focal", {}, False, True, "recipe.class_weights: must be null, recipe.loss=focal takes none"),
        ("focal", {"alpha": 0.5}, False, False, "alpha=0.5 is of videos with several labels"),
        ("focal", {"gamma": -1}, False, False, "gamma=-1 must be 0 or more"),
        ("focal", {"multi_label": 1}, False, False, "recipe.loss_keys.multi_label: must be one of gamma, alpha"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(
    name: str, keys: dict[str, Any], several: bool, weighted: bool, says: str
) -> None:
    with pytest.raises(ValueError) as caught:
        losses.check(name, keys, 0.0, several, weighted)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["even", [], [1, -1], [0, 1, 1], {"a": 0}, {"a": "b"}, 2.0, True, [True]])
def test_weights_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^recipe\.class_weights=.*: must be balanced, a list of numbers above 0"):
        Recipe(class_weights=value)


def test_a_result_says_which_weights(place: Place, tmp_path: Path) -> None:
    result = fit(run_of(place, tmp_path, "recipe.class_weights=balanced", "recipe.max_steps=1"))
    assert len(result["class_weights"]) == 12
    assert set(result["class_weights"].values()) == {1.0}  # the built-in videos are balanced
    with pytest.raises(InputError, match=r"recipe\.class_weights\.nod: must be one of the classes, such as "):
        fit(run_of(place, tmp_path, "recipe.class_weights={nod:2}"))
