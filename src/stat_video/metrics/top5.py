"""Top-5 accuracy."""

from torch import Tensor

from .scores import correct, ranks


def metric(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of videos whose class is among the five that score highest, percent."""
    return 100 * correct(ranks(logits, labels), 5).float().mean()
