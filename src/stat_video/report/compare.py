"""What differs by more than chance: rows paired by videos and seeds, and the paper's claims held against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import mean

import numpy as np

from ..paper import Claim
from ..runs.run import same_data
from .collect import ReportRow, TableRow, clips_until, few_classes
from .intervals import LEVEL, Points, half_width, holm, of_groups, p_value

TOP = {"top1": 1, "top5": 5}
HOLDS, FAILS, OPEN, MISSING, UNLIKE = "holds", "does not hold", "not told apart", "not run", "not comparable"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row minus another's, or a row's own, in percentage points, with its interval."""

    mean: float
    low: float
    high: float
    p: float  # how often rows that are equal differ so much; adjusted where several pairs are asked at once
    videos: int
    seeds: int

    @classmethod
    def of(cls, points: Points) -> "Difference":
        """Return that of points (seeds, videos)."""
        mean, half = float(points.mean()), half_width(points)
        seeds, videos = points.shape
        return cls(mean, mean - half, mean + half, p_value(points), videos, seeds)

    @property
    def told_apart(self) -> bool:
        """Whether rows that are equal differ so much in fewer than one of twenty reports."""
        return self.p < 1 - LEVEL


def accuracy_of(row: TableRow, metric: str = "top1") -> Difference | None:
    """Return a row's own accuracy with its interval, over its seeds and videos; None without logits of all its runs."""
    ranks = [run.ranks for run in row.runs]
    right = [r[0] < TOP[metric] for r in ranks if r is not None]
    if not right or len(right) < len(ranks) or len({len(r) for r in right}) > 1 or len(right[0]) < 2:
        return None
    return _over(100 * np.stack(right).astype(float), row)


def _over(points: Points, row: TableRow) -> Difference:
    """Return the difference of points (seeds, videos), with its interval over groups if the row's videos have some."""
    groups = row.runs[0].groups
    if groups is None or len(groups) != points.shape[1] or len(np.unique(groups)) < 2:
        return Difference.of(points)
    return replace(Difference.of(of_groups(points, groups)), videos=points.shape[1])


def adjusted(differences: Sequence[Difference], more: int = 0) -> list[Difference]:
    """Return differences that are asked at once, their p adjusted for their number (Holm).

    ``more`` counts those that are asked and not shown. They stand with p=1, so the adjustment is never too small.
    """
    p_values = holm([*(d.p for d in differences), *[1.0] * more])
    return [replace(d, p=p) for d, p in zip(differences, p_values, strict=False)]


def difference(a: TableRow, b: TableRow, metric: str = "top1") -> Difference | str:
    """Return row a minus row b over the videos and seeds that both have; a text says why there is none.

    Two systems are compared each with its own views, as in the paper; two rows of one system must have the same.
    """
    for row in (a, b):
        if not row.runs:
            return f"{row.name} is {MISSING}"
    if a.views != b.views and a.system == b.system:
        return f"unlike protocols, {a.views} and {b.views}"
    common = sorted({r.seed for r in a.runs} & {r.seed for r in b.runs})
    if not common:
        return "no seed in common"
    rows = []
    for seed in common:
        runs = [next(r for r in row.runs if r.seed == seed) for row in (a, b)]
        if not same_data(*(run.content.get("manifest") for run in runs)):
            return "tested on another state of the data set"
        one, other = (run.ranks for run in runs)
        if one is None or other is None:
            return f"no saved logits of one class a video of seed {seed}"
        (rank_a, labels_a), (rank_b, labels_b) = one, other
        if not np.array_equal(labels_a, labels_b):
            return "tested on other videos"
        k = TOP[metric]
        rows.append((rank_a < k).astype(float) - (rank_b < k))
    if len({len(row) for row in rows}) > 1:
        return "seeds tested on other videos"
    if len(rows[0]) < 2:
        return "tested on one video"
    return _over(100 * np.stack(rows), a)


def clips_apart(a: TableRow, b: TableRow, top1: float) -> tuple[float, float, float] | None:
    """Return how many clips more row a had seen than row b when a validation first gave a top-1: mean, low, high.

    Over the seeds that both have; None if one of their runs never gave it. The interval is Student's over seeds, and
    wider by the clips between two validations, since what a run had seen is known no closer; with one seed it is these
    alone.
    """
    seeds = sorted({run.seed for run in a.runs} & {run.seed for run in b.runs})
    of_seeds = [[clips_until(next(r for r in row.runs if r.seed == seed), top1) for row in (a, b)] for seed in seeds]
    spans = np.array([pair for pair in of_seeds if None not in pair], dtype=float)  # (seeds, rows, at and before)
    if not len(spans) or len(spans) < len(seeds):
        return None
    apart, (unsure_a, unsure_b) = spans[:, 0, 0] - spans[:, 1, 0], (spans[..., 0] - spans[..., 1]).mean(0)
    mean, half = float(apart.mean()), half_width(apart[:, None].repeat(2, 1))
    return mean, mean - half - float(unsure_a), mean + half + float(unsure_b)


Pair = tuple[TableRow, TableRow, Difference | str]  # a text: why they can't be compared


def pairs(table: Sequence[ReportRow]) -> list[Pair]:
    """Return every two rows of a table, one of the paper's own at least, and their difference in top-1.

    What other systems are to each other is not asked: each p is adjusted for all pairs that are.
    """
    asked = [(a, b) for a, b in combinations(table, 2) if a.printed.ours or b.printed.ours]
    return with_differences([(a, b) for a, b in asked if a.config and b.config])


def pairs_with_best(rows: Sequence[TableRow], most: int) -> list[Pair]:
    """Return every two rows; of more than `most` rows only the pairs of the row with the highest mean top-1.

    Since the best row is known from the same figures, each p is adjusted for the number of all pairs in either case.
    """
    every = list(combinations(rows, 2))
    if len(rows) <= most:
        return with_differences(every)
    best = max(rows, key=lambda row: mean(row.values(row.metrics[0]) or [0.0]))
    asked = [(best, row) for row in rows if row is not best]
    return with_differences(asked, len(every) - len(asked))


def with_differences(asked: Sequence[tuple[TableRow, TableRow]], more: int = 0) -> list[Pair]:
    """Return the difference of each pair, its p adjusted for their number and for so many more that are not shown."""
    found = [(a, b, difference(a, b)) for a, b in asked]
    better = iter(adjusted([d for _, _, d in found if isinstance(d, Difference)], more))
    return [(a, b, d if isinstance(d, str) else next(better)) for a, b, d in found]


@dataclass(frozen=True)
class Verdict:
    """What our figures say of a claim of the paper."""

    claim: Claim
    verdict: str  # HOLDS, FAILS, OPEN, MISSING or UNLIKE
    why: str
    one_seed: bool = False  # it follows from intervals of the videos alone, and another seed may turn it

    @property
    def said(self) -> str:
        """Return the verdict as reports print and count it: what one seed says is not what a row of several says."""
        return f"{self.verdict} for one seed" if self.one_seed else self.verdict


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
    if claim.metric == "top5" and (few := few_classes(involved)):
        return Verdict(claim, UNLIKE, f"{', '.join(few)} has no more than five classes: top-5 says nothing")
    compared = _compared(claim, involved)
    if unlike := [f"{_source(a)} - {_source(b)}: {d}" for a, b, d in compared if isinstance(d, str)]:
        return Verdict(claim, UNLIKE, "; ".join(unlike))
    differences = adjusted([d for _, _, d in compared if isinstance(d, Difference)])
    text = "; ".join(
        f"{_source(a)} - {_source(b)}: {d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
        for (a, b, _), d in zip(compared, differences, strict=True)
    )
    return Verdict(claim, _verdict(claim, differences), text, any(d.seeds == 1 for d in differences))


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
    return Difference.of(sign * (100 * np.stack([r[0] < TOP[metric] for r in ranks if r is not None]) - printed))


def _verdict(claim: Claim, differences: Sequence[Difference]) -> str:
    if claim.form == "close":
        limit = claim.limit or 0
        if all(-limit <= d.low and d.high <= limit for d in differences):
            return HOLDS
        return FAILS if any(d.low > limit or d.high < -limit for d in differences) else OPEN
    if all(d.mean > 0 and d.told_apart for d in differences):
        return HOLDS
    return FAILS if any(d.mean < 0 and d.told_apart for d in differences) else OPEN
