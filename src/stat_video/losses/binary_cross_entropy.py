"""Binary cross-entropy: each class is there or not, whatever the others are, as in Charades and AVA."""

import torch
import torch.nn.functional as F
from torch import Tensor


def loss(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, positive_weight: float = 1.0) -> Tensor:
    """Return the binary cross-entropy after a sigmoid, a mean over clips and classes.

    ``positive_weight`` is the weight of a class that is there, against 1 of one that is not. Label smoothing moves
    targets by half of it towards 0.5.
    """
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[-1])
    target = target.to(logits) * (1 - label_smoothing) + label_smoothing / 2
    weight = torch.tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
