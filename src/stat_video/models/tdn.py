"""TDN, Temporal Difference Networks: a ResNet on the middle frame of short runs, differences within and between runs.

    Wang, Tong, Ji, Wu. TDN: Temporal Difference Networks for Efficient Action Recognition. CVPR 2021.

Rows TDN-8 and TDN-16 of Table 6: ResNet-101, 8 and 16 segments of 5 consecutive frames (T=40 and 80), 66 and 132 GFLOPs
a view of 224 pixels, 44.1 M parameters. Written anew after the paper; checked against the authors' network.

NOTE: the authors' first commits compute the backward gate's fine part from the forward gate's by mistake. Theirs was
mended later, and ours is the mended one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import EXPANSION, Bottleneck, FrameResNet, Motion, TemporalConv

RUN = 5  # consecutive frames of a segment
SHARE = 8  # of the channels, one in so many starts with the next frame's values and as many with the previous one's


@dataclass
class Config(ModelConfig):
    """Everything that defines a TDN."""

    released = ({"depth": 50}, {"depth": 101})

    name: str = "tdn"
    depth: int = one_of(50, (17, 50, 101), size=True)
    width: int = ranged(64, 16, size=True)  # channels of the first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def check(self, clip: Clip) -> None:
        """Raise ValueError unless the clip is two or more runs of five frames, of 33 pixels or more."""
        if clip.sampling != "snippets" or clip.snippet != RUN:
            raise ValueError(
                f"clip.sampling={clip.sampling} clip.snippet={clip.snippet}: tdn takes runs of frames, allowed is "
                f"clip.sampling=snippets clip.snippet={RUN}"
            )
        if clip.T % RUN or clip.T < 2 * RUN:
            raise ValueError(f"T={clip.T}: multiples of {RUN} from {2 * RUN} on are allowed, {RUN} frames a segment")
        if (smallest := min(clip.crop, clip.view_crop)) < 33:
            raise ValueError(f"crop={smallest}: 33 or more is allowed, the gates halve maps of 1/32")

    def build(self, clip: Clip, num_classes: int) -> "TDN":
        """Return a TDN for such clips."""
        return TDN(self, clip, num_classes)


class TDN(FrameResNet):
    """Clips (B, 3, T, H, W) of T / 5 segments to logits (B, num_classes).

    NOTE: the convolutions of both ResNets have biases, as the authors'. Norms cancel them; they are here for released
    weights, whose running means contain them. Ours start at zero, the authors' at random.
    """

    bias: ClassVar[bool] = True
    new_parts = ("gate", "time")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *FrameResNet.renames,
        (r"^conv1_5\.", "motion_stem."),
        (r"^resnext_layer1\.", "motion_layer1."),
        (r"^(layer\d)_bak\.", r"\1."),
        (r"\.shift\.conv\.", ".time."),
        (r"\.mse\.(conv|bn)3_smallscale2\.", r".gate.coarse_\1."),
        (r"\.mse\.(conv|bn)3_smallscale4\.", r".gate.fine_\1."),
        (r"\.mse\.", ".gate."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        self.config = config
        config.check(clip)
        self.segments = clip.T // RUN
        super().__init__(config.depth, config.width, config.head_dropout, clip, num_classes)
        self.share = 0.5 if self.segments == 8 else 0.25  # of the differences, in both fusions
        self.motion_stem = nn.Sequential(
            nn.Conv2d(3 * (RUN - 1), config.width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        first = self.block(config.width, config.width, 1, 1, 0)
        more = [self.block(EXPANSION * config.width, config.width, 1, 1, i) for i in range(1, len(self.stages()[0]))]
        self.motion_layer1 = nn.Sequential(first, *more)
        self.reset_parameters()

    def block(self, channels: int, planes: int, stride: int, stage: int, index: int) -> nn.Module:
        """Return a plain bottleneck in the first stage, else one with the long-term module."""
        if stage == 1:
            return super().block(channels, planes, stride, stage, index)
        return Block(channels, planes, stride, self.segments)

    def features(self, frames: Tensor) -> Tensor:
        """Return the last stage's maps of the segments: (B T, 3, H, W) -> (B T / 5, C, H / 32, W / 32)."""
        runs = frames.unflatten(0, (-1, RUN))
        x = self.stem(runs[:, RUN // 2])
        differences = (runs[:, 1:] - runs[:, :-1]).flatten(1, 2)  # (B T / 5, 12, H, W)
        motion = self.maxpool(self.motion_stem(F.avg_pool2d(differences, 2)))
        layer1, *others = self.stages()
        x = layer1(self.fused(x, motion))
        x = self.fused(x, self.motion_layer1(motion))
        for layer in others:
            x = layer(x)
        return x

    def fused(self, x: Tensor, motion: Tensor) -> Tensor:
        """Return the weighted sum of a segment's maps and of its differences', which are half as large."""
        return (1 - self.share) * x + self.share * F.interpolate(motion, x.shape[2:])

    def units(self) -> list[nn.Module]:
        """Return the residual blocks of both networks."""
        return [*super().units(), *self.motion_layer1]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give ImageNet's first layers to the differences too; the stem gets the mean over red, green and blue."""
        state = super().adapt(state)
        if "motion_stem.0.weight" not in state and "conv1.weight" in state:
            mean = state["conv1.weight"].mean(1, keepdim=True)
            state["motion_stem.0.weight"] = mean.expand(-1, 3 * (RUN - 1), -1, -1)
            state |= {f"motion_{name}": t for name, t in state.items() if name.startswith("layer1.")}
        return state


class Block(Bottleneck):
    """A bottleneck whose middle is gated and convolved in time first: (B S, C, H, W) -> (B S, 4 planes, H', W')."""

    def __init__(self, channels: int, planes: int, stride: int, segments: int) -> None:
        super().__init__(channels, planes, stride, bias=True)
        share = planes // SHARE
        self.gate = LongTermDifference(planes, segments)
        self.time = TemporalConv(planes, segments, after=slice(share), before=slice(share, 2 * share))

    def middle(self, y: Tensor) -> Tensor:
        return super().middle(self.time(self.gate(y)))


class LongTermDifference(Motion):
    """Multiplies (B S, C, H, W) by 0.5 to 1.5, by the differences to both neighbouring segments, at two scales."""

    def __init__(self, channels: int, segments: int) -> None:
        super().__init__(channels, segments)
        squeezed = self.squeezed
        self.coarse_conv = nn.Conv2d(squeezed, squeezed, 3, padding=1, bias=False)
        self.coarse_bn = nn.BatchNorm2d(squeezed)
        self.fine_conv = nn.Conv2d(squeezed, squeezed, 3, padding=1, bias=False)
        self.fine_bn = nn.BatchNorm2d(squeezed)
        self.conv3 = nn.Conv2d(squeezed, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        ahead, back = self.differences(x, steps=(1, -1))
        return x + x * (0.5 * self.of(ahead) + 0.5 * self.of(back))

    def of(self, d: Tensor) -> Tensor:
        """Return a difference's gate, -0.5 to 0.5. Both directions share the weights, and the norms see both."""
        coarse = F.interpolate(self.coarse_bn(self.coarse_conv(F.avg_pool2d(d, 2))), d.shape[2:])
        fine = self.fine_bn(self.fine_conv(d))
        return torch.sigmoid(self.bn3(self.conv3((d + coarse + fine) / 3))) - 0.5
