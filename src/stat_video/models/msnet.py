"""MSNet: a TSM with a MotionSqueeze module, which matches each frame's features with the next one's.

    Kwon, Kim, Kwak, Cho. MotionSqueeze: Neural Motion Feature Learning for Video Understanding. ECCV 2020.

Row MSNet-16 of Table 6: ResNet-50, 16 frames, 67 GFLOPs a view of 224 pixels, 24.4 M parameters. Row MSNet-16+8 of
Table 7 averages the scores of two such networks, of 16 and of 8 frames. Written anew after the paper; checked against
the authors' network.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import tsm
from .base import Clip
from .frames import EXPANSION, FrameResNet, several_frames
from .parts.precision import autocast_is_on

REACH = 7  # pixels of the map that a match may lie away, along each axis
SIDE = 2 * REACH + 1
SIGMA = 5  # of the Gaussian round the best match, pixels of the map
TEMPERATURE = 100
WIDTHS = (3, 16, 32, 64)  # channels of the displacement's features


@dataclass
class Config(tsm.Config):
    """Everything that defines an MSNet: a TSM's keys."""

    name: str = "msnet"

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the clip has a single frame."""
        several_frames(clip)

    def build(self, clip: Clip, num_classes: int) -> "MSNet":
        """Return an MSNet for such clips."""
        return MSNet(self, clip, num_classes)


class MSNet(tsm.TSM):
    """A TSM whose second stage's maps get features of their displacement, added."""

    new_parts = ("motion",)
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *FrameResNet.renames,
        (r"^chnl_reduction\.", "motion.reduce."),
        (r"^flow_refinement\.conv1\.", "motion.refine.0."),
        (r"^flow_refinement\.conv2\.", "motion.refine.1."),
        (r"^flow_refinement\.conv3\.", "motion.refine.2."),
        (r"^flow_refinement\.conv4\.", "motion.refine.3."),
        (r"^fc1\.", "head."),
    )
    lr_scale: Mapping[str, float] = {"head.bias": 2}

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        config.check(clip)
        super().__init__(config, clip, num_classes)
        channels = 2 * config.width * (EXPANSION if self.bottlenecks else 1)
        self.motion = MotionSqueeze(channels, config.width, clip.T)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as TSM does, but the classifier after Xavier."""
        super().reset_parameters()
        nn.init.xavier_uniform_(self.head.weight)

    def features(self, frames: Tensor) -> Tensor:
        """Return the last stage's maps: (B T, 3, H, W) -> (B T, C, H / 32, W / 32)."""
        x = self.stem(frames)
        for stage, layer in enumerate(self.stages(), start=1):
            x = layer(x)
            if stage == 2:
                x = x + self.motion(x)
        return x

    def units(self) -> list[nn.Module]:
        """Return the residual blocks and the module."""
        return [*super().units(), self.motion]


class MotionSqueeze(nn.Module):
    """Features of where each place of a frame goes in the next one: (B T, C, H, W) -> the same shape."""

    def __init__(self, channels: int, reduced: int, T: int) -> None:
        super().__init__()
        self.T = T
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU(inplace=True)
        )
        stages = [separable(WIDTHS[0], WIDTHS[1], 7)]
        stages += [separable(a, b, 3) for a, b in pairwise((*WIDTHS[1:], channels))]
        self.refine = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        r = self.reduce(x).unflatten(0, (-1, self.T))
        # At this temperature bfloat16's steps between similarities of 0 to 1 would decide the match.
        with torch.autocast(x.device.type, enabled=False) if autocast_is_on(x) else nullcontext():
            r = r.to(torch.promote_types(r.dtype, torch.float32))
            moved = displacement(similarities(r)).unflatten(0, (r.shape[0], -1))  # (B, T - 1, 3, H, W)
        moved = torch.cat([moved, moved[:, -1:]], dim=1)  # the last frame has no next one
        return self.refine(moved.flatten(0, 1))


def separable(channels: int, out: int, kernel: int) -> nn.Sequential:
    """Return a depthwise convolution and one over channels, each with norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def similarities(r: Tensor) -> Tensor:
    """Return the positive cosines of each place of a frame with the places round it in the next frame.

    (B, T, C, H, W) -> (B (T - 1), H, W, 15, 15): rows and columns from -7 to 7; zero beyond the edges. All pairs of
    places are multiplied, which is one matrix product, and those within reach are picked from it.
    """
    H, W = r.shape[-2:]
    r = (r / (r.square().sum(2, keepdim=True) + 1e-6).sqrt()).flatten(3)  # (B, T, C, H W)
    pairs = (r[:, :-1].transpose(2, 3) @ r[:, 1:]).flatten(0, 1)  # (N, H W, H W)
    steps = torch.arange(-REACH, REACH + 1, device=r.device)
    rows, columns = (torch.arange(n, device=r.device)[:, None] + steps for n in (H, W))  # (H, 15), (W, 15)
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    inside = (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)  # (H, W, 15, 15)
    places = rows.clamp(0, H - 1) * W + columns.clamp(0, W - 1)
    found = pairs.gather(2, places.view(1, H * W, -1).expand(pairs.shape[0], -1, -1)).relu()
    return found.view(-1, H, W, SIDE, SIDE) * inside


def displacement(found: Tensor) -> Tensor:
    """Return x, y (-1 to 1) and the similarity of the match: (N, H, W, 15, 15) -> (N, 3, H, W).

    The match is the expectation over a softmax of the similarities, which a Gaussian round the best one weighs.
    """
    confidence, best = found.flatten(3).max(-1)
    steps = torch.arange(SIDE, device=found.device, dtype=found.dtype)
    row, column = ((b[..., None] - steps).square() for b in (best // SIDE, best % SIDE))  # (N, H, W, 15) each
    near = torch.exp((row[..., :, None] + column[..., None, :]) / (-2 * SIGMA**2))
    share = (TEMPERATURE * near * found).flatten(3).softmax(-1).unflatten(-1, (SIDE, SIDE))
    places = (steps - REACH) / REACH
    x, y = ((share.sum(axis) * places).sum(-1) for axis in (-2, -1))
    return torch.stack([x, y, confidence], dim=1)
