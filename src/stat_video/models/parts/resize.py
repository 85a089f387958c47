"""Enlarging attention maps for a picture."""

import torch
from torch import Tensor


def resize_maps(maps: Tensor, size: tuple[int, int], strides: tuple[float, float]) -> Tensor:
    """Return maps (n, h, w) as (n, *size): bilinear between the samples, flat beyond the outermost ones.

    Sample i stands at position i * stride, the centre of its window in a convolution with 'same' padding.
    """

    def weights(samples: int, positions: int, stride: float) -> Tensor:  # (positions, samples), rows sum to 1
        at = (torch.arange(positions, device=maps.device) / stride).clamp(max=samples - 1)
        return (1 - (at[:, None] - torch.arange(samples, device=maps.device)).abs()).clamp(min=0)

    rows, columns = map(weights, maps.shape[1:], size, strides)
    return rows @ maps @ columns.T
