"""MixUp and CutMix: what a mixed batch is made of can be read back from its pixels and its labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stat_video.config import Recipe
from stat_video.training.mixing import Mix

B, CLASSES = 6, 10
SHAPE = (B, 3, 4, 12, 16)


def mix(**changes: Any) -> Mix:
    return Mix(Recipe(**{"mixup": 0.0, "cutmix": 0.0, **changes}), CLASSES)


def batch() -> tuple[Tensor, Tensor]:
    """Clips of noise, each of its own class."""
    torch.manual_seed(0)
    return torch.randn(SHAPE), torch.tensor([7, 2, 9, 0, 4, 5])


def test_mixup_is_a_convex_mix_of_two_clips_and_of_their_labels() -> None:
    video, labels = batch()
    basis = video.flatten(1).T.double().numpy()  # (pixels, B)
    pairs, shares = set(), set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, soft = mix(mixup=0.8)(video, labels)
        assert type(mixed) is Tensor
        assert mixed.shape == video.shape
        assert soft.shape == (B, CLASSES)
        found, residual, *_ = np.linalg.lstsq(basis, mixed.flatten(1).T.double().numpy(), rcond=None)  # (B, B)
        assert residual.max() < 1e-6
        assert found.min() > -1e-5
        assert np.allclose(found.sum(0), 1, atol=1e-5)
        assert ((found > 1e-4).sum(0) <= 2).all()
        expected = np.zeros((B, CLASSES))
        expected[:, labels.numpy()] = found.T
        assert np.allclose(soft.numpy(), expected, atol=1e-5)
        pairs |= {tuple(np.argsort(column)[-2:]) for column in found.T}
        shares.add(round(float(soft.max()), 3))
    assert len(pairs) > 15  # of 30: not always the same neighbours
    assert len(shares) > 10


def test_cutmix_takes_a_box_of_another_clip_and_its_share_of_the_label() -> None:
    video = torch.arange(B).float().view(B, 1, 1, 1, 1).expand(SHAPE).contiguous()  # clip i is all i
    labels = batch()[1]
    boxes = 0
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, soft = mix(cutmix=1.0)(video, labels)
        assert type(mixed) is Tensor
        assert torch.allclose(soft.sum(1), torch.ones(B))
        for clip, label in zip(mixed, soft, strict=True):
            assert (clip == clip[:1, :1]).all()  # the same pixels in all channels and frames
            picture = clip[0, 0]
            share = torch.stack([(picture == i).float().mean() for i in range(B)])
            assert share.sum() == pytest.approx(1.0)  # of nothing but whole clips of the batch
            expected = torch.zeros(CLASSES).index_add(0, labels, share)
            assert torch.allclose(label, expected, atol=1e-5)
            present = share.nonzero()[:, 0].tolist()
            assert len(present) <= 2
            if len(present) == 2:
                boxes += 1
                rectangles = [box_is_full(picture == i) for i in present]
                assert any(rectangles)
    assert boxes > 100


def box_is_full(mask: Tensor) -> bool:
    """Whether the pixels are a rectangle."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())


@pytest.mark.parametrize("how", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_soft_labels_sum_to_one_and_the_input_stays(how: dict[str, float]) -> None:
    video, labels = batch()
    before = video.clone(), labels.clone()
    for seed in range(10):
        torch.manual_seed(seed)
        _, soft = mix(**how)(video, labels)
        assert torch.allclose(soft.sum(1), torch.ones(B))
        assert (soft >= 0).all()
    assert torch.equal(video, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    "how",
    [
        {"mixup": 0.0, "cutmix": 0.0},
        {"mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.0},
        {"mixup": 0.8, "mix_probability": 0.0},
    ],
)
def test_off_changes_nothing(how: dict[str, float]) -> None:
    video, labels = batch()
    for seed in range(5):
        torch.manual_seed(seed)
        same_video, same_labels = mix(**how)(video, labels)
        assert torch.equal(same_video, video)
        assert torch.equal(same_labels, labels)


def test_single_clip_stays() -> None:
    video, labels = (x[:1] for x in batch())
    same_video, same_labels = mix(mixup=0.8, cutmix=1.0)(video, labels)
    assert torch.equal(same_video, video)
    assert torch.equal(same_labels, labels)


@pytest.mark.parametrize(("switch", "cut"), [(0.0, range(1)), (1.0, range(200, 201)), (0.25, range(25, 76))])
def test_switch_is_the_share_of_cutmix(switch: float, cut: range) -> None:
    """A cut batch holds nothing but values of the batch, a mixed one other values."""
    video = torch.arange(B).float().view(B, 1, 1, 1, 1).expand(B, 1, 1, 8, 8)
    labels, how = torch.arange(B), mix(mixup=5.0, cutmix=1.0, mix_switch=switch)
    torch.manual_seed(0)
    count = sum(torch.equal(mixed, mixed.round()) for mixed, _ in (how(video, labels) for _ in range(200)))
    assert count in cut


def test_probability_is_the_share_of_mixed_batches() -> None:
    video, labels = batch()
    how = mix(mixup=5.0, mix_probability=0.25)
    torch.manual_seed(0)
    count = sum(how(video, labels)[1].dim() == 2 for _ in range(200))
    assert 25 < count < 75  # four standard deviations around 50
