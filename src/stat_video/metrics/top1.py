"""Top-1 accuracy."""

from torch import Tensor

from .scores import correct, ranks


def metric(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of videos whose class is the one that scores highest, percent."""
    return 100 * correct(ranks(logits, labels)).float().mean()
