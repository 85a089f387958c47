"""Which frames and which crop: cases worked by hand, and what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stat_video.data.sampling import Views, crop_corner, segment_frames, view_frames
from stat_video.errors import InputError

# ---------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("n", "offsets", "frames"),
    [
        (8, (0, 0, 0, 0), [0, 2, 4, 6]),  # segments of two frames
        (8, (0.5, 0.5, 0.5, 0.5), [1, 3, 5, 7]),
        (8, (0, 0.5, 0.25, 0.75), [0, 3, 4, 7]),
        (10, (0, 0, 0, 0), [0, 2, 5, 7]),  # segments of 2.5: they begin at 0, 2.5, 5, 7.5
        (10, (0.5, 0.5, 0.5, 0.5), [1, 3, 6, 8]),
        (10, (0.99, 0.99, 0.99, 0.99), [2, 4, 7, 9]),
        (3, (0, 0, 0, 0), [0, 0, 1, 2]),  # segments of 0.75: frames repeat
        (3, (0.5, 0.5, 0.5, 0.5), [0, 1, 1, 2]),
        (1, (0, 0.3, 0.6, 0.99), [0, 0, 0, 0]),
        (100, (0.25,), [25]),  # T = 1
    ],
)
def test_frames_worked_by_hand(n: int, offsets: tuple[float, ...], frames: list[int]) -> None:
    assert segment_frames(offsets)(n) == frames


@pytest.mark.parametrize("T", [1, 2, 3, 8, 16, 64])
def test_frames_keep_to_their_segments_and_the_video(T: int) -> None:
    rng = np.random.default_rng(T)
    for n in [*range(1, 70), 250, 300, 1799]:
        for offsets in (np.zeros(T), np.full(T, 1 - 1e-9), rng.random(T), rng.random(T)):
            frames = segment_frames(offsets.tolist())(n)
            assert len(frames) == T
            assert all(type(f) is int and 0 <= f < n for f in frames)
            for i, frame in enumerate(frames):  # segment i covers the frames from floor(i n / T) to ceil((i + 1) n / T)
                assert i * n // T <= frame < -((i + 1) * n // -T), (n, T, i, frame)


def test_random_offsets_reach_each_frame_alike() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(4000):
        frames = segment_frames(rng.random(4).tolist())(20)
        assert [f // 5 for f in frames] == [0, 1, 2, 3]  # one of each segment
        counts[frames] += 1
    assert np.abs(counts - 800).max() < 120  # of 4000 draws over 5 frames; 4.7 standard deviations


@pytest.mark.parametrize(
    ("n", "frames"), [(4, [0, 1, 2, 3]), (8, [1, 3, 5, 7]), (12, [1, 4, 7, 10]), (2, [0, 0, 1, 1])]
)
def test_single_clip_takes_the_middles(n: int, frames: list[int]) -> None:
    assert view_frames(4, 0, 1)(n) == frames


def test_five_clips_worked_by_hand() -> None:
    clips = [view_frames(4, clip, 5)(20) for clip in range(5)]  # segments of five frames: each clip takes one
    assert clips == [[0, 5, 10, 15], [1, 6, 11, 16], [2, 7, 12, 17], [3, 8, 13, 18], [4, 9, 14, 19]]


@pytest.mark.parametrize("n", [80, 81, 95, 250, 300])
def test_five_clips_differ_and_come_in_order(n: int) -> None:
    clips = np.array([view_frames(16, clip, 5)(n) for clip in range(5)])
    assert (np.diff(clips, axis=0) > 0).all()  # in each segment a later frame with each clip
    assert (np.diff(clips, axis=1) > 0).all()
    segments = np.arange(17) * n / 16
    assert (clips > segments[:-1] - 1).all()
    assert (clips < segments[1:]).all()


# ------------------------------------------------------------------------------- others' rules for the same thing

LENGTHS = [*range(1, 100), 250, 300, 332, 1799]


def tsn_test_frames(n: int, T: int) -> list[int]:
    """MMAction2's SampleFrames with clip_len = 1 in the test: the middles of T equal intervals of the n frames."""
    interval = n / T
    return [int(interval * i + interval / 2) for i in range(T)]


def uniform_frames(n: int, T: int, clip: int, clips: int) -> list[int]:
    """SlowFast's Something-Something rule and MMAction2's UniformSample: intervals of n - 1 frames, ends rounded.

    One clip takes their middles; of several, number k lies (k + 1) / (clips + 1) into each interval.
    """
    ends = np.round(np.arange(T + 1) * (n - 1) / T).astype(int)
    if clips == 1:
        return [int(frame) for frame in (ends[:-1] + ends[1:]) // 2]
    return [int(start) + int((n - 1) / T / (clips + 1) * (clip + 1)) for start in ends[:-1]]


@pytest.mark.parametrize("T", [1, 4, 8, 16, 32, 64])
def test_single_clip_is_mmaction2s_and_within_a_frame_of_slowfasts(T: int) -> None:
    for n in LENGTHS:
        frames = view_frames(T, 0, 1)(n)
        assert frames == tsn_test_frames(n, T)
        assert np.abs(np.array(frames) - uniform_frames(n, T, 0, 1)).max() <= 1, n


@pytest.mark.parametrize("clips", [2, 3, 5, 10])
@pytest.mark.parametrize("T", [8, 16, 64])
def test_clips_differ_from_slowfasts_by_where_in_a_segment_they_lie_and_no_more(T: int, clips: int) -> None:
    """Ours lie at (k + 1/2) / clips, evenly over the whole segment, theirs at (k + 1) / (clips + 1)."""
    for n in LENGTHS:
        for k in range(clips):
            apart = np.array(view_frames(T, k, clips)(n)) - uniform_frames(n, T, k, clips)
            meant = ((k + 0.5) / clips - (k + 1) / (clips + 1)) * n / T
            assert np.abs(apart - meant).max() < 2.5, (n, k)  # they round twice, and one frame is shared out


def uniform_crop(height: int, width: int, size: int, crop: int) -> tuple[int, int]:
    """SlowFast's, the middles rounded up: left, centre, right; top, centre, bottom of a frame that is higher."""
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        top = (0, top, height - size)[crop]
    else:
        left = (0, left, width - size)[crop]
    return top, left


def three_crop(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """MMAction2's ThreeCrop of a frame whose short side is `size`: two equal steps along the longer side."""
    step = (max(height, width) - size) // 2
    return [(0, step * i) if width >= height else (step * i, 0) for i in range(3)]


@pytest.mark.parametrize(("height", "width"), [(256, 340), (340, 256), (256, 256), (256, 341), (257, 455), (224, 398)])
def test_crops_are_slowfasts_and_mmaction2s(height: int, width: int) -> None:
    """To a pixel: where the middle is between two, SlowFast rounds up, MMAction2 down."""
    ours = [crop_corner(height, width, 224, crop, 3) for crop in range(3)]
    slowfast = [uniform_crop(height, width, 224, crop) for crop in range(3)]
    assert np.abs(np.array(ours) - slowfast).max() <= 1
    longer = int(width >= height)  # coordinate along which the crops lie
    assert [c[longer] for c in ours[::2]] == [c[longer] for c in slowfast[::2]] == [0, max(height, width) - 224]
    short = min(height, width)
    ours = [crop_corner(height, width, short, crop, 3) for crop in range(3)]
    assert np.abs(np.array(ours) - three_crop(height, width, short)).max() <= 1


@pytest.mark.parametrize("protocol", ["5x1", "3x3", "1x3", "10x3", "2x1"])
def test_the_views_of_a_video_differ(protocol: str) -> None:
    views = Views.parse(protocol)
    for n in (160, 250, 300):
        seen = set()
        for view in range(len(views)):
            clip, crop = views.clip_crop(view)
            frames = tuple(view_frames(16, clip, views.clips)(n))
            seen.add((frames, crop_corner(256, 340, 224, crop, views.crops)))
        assert len(seen) == len(views)


# ----------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize(
    ("height", "width", "size", "crops", "corners"),
    [
        (256, 340, 224, 1, [(16, 58)]),
        (256, 340, 224, 3, [(16, 0), (16, 58), (16, 116)]),  # left, centre, right
        (340, 256, 224, 1, [(58, 16)]),
        (340, 256, 224, 3, [(0, 16), (58, 16), (116, 16)]),  # top, centre, bottom
        (256, 256, 224, 1, [(16, 16)]),
        (256, 256, 224, 3, [(16, 0), (16, 16), (16, 32)]),
        (48, 64, 48, 3, [(0, 0), (0, 8), (0, 16)]),
        (48, 48, 48, 3, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_crops_worked_by_hand(height: int, width: int, size: int, crops: int, corners: list[tuple[int, int]]) -> None:
    assert [crop_corner(height, width, size, crop, crops) for crop in range(crops)] == corners


# ----------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(
    ("text", "clips", "crops"), [("1x1", 1, 1), ("5x1", 5, 1), ("3x3", 3, 3), ("1x3", 1, 3), ("10x3", 10, 3)]
)
def test_views_are_read(text: str, clips: int, crops: int) -> None:
    views = Views.parse(text)
    assert (views.clips, views.crops) == (clips, crops)
    assert str(views) == text
    assert len(views) == clips * crops


@pytest.mark.parametrize(
    "text", ["", "5", "x", "5x", "x1", "5x2", "0x1", "5x0", "-1x1", "5x1x1", "5X1", " 5x1", "5x1\n"]
)
def test_other_views_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="CLIPSxCROPS") as caught:
        Views.parse(text)
    assert f"views={text}" in str(caught.value)


@pytest.mark.parametrize("text", ["1x1", "5x1", "3x3", "1x3"])
def test_each_clip_and_crop_is_a_view_once(text: str) -> None:
    views = Views.parse(text)
    order = [views.clip_crop(view) for view in range(len(views))]
    assert order == [(clip, crop) for clip in range(views.clips) for crop in range(views.crops)]
