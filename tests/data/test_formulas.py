"""Each system's frames against what its authors publish, retold here frame by frame, and in a real short video."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_dataset import write_moving

from stat_video import paper
from stat_video.data.formulas import FORMULAS
from stat_video.data.reader import PathHandler
from stat_video.data.sampling import training_frames, view_frames
from stat_video.models.base import FRAMES, Clip
from stat_video.paths import CONF

ALMOST_1 = 1 - 2**-53  # the greatest number that a generator draws
TSM = Clip(T=16, frames="tsm")
TSM_DENSE = Clip(T=16, sampling="dense", stride=4, frames="tsm")
SMALLBIG = Clip(T=16, sampling="dense", stride=4, frames="smallbig")
VIVIT = Clip(T=32, sampling="dense", stride=2, frames="vivit")
VIDTR = Clip(T=16, sampling="dense", stride=4, frames="vidtr")
BLVNET = Clip(T=48, frames="blvnet")
SSV2 = Clip(T=16, frames="mvit")
SLOWFAST = Clip(T=32, sampling="dense", stride=2, frames="pyslowfast")
X3D = Clip(T=16, sampling="dense", stride=5, frames="pyslowfast")
TIMESFORMER = Clip(T=96, sampling="dense", stride=4, frames="pyslowfast")
MVIT = Clip(T=16, sampling="dense", stride=4, frames="mvit")
TDN = Clip(T=40, sampling="snippets", frames="tdn")
AUTHORS = {
    "blvnet": "blvnet", "csn": None, "i3d_nl": "pyslowfast", "msnet": "tsm", "mvit": "mvit", "slowfast": "pyslowfast",
    "smallbig": "smallbig", "stat": None, "stm": None, "tdn": "tdn", "tea": "tsm", "timesformer": "pyslowfast",
    "tsm": "tsm", "vidtr": "vidtr", "vivit": "vivit", "x3d": "pyslowfast",
}  # fmt: skip
CLIPS = [TSM, TSM_DENSE, SMALLBIG, VIVIT, VIDTR, BLVNET, SSV2, SLOWFAST, X3D, TIMESFORMER, MVIT, TDN]


def named(clip: Clip) -> str:
    return f"{clip.frames}-{clip.sampling}-{clip.T}"


def lengths(clip: Clip) -> list[int]:
    return sorted({1, clip.T - 1, clip.T, 64, 65, 80, 300})


def drawn(clip: Clip, n: int, u: float) -> list[int]:
    """Return the training clip for which each draw is the same."""
    formula = FORMULAS[clip.sampling, str(clip.frames)]
    return formula.training(clip, n, [u] * formula.draws(clip))


def views(clip: Clip, n: int, clips: int) -> list[list[int]]:
    return [view_frames(clip, k, clips)(n) for k in range(clips)]


def starts(clip: Clip, n: int) -> list[int]:
    """Return the first frames of all training clips, with each draw from a fine grid."""
    return sorted({drawn(clip, n, u)[0] for u in np.linspace(0, ALMOST_1, 5000)})


def test_each_formula_has_a_name_and_each_name_a_formula() -> None:
    assert sorted(FORMULAS) == sorted((sampling, name) for sampling, names in FRAMES.items() for name in names)


@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_every_formula_gives_T_frames_of_the_video_and_draws_alike_for_all(clip: Clip) -> None:
    for n in [1, 2, 3, 7, 9, 10, 11, 13, *lengths(clip), 1799]:
        for u in (0.0, 0.4, ALMOST_1):
            frames = drawn(clip, n, u)
            assert len(frames) == clip.T
            assert all(type(frame) is int and 0 <= frame < n for frame in frames), (n, u)
        for clips in (1, 2, 3, 10):
            for frames in views(clip, n, clips):
                assert len(frames) == clip.T
                assert all(type(frame) is int and 0 <= frame < n for frame in frames), (n, clips)
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    choose = training_frames(clip, rng)
    assert choose(1799) == choose(1799) != training_frames(clip, np.random.default_rng(4))(1799)
    same.random(FORMULAS[clip.sampling, str(clip.frames)].draws(clip))
    choose(5)
    assert rng.integers(2**63) == same.integers(2**63)  # what comes next does not depend on the video


@pytest.mark.parametrize("system", ["stat", *paper.load().others()])
def test_each_system_has_its_authors_frames_and_at_the_tiny_scale_none(system: str) -> None:
    """Runs of the tiny scale were made without."""

    def clip_of(folder: str) -> dict[str, Any]:
        file = CONF / "model" / folder / f"{system}.yaml"
        keys: dict[str, Any] = yaml.safe_load(file.read_text()).get("clip", {}) if file.exists() else {}
        return keys

    own, on_ssv2, at_tiny = clip_of(""), clip_of("on/ssv2"), clip_of("at/tiny")
    assert own.get("frames") == AUTHORS[system]
    assert ("frames" in at_tiny) == (own.get("frames") is not None)
    assert at_tiny.get("frames") is None
    sampling = {"sampling": "segments", **own, **on_ssv2}["sampling"]
    frames = {**own, **on_ssv2}.get("frames")
    assert frames is None or frames in FRAMES[sampling]


# ------------------------------------------------------------------------------------------------- segments


@pytest.mark.parametrize("clip", [TSM, Clip(T=8, frames="smallbig")], ids=named)
def test_tsm_draws_in_segments_of_whole_frames(clip: Clip) -> None:
    """`average_duration = num_frames // num_segments`; where that is 0, zeros."""
    for n in lengths(clip):
        video, length = list(range(n)), n // clip.T
        segments = [video[i * length : (i + 1) * length] or [0] for i in range(clip.T)]
        assert drawn(clip, n, 0) == [segment[0] for segment in segments]
        assert drawn(clip, n, ALMOST_1) == [segment[-1] for segment in segments]
        assert starts(clip, n) == segments[0]
    assert (drawn(TSM, 300, 0)[-1], drawn(TSM, 300, ALMOST_1)[-1]) == (270, 287)
    assert drawn(TSM, 15, ALMOST_1) == [0] * 16


def test_tsms_two_clips_are_the_middles_and_the_starts() -> None:
    """`twice_sample`: int(tick / 2 + tick * x), then int(tick * x)."""
    for n in lengths(TSM):
        middles = [math.floor(Fraction(n, 16) * (x + Fraction(1, 2))) for x in range(16)]
        begins = [math.floor(Fraction(n, 16) * x) for x in range(16)]
        assert views(TSM, n, 2) == [middles, begins]
        assert views(TSM, n, 1) == [middles]
        for k, frames in enumerate(views(TSM, n, 10)):  # TEA draws ten: evenly spread here, each of another tenth
            assert frames == [x * (n // 16) + math.floor(Fraction(2 * k + 1, 20) * (n // 16)) for x in range(16)]
    assert views(TSM, 300, 2)[1][:3] == [0, 18, 37]


def test_blvnet_has_one_place_for_all_segments_and_clips_a_frame_apart() -> None:
    for n in lengths(BLVNET):
        video, length = list(range(n)), n // 48
        for end, u in ((0, 0.0), (-1, ALMOST_1)):
            if length:
                assert drawn(BLVNET, n, u) == [video[i * length : (i + 1) * length][end] for i in range(48)]
            else:
                assert drawn(BLVNET, n, u) == [video[end]] * 48
        if n > 48:
            tick = n / 48
            for clips, shifts in ((1, [0]), (2, [0, 1]), (3, [-1, 0, 1]), (10, range(-4, 6))):
                for frames, shift in zip(views(BLVNET, n, clips), shifts, strict=True):
                    at = tick / 2 - 1e-4 if shift >= tick / 2 else -tick / 2 if shift < -tick / 2 else shift
                    assert frames == [int(tick / 2 + at + tick * x) for x in range(48)], (n, clips, shift)
        else:
            for k, frames in enumerate(views(BLVNET, n, 3)):
                np.random.seed(k)  # noqa: NPY002 (theirs)
                assert frames == np.sort(np.random.choice(n, 48)).tolist()  # noqa: NPY002
    choose = training_frames(BLVNET, np.random.default_rng(0))
    assert set(np.diff(choose(300))) == {6}  # one place, so the frames are a segment apart
    assert sorted(choose(30)) == choose(30)
    assert len(set(choose(30))) > 10


def test_pyslowfasts_intervals_have_rounded_ends() -> None:
    """`seg_size = (length - 1) / num_frames`; a frame from np.round(seg_size * i) to np.round(seg_size * (i + 1))."""
    for n in lengths(SSV2):
        size = float(n - 1) / 16
        first, last = [], []
        for i in range(16):
            first.append(int(np.round(size * i)))
            last.append(int(np.round(size * (i + 1))))
        assert drawn(SSV2, n, 0) == first
        assert drawn(SSV2, n, ALMOST_1) == last
        assert views(SSV2, n, 1) == [[(a + b) // 2 for a, b in zip(first, last, strict=True)]]
        assert starts(SSV2, n) == list(range(last[0] + 1))
        several = np.array(views(SSV2, n, 3))
        assert (np.array(first) <= several).all()
        assert (several <= np.array(last)).all()
    assert drawn(SSV2, 300, ALMOST_1)[-1] == 299


# ---------------------------------------------------------------------------------------------------- dense


def wrapped(clip: Clip, n: int, start: int) -> list[int]:
    """Walk through the video again and again, and take each stride-th frame from a start."""
    return list(islice(cycle(range(n)), start, start + clip.T * clip.stride, clip.stride))


def evenly(last: int, clips: int) -> list[int]:
    return np.linspace(0, last, num=clips, dtype=int).tolist()


@pytest.mark.parametrize("clip", [TSM_DENSE, Clip(T=8, sampling="dense", stride=8, frames="tsm")], ids=named)
def test_tsms_window_is_of_64_frames_and_wraps_around(clip: Clip) -> None:
    """`sample_pos = max(1, 1 + num_frames - 64)`, randint(0, sample_pos - 1); ten by np.linspace to the last."""
    for n in lengths(clip):
        sample_pos = max(1, 1 + n - 64)
        possible = [0] if sample_pos == 1 else list(range(sample_pos - 1))
        assert starts(clip, n) == (possible if n > 1 else [0])
        assert drawn(clip, n, 0) == wrapped(clip, n, 0)
        assert drawn(clip, n, ALMOST_1) == wrapped(clip, n, possible[-1])
        assert views(clip, n, 10) == [wrapped(clip, n, start) for start in evenly(sample_pos - 1, 10)]
        assert views(clip, n, 1) == [wrapped(clip, n, (sample_pos - 1) // 2)]
    assert [frames[0] for frames in views(TSM_DENSE, 300, 10)][-1] == 236
    assert drawn(TSM_DENSE, 10, 0) == [0, 4, 8, 2, 6] * 3 + [0]


def test_smallbig_shortens_the_stride_in_training_and_wraps_around_in_a_test() -> None:
    for n in [*lengths(SMALLBIG), 17, 31, 40, 46, 61]:
        stride = 4
        while stride > 1 and 15 * stride + 1 > n:
            stride -= 1
        possible = max(n - 15 * stride, 1)
        for start, u in ((0, 0.0), (possible - 1, ALMOST_1)):
            assert drawn(SMALLBIG, n, u) == [min(start + i * stride, n - 1) for i in range(16)], n
        assert starts(SMALLBIG, n) == list(range(possible))
        for clips in (1, 10):
            expected = [wrapped(SMALLBIG, n, start) for start in evenly(max(1, n - 64) - 1, clips)]
            assert views(SMALLBIG, n, clips) == expected


def test_vivits_clips_wrap_around_and_begin_two_frames_later_in_training() -> None:
    for n in lengths(VIVIT):
        possible = max(n - 31 * 2, 1)
        assert starts(VIVIT, n) == list(range(possible)) if n >= 62 else [0]
        assert drawn(VIVIT, n, 0) == wrapped(VIVIT, n, 0)
        assert drawn(VIVIT, n, ALMOST_1) == wrapped(VIVIT, n, possible - 1)
        assert views(VIVIT, n, 4) == [wrapped(VIVIT, n, start) for start in evenly(max(0, n - 64), 4)]
        assert views(VIVIT, n, 1) == [wrapped(VIVIT, n, max(0, n - 64) // 2)]


def test_vidtr_spreads_in_training_and_strides_in_a_test() -> None:
    for n in [*lengths(VIDTR), 3, 50]:
        if n <= 64:
            index = [*np.linspace(0, n, num=n // 4), *[float(n)] * (16 - n // 4)]
            expected = [int(np.clip(place, 0, n - 1)) for place in index]
            assert drawn(VIDTR, n, 0) == drawn(VIDTR, n, ALMOST_1) == expected
        else:
            for end, u in ((64, 0.0), (n - 1, ALMOST_1)):
                index = np.linspace(end - 64, end, num=16)
                assert drawn(VIDTR, n, u) == np.clip(index, end - 64, end - 1).astype(int).tolist()
            assert starts(VIDTR, n) == list(range(n - 64))
        for clips in (1, 10):
            for k, frames in enumerate(views(VIDTR, n, clips)):
                offset = int((n - 64 + 1) / clips * k) if n >= 64 else 0
                expected = []
                for _ in range(16):
                    expected.append(offset)
                    if offset + 4 < n:
                        offset += 4
                assert frames == expected
    assert [frames[0] for frames in views(VIDTR, 300, 10)][-1] == 213


def spread(clip: Clip, n: int, start: Fraction) -> tuple[list[int], list[int]]:
    """Return each frame at its exact place, and as it is if the place lies just below a whole number."""
    step = Fraction(clip.T * clip.stride - 1, clip.T - 1)
    places = [start + i * step for i in range(clip.T)]
    exact = [min(math.floor(place), n - 1) for place in places]
    below = [min(math.ceil(place) - 1, n - 1) if place else 0 for place in places]
    return exact, below


def is_spread(clip: Clip, n: int, frames: list[int], start: Fraction) -> bool:
    """Whether frames are those of a window to the rounding of PyTorch's linspace in float32."""
    return all(frame in either for frame, *either in zip(frames, *spread(clip, n, start), strict=True))


@pytest.mark.parametrize("clip", [SLOWFAST, X3D, TIMESFORMER, Clip(128, sampling="dense", frames="pyslowfast")])
def test_pyslowfast_spreads_a_window_and_never_tests_the_last_starts(clip: Clip) -> None:
    """`delta = max(size - clip_size, 0)`; uniform(0, delta), or delta * k / clips; linspace over the window."""
    for n in lengths(clip):
        delta = max(n - clip.T * clip.stride, 0)
        assert is_spread(clip, n, drawn(clip, n, 0), Fraction(0))
        assert is_spread(clip, n, drawn(clip, n, ALMOST_1), Fraction(delta))
        for clips in (1, 10):
            for k, frames in enumerate(views(clip, n, clips)):
                assert is_spread(clip, n, frames, Fraction(delta * k, clips))
                theirs = torch.linspace(delta * k / clips, delta * k / clips + clip.T * clip.stride - 1, clip.T)
                assert frames == torch.clamp(theirs, 0, n - 1).long().tolist()
    assert views(SLOWFAST, 300, 10)[0][-1] == 63
    assert views(X3D, 300, 10)[0][-1] == 79
    assert views(SLOWFAST, 300, 10)[-1][0] == 212  # of 236


def test_mvit_spreads_a_window_from_the_middle_or_from_whole_steps() -> None:
    for n in lengths(MVIT):
        delta = max(n - 64, 0)
        assert is_spread(MVIT, n, drawn(MVIT, n, ALMOST_1), Fraction(delta))
        assert is_spread(MVIT, n, views(MVIT, n, 1)[0], Fraction(delta // 2))
        for clips in (5, 10):
            for k, frames in enumerate(views(MVIT, n, clips)):
                assert is_spread(MVIT, n, frames, Fraction(k * (delta // (clips - 1))))


# ------------------------------------------------------------------------------------------------- snippets


def runs(n: int, begins: list[int]) -> list[int]:
    frames = []
    for p in begins:
        for _ in range(5):
            frames.append(p)
            p += p < n - 1
    return frames


def test_tdns_runs_start_in_whole_segments() -> None:
    """Training, and ten clips of Kinetics: (n - 5 + 1) // 8; one clip: the middles, or zeros up to 12 frames."""
    for n in [*lengths(TDN), 4, 5, 8, 9, 11, 12, 13]:
        possible, length = list(range(max(n - 4, 1))), max(n - 4, 0) // 8
        if length:
            segments = [possible[i * length : (i + 1) * length] for i in range(8)]
        else:
            segments = [possible if n > 8 else [0]] * 8  # sorted draws from all, or zeros
        assert drawn(TDN, n, 0) == runs(n, [segment[0] for segment in segments])
        assert drawn(TDN, n, ALMOST_1) == runs(n, [segment[-1] for segment in segments])
        tick = (n - 4) / 8
        middles = [int(tick / 2 + tick * x) for x in range(8)] if n > 12 else [0] * 8
        assert views(TDN, n, 1) == [runs(n, middles)]
        for k, frames in enumerate(views(TDN, n, 10)):
            assert frames == runs(n, [segment[math.floor((k + 0.5) / 10 * len(segment))] for segment in segments])
    many = training_frames(TDN, np.random.default_rng(0))(10)[::5]
    assert many == sorted(many)
    assert len(set(many)) > 1


# ------------------------------------------------------------------------------------------------ in a video


@pytest.fixture(scope="module")
def short_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving(tmp_path_factory.mktemp("short") / "short.mp4", frames=13, g="4", bf="2")


@pytest.mark.parametrize("clip", CLIPS, ids=named)
def test_a_short_video_gives_the_frames_that_a_formula_names(short_video: Path, clip: Clip) -> None:
    """Again from its beginning, and the same frame several times."""
    whole = PathHandler().video_from_path(str(short_video)).frames(lambda n: list(range(n)))
    assert len(whole) == 13
    choices: list[Callable[[int], list[int]]] = [view_frames(clip, k, 3) for k in range(3)]
    choices.append(training_frames(clip, np.random.default_rng(1)))
    for choose, frames in zip(choices, PathHandler().video_from_path(str(short_video)).clips(choices), strict=True):
        assert torch.equal(frames, whole[choose(13)])
        assert torch.equal(PathHandler().video_from_path(str(short_video)).frames(choose), frames)


def test_a_formula_of_another_sampling_is_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match=r"clip\.frames=vidtr: must be one of tsm, .*with clip\.sampling=segments"):
        Clip(frames="vidtr")
    with pytest.raises(ValueError, match=r"clip\.frames=nobody: must be one of tdn"):
        Clip(T=5, sampling="snippets", frames="nobody")
