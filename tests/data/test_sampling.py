"""Which frames and which crop: cases worked by hand, and what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from stat_video.data.sampling import Views, crop_corner, segment_frames, training_frames, view_frames
from stat_video.errors import InputError, printable
from stat_video.models.base import Clip

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
    assert view_frames(Clip(T=4), 0, 1)(n) == frames


def test_five_clips_worked_by_hand() -> None:
    clips = [view_frames(Clip(T=4), clip, 5)(20) for clip in range(5)]  # segments of five frames: each clip takes one
    assert clips == [[0, 5, 10, 15], [1, 6, 11, 16], [2, 7, 12, 17], [3, 8, 13, 18], [4, 9, 14, 19]]


@pytest.mark.parametrize("n", [80, 81, 95, 250, 300])
def test_five_clips_differ_and_come_in_order(n: int) -> None:
    clips = np.array([view_frames(Clip(T=16), clip, 5)(n) for clip in range(5)])
    assert (np.diff(clips, axis=0) > 0).all()  # in each segment a later frame with each clip
    assert (np.diff(clips, axis=1) > 0).all()
    segments = np.arange(17) * n / 16
    assert (clips > segments[:-1] - 1).all()
    assert (clips < segments[1:]).all()


# ---------------------------------------------------------------------------------------------- kinds of sampling

KINDS = [
    Clip(T=8),
    Clip(T=8, sampling="dense", stride=4),
    Clip(T=1, sampling="dense", stride=4),
    Clip(T=16, sampling="dense"),
    Clip(T=40, sampling="snippets"),
    Clip(T=12, sampling="snippets", snippet=3),
    Clip(T=5, sampling="snippets"),
]


def described(clip: Clip) -> str:
    return f"{clip.sampling}-{clip.T}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("T", [1, 4, 16, 64])
def test_segments_draw_what_they_always_drew(T: int, seed: int) -> None:
    """T numbers of the generator and nothing else, so that a seed names the same clips as ever."""
    ours, theirs = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 3])
    choose = training_frames(Clip(T=T), ours)
    u = theirs.random(T).tolist()
    for n in (1, 5, 48, 300):
        assert choose(n) == [min(int((i + u[i]) * n / T), n - 1) for i in range(T)]
    assert ours.integers(2**63) == theirs.integers(2**63)  # what comes next is the same too


@pytest.mark.parametrize("clip", KINDS, ids=described)
def test_the_same_seed_is_the_same_clip_and_another_seed_another(clip: Clip) -> None:
    def drawn(seed: int) -> list[int]:
        return training_frames(clip, np.random.default_rng(seed))(300)

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 15
    choose = training_frames(clip, np.random.default_rng(1))
    assert (choose(300), choose(20), choose(300)) == (drawn(1), choose(20), drawn(1))  # the reader may ask again


@pytest.mark.parametrize("clip", KINDS, ids=described)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 15, 16, 28, 29, 30, 40, 1799])
def test_every_kind_gives_T_frames_of_the_video_in_their_order(clip: Clip, n: int) -> None:
    rng = np.random.default_rng(n)
    ways = [training_frames(clip, rng) for _ in range(20)]
    ways += [view_frames(clip, k, clips) for clips in (1, 2, 5) for k in range(clips)]
    for choose in ways:
        frames = choose(n)
        assert len(frames) == clip.T
        assert all(type(frame) is int and 0 <= frame < n for frame in frames)
        runs = [frames[i : i + clip.snippet] for i in range(0, clip.T, clip.snippet)]
        for run in runs if clip.sampling == "snippets" else [frames]:
            assert run == sorted(run)


def dense(n: int, T: int, stride: int, start: int) -> list[int]:
    """Walk through the video frame by frame; when it is over, stay at the last."""
    frames, at = [], start
    for _ in range(T):
        frames.append(at)
        for _ in range(stride):
            if at < n - 1:
                at += 1
    return frames


@pytest.mark.parametrize(("T", "stride"), [(1, 1), (4, 1), (8, 4), (16, 2), (3, 5)])
def test_dense_clips_are_windows_and_every_start_is_drawn_alike(T: int, stride: int) -> None:
    clip, window = Clip(T=T, sampling="dense", stride=stride), (T - 1) * stride + 1
    rng = np.random.default_rng(0)
    for n in {1, 2, T, window - 1, window, window + 1, window + 9} - {0}:
        starts = max(n - window + 1, 1)
        expected = [dense(n, T, stride, start) for start in range(starts)]
        drawn = [training_frames(clip, rng)(n) for _ in range(200 * starts)]
        assert {tuple(frames) for frames in drawn} == {tuple(frames) for frames in expected}
        for frames in expected:
            assert abs(drawn.count(frames) - 200) < 75  # more than five standard deviations


@pytest.mark.parametrize("clips", [1, 2, 3, 5, 10])
def test_dense_views_are_spread_from_the_first_to_the_last_window(clips: int) -> None:
    clip = Clip(T=8, sampling="dense", stride=4)  # windows of 29 frames
    for n in (1, 8, 28, 29, 30, 33, 100, 300):
        views = [view_frames(clip, k, clips)(n) for k in range(clips)]
        last = max(n - 29, 0)
        starts = [frames[0] for frames in views]
        assert views == [dense(n, 8, 4, start) for start in starts]
        if clips == 1:
            assert starts[0] in (last // 2, (last + 1) // 2)  # as much before it as behind
        else:
            assert (starts[0], starts[-1]) == (0, last)
            gaps = np.diff(starts)
            assert gaps.max() - gaps.min() <= 1
    assert view_frames(clip, 0, 1)(29) == list(range(0, 29, 4))
    assert view_frames(clip, 0, 1)(10) == [0, 4, 8, 9, 9, 9, 9, 9]  # the last frame repeats


def snippets(n: int, segments: int, length: int, place: Callable[[int], float]) -> list[int]:
    """TDN's loader for one video: a start for each segment of the possible ones, then frame after frame."""
    frames = []
    possible = n - length + 1 if n >= length else 1
    for segment in range(segments):
        p = math.floor(possible / segments * segment + possible / segments * place(segment) + 1e-9)
        for _ in range(length):
            frames.append(p)
            if p < n - 1:
                p += 1
    return frames


@pytest.mark.parametrize(("T", "length"), [(40, 5), (5, 5), (12, 3), (8, 1)])
def test_snippets_are_consecutive_frames_from_each_segment(T: int, length: int) -> None:
    clip, segments = Clip(T=T, sampling="snippets", snippet=length), T // length
    for n in [*range(1, 60), 250, 300]:
        for clips in (1, 2, 5):
            for k in range(clips):
                expected = snippets(n, segments, length, lambda segment, k=k, clips=clips: (k + 0.5) / clips)
                assert view_frames(clip, k, clips)(n) == expected, (n, k, clips)
        u = np.random.default_rng(n).random(segments)
        drawn = training_frames(clip, np.random.default_rng(n))(n)
        assert drawn == snippets(n, segments, length, lambda segment, u=u: float(u[segment]))


def test_snippets_worked_by_hand() -> None:
    clip = Clip(T=15, sampling="snippets")  # three runs of five
    runs = [view_frames(clip, 0, 1)(n) for n in (5, 7, 19, 3)]
    assert runs[0] == [0, 1, 2, 3, 4] * 3  # exactly one possible start
    assert runs[1] == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6]  # three: a segment each
    assert runs[2] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]  # fifteen: the middle of each five
    assert runs[3] == [0, 1, 2, 2, 2] * 3  # the last frame repeats
    single = Clip(T=8, sampling="snippets", snippet=1)
    assert view_frames(single, 1, 3)(50) == view_frames(Clip(T=8), 1, 3)(50)  # runs of one frame are segments


def tdn_test_starts(n: int, segments: int, length: int) -> list[int]:
    """TDN's `_get_test_indices`, counted from 0."""
    tick = (n - length + 1) / segments
    return [int(tick / 2 + tick * x) for x in range(segments)]


@pytest.mark.parametrize("segments", [8, 16])
def test_a_single_clip_of_snippets_is_tdns(segments: int) -> None:
    clip = Clip(T=5 * segments, sampling="snippets")
    for n in [*range(segments + 5, 200), 250, 300]:
        assert view_frames(clip, 0, 1)(n)[::5] == tdn_test_starts(n, segments, 5)


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
        frames = view_frames(Clip(T=T), 0, 1)(n)
        assert frames == tsn_test_frames(n, T)
        assert np.abs(np.array(frames) - uniform_frames(n, T, 0, 1)).max() <= 1, n


@pytest.mark.parametrize("clips", [2, 3, 5, 10])
@pytest.mark.parametrize("T", [8, 16, 64])
def test_clips_differ_from_slowfasts_by_where_in_a_segment_they_lie_and_no_more(T: int, clips: int) -> None:
    """Ours lie at (k + 1/2) / clips, evenly over the whole segment, theirs at (k + 1) / (clips + 1)."""
    for n in LENGTHS:
        for k in range(clips):
            apart = np.array(view_frames(Clip(T=T), k, clips)(n)) - uniform_frames(n, T, k, clips)
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
            frames = tuple(view_frames(Clip(T=16), clip, views.clips)(n))
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
    assert f"views={printable(text)}" in str(caught.value)


@pytest.mark.parametrize("text", ["1x1", "5x1", "3x3", "1x3"])
def test_each_clip_and_crop_is_a_view_once(text: str) -> None:
    views = Views.parse(text)
    order = [views.clip_crop(view) for view in range(len(views))]
    assert order == [(clip, crop) for clip in range(views.clips) for crop in range(views.crops)]
