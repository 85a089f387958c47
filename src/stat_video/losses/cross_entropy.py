"""Cross-entropy, the loss of all systems here: one class a video."""

import torch.nn.functional as F
from torch import Tensor


def loss(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy after a softmax over the classes."""
    return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
