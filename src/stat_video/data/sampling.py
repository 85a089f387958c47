"""Which frames and which crop make a clip: pure functions of counts and sizes.

Training cuts a video into T equal segments and draws one frame from each (TSN's rule, 'Implementation Details').
A test protocol CxS is C temporal clips, evenly spread offsets inside the segments, times S spatial crops.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InputError

ChooseFrames = Callable[[int], list[int]]  # number of frames in the video -> T frame indices


@dataclass(frozen=True)
class Views:
    """A test protocol: `5x1` is 5 temporal clips of 1 spatial crop each."""

    clips: int
    crops: int

    @classmethod
    def parse(cls, text: str) -> "Views":
        """Raise InputError unless text is CxS with C from 1 on and S 1 or 3."""
        match = re.fullmatch(r"([1-9]\d*)x([13])", text)
        if not match:
            raise InputError(f"views={text}: allowed is CLIPSxCROPS with 1 or 3 crops, such as 1x1, 5x1, 3x3, 1x3")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"

    def __len__(self) -> int:
        return self.clips * self.crops

    def clip_crop(self, view: int) -> tuple[int, int]:
        """Temporal clip and crop of view number `view`: views run over crops first."""
        return divmod(view, self.crops)


def segment_frames(offsets: Sequence[float]) -> ChooseFrames:
    """Frame i at `offsets[i]` (0 to below 1) of the i-th of T equal segments; frames repeat in a video of under T."""
    T = len(offsets)
    return lambda n: [min(int((i + u) * n / T), n - 1) for i, u in enumerate(offsets)]


def view_frames(T: int, clip: int, clips: int) -> ChooseFrames:
    """Frames of temporal clip `clip` of `clips`: offset (clip + 1/2) / clips in every segment; 1 clip = the middles."""
    return segment_frames([(clip + 0.5) / clips] * T)


def crop_corner(height: int, width: int, size: int, crop: int, crops: int) -> tuple[int, int]:
    """Top-left corner of a square crop: 1 crop = centre; 3 = left, centre, right (top, centre, bottom if portrait)."""
    place = 1 if crops == 1 else crop  # 0, 1, 2 along the longer side
    y, x = height - size, width - size
    top, left = round(y / 2), round(x / 2)
    if width >= height:
        left = (0, left, x)[place]
    else:
        top = (0, top, y)[place]
    return top, left
