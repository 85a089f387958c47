"""What is correct: the one definition, for results, intervals, pairs and W&B."""

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_RANK = 5  # of top-5: a rank that is wrong at any k, also where there are fewer classes


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the place of the right class among all, (videos,), from logits (videos, views, num_classes); 0 is first.

    Scores are averaged over the views after the softmax. Of classes with equal scores the one that is listed first goes
    first, as in argmax. A video with a view of NaN (it could not be read) gets num_classes, or 5 if there are fewer, so
    that it is wrong at any k.
    """
    scores, labels = probabilities(logits), labels[:, None].long()
    of_label = scores.gather(1, labels)
    before = torch.arange(scores.shape[1], device=scores.device) < labels
    place = ((scores > of_label) | ((scores == of_label) & before)).sum(1)
    return torch.where(scores.isnan().any(1), max(scores.shape[1], MOST_RANK), place)


def correct(ranks: Tensor, k: int = 1) -> Tensor:
    """Return which answers are correct, (videos,): the right class is among the k that score highest."""
    return ranks < k


def class_accuracy(ranks: Tensor, labels: Tensor) -> list[tuple[int, int, float]]:
    """Return (class, videos, top-1 in percent) of each class with videos, from `ranks` (videos,) and their labels."""
    right = correct(ranks).float()
    return [(c, int(n), 100 * float(right[labels == c].mean())) for c, n in enumerate(torch.bincount(labels)) if n]


def probabilities(logits: Tensor, multi_label: bool = False) -> Tensor:
    """Return the probability of each class, (videos, num_classes), of logits (videos, views, num_classes).

    Of each view by softmax, or by sigmoid if a video may have several classes; then the mean over the views.
    """
    return (logits.sigmoid() if multi_label else logits.softmax(-1)).mean(1)


def likeliest(
    logits: Tensor, classes: Sequence[str], top: int = 5, *, multi_label: bool = False
) -> list[tuple[str, float]]:
    """Return the ``top`` classes with their probabilities, best first, of logits (num_classes,)."""
    found = probabilities(logits.float()[None, None], multi_label)[0]
    values, indices = found.topk(min(top, len(classes)))
    return [(classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]


def ensemble_of(tests: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return several tests, each (logits (videos, views, num_classes), labels (videos,)), as one of all their views.

    Scores are averaged over views after the softmax, so those of all tests then count equally. Raises ValueError if
    the tests are not of the same videos, classes and number of views.
    """
    (logits, labels), *others = tests
    for other, its_labels in others:
        if other.shape != logits.shape or not torch.equal(its_labels, labels):
            shapes = " and ".join("x".join(map(str, shape)) for shape in (logits.shape, other.shape))
            raise ValueError(f"they were not tested on the same videos, views and classes ({shapes})")
    return torch.cat([logits for logits, _ in tests], 1), labels
