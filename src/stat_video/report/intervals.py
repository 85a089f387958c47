"""How far a mean over seeds and videos may be off: intervals that hold whether seeds differ or not."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import t

LEVEL = 0.95  # how often an interval holds the truth
_SMALLEST = 1e-12  # p-values below are not told from it

Points = npt.NDArray[np.float64]  # (seeds, videos)


def half_width(points: Points, level: float = LEVEL) -> float:
    """Return half of the interval of the mean of `points`, in their unit; of the videos alone with one seed.

    The mean varies with the seeds that were drawn and with the videos: a crossed two-way layout of random effects. Each
    part has its own variance and Student's t of its own degrees of freedom, and the two are added in squares:
    conservative for any mix of the two (Banerjee, Sankhya A 23, 1961, 359-378). The seeds' part holds what seeds and
    videos do together; as far as it does, that is taken out of the videos' part. So seeds that happen to agree don't
    make an interval narrower than that of the videos alone.
    """
    return _half_width(*_variances(points), 1 - level)


def of_groups(points: Points, groups: npt.NDArray[np.int64]) -> Points:
    """Return points (seeds, groups) of the same mean, whose variance is the cluster-robust one of `points`.

    Videos of one group, as of one place, are right or wrong together, so that groups count and not videos: with n
    videos, of which m are in a group, its point is the mean plus groups / n times the sum of the m deviations from it.
    """
    of_video = np.unique(groups, return_inverse=True)[1]
    number, mean = int(of_video.max()) + 1, points.mean(1, keepdims=True)
    sums = np.stack([np.bincount(of_video, row, number) for row in points - mean])
    found: Points = mean + sums * number / points.shape[1]
    return found


def p_value(points: Points) -> float:
    """Return the `1 - level` at which the interval of the mean of `points` would end at zero."""
    of, mean = _variances(points), abs(float(points.mean()))
    if mean == 0:
        return 1.0
    if _half_width(*of, _SMALLEST) <= mean:
        return _SMALLEST
    return float(brentq(lambda p: _half_width(*of, p) - mean, _SMALLEST, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70)."""
    adjusted, least = [1.0] * len(p_values), 0.0
    for place, i in enumerate(np.argsort(p_values, kind="stable")):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = least
    return adjusted


def _half_width(seeds: int, videos: int, by_seeds: float, by_videos: float, p: float) -> float:
    of_seeds = t.isf(p / 2, seeds - 1) ** 2 * by_seeds if by_seeds else 0.0
    return sqrt(of_seeds + t.isf(p / 2, videos - 1) ** 2 * by_videos)


def _variances(points: Points) -> tuple[int, int, float, float]:
    """Return the numbers of seeds and videos, and the variance that each brings to the mean."""
    seeds, videos = points.shape
    of_video = points.mean(0)
    by_videos = float(of_video.var(ddof=1)) / videos
    if seeds == 1:
        return seeds, videos, 0.0, by_videos
    of_seed = points.mean(1)
    rest = points - of_seed[:, None] - of_video + points.mean()
    together = float((rest**2).sum()) / ((seeds - 1) * (videos - 1)) / (seeds * videos)
    by_seeds = float(of_seed.var(ddof=1)) / seeds
    return seeds, videos, by_seeds, max(by_videos - min(together, by_seeds), 0.0)
