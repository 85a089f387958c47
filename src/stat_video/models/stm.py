"""STM, SpatioTemporal and Motion encoding: in each bottleneck a temporal convolution and differences of frames.

    Jiang, Wang, Gan, Wu, Yan. STM: SpatioTemporal and Motion Encoding for Action Recognition. ICCV 2019.

Rows STM-16 of Tables 6 and 7: ResNet-50, 16 frames, 67 GFLOPs a view of 224 pixels, 24.5 M parameters.

NOTE: the authors released no code. The network is the paper's as a public file of its first author has the block,
written anew; it is checked against that file. Another public version adds both branches before one norm and ReLU, and
has no norm behind the squeeze.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import Bottleneck, FrameResNet, Motion, TemporalConv, several_frames


@dataclass
class Config(ModelConfig):
    """Everything that defines an STM."""

    released = ({"depth": 50}, {"depth": 101})

    name: str = "stm"
    depth: int = one_of(50, (17, 50, 101), size=True)
    width: int = ranged(64, 4, size=True)  # channels of the first convolution
    stages: int = one_of(4, (3, 4), size=True)  # of residual blocks; three reach 1/16 of the frame
    head_dropout: float = ranged(0.0, 0, 1, below=True, size=True, noise=True)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the clip has a single frame, or sides that a strided block can't halve."""
        several_frames(clip)
        stride = 2 ** (self.stages + 1)
        for key, size in (("crop", clip.crop), ("clip.test_crop", clip.view_crop)):
            if size % stride:
                raise ValueError(f"{key}={size}: multiples of {stride} are allowed, both branches halve each map")

    def build(self, clip: Clip, num_classes: int) -> "STM":
        """Return an STM for such clips."""
        return STM(self, clip, num_classes)


class STM(FrameResNet):
    """A ResNet on every frame, all of whose blocks have both branches."""

    new_parts = ("time", "motion")

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        self.config = config
        config.check(clip)
        super().__init__(config.depth, config.width, config.head_dropout, clip, num_classes, config.stages)

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return a bottleneck with both branches."""
        return Block(channels, planes, stride, self.clip.T)

    def reset_parameters(self) -> None:
        """Draw as torchvision does, but the motion branch as PyTorch does."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, ChannelwiseMotion):
                for conv in (module.conv1, module.conv2, module.conv3):
                    conv.reset_parameters()


class Block(Bottleneck):
    """A bottleneck with two branches in its middle: (B T, C, H, W) -> (B T, 4 planes, H', W')."""

    def __init__(self, channels: int, planes: int, stride: int, T: int) -> None:
        super().__init__(channels, planes, stride)
        quarter = planes // 4
        self.time = TemporalConv(planes, T, before=slice(quarter), after=slice(planes - quarter, None))
        self.motion = ChannelwiseMotion(planes, stride, T)

    def middle(self, y: Tensor) -> Tensor:
        """Return the sum of both branches; the motion is added behind the other's ReLU."""
        return super().middle(self.time(y)) + self.motion(y)


class ChannelwiseMotion(Motion):
    """What moves up to the next frame, in all channels: (B T, C, H, W) -> (B T, C, H / stride, W / stride)."""

    def __init__(self, channels: int, stride: int, T: int) -> None:
        super().__init__(channels, T)
        self.conv3 = nn.Conv2d(self.squeezed, channels, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        (d,) = self.differences(x)
        d = self.conv3(d)
        return d if self.stride == 1 else F.max_pool2d(d, self.stride)
