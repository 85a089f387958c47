"""R(2+1)D: a 3-D ResNet in which each 3x3x3 convolution is one in space followed by one in time.

    Tran, Wang, Torresani, Ray, LeCun, Paluri. A Closer Look at Spatiotemporal Convolutions for Action Recognition.
    CVPR 2018.

In no table of the STAT paper. R(2+1)D-18 as torchvision publishes it (`r2plus1d_18`): 16 frames of 112 pixels, 40.5
GFLOPs a view, 31.5 M parameters. The blocks are torchvision's, and so are the names of the weights.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig, VideoModel

DEPTHS = {10: 1, 18: 2}  # depth: blocks of each of the four stages. torchvision has 18; 10 is ours, for scale=tiny


@dataclass
class Config(ModelConfig):
    """Everything that defines an R(2+1)D."""

    name: str = "r2plus1d"
    depth: int = one_of(18, tuple(DEPTHS), size=True)
    width: int = ranged(64, 2, size=True)  # channels of the first stage; they double from stage to stage

    def build(self, clip: Clip, num_classes: int) -> "R2Plus1D":
        """Return an R(2+1)D for such clips."""
        return R2Plus1D(self, clip, num_classes)


class R2Plus1D(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The last map is averaged over the whole clip, of whatever size.
    """

    classifier = "fc"

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        self.config, self.clip = config, clip
        width = config.width
        self.stem = stem(width)
        self.layer1 = stage(width, width, 1, DEPTHS[config.depth])
        self.layer2 = stage(width, 2 * width, 2, DEPTHS[config.depth])
        self.layer3 = stage(2 * width, 4 * width, 2, DEPTHS[config.depth])
        self.layer4 = stage(4 * width, 8 * width, 2, DEPTHS[config.depth])
        self.fc = nn.Linear(8 * width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.stem(clip)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3, 4)))

    def units(self) -> list[nn.Module]:
        """Return the residual blocks."""
        return [block for layer in (self.layer1, self.layer2, self.layer3, self.layer4) for block in layer]


def stem(width: int) -> nn.Sequential:
    """Return a 1x7x7 convolution and a 3x1x1 one, each with norm and ReLU: (B, 3, T, H, W) -> (B, width, T, H/2, W/2).

    At full width the first has 45 channels, with which both have about the weights of a 3x7x7 convolution.
    """
    between = max(45 * width // 64, 1)
    return nn.Sequential(
        nn.Conv3d(3, between, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def stage(channels: int, planes: int, stride: int, blocks: int) -> nn.Sequential:
    """Return residual blocks (B, channels, T, H, W) -> (B, planes, T/stride, H/stride, W/stride)."""
    from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D

    shortcut = None
    if stride > 1:
        convolution = nn.Conv3d(channels, planes, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm3d(planes))
    first = BasicBlock(channels, planes, Conv2Plus1D, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(planes, planes, Conv2Plus1D) for _ in range(blocks - 1)))
