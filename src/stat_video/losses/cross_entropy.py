"""Cross-entropy, the loss of all systems here: one class a video."""

import torch.nn.functional as F
from torch import Tensor

MULTI_LABEL = False  # refused for videos with several labels


def loss(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy after a softmax over the classes.

    With ``class_weights`` (num_classes,) a mean over class numbers is divided by their weights, as PyTorch does.
    """
    return F.cross_entropy(logits, target, weight=class_weights, label_smoothing=label_smoothing)
