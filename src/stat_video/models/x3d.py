"""X3D: a small 2-D network expanded step by step, in time, space, width and depth, of depthwise 3x3x3 convolutions.

    Feichtenhofer. X3D: Expanding Architectures for Efficient Video Recognition. CVPR 2020.

Rows X3D-R50 and X3D-R101 of Table 6, which by their costs are X3D-XL (T=16: 48.4 GFLOPs a view of 356 pixels, 11.0 M
parameters) and X3D-XXL (T=32: 194.1 GFLOPs, 20.3 M); neither is a ResNet-50 or -101. The paper counts its parameters
without the scales and shifts of the norms. The layers are PyTorchVideo's, and so are the names of the weights; files of
PySlowFast load too.

NOTE: no code and no text gives the factors of XXL. A depth factor of 10.2 and 32 frames give its printed GFLOPs and its
printed parameters to the last digit; they are two of the paper's doublings from XL.
NOTE: PyTorchVideo rounds the widths to multiples of 8, which gives the printed costs; the author's present code does
not round, and gives 49.5 and 197.8 GFLOPs. The author's code has one more norm, on the first shortcut of res2.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..errors import ranged
from .base import Clip, ModelConfig
from .parts.chain import Chain, check_window
from .parts.depthwise import quicken_depthwise
from .published import PYSLOWFAST_BRANCHES, Renames

NORM_EPS = 1e-5
STRIDE = 32  # of the whole network in space; time keeps its frames


@dataclass
class Config(ModelConfig):
    """Everything that defines an X3D: the factors on depth and width of the network that it is expanded from."""

    released = (  # M, L, XL and XXL
        {"width_factor": 2.0, "depth_factor": 2.2},
        {"width_factor": 2.0, "depth_factor": 5.0},
        {"width_factor": 2.9, "depth_factor": 5.0},
        {"width_factor": 2.9, "depth_factor": 10.2},
    )

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
    # PySlowFast's. PyTorchVideo calls the stem's first convolution, which is over space, conv_t.
    renames: ClassVar[Renames] = (
        (r"^s1\.pathway0_stem\.conv_xy\.", "blocks.0.conv.conv_t."),
        (r"^s1\.pathway0_stem\.conv\.", "blocks.0.conv.conv_xy."),
        (r"^s1\.pathway0_stem\.bn\.", "blocks.0.norm."),
        *((rf"^s{s}\.pathway0_res(\d+)\.", rf"blocks.{s - 1}.res_blocks.\1.") for s in range(2, 6)),
        (r"\.branch2\.b_bn\.", ".branch2.norm_b.0."),
        (r"\.branch2\.se\.fc1\.", ".branch2.norm_b.1.block.0."),
        (r"\.branch2\.se\.fc2\.", ".branch2.norm_b.1.block.2."),
        *PYSLOWFAST_BRANCHES,
        (r"^head\.conv_5\.", "blocks.5.pool.pre_conv."),
        (r"^head\.conv_5_bn\.", "blocks.5.pool.pre_norm."),
        (r"^head\.lin_5\.", "blocks.5.pool.post_conv."),
        (r"^head\.projection\.", "blocks.5.proj."),
    )

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

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fold the norm of res2's first shortcut, which PySlowFast has and PyTorchVideo has not, into its neighbours.

        Its scale goes into the shortcut's convolution, its shift into the norm that the shortcut is added to.
        NOTE: so it is the same network in evaluation alone; in training the shortcut is not normalised.
        """
        block = "blocks.1.res_blocks.0"
        conv, shift = f"{block}.branch1_conv.weight", f"{block}.branch2.norm_c.bias"
        norm = [f"{block}.branch1_norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        own = self.state_dict()[shift].shape
        if all(name in state and state[name].shape == own for name in (*norm, shift)) and conv in state:
            weight, bias, mean, var = (state.pop(name) for name in norm)
            state.pop(f"{block}.branch1_norm.num_batches_tracked", None)
            scale = weight / (var + NORM_EPS).sqrt()
            state[conv] = (state[conv].transpose(0, -1) * scale).transpose(0, -1)
            state[shift] = state[shift] + bias - mean * scale
        return super().adapt(state)
