"""Non-local I3D: an inflated ResNet with five blocks in which every place of a clip sees every other.

    Wang, Girshick, Gupta, He. Non-local Neural Networks. CVPR 2018.

Rows I3D_NL-R50 and I3D_NL-R101 of Table 6: 128 frames, 282 and 360 GFLOPs a view of 256 pixels, 35.4 and 54.4 M
parameters. The ResNet's layers and the names of its weights are PyTorchVideo's (its hub's i3d_r50); the non-local
blocks are ours. Files of PySlowFast, of its trainings and of its Caffe2 zoo, load too, with time_stride=1.

NOTE: the printed 359 and 360 GFLOPs of R101 fit 3x1x1 convolutions among the first six blocks of res4 alone (359.1), as
in SlowFast's R101. The authors' code has one in every other block through all of res4 (378.4 GFLOPs, 59.1 M
parameters): model.res4_temporal=all.
NOTE: for 128 frames the authors' code has res3's non-local blocks see groups of four frames, to save memory. That costs
52 GFLOPs less than the paper prints; here they see the whole clip.
NOTE: the first pooling is the paper's 3x3x3; the authors' code has 2x3x3, which leaves as many frames.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.chain import check_window
from .published import CAFFE2, PYSLOWFAST_BRANCHES, Renames, without_solver

_TIME, _SPACE = (3, 1, 1), (1, 1, 1)
# Depth: (blocks of res4, non-local after these blocks of res3 and of res4).
DEPTHS = {50: (6, (1, 3), (1, 3, 5)), 101: (23, (1, 3), (6, 13, 20))}
RES3, RES4 = 3, 4  # of the network's parts: stem, res2, a pooling in time, res3, res4, res5, head
FIRST_SIX = 6
PYSLOWFAST_STEM = "s1.pathway0_stem.conv.weight"


@dataclass
class Config(ModelConfig):
    """Everything that defines a non-local I3D."""

    released = ({"depth": 50}, {"depth": 101}, {"depth": 101, "res4_temporal": "all"})

    name: str = "i3d_nl"
    # Which blocks of res4 have every other first convolution in time: only depth 101 has more than six.
    res4_temporal: str = one_of("first_six", ("first_six", "all"))
    time_stride: int = one_of(2, (1, 2))  # of the first convolution and of the first pooling; 1 for few frames
    depth: int = one_of(50, tuple(DEPTHS), size=True)
    width: int = ranged(64, 1, size=True)  # channels of the first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def frames_left(self, T: int) -> int:
        """Return the frames of the last map: two strides round up, the pooling after res2 rounds down."""
        for _ in range(2):
            T = -(-T // self.time_stride)
        return T // 2

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the strides leave nothing of the clip, or a test's crop is smaller than training's."""
        if not self.frames_left(clip.T):
            least = next(T for T in range(1, 9) if self.frames_left(T))
            raise ValueError(f"T={clip.T}: {least} or more is allowed, the strides in time leave no frame of fewer")
        if clip.crop < 17:
            raise ValueError(f"crop={clip.crop}: 17 or more is allowed, the non-local blocks of res4 pool 2x2 places")
        check_window(clip)

    def build(self, clip: Clip, num_classes: int) -> "I3DNL":
        """Return a non-local I3D for such clips."""
        return I3DNL(self, clip, num_classes)


class I3DNL(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The head pools windows as large as a training crop's map. A larger crop of a test (256 after training on 224) has
    several of them, which overlap, and their logits are averaged, as in PySlowFast.
    """

    classifier = "blocks.6.proj"
    new_parts = ("nonlocal_blocks",)
    renames: ClassVar[Renames] = (
        # PySlowFast's, and those of Caffe2 by way of them. Its res2 is s2, and the pooling after it has no weights.
        # The stem's convolution keeps its name: `adapt` tells such a file by it.
        *CAFFE2,
        (r"^s1\.pathway0_stem\.bn\.", "blocks.0.norm."),
        (r"^s(\d)\.pathway0_nonlocal(\d+)\.bn\.", r"nonlocal_blocks.\1_\2.norm."),
        (r"^s(\d)\.pathway0_nonlocal(\d+)\.", r"nonlocal_blocks.\1_\2."),
        *((rf"^s{s}\.pathway0_res(\d+)\.", rf"blocks.{b}.res_blocks.\1.") for s, b in ((2, 1), (3, 3), (4, 4), (5, 5))),
        *PYSLOWFAST_BRANCHES,
        (r"^head\.projection\.", "blocks.6.proj."),
        # torchvision's ResNets, whose `fc` stays in the file
        (r"^conv1\.", "blocks.0.conv."),
        (r"^bn1\.", "blocks.0.norm."),
        *((rf"^layer{stage}\.", f"stage{part}.") for stage, part in enumerate((1, 3, 4, 5), start=1)),
        (r"^stage(\d)\.(\d+)\.downsample\.0\.", r"blocks.\1.res_blocks.\2.branch1_conv."),
        (r"^stage(\d)\.(\d+)\.downsample\.1\.", r"blocks.\1.res_blocks.\2.branch1_norm."),
        *(
            (rf"^stage(\d)\.(\d+)\.{part}{n}\.", rf"blocks.\1.res_blocks.\2.branch2.{ours}_{abc}.")
            for part, ours in (("conv", "conv"), ("bn", "norm"))
            for n, abc in enumerate("abc", start=1)
        ),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports torch.jit.script
            from pytorchvideo.models.resnet import create_resnet
        stride, window = config.time_stride, -(-clip.crop // 32)
        in_res4, after_res3, after_res4 = DEPTHS[config.depth]
        looking = FIRST_SIX if config.res4_temporal == "first_six" else in_res4
        res4 = [_TIME if i % 2 == 0 and i < looking else _SPACE for i in range(in_res4)]
        network = create_resnet(
            model_depth=config.depth,
            model_num_class=num_classes,
            dropout_rate=config.head_dropout,
            stem_dim_out=config.width,
            stem_conv_kernel_size=(5, 7, 7),
            stem_conv_stride=(stride, 2, 2),
            stem_pool_kernel_size=(2 * stride - 1, 3, 3),
            stem_pool_stride=(stride, 2, 2),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=(_TIME, [_TIME, _SPACE], res4, [_SPACE, _TIME]),
            head_pool_kernel_size=(config.frames_left(clip.T), window, window),
        )
        # PyTorchVideo draws the weights as the authors do; the last norm of each residual branch starts at zero.
        self.blocks: nn.ModuleList = network.blocks
        self.nonlocal_blocks = nn.ModuleDict()
        for stage, channels, places in ((RES3, 8 * config.width, after_res3), (RES4, 16 * config.width, after_res4)):
            for place in places:
                self.nonlocal_blocks[f"{stage}_{place}"] = NonLocal(channels)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = clip
        for i, part in enumerate(self.blocks):
            if i not in (RES3, RES4):
                x = part(x)
                continue
            for j, block in enumerate(part.res_blocks):  # type: ignore[arg-type]
                x = block(x)
                if f"{i}_{j}" in self.nonlocal_blocks:
                    x = self.nonlocal_blocks[f"{i}_{j}"](x)
        return x

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inflate a 2-D ResNet's convolutions: each of t planes in time gets 1/t of the weights, as the authors do.

        Raises ValueError for weights of PySlowFast, all of whose networks have no stride in time, if this one has.
        """
        own, state = self.state_dict(), without_solver(state)
        if PYSLOWFAST_STEM in state:
            if self.config.time_stride != 1 and state[PYSLOWFAST_STEM].dim() == 5:  # else a network of images
                raise ValueError(
                    f"another network: PySlowFast's have no stride in time in stem and first pooling, this one has "
                    f"{self.config.time_stride}; the file is of model.time_stride=1"
                )
            state["blocks.0.conv.weight"] = state.pop(PYSLOWFAST_STEM)
        for name, tensor in state.items():
            if name in own and tensor.dim() == 4 and own[name].dim() == 5:
                frames = own[name].shape[2]
                state[name] = tensor[:, :, None].expand(-1, -1, frames, -1, -1) / frames
        return super().adapt(state)

    def units(self) -> list[nn.Module]:
        """Return the residual and the non-local blocks."""
        stages = [self.blocks[i] for i in (1, RES3, RES4, 5)]
        residual = [block for stage in stages for block in stage.res_blocks]  # type: ignore[union-attr]
        return [*residual, *self.nonlocal_blocks.values()]


class NonLocal(nn.Module):
    """x + BN(W attention(x)): each place of the clip looks at all places, of every second row and column.

    The paper's embedded Gaussian, scaled by 1 / sqrt(C / 2) as the authors' code is: attention with one head. By
    PyTorch's fused attention: the weights themselves would be 268 MB a clip in res3, at 128 frames of 256 pixels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.conv_theta = nn.Conv3d(channels, inner, 1)
        self.conv_phi = nn.Conv3d(channels, inner, 1)
        self.conv_g = nn.Conv3d(channels, inner, 1)
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        for conv in (self.conv_theta, self.conv_phi, self.conv_g, self.conv_out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)  # so that a trained I3D stays what it is

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same."""
        pooled = self.pool(x)
        q, k, v = (
            y.flatten(2).transpose(1, 2)[:, None]  # (B, 1, places, C / 2)
            for y in (self.conv_theta(x), self.conv_phi(pooled), self.conv_g(pooled))
        )
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.norm(self.conv_out(seen))
