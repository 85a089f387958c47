"""A 2-D network on every frame of a clip, and what the systems that put time into one share.

A system's file subclasses `FrameResNet` and says in `block` what its residual blocks are. Names and first weights are
torchvision's, so ImageNet weights load as torchvision names them; their classifier stays in the file.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Clip, VideoModel

# Residual blocks of each stage: basic blocks in a ResNet-18, bottlenecks in the others. 17 is for small models.
DEPTHS = {17: (1, 1, 2, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4  # a bottleneck ends in so many times the channels of its middle


class FrameModel(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes): those of the frames, averaged.

    A subclass builds its network, calls `add_head` and writes `features`.
    """

    # Released weights of TSN's descendants wrap the network.
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^module\.", ""),
        (r"^base(line)?_model\.", ""),
        (r"^new_fc\.", "head."),
    )

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def add_head(self, channels: int, dropout: float, num_classes: int) -> None:
        """Add the classifier of a frame's pooled map."""
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def reset_parameters(self) -> None:
        """Draw convolutions as torchvision does and the classifier as TSN does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        frames = clip.transpose(1, 2).flatten(0, 1)
        # Convolutions, pools and shifts are quicker with the channels side by side in memory.
        x = self.features(frames.contiguous(memory_format=torch.channels_last))
        logits = self.head(self.dropout(x.mean((2, 3))))
        return logits.unflatten(0, (clip.shape[0], -1)).mean(1)  # len(clip) would be a constant to torch.export

    def features(self, frames: Tensor) -> Tensor:
        """Return the last maps (B T', C, H', W') of frames (B T, 3, H, W); T' is T unless the system joins frames."""
        raise NotImplementedError

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take a classifier `fc` of as many classes. ImageNet's `fc` stays in the file."""
        own = self.state_dict()
        for name in ("weight", "bias"):
            if f"fc.{name}" in state and state[f"fc.{name}"].shape[:1] == own[f"head.{name}"].shape[:1]:
                state[f"head.{name}"] = state.pop(f"fc.{name}")
        return super().adapt(state)


class FrameResNet(FrameModel):
    """A ResNet on every frame.

    ``width`` is 64 in a ResNet; a smaller one makes a narrow ResNet of the same layout. ``stages`` below 4 leaves out
    the last ones.
    """

    bias: ClassVar[bool] = False  # of the convolutions

    def __init__(
        self, depth: int, width: int, dropout: float, clip: Clip, num_classes: int, stages: int = len(DEPTHS[50])
    ) -> None:
        super().__init__(clip)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=self.bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.depth, self.num_stages, channels = depth, stages, width
        for stage, blocks in enumerate(DEPTHS[depth][:stages], start=1):
            planes, layer = width * 2 ** (stage - 1), nn.Sequential()
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                layer.append(self.block(channels, planes, stride, stage, index))
                channels = planes * (EXPANSION if self.bottlenecks else 1)
            self.add_module(f"layer{stage}", layer)
        self.add_head(channels, dropout, num_classes)
        self.reset_parameters()

    @property
    def bottlenecks(self) -> bool:
        """Whether the residual blocks are bottlenecks, which end in four times the channels of their middle."""
        return self.depth != 18

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return residual block number `index` from 0 of stage 1 to 4."""
        if self.bottlenecks:
            return Bottleneck(channels, planes, stride, bias=self.bias)
        from torchvision.models.resnet import BasicBlock

        return BasicBlock(channels, planes, stride, shortcut(channels, planes, stride, self.bias))

    def stages(self) -> tuple[nn.Sequential, ...]:
        """Return the stages of residual blocks."""
        layers = [self.get_submodule(f"layer{stage}") for stage in range(1, self.num_stages + 1)]
        return tuple(layer for layer in layers if isinstance(layer, nn.Sequential))

    def features(self, frames: Tensor) -> Tensor:
        """Return the last stage's maps: (B T, 3, H, W) -> (B T, C, H / 32, W / 32)."""
        x = self.stem(frames)
        for layer in self.stages():
            x = layer(x)
        return x

    def stem(self, frames: Tensor) -> Tensor:
        """Return what the first stage gets: (N, 3, H, W) -> (N, width, H / 4, W / 4)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return x

    def units(self) -> list[nn.Module]:
        """Return the residual blocks."""
        return [block for layer in self.stages() for block in layer]


class Bottleneck(nn.Module):
    """torchvision's bottleneck, whose middle a system may change: (N, C, H, W) -> (N, 4 planes, H', W')."""

    def __init__(
        self, channels: int, planes: int, stride: int, *, width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        out, width = planes * EXPANSION, planes if width is None else width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.add_middle(width, stride, bias)
        self.conv3 = nn.Conv2d(width, out, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, out, stride, bias)

    def add_middle(self, width: int, stride: int, bias: bool) -> None:
        """Add the layers of `middle`."""
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)

    def middle(self, y: Tensor) -> Tensor:
        """Return what the last convolution gets: (N, width, H, W) -> (N, width, H', W')."""
        return self.relu(self.bn2(self.conv2(y)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.relu(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def shortcut(channels: int, out: int, stride: int, bias: bool = False) -> nn.Sequential | None:
    """Return a residual block's convolution and norm of its shortcut; None if the block changes no shape."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=bias), nn.BatchNorm2d(out))


class TemporalConv(nn.Conv1d):
    """A depthwise convolution of three frames: (B T, C, H, W) -> the same shape; zeros beyond the clip's ends.

    Its weight (C, 1, 3) holds the taps of frames t - 1, t, t + 1. It starts as a shift: the channels ``before`` read
    frame t - 1, the channels ``after`` frame t + 1, the others frame t.
    """

    def __init__(self, channels: int, T: int, before: slice = slice(0), after: slice = slice(0)) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.T = T
        with torch.no_grad():
            self.weight[:] = torch.tensor([0.0, 1.0, 0.0])
            self.weight[before] = torch.tensor([1.0, 0.0, 0.0])
            self.weight[after] = torch.tensor([0.0, 0.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        # As a convolution over (T, H W): its gradients are 3 to 4 times as quick as a 3-D one's on a CPU.
        clips = x.unflatten(0, (-1, self.T)).transpose(1, 2).flatten(3)  # (B, C, T, H W)
        y = F.conv2d(clips, self.weight[..., None], padding=(1, 0), groups=len(self.weight))
        return y.transpose(1, 2).reshape(x.shape)


class Motion(nn.Module):
    """What moves between neighbouring frames, in few channels: differences of squeezed frames (B T, C / 16, H, W).

    d_t = conv2(s_u) - s_t of the squeezed frame t and its neighbour u, zero if u lies beyond the clip's ends.
    """

    SHARE = 16  # of the channels, one in so many is left

    def __init__(self, channels: int, T: int) -> None:
        super().__init__()
        self.T, squeezed = T, max(channels // self.SHARE, 1)
        self.squeezed = squeezed
        self.conv1 = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.conv2 = nn.Conv2d(squeezed, squeezed, 3, padding=1, groups=squeezed, bias=False)

    def differences(self, x: Tensor, steps: Sequence[int] = (1,)) -> list[Tensor]:
        """Return d for each step: 1 compares with the next frame, -1 with the previous one."""
        s = self.bn1(self.conv1(x))
        m = self.conv2(s).unflatten(0, (-1, self.T))
        s = s.unflatten(0, (-1, self.T))
        found = {1: (m[:, 1:] - s[:, :-1], (0, 1)), -1: (m[:, :-1] - s[:, 1:], (1, 0))}
        return [F.pad(d, (0, 0, 0, 0, 0, 0, *ends)).flatten(0, 1) for d, ends in (found[step] for step in steps)]


def several_frames(clip: Clip) -> None:
    """Raise ValueError if a clip has a single frame, which has no neighbour to compare with."""
    if clip.T < 2:
        raise ValueError(f"T={clip.T}: 2 or more are allowed, the model compares neighbouring frames")
