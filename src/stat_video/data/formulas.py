"""The frames of a clip as the authors of each system choose them: `clip.frames`, from their published code.

A formula is a pure function of the number of frames n of a video. `FORMULAS` has one for each pair of `clip.sampling`
and `clip.frames`; without `clip.frames` the frames are those of `sampling.py`. Indices count from 0, and frames are
counted, not seconds.

NOTE: where an author's code draws the clips of a test at random, ours are spread evenly over what it draws from.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from ..models.base import Clip


class Formula(ABC):
    """How one code base chooses T of n frames."""

    def draws(self, clip: Clip) -> int:
        """Return how many random numbers a training clip takes, whatever the video."""
        return clip.T

    @abstractmethod
    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        """Return the frames of a training clip, of `draws` numbers from 0 to below 1."""

    @abstractmethod
    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        """Return the frames of clip k of so many in a test."""


class TSMSegments(Formula):
    """TSM's, TEA's, MSNet's and SmallBigNet's: segments of n // T whole frames in training, of n / T in a test.

    A training clip of fewer than T frames is the first frame T times. Two clips are the middles and the starts of the
    segments (`--twice_sample`). TEA draws its ten clips as in training.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        length = n // clip.T
        return [i * length + int(u[i] * length) for i in range(clip.T)]

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        if clips > 2:
            return self.training(clip, n, [(k + 0.5) / clips] * clip.T)
        length = n / clip.T
        middle = length / 2 if k == 0 else 0.0
        return [int(middle + length * i) for i in range(clip.T)]


class BLVNetSegments(Formula):
    """bLVNet-TAM's: one place for all segments of n // T frames; clips of a test lie a frame apart, around the middles.

    Of fewer than T frames T are drawn, in their order; in a test by a generator seeded with k.
    """

    def draws(self, clip: Clip) -> int:
        return clip.T + 1

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        length = n // clip.T
        if not length:
            return sorted(int(place * n) for place in u[1:])
        return [i * length + int(u[0] * length) for i in range(clip.T)]

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        if n <= clip.T:
            return sorted(np.random.RandomState(k).choice(n, clip.T).tolist())
        length = n / clip.T
        shift = k + 1 + -clips // 2  # of three clips -1, 0, 1
        place = length / 2 + max(min(shift, length / 2 - 1e-4), -length / 2)
        return [int(place + length * i) for i in range(clip.T)]


class PySlowFastSegments(Formula):
    """PySlowFast's and TimeSformer's of Something-Something: T intervals of the n - 1 steps, with rounded ends.

    NOTE: they have one temporal clip; of several, ours are spread evenly over each interval.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        ends = self._ends(clip, n)
        return [start + int(u[i] * (ends[i + 1] - start + 1)) for i, start in enumerate(ends[:-1])]

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        ends = self._ends(clip, n)
        return [start + (2 * k + 1) * (ends[i + 1] - start) // (2 * clips) for i, start in enumerate(ends[:-1])]

    def _ends(self, clip: Clip, n: int) -> list[int]:
        return [round((n - 1) / clip.T * i) for i in range(clip.T + 1)]


class Dense(Formula):
    """T frames, `clip.stride` apart, of a window of T x stride frames; beyond the end it goes on at the beginning."""

    def draws(self, clip: Clip) -> int:
        return 1

    def frames(self, clip: Clip, n: int, start: int) -> list[int]:
        """Return the window's frames."""
        return [(start + i * clip.stride) % n for i in range(clip.T)]

    def left(self, clip: Clip, n: int) -> int:
        """Return the last possible start of a window."""
        return max(n - clip.T * clip.stride, 0)


class TSMDense(Dense):
    """TSM's and MSNet's of Kinetics. The last start is that of a test alone.

    NOTE: they have ten clips, or draw one; one clip is in the middle here.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        return self.frames(clip, n, int(u[0] * max(self.left(clip, n), 1)))

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        last = self.left(clip, n)
        return self.frames(clip, n, last // 2 if clips == 1 else _even(last, k, clips))


class SmallBigDense(Dense):
    """SmallBigNet's of Kinetics: in training the stride is reduced until T frames fit into the video.

    If even T consecutive frames don't fit, the last one repeats. A single clip of a test is the first window.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        steps = max(clip.T - 1, 1)
        stride = max(min(clip.stride, (n - 1) // steps), 1)
        start = int(u[0] * max(n - (clip.T - 1) * stride, 1))
        return [min(start + i * stride, n - 1) for i in range(clip.T)]

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        return self.frames(clip, n, _even(max(self.left(clip, n) - 1, 0), k, clips))


class ViViTDense(Dense):
    """ViViT's, of DMVR: a training window may begin stride frames later than one of a test."""

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        return self.frames(clip, n, int(u[0] * max(n - (clip.T - 1) * clip.stride, 1)))

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        last = self.left(clip, n)
        return self.frames(clip, n, last // 2 if clips == 1 else _even(last, k, clips))


class VidTrDense(Dense):
    """VidTr's: training spreads T frames over T x stride + 1, a test takes each stride-th, without the last tenth.

    A short training clip is what there is, then the last frame; in a test the last stride-th frame repeats. A single
    clip of a test is the first window.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        window = clip.T * clip.stride
        if n <= window:
            there = np.linspace(0, n, n // clip.stride).astype(int).tolist()
            return [min(frame, n - 1) for frame in [*there, *[n] * (clip.T - len(there))]]
        start = int(u[0] * (n - window))
        return [min(int(place), start + window - 1) for place in np.linspace(start, start + window, clip.T)]

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        window = clip.T * clip.stride
        start = int((n - window + 1) / clips * k) if n >= window else 0
        last = start + (n - 1 - start) // clip.stride * clip.stride
        return [min(start + i * clip.stride, last) for i in range(clip.T)]


class PySlowFastDense(Dense):
    """PySlowFast's and TimeSformer's of Kinetics: T frames spread over a window from its first to its last frame.

    Clip k of a test begins at k / clips of the possible starts, so the last starts are in no test, and a single clip is
    the first window. In a short video the last frame repeats.

    NOTE: theirs is of a whole decoded video at 30 frames a second; they stretch the window of one at another rate.
    """

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        return self.spread(clip, n, u[0] * self.left(clip, n))

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        return self.spread(clip, n, self.left(clip, n) * k / clips)

    def spread(self, clip: Clip, n: int, start: float) -> list[int]:
        """Return T frames of a window, with PyTorch's rounding, as theirs."""
        places = torch.linspace(start, start + clip.T * clip.stride - 1, clip.T)
        frames: list[int] = places.clamp(0, n - 1).long().tolist()
        return frames


class MViTDense(PySlowFastDense):
    """PySlowFast's with `DATA.USE_OFFSET_SAMPLING`, as MViT's configs have it: a single clip is in the middle."""

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        last = self.left(clip, n)
        return self.spread(clip, n, last // 2 if clips == 1 else k * (last // (clips - 1)))


class TDNSnippets(Formula):
    """TDN's: runs whose starts are in segments of whole frames in training, and in the middles for one clip of a test.

    With no more frames than segments all runs begin at the first frame; a single clip's do up to T / snippet +
    snippet - 1 frames. Several clips are drawn as in training.
    """

    def draws(self, clip: Clip) -> int:
        return clip.T // clip.snippet

    def training(self, clip: Clip, n: int, u: Sequence[float]) -> list[int]:
        runs, starts = clip.T // clip.snippet, max(n - clip.snippet + 1, 1)
        if length := starts // runs:
            return self._runs(clip, n, [i * length + int(u[i] * length) for i in range(runs)])
        return self._runs(clip, n, sorted(int(place * starts) for place in u) if n > runs else [0] * runs)

    def view(self, clip: Clip, n: int, k: int, clips: int) -> list[int]:
        runs = clip.T // clip.snippet
        if clips > 1:
            return self.training(clip, n, [(k + 0.5) / clips] * runs)
        length = (n - clip.snippet + 1) / runs if n > runs + clip.snippet - 1 else 0.0
        return self._runs(clip, n, [int(length / 2 + length * i) for i in range(runs)])

    def _runs(self, clip: Clip, n: int, starts: Sequence[int]) -> list[int]:
        return [min(start + i, n - 1) for start in starts for i in range(clip.snippet)]


def _even(last: int, k: int, clips: int) -> int:
    """Return number k of so many places from 0 to `last`, rounded down."""
    return int(np.linspace(0, last, clips)[k])


FORMULAS: dict[tuple[str, str], Formula] = {
    ("segments", "tsm"): TSMSegments(),
    ("segments", "smallbig"): TSMSegments(),
    ("segments", "blvnet"): BLVNetSegments(),
    ("segments", "pyslowfast"): PySlowFastSegments(),
    ("segments", "mvit"): PySlowFastSegments(),
    ("dense", "tsm"): TSMDense(),
    ("dense", "smallbig"): SmallBigDense(),
    ("dense", "pyslowfast"): PySlowFastDense(),
    ("dense", "mvit"): MViTDense(),
    ("dense", "vidtr"): VidTrDense(),
    ("dense", "vivit"): ViViTDense(),
    ("snippets", "tdn"): TDNSnippets(),
}
