"""S3D: an Inception network whose 3-D convolutions are separated into one in space and one in time.

    Xie, Sun, Huang, Tu, Murphy. Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video
    Classification. ECCV 2018.

In no table of the STAT paper. As torchvision publishes it (`s3d`): 64 frames of 224 pixels in training, 128 in its
test, 71.9 GFLOPs a view of 64 frames, 8.3 M parameters. The blocks are torchvision's, and so are the names of the
weights.

NOTE: the classifier is a linear layer after the last mean, not torchvision's 1x1x1 convolution before it. The logits
are the same.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.chain import check_window

# Channels at full width of the nine Inception blocks: those of the four branches' last convolutions, and, in second and
# fourth place, of the 1x1x1 convolutions before the separated ones. A pool stands before the third and the eighth.
BLOCKS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
HEAD_FRAMES = 2  # of the last map, that the head's window spans


@dataclass
class Config(ModelConfig):
    """Everything that defines an S3D."""

    name: str = "s3d"
    width: int = ranged(64, 4, size=True)  # channels of the first convolution; all others are in proportion
    head_dropout: float = ranged(0.2, 0, 1, below=True, size=True, noise=True)
    # Of the running statistics: the share of a batch. torchvision's 0.001 needs some thousand steps to settle.
    norm_momentum: float = ranged(0.001, 0, 1, above=True, size=True, noise=True)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the pools leave nothing of a clip, or a test's crop is smaller than the training's."""
        if clip.T < 5:
            raise ValueError(f"T={clip.T}: 5 or more is allowed, of which the pools leave a frame")
        if clip.crop < 17:
            raise ValueError(f"crop={clip.crop}: 17 or more is allowed, of which the pools leave a place")
        check_window(clip)

    def build(self, clip: Clip, num_classes: int) -> "S3D":
        """Return an S3D for such clips."""
        return S3D(self, clip, num_classes)


class S3D(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The head pools windows of two frames, as large as a training crop's map. The last map of a longer clip or a larger
    crop of a test has several of them, which overlap, and their mean is classified.
    """

    renames: ClassVar[tuple[tuple[str, str], ...]] = ((r"^classifier\.1\.", "head."),)

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
        from torchvision.ops.misc import Conv3dNormActivation

        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        norm = partial(nn.BatchNorm3d, eps=0.001, momentum=config.norm_momentum)
        width, after_stem = config.width, scaled(192, config)
        layers = [
            TemporalSeparableConv(3, width, 7, 2, 3, norm),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            Conv3dNormActivation(width, width, kernel_size=1, stride=1, norm_layer=norm),
            TemporalSeparableConv(width, after_stem, 3, 1, 1, norm),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        ]
        channels = after_stem
        for i, full in enumerate(BLOCKS):
            if i == 2:
                layers.append(nn.MaxPool3d((3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1)))
            if i == 7:
                layers.append(nn.MaxPool3d((2, 2, 2), stride=(2, 2, 2)))
            branches = [scaled(c, config) for c in full]
            layers.append(SepInceptionBlock3D(channels, *branches, norm))
            channels = sum(branches[i] for i in (0, 2, 4, 5))
        self.features = nn.Sequential(*layers)
        side = -(-clip.crop // 16) // 2
        self.window = (min(-(-clip.T // 4) // 2, HEAD_FRAMES), side, side)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = F.avg_pool3d(self.features(clip), self.window, stride=1)
        return self.head(self.dropout(x).mean((2, 3, 4)))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights whose classifier is a linear layer, not a 1x1x1 convolution."""
        weight = state.get("head.weight")
        if weight is not None and weight.dim() == 5:
            state["head.weight"] = weight.flatten(1)
        return state

    def units(self) -> list[nn.Module]:
        """Return the Inception blocks."""
        from torchvision.models.video.s3d import SepInceptionBlock3D

        return [layer for layer in self.features if isinstance(layer, SepInceptionBlock3D)]


def scaled(channels: int, config: Config) -> int:
    """Return a number of channels at full width as one at the config's."""
    return max(channels * config.width // 64, 1)
