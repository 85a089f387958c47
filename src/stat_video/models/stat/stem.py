"""Token Embedding Block: plain 3-D convolutions that cut the clip into n_t n_h n_w overlapping tokens (Table 5)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..parts.recompute import gelu_then

Triple = tuple[int, int, int]


class Conv(NamedTuple):
    """One convolution of the stem: kernel and stride as (time, height, width), output channels."""

    kernel: Triple
    stride: Triple
    channels: int


class Stem(nn.Module):
    """Convolutions with 'same' padding, GELU between them and none after the last."""

    def __init__(self, convs: Sequence[Conv]) -> None:
        super().__init__()
        self.layers, channels = nn.ModuleList(), 3
        for conv in convs:
            t, h, w = conv.kernel
            padding = t // 2, h // 2, w // 2
            self.layers.append(nn.Conv3d(channels, conv.channels, conv.kernel, conv.stride, padding))
            channels = conv.channels

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, n_t, n_h n_w, C)."""
        clip = clip.contiguous(memory_format=torch.channels_last_3d)  # as the tokens are: a quicker step, no copies
        first, *others = self.layers
        x: Tensor = first(clip)
        for conv in others:
            x = gelu_then(conv, x)
        return x.flatten(3).permute(0, 2, 3, 1)
