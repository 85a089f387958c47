"""RandAugment by batch on a device: each operator and whole chains beside Pillow's, and what waits for a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from skimage import data
from torch import Tensor
from torch.utils.data import DataLoader

from stat_video.data import randaugment_device
from stat_video.data.augment import Augment
from stat_video.data.dataset import ClipDataset, TrainRequest, TrainSampler
from stat_video.data.randaugment import Drawn, RandAugment
from stat_video.data.randaugment_device import apply_operators
from stat_video.data.randaugment_pillow import MATRICES, OPERATORS
from stat_video.data.transforms import TrainTransform
from stat_video.models.base import Clip

LEVELS = [sign * level for level in (0.0, 0.1, 0.33, 0.5, 0.69, 0.7, 0.74, 1.0) for sign in (1, -1)]
RNG = np.random.default_rng(0)
CLIPS = {
    "photo": np.stack([data.astronaut()[y : y + 81, 150:263] for y in (40, 200)]),  # odd sides; frames differ
    "noise": RNG.integers(30, 200, (2, 40, 57, 3), dtype=np.uint8),
    "few pixels": RNG.integers(90, 140, (3, 9, 13, 3), dtype=np.uint8),
    "two rows": RNG.integers(0, 256, (2, 2, 5, 3), dtype=np.uint8),
    "plain": np.array([0, 100, 255], dtype=np.uint8).repeat(12 * 14 * 3).reshape(3, 12, 14, 3),
}


@pytest.fixture(params=[1, 1000], ids=["one by one", "together"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on any other device."""
    monkeypatch.setattr(randaugment_device, "AT_ONCE_ON_CPU", request.param)


def to_clip(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def by_pillow(frames: np.ndarray, drawn: Drawn) -> Tensor:
    pictures = [Image.fromarray(frame) for frame in frames]
    for name, level in drawn:
        pictures = [OPERATORS[name](picture, level) for picture in pictures]
    return to_clip(np.stack([np.asarray(picture) for picture in pictures]))


def both_ways(frames: np.ndarray, drawn: list[Drawn]) -> tuple[Tensor, Tensor]:
    """Change clips of frames that are moved on from clip to clip, so that no two are the same."""
    clips = [np.roll(frames, i, axis=2) for i in range(len(drawn))]
    ours = apply_operators(torch.stack([to_clip(clip) for clip in clips]), drawn)
    return ours.int(), torch.stack([by_pillow(clip, steps) for clip, steps in zip(clips, drawn, strict=True)]).int()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_pillows(name: str, clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randaugment_device, "AT_ONCE_ON_CPU", len(LEVELS))
    ours, pillows = both_ways(CLIPS[clip], [Drawn([(name, level)]) for level in LEVELS])
    if name in MATRICES:
        apart = ours - pillows
        assert apart.abs().max() <= 1
        assert apart.count_nonzero() <= (0 if clip == "plain" else 1 + 1e-3 * apart.numel())
    else:
        assert torch.equal(ours, pillows)


@pytest.mark.parametrize("name", MATRICES)
def test_what_comes_from_outside_is_grey_where_pillows_is(name: str) -> None:
    black = np.zeros((1, 31, 44, 3), dtype=np.uint8)
    ours, pillows = both_ways(black, [Drawn([(name, level)]) for level in LEVELS])
    assert set(pillows.unique().tolist()) == {0, 128}
    assert torch.equal(ours, pillows)


def drawn_batch(clips: int) -> list[Drawn]:
    augment = RandAugment(4, 7.0, 0.5)
    torch.manual_seed(0)
    return [augment.draw() for _ in range(clips)]


def test_a_batch_is_changed_clip_by_clip_in_the_order_drawn(at_once: None) -> None:
    """Without warps to the last bit, whatever the other clips of the batch have."""
    frames = CLIPS["photo"][:, ::2, ::2]
    drawn = drawn_batch(200)
    ours, pillows = both_ways(frames, drawn)
    exact = [i for i, steps in enumerate(drawn) if not any(name in MATRICES for name, _ in steps)]
    assert len(exact) > 60
    assert {name for i in exact for name, _ in drawn[i]} == set(OPERATORS) - set(MATRICES)
    assert torch.equal(ours[exact], pillows[exact])
    assert drawn == drawn_batch(200)  # nothing of it is used up


def test_whole_chains_have_pillows_distribution() -> None:
    """What an operator makes of a difference of 1, as Equalize does, stays rare."""
    ours, pillows = both_ways(CLIPS["photo"][:, ::2, ::2], drawn_batch(200))
    apart = (ours - pillows).abs()
    assert (apart > 0).double().mean() < 2e-3
    assert (apart > 1).double().mean() < 2e-4
    means, deviations = (
        torch.stack([x.double().mean((1, 3, 4)), x.double().std((1, 3, 4))]) for x in (ours, pillows)
    )  # of each draw and channel
    assert (means - deviations).abs().max() < 0.05
    shares = [torch.bincount(x.flatten(), minlength=256) / x.numel() for x in (ours, pillows)]
    assert (shares[0] - shares[1]).abs().sum() / 2 < 1e-3


def test_the_batch_given_stays_and_nothing_drawn_changes_nothing() -> None:
    video = to_clip(CLIPS["noise"])[None].repeat(2, 1, 1, 1, 1)
    before = video.clone()
    changed = apply_operators(video, [Drawn([("Invert", 1.0)]), Drawn()])
    assert torch.equal(video, before)
    assert torch.equal(changed[0], 255 - before[0])
    assert torch.equal(changed[1], before[1])
    assert apply_operators(video, [Drawn(), Drawn()]) is video
    assert apply_operators(video, []) is video


def test_no_pixel_is_asked_for_on_the_way() -> None:
    """Tensors on `meta` have none, and refuse: so nothing that the host does waits for a device's pixels."""
    drawn = [*drawn_batch(16), *(Drawn([(name, 0.7)]) for name in OPERATORS)]
    video = torch.empty(len(drawn), 2, 3, 12, 17, dtype=torch.uint8, device="meta")
    changed = apply_operators(video, drawn)
    assert changed.device.type == "meta"
    assert changed.shape == video.shape
    assert changed.dtype == torch.uint8


@pytest.fixture
def other_types() -> Iterator[None]:
    """What trainer.precision may set around a training step."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        yield
    torch.set_default_dtype(torch.float32)


def test_precision_changes_no_pixel(request: pytest.FixtureRequest) -> None:
    video = to_clip(CLIPS["photo"]).expand(len(OPERATORS), -1, -1, -1, -1)
    drawn = [Drawn([(name, -0.7)]) for name in OPERATORS]
    expected = apply_operators(video, drawn)
    request.getfixturevalue("other_types")
    assert torch.equal(apply_operators(video, drawn), expected)


# ---------------------------------------------------------------------------------------------- from the data


CLIP = Clip(T=4, crop=24)


@pytest.fixture(scope="module")
def videos(motion_folder: Path) -> LabeledVideoPaths:
    paths = LabeledVideoPaths.from_path(str(motion_folder / "train.csv"))
    paths.path_prefix = str(motion_folder)
    return paths


def train_set(videos: LabeledVideoPaths, device: bool, ops: int = 4) -> ClipDataset:
    augment = Augment(color_jitter=0.4, randaugment_ops=ops, device=device)
    return ClipDataset(videos, CLIP, train=TrainTransform(CLIP.crop, augment, hflip=True), seed=3)


def test_the_same_is_drawn_wherever_it_is_applied(videos: LabeledVideoPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clip left to the device, changed with what was drawn for it, is the clip of the data workers."""
    drawn: list[Drawn] = []
    draw = RandAugment.draw
    monkeypatch.setattr(RandAugment, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    here, left = train_set(videos, device=False), train_set(videos, device=True)
    requests = [TrainRequest(video, epoch, repeat) for video in (0, 7, 23) for epoch in (0, 5) for repeat in (0, 1)]
    for request in requests:
        expected, item = here[request], left[request]
        assert drawn[-1] == drawn[-2] == item["operators"]
        assert expected["operators"] == ()
        assert torch.equal(apply_operators(item["video"][None], [item["operators"]])[0], expected["video"])
        assert item["label"] == expected["label"]
    assert any(len(steps) > 1 for steps in drawn)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_drawn_stays_on_the_host(videos: LabeledVideoPaths, workers: int) -> None:
    dataset = train_set(videos, device=True)
    sampler = TrainSampler(len(dataset), seed=0, repeats=2)
    requests = list(sampler)
    for n, batch in enumerate(DataLoader(dataset, 8, sampler=sampler, num_workers=workers)):
        moved = move_data_to_device(batch, torch.device("meta"))
        assert moved["video"].device.type == "meta"
        of_batch = requests[8 * n : 8 * n + 8]
        assert [list(steps) for steps in moved["operators"]] == [list(dataset[r]["operators"]) for r in of_batch]


def test_without_operators_none_are_left(videos: LabeledVideoPaths) -> None:
    item = train_set(videos, device=True, ops=0)[TrainRequest(0, 0, 0)]
    assert item["operators"] == ()
    assert torch.equal(item["video"], train_set(videos, device=False, ops=0)[TrainRequest(0, 0, 0)]["video"])
