"""bLVNet-TAM: frames in pairs, one through a narrow branch, one through a deep branch at half the resolution.

    Fan, Chen, Kuehne, Pistoia, Cox. More Is Less: Learning Efficient Video Representations by Big-Little Network and
    Depthwise Temporal Aggregation. NeurIPS 2019.

Row bLVNet-24 of Table 6: bLResNet-50, 24 pairs (T=48), 93 GFLOPs a view of 256 pixels, 25.5 M parameters. Row bLVNet-8
of Table 7: bLResNet-101 (the table says ResNet-101), 8 pairs (T=16), 32 GFLOPs a view of 224 pixels, 40.2 M. Written
anew after the paper; checked against the authors' network.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .frames import EXPANSION, Bottleneck, FrameModel, TemporalConv

# Residual blocks of the four stages. NOTE: a bLResNet-101 is not a ResNet-101, which has 3, 4, 23, 3.
DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (4, 8, 18, 3)}
ALPHA, BETA = 2, 4  # the little branch has 1 / alpha of the channels and about 1 / beta of the blocks


@dataclass
class Config(ModelConfig):
    """Everything that defines a bLVNet."""

    released = ({"depth": 50}, {"depth": 101})

    name: str = "blvnet"
    depth: int = one_of(50, tuple(DEPTHS), size=True)
    width: int = ranged(64, 4, size=True)  # channels of the first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % ALPHA:
            raise ValueError(f"width={self.width}: multiples of {ALPHA} are allowed, the little branch has 1/{ALPHA}")

    def check(self, clip: Clip) -> None:
        """Raise ValueError unless the frames make pairs."""
        if clip.T % 2:
            raise ValueError(f"T={clip.T}: multiples of 2 are allowed, the model takes frames in pairs")

    def build(self, clip: Clip, num_classes: int) -> "BLVNet":
        """Return a bLVNet for such clips."""
        return BLVNet(self, clip, num_classes)


class BLVNet(FrameModel):
    """Clips (B, 3, T, H, W) of T / 2 pairs to logits (B, num_classes), those of the pairs, averaged.

    The first frame of a pair is the little branch's, the second one the big branch's. Behind each stage both frames
    get the sum of both, and the aggregation over time (TAM) alone makes them differ again.
    """

    new_parts = ("tam",)
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *FrameModel.renames,
        (r"^b_conv0\.", "stem.big.0."),
        (r"^bn_b0\.", "stem.big.1."),
        (r"^l_conv0\.", "stem.little.0."),
        (r"^bn_l0\.", "stem.little.1."),
        (r"^l_conv1\.", "stem.little.3."),
        (r"^bn_l1\.", "stem.little.4."),
        (r"^l_conv2\.", "stem.widen.0."),
        (r"^bn_l2\.", "stem.widen.1."),
        (r"^bl_init\.", "stem.fusion.0."),
        (r"^bn_bl_init\.", "stem.fusion.1."),
        (r"^tam\.", "stem.tam."),
        (r"\.little_e\.", ".widen."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__(clip)
        self.config = config
        config.check(clip)
        width, T, blocks = config.width, clip.T, DEPTHS[config.depth]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stem = stem(width, T)
        out = EXPANSION * width
        self.layer1 = stage(width, out, blocks[0], 2, T)
        self.layer2 = stage(out, 2 * out, blocks[1], 2, T)
        self.layer3 = stage(2 * out, 4 * out, blocks[2], 1, T)
        self.layer4 = chain(4 * out, 8 * out, blocks[3], 2, T=T // 2)
        self.add_head(8 * out, config.head_dropout, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as torchvision does; the last norm of each residual branch starts at zero, a TAM at random."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.bn3.weight)
            if isinstance(module, TAM):
                # Fan out, as the authors' three convolutions. NOTE: so a TAM is no identity at first.
                nn.init.normal_(module.weight, std=(2 / len(module.weight)) ** 0.5)

    def features(self, frames: Tensor) -> Tensor:
        """Return the last stage's maps of the pairs: (B T, 3, H, W) -> (B T / 2, C, H / 32, W / 32)."""
        x = self.relu(self.bn1(self.conv1(frames)))
        x = self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x.repeat_interleave(2, dim=0))
        x = self.layer4(x)
        return x

    def units(self) -> list[nn.Module]:
        """Return the stages of two branches and the last stage's blocks."""
        return [self.stem, self.layer1, self.layer2, self.layer3, *self.layer4]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join the three convolutions of the authors' TAMs into one."""
        for name in [name for name in state if name.endswith("tam.curr.weight")]:
            tam = name.removesuffix("curr.weight")
            taps = [f"{tam}{tap}.weight" for tap in ("prev", "curr", "next")]
            if all(tap in state and state[tap].numel() == state[name].numel() for tap in taps):
                state[f"{tam}weight"] = torch.stack([state.pop(tap).flatten() for tap in taps], dim=1)[:, None]
        return super().adapt(state)


class TAM(TemporalConv):
    """Depthwise temporal aggregation: a weighted sum of three frames, and a ReLU: (B T, C, H, W) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class BigLittle(nn.Module):
    """Two branches over pairs of frames and their fusion: (B T, C, H, W) -> (B T / 2, C', H', W')."""

    def __init__(self, tam: nn.Module, big: nn.Module, little: nn.Module, widen: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.tam, self.big, self.little, self.widen, self.fusion = tam, big, little, widen, fusion

    def forward(self, x: Tensor) -> Tensor:
        little, big = self.tam(x).unflatten(0, (-1, 2)).unbind(1)
        big, little = self.big(big), self.widen(self.little(little))
        if big.shape != little.shape:
            big = F.interpolate(big, little.shape[2:])
        return self.fusion((big + little).relu())


def stem(width: int, T: int) -> BigLittle:
    """Return the module behind the first convolution, which halves the maps."""
    narrow = width // ALPHA
    little = nn.Sequential(
        *convolution(width, narrow, 3),
        nn.ReLU(inplace=True),
        *convolution(narrow, narrow, 3, stride=2),
        nn.ReLU(inplace=True),
    )
    big, widen = convolution(width, width, 3, stride=2), convolution(narrow, width, 1)
    fusion = nn.Sequential(*convolution(width, width, 1), nn.ReLU(inplace=True))
    return BigLittle(TAM(width, T), big, little, widen, fusion)


def stage(channels: int, out: int, blocks: int, stride: int, T: int) -> BigLittle:
    """Return a stage of two branches, whose fusion has the stride."""
    big = chain(channels, out, blocks - 1, 2, last_relu=False)
    little = chain(channels, out // ALPHA, max(1, blocks // BETA - 1), 1)
    widen = convolution(out // ALPHA, out, 1)
    return BigLittle(TAM(channels, T), big, little, widen, chain(out, out, 1, stride))


def convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its norm."""
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def chain(
    channels: int, out: int, blocks: int, stride: int, T: int | None = None, last_relu: bool = True
) -> nn.Sequential:
    """Return residual blocks, the first of which has the stride; with a TAM each if T is given."""
    made = [Block(channels, out, stride, T)]
    made += [Block(out, out, 1, T) for _ in range(1, blocks)]
    made[-1].last_relu = last_relu
    return nn.Sequential(*made)


class Block(Bottleneck):
    """A bottleneck whose strided shortcut pools: (N, C, H, W) -> (N, out, H', W')."""

    def __init__(self, channels: int, out: int, stride: int, T: int | None = None) -> None:
        super().__init__(channels, out // EXPANSION, stride)
        shortcut: list[nn.Module] = [nn.AvgPool2d(3, stride=2, padding=1)] if stride > 1 else []
        if channels != out:
            shortcut += convolution(channels, out, 1)
        self.downsample = nn.Sequential(*shortcut) if shortcut else None
        self.tam = None if T is None else TAM(channels, T)
        self.last_relu = True

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.tam is None else self.tam(x)
        # NOTE: a shortcut with layers starts behind the TAM, a plain one before it, as in the authors' code.
        x = x if self.downsample is None else self.downsample(y)
        y = self.bn3(self.conv3(self.middle(self.relu(self.bn1(self.conv1(y))))))
        y += x
        return self.relu(y) if self.last_relu else y
