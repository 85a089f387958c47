"""MViT, the Multiscale Vision Transformer: attention whose keys and values are pooled, in a pyramid of four stages.

    Fan, Xiong, Mangalam, Li, Yan, Malik, Feichtenhofer. Multiscale Vision Transformers. ICCV 2021.

Rows MViT-16, -32 and -64 of Tables 6 and 7, which are MViT-B 16x4, 32x3 and 64x3: 70.6, 170 and 455 GFLOPs a view of
224 pixels, 36.6 M parameters. STAT starts from it. The layers are torchvision's, and so are the names of the weights;
files of PySlowFast and of PyTorchVideo's hub load too.

NOTE: PyTorchVideo's norms behind the pools have an eps of 1e-5; PySlowFast's and torchvision's, which are here, 1e-6.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ranged, sized
from .base import Clip, ModelConfig, VideoModel
from .parts.depthwise import DepthwiseConv3d
from .parts.vit import join_qkv
from .positions import along_time, square_grid
from .published import Renames

STRIDE = (2, 4)  # of the patch convolution, in time and in space


@dataclass
class Config(ModelConfig):
    """Everything that defines an MViT. Width and heads double from stage to stage, and the stride of keys halves."""

    name: str = "mvit"
    depths: list[int] = sized([1, 2, 11, 2])  # blocks of each stage
    width: int = ranged(96, 1, size=True)  # of the first stage
    heads: int = ranged(1, 1, size=True)
    kv_stride: int = ranged(8, 1, size=True)  # of the keys and values in the first stage, in space
    stochastic_depth: float = ranged(
        0.2, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(
                f"depths={list(self.depths)}: one whole number from 1 on for each of four stages is allowed"
            )
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads}: width {self.width} does not divide into {self.heads} heads")

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the patches do not fill the clip, or a test's crop is not the training's."""
        t, s = STRIDE
        if clip.T % t:
            raise ValueError(f"T={clip.T}: multiples of {t} are allowed, the frames of a patch")
        if clip.crop % s:
            raise ValueError(f"crop={clip.crop}: multiples of {s} are allowed, the stride of the patches")
        if clip.view_crop != clip.crop:
            raise ValueError(
                f"clip.test_crop={clip.test_crop}: MViT has a position a patch, so crop={clip.crop} alone is allowed"
            )

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        """Return an MViT for such clips."""
        return MViT(self, clip, num_classes)


class MViT(VideoModel):
    """Normalised clips (B, 3, T, crop, crop) to logits (B, num_classes)."""

    no_decay = tuple(f"pos_encoding.{name}" for name in ("class_token", "class_pos", "spatial_pos", "temporal_pos"))
    # Of PySlowFast and of PyTorchVideo's hub. torchvision's names are ours.
    renames: ClassVar[Renames] = (
        (r"^patch_embed\.(proj|patch_model)\.", "conv_proj."),
        (r"^(cls_positional_encoding\.)?cls_token$", "pos_encoding.class_token"),
        (r"^(cls_positional_encoding\.)?pos_embed_class$", "pos_encoding.class_pos"),
        (r"^(cls_positional_encoding\.)?pos_embed_(spatial|temporal)$", r"pos_encoding.\2_pos"),
        (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
        (r"\.attn\.q\.", ".attn.query."),
        (r"\.attn\.k\.", ".attn.key."),
        (r"\.attn\.v\.", ".attn.value."),
        (r"\.attn\.proj\.", ".attn.project.0."),
        (r"\.attn\.pool_([qkv])\.weight$", r".attn.pool_\1.pool.weight"),
        (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm_act.0."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
        (r"^norm_embed\.", "norm."),
        (r"^head\.proj(ection)?\.", "head.1."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        from torchvision.models.video import mvit

        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        stages = [stage for stage, blocks in enumerate(config.depths) for _ in range(blocks)]
        settings = []
        for i, stage in enumerate(stages):
            enters = i > 0 and stages[i - 1] != stage
            kv_stride = max(config.kv_stride >> stage, 1)
            settings.append(
                mvit.MSBlockConfig(
                    num_heads=config.heads << stage,
                    input_channels=config.width << stage,
                    output_channels=config.width << stages[min(i + 1, len(stages) - 1)],
                    kernel_q=[3, 3, 3] if enters else [],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, 2, 2] if enters else [],
                    stride_kv=[1, kv_stride, kv_stride],
                )
            )
        # torchvision draws the weights as the authors do: linear ones, tokens and positions with std 0.02.
        network = mvit.MViT(
            spatial_size=(clip.crop, clip.crop),
            temporal_size=clip.T,
            block_setting=settings,
            residual_pool=False,
            residual_with_cls_embed=False,
            rel_pos_embed=False,
            proj_after_attn=False,
            dropout=config.head_dropout,
            stochastic_depth_prob=config.stochastic_depth,
            num_classes=num_classes,
        )
        self.conv_proj = network.conv_proj
        self.pos_encoding = network.pos_encoding
        self.blocks = network.blocks
        self.norm = network.norm
        self.head = network.head
        for block in self.blocks:
            block.attn = Attention(block.attn)
        self.positions = {"pos_encoding.spatial_pos": square_grid(0), "pos_encoding.temporal_pos": along_time(0)}

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, crop, crop), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.conv_proj(clip)  # (B, C, T/2, H/4, W/4)
        grid = tuple(x.shape[2:])
        x = self.pos_encoding(x.flatten(2).transpose(1, 2))  # (B, 1 + n, C), the class token first
        for block in self.blocks:
            x, grid = block(x, grid)
        return self.head(self.norm(x)[:, 0])

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join queries, keys and values, and drop the axis of the batch from tokens and positions."""
        if "pos_embed" in state:
            raise ValueError("another network: pos_embed, positions of places and frames at once, which MViT-B has not")
        state = join_qkv(state)
        for name in ("class_token", "class_pos", "spatial_pos", "temporal_pos"):
            if (key := f"pos_encoding.{name}") in state and state[key].dim() == 3:
                state[key] = state[key].flatten(0, 1)
        return super().adapt(state)

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)


class Attention(nn.Module):
    """torchvision's MultiscaleAttention with its layers, by PyTorch's fused attention.

    The matrix of all weights is not kept: at T = 64 it takes 0.6 GB a clip in each of the first blocks.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.qkv, self.project = attention.qkv, attention.project
        self.pool_q, self.pool_k, self.pool_v = attention.pool_q, attention.pool_k, attention.pool_v
        for pool in (self.pool_q, self.pool_k, self.pool_v):
            if pool is not None:
                pool.pool = DepthwiseConv3d(pool.pool)

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
        """(B, 1 + n, C) of a grid (t, h, w) -> (B, 1 + n', C), its grid."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)  # (B, heads, 1 + n, D)
        k, v = self.pool_k(k, grid)[0], self.pool_v(v, grid)[0]
        if self.pool_q is not None:
            q, grid = self.pool_q(q, grid)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.project(x.transpose(1, 2).flatten(2)), grid
