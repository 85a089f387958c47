"""TEA, Temporal Excitation and Aggregation: a Res2Net on every frame, gated by motion, that looks in time part by part.

    Li, Ji, Shi, Zhang, Kang, Wang. TEA: Temporal Excitation and Aggregation for Action Recognition. CVPR 2020.

Rows TEA-8 and TEA-16 of Table 6: Res2Net-50 of 26 channels x 4 parts (the table says ResNet-50), 8 and 16 frames, 35
and 70 GFLOPs a view of 224 pixels, 24.9 M parameters. Written anew after the paper; checked against the authors'
network. Names are those of timm's Res2Net-50 (`res2net50_26w_4s`), so its ImageNet weights load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import Bottleneck, FrameResNet, Motion, TemporalConv, several_frames

PARTS = 4  # of a block's middle
PART = 26 / 64  # channels of each, to one of a ResNet's


@dataclass
class Config(ModelConfig):
    """Everything that defines a TEA."""

    released = ({"depth": 50}, {"depth": 101})

    name: str = "tea"
    depth: int = one_of(50, (17, 50, 101), size=True)
    width: int = ranged(64, 4, size=True)  # channels of the first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the clip has a single frame."""
        several_frames(clip)

    def build(self, clip: Clip, num_classes: int) -> "TEA":
        """Return a TEA for such clips."""
        return TEA(self, clip, num_classes)


class TEA(FrameResNet):
    """A Res2Net on every frame, all of whose blocks have both modules."""

    new_parts = ("me", "time")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (*FrameResNet.renames, (r"\.shifts\.(\d)\.conv\.", r".time.\1."))
    # TSM's parameter groups, which the authors took over.
    lr_scale: Mapping[str, float] = {"head.weight": 5, "head.bias": 10}

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        self.config = config
        config.check(clip)
        super().__init__(config.depth, config.width, config.head_dropout, clip, num_classes)

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return a Res2Net block with both modules."""
        return Block(channels, planes, stride, self.clip.T, first=index == 0)


class Block(Bottleneck):
    """Multiple temporal aggregation: (B T, C, H, W) -> (B T, 4 planes, H', W').

    The middle is cut into four parts. Three are convolved in time and then in space, each together with the result of
    the part before it; the last one in time alone.
    """

    def __init__(self, channels: int, planes: int, stride: int, T: int, first: bool) -> None:
        self.T, self.first, self.part = T, first, int(planes * PART)
        super().__init__(channels, planes, stride, width=PARTS * self.part)

    def add_middle(self, width: int, stride: int, bias: bool) -> None:
        """Add the gate and the convolutions of the parts."""
        part, half = self.part, self.part // 2
        self.stride = stride
        self.me = MotionExcitation(width, self.T)
        self.convs = nn.ModuleList(
            nn.Conv2d(part, part, 3, stride=stride, padding=1, bias=bias) for _ in range(PARTS - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(part) for _ in range(PARTS - 1))
        self.time = nn.ModuleList(TemporalConv(part, self.T) for _ in range(PARTS - 1))
        self.time.append(TemporalConv(part, self.T, after=slice(half), before=slice(half, None)))

    def middle(self, y: Tensor) -> Tensor:
        """Return the four parts, joined."""
        *parts, last = self.me(y).split(self.part, dim=1)
        done: list[Tensor] = []
        for part, time, conv, norm in zip(parts, self.time, self.convs, self.bns, strict=False):
            # NOTE: a stage's first block does not join the parts, as in Res2Net.
            x = part if self.first or not done else part + done[-1]
            done.append(self.relu(norm(conv(time(x)))))
        last = self.time[-1](last)
        if self.first:
            last = F.avg_pool2d(last, 3, self.stride, padding=1)
        return torch.cat([*done, last], dim=1)


class MotionExcitation(Motion):
    """Multiplies each channel of a frame by 0.5 to 1.5, by what moves up to the next one: (B T, C, H, W) -> same."""

    def __init__(self, channels: int, T: int) -> None:
        super().__init__(channels, T)
        self.conv3 = nn.Conv2d(self.squeezed, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        (d,) = self.differences(x)
        gate = torch.sigmoid(self.bn3(self.conv3(d.mean((2, 3), keepdim=True)))) - 0.5
        return x + x * gate
