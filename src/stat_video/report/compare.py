"""What differs by more than chance: paired bootstraps over videos, and the paper's claims held against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from ..paper import Claim
from .collect import ReportRow

RESAMPLES = 10_000
LEVEL = 95  # percent of the resamples that an interval holds
TOP = {"top1": 1, "top5": 5}
HOLDS, FAILS, OPEN, MISSING, UNLIKE = "holds", "does not hold", "not told apart", "not run", "not comparable"
_CHUNK = 500  # resamples at once: 500 x 20,000 videos of Kinetics are 80 MB


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row minus another's, in percentage points, with its interval."""

    mean: float
    low: float
    high: float
    videos: int
    seeds: int

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def bootstrap(differences: npt.NDArray[np.float64], resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the mean of `differences` (seeds, videos), in their unit.

    Each resample draws videos with replacement, the same for both rows and all seeds; from two seeds on it draws seeds
    too, since another seed would give another difference. With one seed the interval knows of the videos only. Seeded,
    so that a report written twice is the same.
    """
    seeds, videos = differences.shape
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, resamples, _CHUNK):
        n = min(_CHUNK, resamples - start)
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n)
        of_videos = rng.multinomial(videos, np.full(videos, 1 / videos), size=n)
        sums = np.einsum("rs,rs->r", of_seeds, of_videos @ differences.T)  # whole numbers: what cancels is 0, not 1e-18
        means.append(sums / (seeds * videos))
    low, high = np.percentile(np.concatenate(means), [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


def difference(a: ReportRow, b: ReportRow, metric: str = "top1") -> Difference | str:
    """Return row a minus row b over the videos and seeds that both have; a text says why there is none.

    Two systems are compared each with its own views, as in the paper; two rows of one system must have the same.
    """
    for row in (a, b):
        if not row.runs:
            return f"{row.name} is {MISSING}"
    if a.views != b.views and a.printed.method == b.printed.method:
        return f"unlike protocols, {a.views} and {b.views}"
    common = sorted({r.seed for r in a.runs} & {r.seed for r in b.runs})
    if not common:
        return "no seed in common"
    rows = []
    for seed in common:
        one, other = (next(r for r in row.runs if r.seed == seed).ranks for row in (a, b))
        if one is None or other is None:
            return f"no saved logits of seed {seed}"
        (rank_a, labels_a), (rank_b, labels_b) = one, other
        if not np.array_equal(labels_a, labels_b):
            return "tested on other videos"
        k = TOP[metric]
        rows.append((rank_a < k).astype(float) - (rank_b < k))
    if len({len(row) for row in rows}) > 1:
        return "seeds tested on other videos"
    points = 100 * np.stack(rows)
    low, high = bootstrap(points)
    return Difference(float(points.mean()), low, high, points.shape[1], points.shape[0])


def pairs(table: Sequence[ReportRow]) -> list[tuple[ReportRow, ReportRow, Difference | str]]:
    """Return every two rows of a table that can be rerun, and their difference in top-1."""
    return [(a, b, difference(a, b)) for a, b in combinations([row for row in table if row.config], 2)]


@dataclass(frozen=True)
class Verdict:
    """What our figures say of a claim of the paper."""

    claim: Claim
    verdict: str  # HOLDS, FAILS, OPEN, MISSING or UNLIKE
    why: str


def judge(claim: Claim, scale: str, rows: Mapping[tuple[str, str], ReportRow]) -> Verdict:
    """Hold a claim against our figures at one scale.

    At the paper scale other systems stand with our runs of them if there are any, else with the figures that the paper
    prints; the text says which. At the tiny scale printed figures are of other models and data, and stand for nothing.
    """
    involved = [rows[scale, ref] for ref in claim.rows]
    if scale == "tiny" and (claim.metric == "gflops" or any(row.config is None for row in involved)):
        return Verdict(claim, UNLIKE, "it is about full-size models, or about systems that can't be rerun")
    if claim.metric == "gflops":
        return _judge_costs(claim, involved)
    needed = involved if scale == "tiny" else [row for row in involved if row.printed.ours]
    if missing := [row.printed.ref for row in needed if not row.runs]:
        return Verdict(claim, MISSING, f"missing: {', '.join(missing)}")
    compared = _compared(claim, involved)
    if unlike := [f"{_source(a)} - {_source(b)}: {d}" for a, b, d in compared if isinstance(d, str)]:
        return Verdict(claim, UNLIKE, "; ".join(unlike))
    differences = [(a, b, d) for a, b, d in compared if isinstance(d, Difference)]
    text = "; ".join(
        f"{_source(a)} - {_source(b)}: {d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" for a, b, d in differences
    )
    return Verdict(claim, _verdict(claim, [d for _, _, d in differences]), text)


def _judge_costs(claim: Claim, rows: Sequence[ReportRow]) -> Verdict:
    values, said = {}, []
    for row in rows:
        ours = row.gflops if row.printed.ours or row.runs else None
        value = row.printed.gflops if ours is None else ours
        if value is not None:
            values[row.printed.ref] = value
            said.append(f"{row.printed.ref} {value:.1f}{' (printed)' if ours is None else ''}")
    held = claim.holds(values)
    return Verdict(claim, HOLDS if held else FAILS, f"GFLOPs as counted: {', '.join(said)}")


def _source(row: ReportRow) -> str:
    return f"{row.printed.ref}{'' if row.runs else ' (printed)'}"


def _compared(claim: Claim, rows: Sequence[ReportRow]) -> list[tuple[ReportRow, ReportRow, Difference | str]]:
    match claim.form:
        case "best":
            chosen = [(rows[0], row) for row in rows[1:]]
        case "close":
            chosen = list(combinations(rows, 2))
        case _:
            chosen = list(pairwise(rows))
    return [(a, b, _with_printed(a, b, claim.metric)) for a, b in chosen]


def _with_printed(a: ReportRow, b: ReportRow, metric: str) -> Difference | str:
    """Return `difference`, or that to the printed figure of a row without runs, which has no interval of its own."""
    if a.runs and b.runs:
        return difference(a, b, metric)
    ours, other, sign = (a, b, 1) if a.runs else (b, a, -1)
    if not ours.runs:
        return "neither is run"
    printed = getattr(other.printed, metric)
    if printed is None:
        return "the paper prints none"
    ranks = [run.ranks for run in ours.runs]
    if any(r is None for r in ranks):
        return "no saved logits"
    points = sign * (100 * np.stack([r[0] < TOP[metric] for r in ranks if r is not None]) - printed)
    low, high = bootstrap(points)
    return Difference(float(points.mean()), low, high, points.shape[1], points.shape[0])


def _verdict(claim: Claim, differences: Sequence[Difference]) -> str:
    if claim.form == "close":
        limit = claim.limit or 0
        if all(-limit <= d.low and d.high <= limit for d in differences):
            return HOLDS
        return FAILS if any(d.low > limit or d.high < -limit for d in differences) else OPEN
    if all(d.low > 0 for d in differences):
        return HOLDS
    return FAILS if any(d.high < 0 for d in differences) else OPEN
