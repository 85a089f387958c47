"""What vision transformers share: attention, feed-forward layers, stochastic depth, and the clips that patches fill."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Clip

PATCH = 16  # pixels, height and width
RATIO = 4  # of the width between the two feed-forward layers to the width


def check_patches(clip: Clip, frames: int = 1) -> None:
    """Raise ValueError if patches of `frames` x 16 x 16 do not fill a clip, or a test's crop is not the training's."""
    if clip.T % frames:
        raise ValueError(f"T={clip.T}: multiples of {frames} are allowed, the frames of a patch")
    if clip.crop % PATCH:
        raise ValueError(f"crop={clip.crop}: multiples of {PATCH} are allowed, the side of a patch")
    if clip.view_crop != clip.crop:
        raise ValueError(
            f"clip.test_crop={clip.test_crop}: each patch has its position, so crop={clip.crop} alone is allowed"
        )


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError if the heads do not share the width evenly."""
    if width % heads:
        raise ValueError(f"heads={heads}: width {width} does not divide into {heads} heads")


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(C / heads)) v, head by head: (L, n, C), (L, m, C), (L, m, C) -> (L, n, C)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention in each of L sequences: (L, n, C) -> (L, n, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self.proj(attend(q, k, v, self.heads))


class MLP(nn.Module):
    """Two linear layers with an activation between: (..., C) -> (..., C)."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, RATIO * width)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole items of the batch with probability `rate`, in training only.

    What is kept is divided by its probability, if ``rescale``.
    """

    def __init__(self, rate: float, rescale: bool = True) -> None:
        super().__init__()
        self.rate, self.rescale = rate, rescale

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate if self.rescale else 1))
