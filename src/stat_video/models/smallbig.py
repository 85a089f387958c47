"""SmallBigNet: each convolution of a ResNet is used twice, on its input and on the maxima of a larger neighbourhood.

    Li, Wang, Zhou, Qiao. SmallBigNet: Integrating Core and Contextual Views for Video Classification. CVPR 2020.

Row SmallBigNet-16 of Table 7: ResNet-50, 16 frames, 23.9 M parameters; the table prints no GFLOPs, counted are 103 a
view of 224 pixels. Written anew after the paper; checked against the authors' network, with and without extra blocks.

NOTE: the released network does not see the order of frames: it gives the reversed clip the same logits. Left to right
and right to left are classes of Something-Something, so its 63.8 % there can't be this network's. The authors released
nothing else. `model.shift=true` is our assumption of what they left out: TSM's shift in front of each block's first
convolution, which costs nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import Bottleneck, FrameResNet
from .published import refuse_parts
from .tsm import SHARE, ShiftedConv2d


@dataclass
class Config(ModelConfig):
    """Everything that defines a SmallBigNet."""

    released = tuple({"depth": depth, "extra": extra} for depth in (50, 101) for extra in (False, True))

    name: str = "smallbig"
    depth: int = one_of(50, (17, 50, 101), size=True)
    width: int = ranged(64, SHARE, size=True)  # channels of the first convolution
    extra: bool = False  # a global view in front of each block of the last three stages
    shift: bool = False  # TSM's shift: our assumption
    head_dropout: float = ranged(0.0, 0, 1, below=True, size=True, noise=True)

    def build(self, clip: Clip, num_classes: int) -> "SmallBigNet":
        """Return a SmallBigNet for such clips."""
        return SmallBigNet(self, clip, num_classes)


class SmallBigNet(FrameResNet):
    """A ResNet on every frame; the blocks of all stages but the first look at neighbouring frames too."""

    new_parts = ("big", "extra")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *FrameResNet.renames,
        (r"\.big1\.1\.", ".big.0."),
        (r"\.big2\.1\.", ".big.1."),
        (r"\.big3\.1\.", ".big.2."),
        (r"\.big4_1\.", ".extra.squeeze."),
        (r"\.big4_2\.", ".extra.expand."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        self.config = config
        super().__init__(config.depth, config.width, config.head_dropout, clip, num_classes)

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return a plain bottleneck in the first stage, else one of two views."""
        if stage == 1:
            block = super().block(channels, planes, stride, stage, index)
        else:
            block = Block(channels, planes, stride, self.clip.T, self.config.extra)
        if self.config.shift:
            block.conv1 = ShiftedConv2d(block.get_submodule("conv1"), self.clip.T)
        return block

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Refuse weights of the network with extra blocks, if this one has none."""
        if not self.config.extra:
            refuse_parts(state, ".extra.", "a block of model.extra=true")
        return super().adapt(state)

    def reset_parameters(self) -> None:
        """Draw as torchvision does, the classifier as PyTorch does; norms of the larger views start at zero."""
        super().reset_parameters()
        self.head.reset_parameters()
        for module in self.modules():
            norms = [*module.big] if isinstance(module, Block) else []
            norms += [module.expand[1]] if isinstance(module, GlobalView) else []
            for norm in norms:
                nn.init.zeros_(norm.weight)


class Block(Bottleneck):
    """A bottleneck of two views: (B T, C, H, W) -> (B T, 4 planes, H', W').

    The larger view of the first two convolutions is the maximum over 3 x 3 x 3 places, that of the last one over all
    frames and 3 x 3 places. Both views share the convolution; each has a norm of its own.
    """

    def __init__(self, channels: int, planes: int, stride: int, T: int, extra: bool) -> None:
        super().__init__(channels, planes, stride)
        self.T = T
        self.extra = GlobalView(channels, T) if extra else None
        self.big = nn.ModuleList(nn.BatchNorm2d(n) for n in (planes, planes, self.bn3.num_features))

    def forward(self, x: Tensor) -> Tensor:
        if self.extra is not None:
            x = self.extra(x)
        y = self.bn1(self.conv1(x)) + self.big[0](self.conv1(self.pooled(x)))
        y = self.relu(y)
        y = self.bn2(self.conv2(y)) + self.big[1](self.conv2(self.pooled(y)))
        y = self.relu(y)
        frames = F.max_pool2d(y.unflatten(0, (-1, self.T)).amax(1), 3, stride=1, padding=1)  # (B, planes, H', W')
        y = self.bn3(self.conv3(y)).unflatten(0, (-1, self.T)) + self.big[2](self.conv3(frames))[:, None]
        y = y.flatten(0, 1) + (x if self.downsample is None else self.downsample(x))
        return self.relu(y)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the maximum over 3 x 3 x 3 places round each: (B T, C, H, W) -> the same shape."""
        clips = x.unflatten(0, (-1, self.T)).transpose(1, 2)
        return F.max_pool3d(clips, 3, stride=1, padding=1).transpose(1, 2).flatten(0, 1)


class GlobalView(nn.Module):
    """Adds to each place what it shares with the maximum of the whole clip: (B T, C, H, W) -> the same shape."""

    def __init__(self, channels: int, T: int) -> None:
        super().__init__()
        self.T, squeezed = T, channels // 4
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.expand = nn.Sequential(nn.Conv2d(squeezed, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        whole = x.unflatten(0, (-1, self.T)).amax((1, 3, 4))[..., None, None]  # (B, C, 1, 1)
        gate = self.squeeze(whole).sigmoid()[:, None]
        gated = self.squeeze(x).unflatten(0, (-1, self.T)) * gate
        return x + self.expand(gated.flatten(0, 1))
