"""SlowFast: a slow pathway that sees few frames in many channels, and a fast one that sees all frames in few.

    Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019.

Rows SlowFast-R50 and SlowFast-R101 of Table 6, which are SlowFast 8x8 R50 (T=32: 8 + 32 frames, 65.7 GFLOPs a view of
256 pixels, 34.6 M parameters) and 16x8 R101 (T=64, model.depth=101: 16 + 64 frames, 213 GFLOPs, 53.8 M). The layers
are PyTorchVideo's, and so are the names of the weights; files of PySlowFast, of its trainings and of its Caffe2 zoo,
load too.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import one_of, ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.chain import check_window
from .published import CAFFE2, PYSLOWFAST_BRANCHES, Renames, refuse_parts, without_solver

BETA = 8  # the slow pathway has so many times the channels of the fast one
_TIME, _SPACE = (3, 1, 1), (1, 1, 1)
# Depth: (kernel of the lateral convolutions in time, first kernels of res4's blocks). In a ResNet-101 only the first
# six blocks of res4 look in time. Depth 18 is PyTorchVideo's: one bottleneck a stage.
DEPTHS: dict[int, tuple[int, Any]] = {18: (7, _TIME), 50: (7, _TIME), 101: (5, (*[_TIME] * 6, *[_SPACE] * 17))}


@dataclass
class Config(ModelConfig):
    """Everything that defines a SlowFast network."""

    released = ({"depth": 50}, {"depth": 50, "alpha": 8, "lateral": 5}, {"depth": 101})

    name: str = "slowfast"
    alpha: int = ranged(4, 1)  # frames of the fast pathway to one of the slow pathway
    # Kernel of the lateral convolutions in time; null: the depth's. PySlowFast's 4x16 R50 has 5, with alpha=8.
    lateral: int | None = one_of(None, (None, 5, 7), neutral=None)
    depth: int = one_of(50, tuple(DEPTHS), size=True)
    width: int = ranged(64, BETA, size=True)  # channels of the slow pathway's first convolution
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % BETA:
            raise ValueError(
                f"width={self.width}: multiples of {BETA} are allowed, the fast pathway has 1/{BETA} of them"
            )

    def check(self, clip: Clip) -> None:
        """Raise ValueError if alpha does not divide T, or a test's crop is smaller than the training's."""
        if clip.T % self.alpha:
            raise ValueError(f"T={clip.T}: multiples of model.alpha={self.alpha} are allowed, the slow pathway's share")
        check_window(clip)

    def build(self, clip: Clip, num_classes: int) -> "SlowFast":
        """Return a SlowFast for such clips."""
        return SlowFast(self, clip, num_classes)


class SlowFast(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes). The clip is the fast pathway's input.

    The head pools windows as large as a training crop's map. A larger crop of a test (256 after training on 224) has
    several of them, which overlap, and their logits are averaged: the middle of the frame weighs more, as in the
    authors' code.
    """

    classifier = "blocks.6.proj"
    # PySlowFast's, and those of Caffe2 by way of them
    renames: ClassVar[Renames] = (
        *CAFFE2,
        (r"^s1\.pathway(\d)_stem\.conv\.", r"blocks.0.multipathway_blocks.\1.conv."),
        (r"^s1\.pathway(\d)_stem\.bn\.", r"blocks.0.multipathway_blocks.\1.norm."),
        *(
            rule
            for s in range(1, 6)
            for rule in (
                (rf"^s{s}\.pathway(\d)_res(\d+)\.", rf"blocks.{s - 1}.multipathway_blocks.\1.res_blocks.\2."),
                (rf"^s{s}_fuse\.conv_f2s\.", f"blocks.{s - 1}.multipathway_fusion.conv_fast_to_slow."),
                (rf"^s{s}_fuse\.bn\.", f"blocks.{s - 1}.multipathway_fusion.norm."),
            )
        ),
        *PYSLOWFAST_BRANCHES,
        (r"^head\.projection\.", "blocks.6.proj."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        self.slow_frames = clip.T // config.alpha
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports torch.jit.script
            from pytorchvideo.models.slowfast import create_slowfast
        lateral, res4 = DEPTHS[config.depth]
        window = -(-clip.crop // 32)
        network = create_slowfast(
            model_depth=config.depth,
            model_num_class=num_classes,
            dropout_rate=config.head_dropout,
            slowfast_channel_reduction_ratio=(BETA,),
            slowfast_fusion_conv_kernel_size=(config.lateral or lateral, 1, 1),
            slowfast_fusion_conv_stride=(config.alpha, 1, 1),
            stem_dim_outs=(config.width, config.width // BETA),
            stage_conv_a_kernel_sizes=((_SPACE, _SPACE, res4, _TIME), (_TIME, _TIME, res4, _TIME)),
            head_pool_kernel_sizes=((self.slow_frames, window, window), (clip.T, window, window)),
        )
        # PyTorchVideo draws the weights as the authors do; the last norm of each residual branch starts at zero.
        self.blocks: nn.ModuleList = network.blocks

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x: Any = [clip[:, :, self.slow(clip.device)], clip]  # a new list: PyTorchVideo writes into it
        for block in self.blocks:
            x = block(x)
        return x

    def slow(self, device: torch.device) -> Tensor:
        """Return the indices of the slow pathway's frames, evenly spread from the first to the last one.

        They are the authors' linspace(0, T - 1, T / alpha), cut to whole numbers. Made on the device: nothing waits.
        """
        n = self.slow_frames
        return torch.arange(n, device=device) * (self.clip.T - 1) // max(n - 1, 1)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out what a solver keeps; refuse weights of a SlowFast with non-local blocks, which this one has not."""
        refuse_parts(state, "_nonlocal", "a non-local block")
        return super().adapt(without_solver(state))

    def units(self) -> list[nn.Module]:
        """Return the residual blocks of both pathways."""
        return [
            block
            for stage in list(self.blocks)[1:5]
            for pathway in stage.multipathway_blocks  # type: ignore[union-attr]
            for block in pathway.res_blocks
        ]

    def layers(self) -> list[nn.Module]:
        """Return the stages, in each of which the pathways lie side by side."""
        return list(self.blocks)[1:5]
