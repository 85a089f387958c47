"""RandAugment's operators beside timm's own, and how they are drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from timm.data import auto_augment
from torchvision import tv_tensors

from stat_video.data.randaugment import RandAugment
from stat_video.data.randaugment_pillow import MATRICES, OPERATORS

PHOTO = Image.fromarray(data.astronaut()[40:121, 150:263])  # odd sides
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
LEVELS = [sign * level for level in (0.0, 0.33, 0.69, 0.7, 0.74, 1.0) for sign in (1, -1)]


def timms(name: str, picture: Image.Image, level: float, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: value if level >= 0 else -value)
    to_arguments = auto_augment.LEVEL_TO_ARG[name]
    arguments = to_arguments(10 * abs(level), {}) if to_arguments else ()
    how = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
    return auto_augment.NAME_TO_OP[name](picture, *arguments, **how)


def test_they_are_the_fifteen_of_the_release() -> None:
    made = auto_augment.rand_augment_transform("rand-m7-n4-mstd0.5-inc1", {})
    assert [op.name for op in made.ops] == list(OPERATORS)
    assert made.num_layers == 4
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in made.ops} == {(0.5, 7.0, 0.5)}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_timms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for picture in (PHOTO, NOISE):
        for level in LEVELS:
            if name == "PosterizeIncreasing" and abs(level) == 1:  # no bit is left, and timm's ends in an error
                assert not np.asarray(OPERATORS[name](picture, level)).any()
                continue
            ours = np.asarray(OPERATORS[name](picture, level)).astype(int)
            assert np.abs(ours - np.asarray(timms(name, picture, level, monkeypatch))).max() <= 1, level


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    frame = torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1)
    clip = tv_tensors.Video(frame.expand(18, -1, -1, -1).clone())  # two parts
    augment, changed = RandAugment(4, 7.0, 0.5), 0
    for seed in range(20):
        torch.manual_seed(seed)
        out = augment(clip)
        assert isinstance(out, tv_tensors.Video)
        assert (out == out[:1]).all()
        changed += not torch.equal(out, clip)
        torch.manual_seed(seed)
        expected = PHOTO
        for name, level in (drawn := augment.draw()):
            expected = OPERATORS[name](expected, level)
        apart = np.abs(out[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(expected))
        warped = any(name in MATRICES for name, _ in drawn)  # a warp is off by 1 at a few pixels, which others enlarge
        assert (apart > 1).mean() < 1e-3 if warped else not apart.any()
    assert changed > 15


def test_operators_are_drawn_as_said() -> None:
    torch.manual_seed(0)
    for mean, low, high in ((7.0, 6.95, 7.05), (10.0, 9.7, 9.9), (0.0, 0.1, 0.3)):  # a cut half-normal: 0.2 off
        augment = RandAugment(4, mean, 0.5)
        clips = [augment.draw() for _ in range(3000)]
        counts = np.bincount([len(drawn) for drawn in clips], minlength=5) / len(clips)
        assert np.abs(counts - np.array([1, 4, 6, 4, 1]) / 16).max() < 0.03  # binomial
        levels = np.array([level for drawn in clips for _, level in drawn])
        assert low < 10 * np.abs(levels).mean() < high
        assert np.abs(levels).max() <= 1
        assert mean == 0 or abs((levels < 0).mean() - 0.5) < 0.04
        names = Counter(name for drawn in clips for name, _ in drawn)
        assert set(names) == set(OPERATORS)
        assert max(names.values()) < 1.4 * min(names.values())
    two = [[level for _, level in drawn] for drawn in clips if len(drawn) > 1]
    assert any(abs(levels[0]) != abs(levels[1]) for levels in two)  # each has a magnitude of its own
