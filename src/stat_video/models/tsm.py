"""TSM, the Temporal Shift Module: a 2-D ResNet whose residual branches see a frame before and a frame after.

    Lin, Gan, Han. TSM: Temporal Shift Module for Efficient Video Understanding. ICCV 2019.

Rows TSM-16 of Tables 6 and 7: ResNet-50, 16 frames, 65 GFLOPs a view of 224 pixels, 24.3 M parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import DEPTHS, FrameResNet
from .published import refuse_parts

SHARE = 8  # of the channels, one in so many comes from the next frame and as many from the previous one


@dataclass
class Config(ModelConfig):
    """Everything that defines a TSM."""

    released = ({"depth": 18}, {"depth": 50}, {"depth": 101})

    name: str = "tsm"
    depth: int = one_of(50, tuple(DEPTHS), size=True)
    width: int = ranged(64, SHARE, size=True)  # channels of the ResNet's first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def build(self, clip: Clip, num_classes: int) -> "TSM":
        """Return a TSM for such clips."""
        return TSM(self, clip, num_classes)


class TSM(FrameResNet):
    """A ResNet on every frame, with a shift in front of the first convolution of each residual branch.

    A ResNet-101 shifts in every second block of a stage, as the authors' code does.
    """

    # The authors wrap a shifted convolution.
    renames: ClassVar[tuple[tuple[str, str], ...]] = (*FrameResNet.renames, (r"\.conv1\.net\.", ".conv1."))
    # The authors' parameter groups. Their factor 2 on other biases applies to none: a ResNet's convolutions have none.
    lr_scale: Mapping[str, float] = {"head.weight": 5, "head.bias": 10}

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        self.config = config
        self.every = 2 if config.depth > 50 else 1
        super().__init__(config.depth, config.width, config.head_dropout, clip, num_classes)

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return a residual block whose first convolution is shifted."""
        block = super().block(channels, planes, stride, stage, index)
        if index % self.every == 0:
            block.conv1 = ShiftedConv2d(block.get_submodule("conv1"), self.clip.T)
        return block

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Refuse weights of the authors' TSM with non-local blocks, which this one has not."""
        refuse_parts(state, ".nl.", "a non-local block")
        return super().adapt(state)


class ShiftedConv2d(nn.Conv2d):
    """A convolution of frames that have exchanged channels in time: (B T, C, H, W) -> (B T, C', H', W')."""

    def __init__(self, conv: nn.Module, T: int) -> None:
        assert isinstance(conv, nn.Conv2d)
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(shift(x.unflatten(0, (-1, self.T))).flatten(0, 1))


def shift(x: Tensor) -> Tensor:
    """Return (B, T, C, H, W) with C/8 channels of each frame from the next one and C/8 from the one before.

    What would come from beyond the clip's ends is zero.
    """
    some = x.shape[2] // SHARE
    after, before, rest = x.split([some, some, x.shape[2] - 2 * some], dim=2)
    after = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    before = F.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([after, before, rest], dim=2)
