"""Which frames and which crop: cases worked by hand, and what holds for all of them."""

from __future__ import annotations

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
