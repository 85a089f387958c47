"""What the tests of a row got right and wrong: accuracy by class, confusions, and the errors that it was surest of."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ..metrics.scores import class_accuracy
from .collect import TableRow


@dataclass(frozen=True)
class Mistake:
    """A video whose class a row's models take for another."""

    video: int  # its place in the test
    label: int
    taken_for: int  # the class with the highest score, averaged over views and seeds
    probability: float  # that score
    wrong: int  # seeds that are wrong by themselves
    seeds: int


@dataclass(frozen=True)
class Mistakes:
    """How a row's tests mix classes up."""

    videos: npt.NDArray[np.int64]  # (classes,) of each class, those that could not be read among them
    confusion: npt.NDArray[np.float64]  # (classes, classes), [label, answer]: videos, mean over the seeds
    surest: Sequence[Mistake]
    unread: int  # views of videos that could not be read have no answer: wrong, and in no cell
    labels: npt.NDArray[np.int64]  # (videos,)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Each class's answers in percent of its videos: the diagonal is its top-1. NaN of a class without a video."""
        with np.errstate(invalid="ignore"):
            shares: npt.NDArray[np.float64] = 100 * self.confusion / self.videos[:, None]
        return shares

    def confused(self, most: int) -> list[tuple[int, int, float, float]]:
        """Return (label, answer, videos, percent of the label's videos) of the most frequent confusions."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        places = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [(int(p) // len(wrong), int(p) % len(wrong)) for p in places]
        return [(a, b, float(wrong[a, b]), float(self.shares[a, b])) for a, b in pairs if wrong[a, b]]


def by_class(row: TableRow) -> dict[int, tuple[int, float]] | None:
    """Return {class: (videos, top-1 in percent, mean over the seeds)}; None without logits of all its runs."""
    found = []
    for run in row.runs:
        if run.ranks is None:
            return None
        found.append(class_accuracy(*(torch.from_numpy(values) for values in run.ranks)))
    if any([c[:2] for c in other] != [c[:2] for c in found[0]] for other in found):
        return None  # seeds tested on other videos
    return {c: (n, mean(of_seed[i][2] for of_seed in found)) for i, (c, n, _) in enumerate(found[0])}


def mistakes(row: TableRow, most: int) -> Mistakes:
    """Return how a row's tests mix classes up, with at most so many single videos; for rows that have `by_class`."""
    total, answers, confusions = torch.tensor(0.0), list[Tensor](), list[Tensor]()
    for run in row.runs:
        logits, labels = run.logits()
        scores, labels = logits.float().softmax(-1).mean(1), labels.long()
        read = ~scores.isnan().any(1)
        answers.append(torch.where(read, scores.argmax(1), -1))
        confusions.append(multiclass_confusion_matrix(scores.argmax(1)[read], labels[read], scores.shape[1]).double())
        total = total + scores
    probability, taken_for = (total / len(answers)).nan_to_num(-1).max(1)
    wrong = torch.where((taken_for != labels) & (probability >= 0), probability, -1.0)
    seeds_wrong = (torch.stack(answers) != labels).sum(0)
    surest = [
        Mistake(i, int(labels[i]), int(taken_for[i]), float(wrong[i]), int(seeds_wrong[i]), len(answers))
        for i in wrong.argsort(descending=True, stable=True)[:most].tolist()
        if wrong[i] >= 0
    ]
    counts, unread = torch.bincount(labels, minlength=scores.shape[1]), sum(int((a < 0).sum()) for a in answers)
    return Mistakes(counts.numpy(), torch.stack(confusions).mean(0).numpy(), surest, unread, labels.numpy())
