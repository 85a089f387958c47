"""Focal loss: cross-entropy that looks away from what is easy.

    Lin, Goyal, Girshick, He, Dollár. Focal Loss for Dense Object Detection. ICCV 2017.

Of one class a video by a softmax; of several by a sigmoid, which is torchvision's.
"""

import torch.nn.functional as F
from torch import Tensor


def loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    label_smoothing: float = 0.0,
    multi_label: bool = False,
) -> Tensor:
    """Return the mean over the clips of -sum_c t_c (1 - p_c)^gamma log p_c, with t_c the share of class c.

    With several labels a video it is the mean over clips and classes, and ``alpha`` the weight of a class that is
    there, against 1 - alpha of one that is not; None: 0.25, as in the paper; below 0: both weigh 1.
    """
    if gamma < 0:
        raise ValueError(f"gamma={gamma:g} must be 0 or more")
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[-1])
    target = target.to(logits)
    if multi_label:
        from torchvision.ops import sigmoid_focal_loss

        target = target * (1 - label_smoothing) + label_smoothing / 2
        alpha = 0.25 if alpha is None else alpha
        each: Tensor = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction="mean")
        return each
    if alpha is not None:
        raise ValueError(f"alpha={alpha:g} is of videos with several labels, data.multi_label=true")
    target = target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    log_p = logits.log_softmax(-1)
    return -(target * (1 - log_p.exp()) ** gamma * log_p).sum(-1).mean()
