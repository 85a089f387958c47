"""Which frames and which crop make a clip: pure functions of counts and sizes.

`clip.sampling` names how the T frames of a clip are chosen from a video of n frames:

- segments (TSN; STAT's 'Implementation Details'): one frame of each of T equal segments of the video.
- dense (I3D, SlowFast): T frames, `clip.stride` apart, of one window of (T - 1) * stride + 1 frames. In a video shorter
  than the window the last frame repeats.
- snippets (TDN): T / snippet runs of `clip.snippet` consecutive frames. The n - snippet + 1 frames at which a run can
  start are cut into T / snippet equal segments, and each segment gives one start. In a video shorter than a run the
  last frame repeats.

Training draws the place in each segment, or the window's start. A test protocol CxS takes C temporal clips, spread
evenly over the places or starts, times S spatial crops.

`clip.frames` names the authors whose code says otherwise exactly which frames these are (formulas.py).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from ..errors import InputError
from ..models.base import Clip
from .formulas import FORMULAS

ChooseFrames = Callable[[int], list[int]]  # number of frames in the video -> T frame indices


@dataclass(frozen=True)
class Views:
    """A test protocol: `5x1` is 5 temporal clips of 1 spatial crop each."""

    clips: int
    crops: int

    @classmethod
    def parse(cls, text: str) -> "Views":
        """Read 'CxS'; InputError unless C is 1 or more and S is 1 or 3."""
        match = re.fullmatch(r"([1-9]\d*)x([13])", text)
        if not match:
            raise InputError(f"views={text}: allowed is CLIPSxCROPS with 1 or 3 crops, such as 1x1, 5x1, 3x3, 1x3")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"

    def __len__(self) -> int:
        return self.clips * self.crops

    def clip_crop(self, view: int) -> tuple[int, int]:
        """Return the temporal clip and the crop of view number `view`: the crops of one clip are neighbours."""
        return divmod(view, self.crops)


def segment_frames(offsets: Sequence[float]) -> ChooseFrames:
    """Choose the frame at `offsets[i]` (0 to below 1) of the i-th of T equal segments; frames repeat if n < T."""
    T = len(offsets)
    return lambda n: [min(int((i + u) * n / T), n - 1) for i, u in enumerate(offsets)]


def dense_frames(T: int, stride: int, start_of: Callable[[int], int]) -> ChooseFrames:
    """Choose T frames `stride` apart from a start; ``start_of`` picks one of so many possible starts, from 0."""

    def choose(n: int) -> list[int]:
        start = start_of(max(n - (T - 1) * stride, 1))
        return [min(start + i * stride, n - 1) for i in range(T)]

    return choose


def snippet_frames(offsets: Sequence[float], length: int) -> ChooseFrames:
    """Choose `length` consecutive frames from each start; the starts are `segment_frames` of the possible ones."""
    starts = segment_frames(offsets)
    return lambda n: [min(s + j, n - 1) for s in starts(max(n - length + 1, 1)) for j in range(length)]


def training_frames(clip: Clip, rng: Generator) -> ChooseFrames:
    """Draw where in a video a training clip lies; how often `rng` is asked does not depend on the video."""
    if clip.frames is not None:
        formula = FORMULAS[clip.sampling, clip.frames]
        u = rng.random(formula.draws(clip)).tolist()
        return lambda n: formula.training(clip, n, u)
    if clip.sampling == "dense":
        u = rng.random()
        return dense_frames(clip.T, clip.stride, lambda starts: int(u * starts))
    if clip.sampling == "snippets":
        return snippet_frames(rng.random(clip.T // clip.snippet).tolist(), clip.snippet)
    return segment_frames(rng.random(clip.T).tolist())


def view_frames(clip: Clip, number: int, clips: int) -> ChooseFrames:
    """Return how the frames of temporal clip `number` of `clips` are chosen; a single clip lies in the middle.

    Segments and snippets: at (number + 1/2) / clips of each segment. Dense: the windows' starts are spread evenly from
    the first to the last possible one. With `clip.frames` as its authors' code has it.
    """
    if clip.frames is not None:
        formula = FORMULAS[clip.sampling, clip.frames]
        return lambda n: formula.view(clip, n, number, clips)
    if clip.sampling == "dense":
        if clips == 1:
            return dense_frames(clip.T, clip.stride, lambda starts: (starts - 1) // 2)
        return dense_frames(clip.T, clip.stride, lambda starts: number * (starts - 1) // (clips - 1))
    place = (number + 0.5) / clips
    if clip.sampling == "snippets":
        return snippet_frames([place] * (clip.T // clip.snippet), clip.snippet)
    return segment_frames([place] * clip.T)


def crop_corner(height: int, width: int, size: int, crop: int, crops: int) -> tuple[int, int]:
    """Return (top, left) of a square crop: 1 crop: centre; 3: left, centre, right (top, centre, bottom if portrait)."""
    place = 1 if crops == 1 else crop  # 0, 1, 2 along the longer side
    y, x = height - size, width - size
    top, left = round(y / 2), round(x / 2)
    if width >= height:
        left = (0, left, x)[place]
    else:
        top = (0, top, y)[place]
    return top, left
