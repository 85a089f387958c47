"""RandAugment's operators on a batch, on the device that it is on, with what Pillow's give (randaugment_pillow.py).

Each clip of a batch has operators of its own, in an order of its own. The host knows them, so it takes together those
clips whose next operator is of one kind, and nothing waits for the device. Tables and blends give Pillow's pixels; a
warp of a photograph is off by 1 of 255 at less than one pixel in a thousand. Types are named throughout, since training
may set autocast and another default.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .randaugment_pillow import GREY, MATRICES, OPERATORS, enhancement

Step = tuple[str, float]  # (name, level)
Kind = Callable[[Tensor, Sequence[Step]], Tensor]  # (clips, the operator of each, sorted by name) -> clips
RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert("RGB")
BLENDS = ("BrightnessIncreasing", "ColorIncreasing", "ContrastIncreasing", "SharpnessIncreasing")
# Pillow truncates in float64. A sum of products that is whole there may lack this much of it in float32.
SLACK = 2.0**-13
AT_ONCE_ON_CPU = 1  # clips; there more of them outgrow the caches, and the memory that the allocator keeps


def apply_operators(video: Tensor, drawn: Sequence[Sequence[Step]]) -> Tensor:
    """Return clips, uint8 (B, T, 3, H, W), each changed by the operators that were drawn for it."""
    waiting = [list(steps) for steps in drawn]
    if not any(waiting):
        return video
    clips = list(video)
    while any(waiting):
        ready: dict[Kind, list[int]] = {}
        for i, steps in enumerate(waiting):
            if steps:
                ready.setdefault(_kind(steps[0][0]), []).append(i)
        kind = max(ready, key=lambda kind: len(ready[kind]))
        together = sorted(ready[kind], key=lambda i: waiting[i][0][0])
        size = AT_ONCE_ON_CPU if video.device.type == "cpu" else len(together)
        for part in [together[i : i + size] for i in range(0, len(together), size)]:
            changed = kind(torch.stack([clips[i] for i in part]), [waiting[i].pop(0) for i in part])
            for i, clip in zip(part, changed, strict=True):
                clips[i] = clip
    return torch.stack(clips)


def _on(device: torch.device, values: Any, dtype: torch.dtype) -> Tensor:
    """Return numbers of the host as a tensor on the device; from pinned memory, since other copies wait for it."""
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _runs(steps: Sequence[Step]) -> Iterator[tuple[str, slice]]:
    """Yield each name and the neighbouring clips whose operator it is."""
    begin = 0
    for name, run in groupby(name for name, _ in steps):
        end = begin + len(list(run))
        yield name, slice(begin, end)
        begin = end


# ---------------------------------------------------------------------------------------------------- tables


def _look_up(video: Tensor, steps: Sequence[Step]) -> Tensor:
    """Change each pixel by a table of its clip, frame and channel."""
    pixels = video.flatten(-2)  # (B, T, 3, H W)
    levels = pixels.long()
    tables = torch.empty((*pixels.shape[:-1], 256), dtype=torch.uint8, device=video.device)
    for name, clips in _runs(steps):
        match name:
            case "AutoContrast":
                tables[clips] = _stretching(pixels[clips])
            case "Equalize":
                tables[clips] = _equalizing(levels[clips])
            case _:  # the same for all frames and channels: what the operator makes of a ramp
                of_clips = [np.asarray(OPERATORS[name](RAMP, level))[0, :, 0] for _, level in steps[clips]]
                tables[clips] = _on(video.device, np.stack(of_clips), torch.uint8)[:, None, None]
    return tables.gather(-1, levels).view(video.shape)


def _stretching(pixels: Tensor) -> Tensor:
    """Return the tables (B, T, 3, 256) of ImageOps.autocontrast, which computes in float64."""
    ramp = torch.arange(256, dtype=torch.float64, device=pixels.device)
    low, high = pixels.amin(-1, keepdim=True).double(), pixels.amax(-1, keepdim=True).double()
    scale = ramp[255] / (high - low)  # not `255 /`, which PyTorch computes as 255 times the reciprocal
    stretched = (ramp * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, ramp).to(torch.uint8)


def _equalizing(levels: Tensor) -> Tensor:
    """Return the tables (B, T, 3, 256) of ImageOps.equalize, which computes in integers."""
    ramp = torch.arange(256, dtype=torch.int32, device=levels.device)
    one = torch.ones((), dtype=torch.int32, device=levels.device)
    counts = torch.zeros((*levels.shape[:-1], 256), dtype=torch.int32, device=levels.device)
    counts.scatter_add_(-1, levels, one.expand(levels.shape))
    of_highest = counts.gather(-1, levels.amax(-1, keepdim=True))
    step = (levels.shape[-1] - of_highest) // 255
    below = counts.cumsum(-1, dtype=torch.int32) - counts
    equalized = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, equalized, ramp).to(torch.uint8)


# ---------------------------------------------------------------------------------------------------- blends


def _blend(video: Tensor, steps: Sequence[Step]) -> Tensor:
    """Move the pixels away from those of a plain picture, or towards them, as Pillow's ImageEnhance does."""
    pixels = video.float()
    plain = torch.zeros_like(pixels)  # black, of BrightnessIncreasing
    for name, clips in _runs(steps):
        match name:
            case "ColorIncreasing":
                plain[clips] = _grey(pixels[clips])
            case "ContrastIncreasing":
                grey = _grey(pixels[clips])
                total, size = grey.sum((-3, -2, -1), keepdim=True, dtype=torch.float64).long(), grey[0, 0].numel()
                plain[clips] = ((2 * total + size) // (2 * size)).float()  # the mean, rounded
            case "SharpnessIncreasing":
                plain[clips] = _smooth(pixels[clips])
    factors = _on(video.device, [enhancement(level) for _, level in steps], torch.float32)
    return pixels.sub_(plain).mul_(factors[:, None, None, None, None]).add_(plain).clamp_(0, 255).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """Return (..., 1, H, W) of (..., 3, H, W) as Pillow does, whose integers are below 2^24: exact in float32."""
    red, green, blue = pixels.split(1, -3)
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(1 << 15).mul_(2.0**-16).floor_()


def _smooth(pixels: Tensor) -> Tensor:
    """Return what ImageFilter.SMOOTH makes of (..., H, W): a mean of 3 x 3 with five times the middle; edges stay."""
    smooth = pixels.clone()
    height, width = pixels.shape[-2:]
    if min(height, width) > 2:
        rows = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
        nine = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
        middle = pixels[..., 1:-1, 1:-1]
        smooth[..., 1:-1, 1:-1] = nine.add_(middle, alpha=4).div_(13).add_(0.5).floor_()
    return smooth


# ----------------------------------------------------------------------------------------------------- warps


def _warp(video: Tensor, steps: Sequence[Step]) -> Tensor:
    """Take each pixel from where its clip's matrix says, by Pillow's bicubic; grey if that is outside the frame."""
    B, T, C, H, W = video.shape
    device = video.device
    matrices = _on(device, [MATRICES[name](level, W, H) for name, level in steps], torch.float64).view(B, 2, 3, 1, 1)
    size = _on(device, [W, H], torch.int32)[:, None, None]
    x = torch.arange(0.5, W, dtype=torch.float64, device=device)
    y = torch.arange(0.5, H, dtype=torch.float64, device=device)[:, None]
    # Where each pixel comes from, (B, 2, H, W): x and y, with the centre of pixel 0 at 0.5.
    place = matrices[:, :, 0] * x + matrices[:, :, 1] * y + matrices[:, :, 2]
    inside = ((place >= 0) & (place < size)).all(1)
    pixels, weights = _taps(place - 0.5, size[..., None] - 1)
    columns, rows = pixels.unbind(1)
    of_columns, of_rows = weights.unbind(1)
    first = torch.arange(B, dtype=torch.int32, device=device)[:, None, None, None, None] * (H * W)
    index = first + rows[..., :, None] * W + columns[..., None, :]  # (B, H, W, 4, 4)
    weight = of_rows[..., :, None] * of_columns[..., None, :] * inside[..., None, None]
    # A line holds one place's pixels in all frames and channels: an embedding bag is the weighted sum of 16 lines.
    lines = video.flatten(1, 2).flatten(-2).transpose(1, 2).contiguous().float().view(-1, T * C)
    warped = F.embedding_bag(index.view(-1, 16), lines, mode="sum", per_sample_weights=weight.view(-1, 16))
    warped += torch.where(inside, SLACK, GREY).to(torch.float32).view(-1, 1)
    return warped.clamp_(0, 255).to(torch.uint8).view(B, H * W, T * C).transpose(1, 2).reshape(video.shape)


def _taps(place: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each place, no further than 0 and the last, and their weights: (..., 4) each.

    NOTE: Pillow's kernel when it transforms has a = -1, not the -0.5 of its resize or the -0.75 of grid_sample.
    """
    first = place.floor()
    d = place - first
    square = d * d
    cube = square * d
    weights = torch.stack((2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square), -1)
    around = torch.arange(-1, 3, dtype=torch.int32, device=place.device)
    return (first.to(torch.int32)[..., None] + around).clamp_(min=0).minimum(last), weights.float()


def _kind(name: str) -> Kind:
    return _warp if name in MATRICES else _blend if name in BLENDS else _look_up
