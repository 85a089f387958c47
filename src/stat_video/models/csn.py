"""CSN, Channel-Separated Networks: 3-D bottlenecks whose 3x3x3 convolutions are depthwise.

    Tran, Wang, Torresani, Feiszli. Video Classification with Channel-Separated Convolutional Networks. ICCV 2019.

Row ip-CSN-32 of Table 6, which is ip-CSN-152: 32 frames, 108.8 GFLOPs a view of 256 pixels, 32.8 M parameters without
the scales and shifts of the norms, as the authors count. The layers are PyTorchVideo's, which builds ir-CSN; what makes
it ip-CSN is ours. Names of weights are PyTorchVideo's; files of the authors' (VMZ), of PyTorch and of Caffe2, load too.

NOTE: the authors' PyTorch code, which released the weights, sets the momentum of its norms to 0.9, which is Caffe2's
word for 0.1: there the running statistics are nearly those of the last batch. Here it is 0.1.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig
from .parts.chain import Chain
from .parts.depthwise import quicken_depthwise
from .published import Renames, blobs, without_solver


@dataclass
class Config(ModelConfig):
    """Everything that defines a CSN."""

    released = tuple({"interaction": way, "depth": depth} for way in ("ip", "ir") for depth in (50, 101, 152))

    name: str = "csn"
    # ip: a 1x1x1 convolution before each depthwise one preserves the channels' interaction; ir: reduced, there is none.
    interaction: str = one_of("ip", ("ip", "ir"))
    depth: int = one_of(152, (50, 101, 152), size=True)
    width: int = ranged(64, 1, size=True)  # channels of the first convolution
    norm_eps: float = ranged(1e-3, 0, above=True)  # PyTorchVideo's released ir-CSN-101 has 1e-5
    head_dropout: float = ranged(0.0, 0, 1, below=True, size=True, noise=True)

    def build(self, clip: Clip, num_classes: int) -> "CSN":
        """Return a CSN for such clips."""
        return CSN(self, clip, num_classes)


class CSN(Chain):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The last map is averaged over the whole clip, of whatever size, as the authors do.
    """

    classifier = "blocks.5.proj"
    renames: ClassVar[Renames] = (
        # the authors' names in PyTorch, which are torchvision's of a video ResNet
        (r"^stem\.0\.", "blocks.0.conv."),
        (r"^stem\.1\.", "blocks.0.norm."),
        (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"blocks.\1.res_blocks.\2.branch1_conv."),
        (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"blocks.\1.res_blocks.\2.branch1_norm."),
        (r"^layer(\d)\.(\d+)\.conv1\.0\.", r"blocks.\1.res_blocks.\2.branch2.conv_a."),
        (r"^layer(\d)\.(\d+)\.conv1\.1\.", r"blocks.\1.res_blocks.\2.branch2.norm_a."),
        (r"^layer(\d)\.(\d+)\.conv2\.0\.", r"blocks.\1.res_blocks.\2.branch2.conv_b."),
        (r"^layer(\d)\.(\d+)\.conv2\.1\.", r"blocks.\1.res_blocks.\2.branch2.norm_b."),
        (r"^layer(\d)\.(\d+)\.conv3\.0\.", r"blocks.\1.res_blocks.\2.branch2.conv_c."),
        (r"^layer(\d)\.(\d+)\.conv3\.1\.", r"blocks.\1.res_blocks.\2.branch2.norm_c."),
        (r"^fc\.", "blocks.5.proj."),
        # their names in Caffe2, which number the residual blocks through all stages: see `adapt`
        (r"^conv1_w$", "blocks.0.conv.w"),
        (r"^conv1_spatbn_relu_(s|b|rm|riv)$", r"blocks.0.norm.\1"),
        (r"^comp_(\d+)_conv_(\d(?:_middle)?)_w$", r"comp.\1.conv.\2.w"),
        (r"^comp_(\d+)_spatbn_(\d(?:_middle)?)_(s|b|rm|riv)$", r"comp.\1.norm.\2.\3"),
        (r"^shortcut_projection_(\d+)_w$", r"comp.\1.branch1_conv.w"),
        (r"^shortcut_projection_(\d+)_spatbn_(s|b|rm|riv)$", r"comp.\1.branch1_norm.\2"),
        (r"^last_out_L\d+_([wb])$", r"blocks.5.proj.\1"),
        *blobs(r"(?:blocks|comp)\.\S*"),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        self.config, self.clip = config, clip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports torch.jit.script
            from pytorchvideo.models.csn import create_csn
            from pytorchvideo.models.resnet import create_bottleneck_block

        def bottleneck(**keys: Any) -> nn.Module:
            if config.interaction == "ip":
                keys["conv_b"] = preserved
            return create_bottleneck_block(**keys)

        network = create_csn(
            model_depth=config.depth,
            model_num_class=num_classes,
            dropout_rate=config.head_dropout,
            stem_dim_out=config.width,
            stem_pool=nn.MaxPool3d,
            bottleneck=bottleneck,
            head_pool=nn.AdaptiveAvgPool3d,
        )
        self.blocks = network.blocks
        # PyTorchVideo draws the weights as the authors do, but starts the last norm of each residual branch at zero.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = config.norm_eps
                nn.init.ones_(module.weight)
        quicken_depthwise(self)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tell the stages of Caffe2's blocks, and which of a block's convolutions has which number.

        The authors' builder counts an ir-CSN's depthwise convolution twice. An ip-CSN's has one before it, `middle`.
        """
        stages = [self.get_submodule(f"blocks.{s}.res_blocks") for s in range(1, 5)]
        places = [f"blocks.{s}.res_blocks.{r}" for s, stage in enumerate(stages, 1) for r, _ in stage.named_children()]
        of_caffe2 = [name for name in state if re.match(r"comp\.\d+\.(branch1_|(conv|norm)\.\w)", name)]
        there = {int(name.split(".")[1]) for name in of_caffe2}
        if of_caffe2 and there != set(range(len(places))):
            raise ValueError(f"another network: {len(there)} residual blocks in the file, {len(places)} here")
        layers = {"1": ("conv_a", "norm_a"), "3": ("conv_b", "norm_b"), "4": ("conv_c", "norm_c")}
        if any(".2_middle." in name for name in of_caffe2):
            depthwise = {"2_middle": ("conv_b.0", "conv_b.1"), "2": ("conv_b.2", "norm_b")}
            layers = {"1": layers["1"], **depthwise, "3": layers["4"]}
        for name in of_caffe2:
            _, block, layer, *rest = name.split(".")
            if rest[0] in layers:
                conv, norm = layers[rest.pop(0)]
                layer = f"branch2.{conv if layer == 'conv' else norm}"
            state[".".join([places[int(block)], layer, *rest])] = state.pop(name)
        return super().adapt(without_solver(state))


def preserved(in_channels: int, out_channels: int, **keys: Any) -> nn.Sequential:
    """Return a 1x1x1 convolution and its norm before a depthwise one, with nothing between.

    NOTE: the paper's figure does not say whether a ReLU follows that norm; the authors' code has one commented out.
    """
    mixing = nn.Conv3d(in_channels, in_channels, 1, bias=False)
    return nn.Sequential(mixing, nn.BatchNorm3d(in_channels), nn.Conv3d(in_channels, out_channels, **keys))
