"""X3D: a small 2-D network expanded step by step, in time, space, width and depth, of depthwise 3x3x3 convolutions.

    Feichtenhofer. X3D: Expanding Architectures for Efficient Video Recognition. CVPR 2020.

Rows X3D-R50 and X3D-R101 of Table 6, which by their costs are X3D-XL (T=16: 48.4 GFLOPs a view of 356 pixels, 11.0 M
parameters) and X3D-XXL (T=32: 194.1 GFLOPs, 20.3 M); neither is a ResNet-50 or -101. The paper counts its parameters
without the scales and shifts of the norms. The layers are PyTorchVideo's, and so are the names of the weights.

NOTE: no code and no text gives the factors of XXL. A depth factor of 10.2 and 32 frames give its printed GFLOPs and its
printed parameters to the last digit; they are two of the paper's doublings from XL.
NOTE: PyTorchVideo rounds the widths to multiples of 8, which gives the printed costs; the author's present code does
not round, and gives 49.5 and 197.8 GFLOPs. The author's code has one more norm, on the first shortcut of res2.
"""

import warnings
from dataclasses import dataclass

from torch import nn

from ..errors import ranged
from .base import Clip, ModelConfig
from .parts.chain import Chain, check_window
from .parts.depthwise import quicken_depthwise

STRIDE = 32  # of the whole network in space; time keeps its frames


@dataclass
class Config(ModelConfig):
    """Everything that defines an X3D: the factors on depth and width of the network that it is expanded from."""

    name: str = "x3d"
    depth_factor: float = ranged(5.0, 0, above=True, size=True)  # 5.0 of L and XL, 10.2 of XXL
    width_factor: float = ranged(2.9, 0.1, size=True)  # 2.0 of M and L, 2.9 of XL and XXL
    head_width: int = ranged(2048, 1, size=True)  # features that the classifier reads
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the clip is smaller than the strides, or a test's crop smaller than the training's."""
        if clip.crop < STRIDE:
            raise ValueError(f"crop={clip.crop}: {STRIDE} or more is allowed, the stride of the whole network")
        check_window(clip)

    def build(self, clip: Clip, num_classes: int) -> "X3D":
        """Return an X3D for such clips."""
        return X3D(self, clip, num_classes)


class X3D(Chain):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The head pools windows as large as a training crop's map. A larger crop of a test (356 after training on 312) has
    several of them, which overlap, and their logits are averaged, as in the author's code.
    """

    classifier = "blocks.5.proj"

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports torch.jit.script
            from pytorchvideo.models.x3d import create_x3d
        # Its default ends in a softmax, in training too.
        network = create_x3d(
            input_clip_length=clip.T,
            input_crop_size=clip.crop,
            model_num_class=num_classes,
            dropout_rate=config.head_dropout,
            width_factor=config.width_factor,
            depth_factor=config.depth_factor,
            inner_act=nn.SiLU,
            head_dim_out=config.head_width,
            head_activation=None,
        )
        # PyTorchVideo draws the weights as the author does; the last norm of each residual branch starts at zero.
        self.blocks = network.blocks
        quicken_depthwise(self)
