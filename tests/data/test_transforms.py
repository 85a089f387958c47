"""Transforms against torchvision's own functions, and what holds of any draw."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stat_video.data.augment import Augment
from stat_video.data.transforms import (
    ColorJitter,
    Erase,
    MultiScaleCrop,
    Normalize,
    ShortSideCrop,
    TrainTransform,
    ViewTransform,
)
from stat_video.errors import InputError

PLAIN = Augment((1.0, 1.0), (1.0, 1.0), color_jitter=0.0, randaugment_ops=0, erasing=0.0)  # on a square: no change
SHORT_SIDE = Augment((), crop_short_side=(36, 48))
SCALES = Augment((), crop_scales=(1.0, 0.875, 0.75, 0.66))


def random_frames(T: int, height: int, width: int) -> Tensor:
    """(T, H, W, 3) uint8."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (T, height, width, 3), dtype=np.uint8))


# -------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("augment", [Augment(), Augment(color_jitter=0.4, randaugment_ops=2), SHORT_SIDE, SCALES])
def test_a_draw_is_the_same_for_all_frames(augment: Augment) -> None:
    still = random_frames(1, 40, 56).expand(6, -1, -1, -1)
    transform = TrainTransform(32, augment, hflip=True)
    clips = []
    for seed in range(40):
        torch.manual_seed(seed)
        clips.append(transform(still))
        assert clips[-1].shape == (6, 3, 32, 32)
        assert clips[-1].dtype == torch.uint8
        assert clips[-1].is_contiguous()
        assert (clips[-1] == clips[-1][:1]).all(), seed
    assert not any(torch.equal(a, b) for a, b in pairwise(clips))  # and each clip has its own


def test_frames_keep_their_order() -> None:
    levels = torch.arange(8, dtype=torch.uint8) * 30
    clip = TrainTransform(32, Augment(randaugment_ops=0, color_jitter=0), hflip=True)(
        levels.view(8, 1, 1, 1).expand(8, 48, 64, 3)
    )
    assert torch.equal(clip, levels.view(8, 1, 1, 1).expand(8, 3, 32, 32))


def test_without_augmentation_the_pixels_stay() -> None:
    frames = random_frames(3, 32, 32)
    assert torch.equal(TrainTransform(32, PLAIN, hflip=False)(frames), frames.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("hflip", "flips"), [(False, range(1)), (True, range(25, 76))])
def test_clips_are_flipped_only_if_told(hflip: bool, flips: range) -> None:
    frames = random_frames(2, 16, 16)
    as_is, flipped = frames.permute(0, 3, 1, 2), frames.flip(2).permute(0, 3, 1, 2)
    transform, count = TrainTransform(16, PLAIN, hflip), 0
    torch.manual_seed(0)
    for _ in range(100):
        clip = transform(frames)
        assert torch.equal(clip, as_is) or torch.equal(clip, flipped)
        count += torch.equal(clip, flipped)
    assert count in flips


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (64, 64)])
def test_short_side_crop_is_a_crop_of_the_resized_frame(height: int, width: int) -> None:
    """Against resizing the whole frame first, as the authors do; of a smooth picture, which hides the rounding."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    picture = (127 + 60 * torch.sin(y) + 60 * torch.cos(x)).to(torch.uint8).expand(1, 3, height, width)
    crop, lengths, places = ShortSideCrop(32, (40, 50)), set(), set()
    torch.manual_seed(0)
    for _ in range(300):
        box = crop.make_params([picture])
        side = box["height"]
        length = min(height, width) * 32 / side  # to which the short side was resized
        assert box["width"] == side
        assert 40 - 0.5 <= length <= 50 + 0.8  # the window's sides are whole pixels
        assert 0 <= box["top"] <= height - side
        assert 0 <= box["left"] <= width - side
        lengths.add(side)
        places.add((box["top"], box["left"]))
    assert lengths == set(range(round(min(height, width) * 32 / 50), round(min(height, width) * 32 / 40) + 1))
    assert len(places) > 100

    whole = F.resize(
        picture, [round(height / side * 32), round(width / side * 32)], InterpolationMode.BICUBIC, antialias=True
    )
    top, left = round(box["top"] / side * 32), round(box["left"] / side * 32)
    apart = crop.transform(picture, box).float() - whole[..., top : top + 32, left : left + 32].float()
    assert apart.abs().max() <= 6


def test_short_side_crop_draws_each_length_alike() -> None:
    crop, drawn = ShortSideCrop(224, (256, 320)), []
    torch.manual_seed(0)
    frame = torch.empty(1, 3, 2240, 3000)
    for _ in range(4000):
        drawn.append(2240 * 224 / crop.make_params([frame])["height"])
    assert stats.kstest(drawn, stats.uniform(255.5, 65).cdf).pvalue > 0.01


def test_multi_scale_crop_is_tsns() -> None:
    """Every window against the list that TSN's words give: pairs of neighbouring scales, 13 places."""
    frame = torch.empty(1, 3, 256, 340)
    sides = {1.0: 256, 0.875: 224, 0.75: 192, 0.66: 168}
    pairs = [(256, 256), (256, 224), (224, 256), (224, 224), (224, 192), (192, 224)]
    pairs += [(192, 192), (192, 168), (168, 192), (168, 168)]
    expected = set()
    for h, w in pairs:
        down, right = (256 - h) // 4, (340 - w) // 4
        corners = [(0, 0), (0, 4 * right), (4 * down, 0), (4 * down, 4 * right), (2 * down, 2 * right)]
        edges = [(0, 2 * right), (4 * down, 2 * right), (2 * down, 0), (2 * down, 4 * right)]
        quadrants = [(down, right), (down, 3 * right), (3 * down, right), (3 * down, 3 * right)]
        expected |= {(top, left, h, w) for top, left in corners + edges + quadrants}
    crop, drawn = MultiScaleCrop(224, tuple(sides)), set()
    torch.manual_seed(0)
    for _ in range(4000):
        box = crop.make_params([frame])
        drawn.add((box["top"], box["left"], box["height"], box["width"]))
    assert drawn == expected


def test_a_window_is_resized_to_the_crop() -> None:
    frames = random_frames(2, 40, 40)
    clip = TrainTransform(40, Augment((), crop_scales=(1.0,)), hflip=False)(frames)
    assert torch.equal(clip, frames.permute(0, 3, 1, 2))  # the whole short side of a square: every place is the same
    assert TrainTransform(24, SCALES, hflip=False)(frames).shape == (2, 3, 24, 24)


def test_color_jitter_is_torchvisions() -> None:
    """On floats, where nothing is rounded in between; and in the order that is drawn."""
    clip = tv_tensors.Video(random_frames(3, 20, 28).permute(0, 3, 1, 2))
    jitter = ColorJitter(0.4)
    orders = set()
    for seed in range(30):
        torch.manual_seed(seed)
        drawn = jitter.make_params([clip])
        expected = clip.float() / 255
        for which in drawn["fn_idx"].tolist():
            if which < 3:
                name = ("brightness", "contrast", "saturation")[which]
                expected = getattr(F, f"adjust_{name}")(expected, drawn[f"{name}_factor"])
        orders.add(tuple(i for i in drawn["fn_idx"].tolist() if i < 3))
        torch.manual_seed(seed)
        ours = jitter(clip)
        assert isinstance(ours, tv_tensors.Video)
        assert ours.dtype == torch.uint8
        assert (ours.float() - 255 * expected).abs().max() < 0.51
    assert len(orders) == 6


def test_a_tenth_of_the_clips_lose_their_colours() -> None:
    """All frames of a clip together, by the luma of its pixels."""
    frames = random_frames(2, 8, 8)
    transform = TrainTransform(8, Augment((1.0, 1.0), (1.0, 1.0), color_drop=0.1), hflip=False)
    plain, grey = frames.permute(0, 3, 1, 2), 0
    luma = (frames.double() @ torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)).floor()[:, None]
    for seed in range(1000):
        torch.manual_seed(seed)
        clip = transform(frames)
        if not torch.equal(clip, plain):
            grey += 1
            assert (clip - luma).abs().max() <= 1
            assert torch.equal(clip[:, :1].expand_as(clip), clip)
    assert abs(grey - 100) < 48  # five standard deviations


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("color_drop", 1.1),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.9, 0.5)),
        ("crop_area", (0.5, 1.5)),
        ("crop_aspect", (-1.0, 1.0)),
        ("crop_aspect", (2.0, 1.0)),
        ("crop_area", (0.1, 0.5, 1.0)),
        ("crop_area", ()),
        ("crop_aspect", ()),
        ("crop_short_side", (256, 320)),  # beside the default crop_area
        ("crop_scales", (1.0,)),
        ("erasing", -0.1),
        ("erasing", 1.1),
        ("color_jitter", -0.4),
        ("randaugment_ops", -1),
        ("randaugment_magnitude", 11.0),
        ("randaugment_std", -0.5),
    ],
)
def test_augmentation_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"recipe\.augment\.{field}=") as caught:
        Augment(**{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(("height", "width", "resized"), [(48, 64, (36, 48)), (64, 48, (48, 36)), (50, 38, (47, 36))])
def test_views_are_torchvisions_resize_and_crop(height: int, width: int, resized: tuple[int, int]) -> None:
    frames = random_frames(3, height, width)
    full = F.resize(frames.permute(0, 3, 1, 2), list(resized), InterpolationMode.BICUBIC, antialias=True)
    transform = ViewTransform(36, 32)
    centre = transform(frames)
    assert centre.dtype == torch.uint8
    assert centre.is_contiguous()
    assert torch.equal(centre, F.center_crop(full, [32, 32]))
    first, middle, last = (transform(frames, crop, 3) for crop in range(3))
    assert torch.equal(middle, centre)
    for crop, end in ((first, 0), (last, max(resized) - 32)):
        across = F.center_crop(full, [32, resized[1]] if width > height else [resized[0], 32])
        assert torch.equal(crop, across[..., end : end + 32] if width > height else across[..., end : end + 32, :])


def test_frame_of_the_right_size_is_only_cut() -> None:
    frames = random_frames(2, 48, 64)
    left, centre, right = (ViewTransform(48, 48)(frames, crop, 3) for crop in range(3))
    for view, begin in ((left, 0), (centre, 8), (right, 16)):
        assert torch.equal(view, frames[:, :, begin : begin + 48].permute(0, 3, 1, 2))


def test_crop_larger_than_the_short_side_is_refused() -> None:
    with pytest.raises(InputError, match=r"crop=64: at most 48 is allowed"):
        ViewTransform(48, 64)


# ------------------------------------------------------------------------------------- on the model's device


def test_blue_comes_first_where_a_model_was_trained_so() -> None:
    """Mean and std stay those of red, green and blue."""
    video = torch.randint(0, 256, (2, 4, 3, 5, 5), dtype=torch.uint8)
    keys = ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    right, turned = Normalize(*keys)(video), Normalize(*keys, "bgr")(video)
    for place, colour in enumerate((2, 1, 0)):
        assert torch.equal(turned[:, place], right[:, colour])


def test_normalised_values_worked_by_hand() -> None:
    video = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(1, 3, 3, 2, 2)  # frame i: level i
    out = Normalize([0.5], [0.25])(video)
    assert out.shape == (1, 3, 3, 2, 2)
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.tensor([-2.0, -1.2, 2.0]).view(1, 1, 3, 1, 1), atol=1e-6)


def test_normalised_clip_is_torchvisions_with_channels_first() -> None:
    video = torch.stack([random_frames(4, 6, 5), random_frames(4, 6, 5).flip(0)]).permute(0, 1, 4, 2, 3)
    expected = F.normalize(video.float() / 255, [0.45] * 3, [0.225] * 3)  # (B, T, 3, H, W)
    out = Normalize([0.45], [0.225])(video)
    for b in range(2):
        for t in range(4):
            assert torch.allclose(out[b, :, t], expected[b, t], atol=1e-5)


def test_one_number_is_normalised_with_python_floats() -> None:
    """To the last bit: what a checkpoint was trained on must not move."""
    video = random_frames(4, 6, 5)[None].permute(0, 1, 4, 2, 3)
    out = Normalize([0.277], [0.123])(video)
    assert torch.equal(out, video.transpose(1, 2) * (1 / (255 * 0.123)) - 0.277 / 0.123)
    assert not list(Normalize([0.277], [0.123]).buffers())


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.485, 0.456, 0.406], [0.225]), ([0.45], [0.2, 0.3, 0.4])],
)
def test_each_channel_is_normalised_as_by_torchvision(mean: list[float], std: list[float]) -> None:
    video = torch.stack([random_frames(4, 6, 5), random_frames(4, 6, 5).flip(0)]).permute(0, 1, 4, 2, 3)
    three = [n * 3 if len(n) == 1 else n for n in (mean, std)]
    expected = F.normalize(video.float() / 255, *three).transpose(1, 2)  # (B, 3, T, H, W)
    module = Normalize(mean, std)
    out = module(video)
    assert out.dtype == torch.float32
    assert torch.allclose(out, expected, atol=1e-5)
    assert not module.state_dict()  # not in a checkpoint
    assert module.to("meta")(video.to("meta")).device.type == "meta"  # moves with the model


def test_erasing_off_changes_nothing() -> None:
    video = torch.randn(3, 3, 4, 16, 16)
    assert torch.equal(Erase(0.0)(video), video)


def test_erasing_puts_noise_in_one_box_for_all_frames() -> None:
    torch.manual_seed(0)
    video = torch.full((64, 3, 4, 24, 32), 7.0)
    before = video.clone()
    out = Erase(1.0)(video)
    assert torch.equal(video, before)  # its input stays
    changed = out != 7.0
    boxes = set()
    for clip, mask in zip(out, changed, strict=True):
        rows, columns = mask[0, 0].any(1).nonzero()[:, 0], mask[0, 0].any(0).nonzero()[:, 0]
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        box = torch.zeros_like(mask)
        box[..., top:bottom, left:right] = True
        assert torch.equal(mask, box)  # every pixel of one box, in all frames and channels, and no other
        area = (bottom - top) * (right - left) / (24 * 32)
        assert 0.01 < area < 0.36
        assert not torch.equal(clip[:, 0, top:bottom, left:right], clip[:, 1, top:bottom, left:right])
        boxes.add((top, bottom, left, right))
    assert len(boxes) > 50  # each clip has its own
    noise = out[changed]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_erasing_by_chance_takes_its_share_of_clips() -> None:
    torch.manual_seed(0)
    out = Erase(0.25)(torch.full((400, 1, 1, 8, 8), 7.0))
    erased = (out != 7.0).flatten(1).any(1).sum().item()
    assert 65 < erased < 135  # of 400, four standard deviations around 100
