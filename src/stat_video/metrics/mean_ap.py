"""Mean average precision of videos with several labels, as Charades and AVA report it."""

import warnings

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from .scores import probabilities

MULTI_LABEL = True


def metric(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the classes of their average precision, percent; classes that no video has are left out.

    A video that could not be read scores below all others in each class.
    """
    return average_precision(logits, labels)[labels.sum(0) > 0].mean()


def class_precision(logits: Tensor, labels: Tensor) -> list[tuple[int, int, float]]:
    """Return (class, videos, average precision in percent) of each class with videos."""
    found = average_precision(logits, labels)
    return [(c, int(n), float(found[c])) for c, n in enumerate(labels.sum(0)) if n]


def average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision of each class, (num_classes,), percent; of no meaning if no video has the class."""
    scores = torch.nan_to_num(probabilities(logits, multi_label=True), nan=0.0)
    with warnings.catch_warnings(action="ignore"):  # that some class has no video
        found: Tensor = multilabel_average_precision(scores, labels.long(), num_labels=labels.shape[1], average=None)
    return 100 * found
