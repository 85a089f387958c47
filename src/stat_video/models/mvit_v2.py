"""MViTv2: MViT with relative positions, and with the pooled queries added to what attention returns.

    Li, Wu, Fan, Mangalam, Xiong, Malik, Feichtenhofer. MViTv2: Improved Multiscale Vision Transformers for
    Classification and Detection. CVPR 2022.

In no table of the STAT paper. MViTv2-S 16x4 as torchvision publishes it (`mvit_v2_s`): 16 frames of 224 pixels, 64.2
GFLOPs a view, 34.5 M parameters. The layers are torchvision's, and so are the names of the weights.

NOTE: the authors let the class token and the tables of relative positions decay. Here they do not.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import mvit
from .base import Clip, Resize, VideoModel
from .parts.depthwise import DepthwiseConv3d
from .positions import along_time

PATCHES = (2, 4, 4)  # stride of the patch convolution in time, height and width
Grid = tuple[int, int, int]  # of tokens: in time, height and width


@dataclass
class Config(mvit.Config):
    """Everything that defines an MViTv2: the keys of an MViT. Width and heads double; the stride of keys halves."""

    name: str = "mvit_v2"

    def check(self, clip: Clip) -> None:
        """Take any clip: positions are relative, and are interpolated for another crop."""

    def build(self, clip: Clip, num_classes: int) -> "MViTv2":
        """Return an MViTv2 for such clips."""
        return MViTv2(self, clip, num_classes)


class MViTv2(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    The tables of relative positions are made for the clip's T and crop. They are interpolated for another crop in a
    test, and for weights of another clip.
    """

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        from torchvision.models.video import mvit as library

        super().__init__()
        self.config, self.clip = config, clip
        stages = [stage for stage, blocks in enumerate(config.depths) for _ in range(blocks)]
        settings = []
        for i, stage in enumerate(stages):
            before = stages[max(i - 1, 0)]
            q_stride, kv_stride = 2 if stage != before else 1, max(config.kv_stride >> stage, 1)
            settings.append(
                library.MSBlockConfig(
                    num_heads=config.heads << stage,
                    input_channels=config.width << before,
                    output_channels=config.width << stage,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, q_stride, q_stride],
                    stride_kv=[1, kv_stride, kv_stride],
                )
            )
        # torchvision draws the weights: linear ones and the class token with std 0.02. Attention has its own tables.
        network = library.MViT(
            spatial_size=(224, 224),
            temporal_size=16,
            block_setting=settings,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            dropout=config.head_dropout,
            stochastic_depth_prob=config.stochastic_depth,
            num_classes=num_classes,
        )
        self.conv_proj = network.conv_proj
        self.pos_encoding = network.pos_encoding  # the class token alone
        self.blocks = network.blocks
        self.norm = network.norm
        self.head = network.head
        grid = (ceil_div(clip.T, PATCHES[0]), ceil_div(clip.crop, PATCHES[1]), ceil_div(clip.crop, PATCHES[2]))
        tables: dict[str, Resize] = {}
        for i, block in enumerate(self.blocks):
            block.attn = Attention(block.attn, grid)
            grid = block.attn.q_grid
            tables |= {f"blocks.{i}.attn.rel_pos_{axis}": along_time(0) for axis in "thw"}
        self.positions = tables

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.conv_proj(clip)  # (B, C, T/2, H/4, W/4)
        grid = tuple(x.shape[2:])
        x = self.pos_encoding(x.flatten(2).transpose(1, 2))  # (B, 1 + n, C), the class token first
        for block in self.blocks:
            x, grid = block(x, grid)
        return self.head(self.norm(x)[:, 0])

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)


class Attention(nn.Module):
    """torchvision's MultiscaleAttention with its layers, by PyTorch's fused attention, and tables for any grid.

    torchvision rounds the grid of a pooled map down where the pools round it up: at 48 pixels, 12 x 12 patches become
    6 x 6, 3 x 3 and 2 x 2. At multiples of 32 pixels there is no difference.
    """

    def __init__(self, attention: Any, grid: Grid) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.qkv, self.project = attention.qkv, attention.project
        self.pool_q, self.pool_k, self.pool_v = attention.pool_q, attention.pool_k, attention.pool_v
        for pool in (self.pool_q, self.pool_k, self.pool_v):
            pool.pool = DepthwiseConv3d(pool.pool)
        self.q_grid, k_grid = (pooled(grid, pool.pool) for pool in (self.pool_q, self.pool_k))
        D: int = attention.head_dim
        self.rel_pos_t, self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(2 * max(q, k) - 1, D), std=0.02))
            for q, k in zip(self.q_grid, k_grid, strict=True)
        )

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, 1 + n, C) of a grid (t, h, w) -> (B, 1 + n', C'), its grid."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)  # (B, heads, 1 + n, D)
        k, k_grid = self.pool_k(k, grid)
        v = self.pool_v(v, grid)[0]
        q, grid = self.pool_q(q, grid)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.relative(q, grid, k_grid))
        x = torch.cat([x[:, :, :1], x[:, :, 1:] + q[:, :, 1:]], dim=2)
        return self.project(x.transpose(1, 2).flatten(2)), grid

    def relative(self, q: Tensor, grid: Grid, k_grid: Grid) -> Tensor:
        """Return what positions add before the softmax: (B, heads, 1 + n, 1 + m), zero for the class token.

        A query's product with the rows of three tables that stand for its distances to a key in t, h and w (Eq. 4).
        """
        q = q[:, :, 1:].unflatten(2, grid)
        t, h, w = (
            rows(table, n, m)
            for table, n, m in zip((self.rel_pos_t, self.rel_pos_h, self.rel_pos_w), grid, k_grid, strict=True)
        )
        in_t = torch.einsum("bnthwc,tkc->bnthwk", q, t)[..., :, None, None]
        in_h = torch.einsum("bnthwc,hkc->bnthwk", q, h)[..., None, :, None]
        in_w = torch.einsum("bnthwc,wkc->bnthwk", q, w)[..., None, None, :]
        return F.pad((in_t + in_h + in_w).flatten(5).flatten(2, 4), (1, 0, 1, 0))


def rows(table: Tensor, n: int, m: int) -> Tensor:
    """Return the rows (n, m, D) of a table (d, D) for the distances between n queries and m keys on one axis.

    A table of another size is interpolated first.
    """
    size = 2 * max(n, m) - 1
    if len(table) != size:
        table = F.interpolate(table.T[None], size, mode="linear")[0].T
    queries = torch.arange(n, device=table.device)[:, None] * max(m / n, 1.0)
    keys = (torch.arange(m, device=table.device)[None] + (1.0 - m)) * max(n / m, 1.0)
    return table[(queries - keys).long()]


def pooled(grid: Grid, pool: nn.Conv3d) -> Grid:
    """Return the grid of tokens after a pool with 'same' padding."""
    t, h, w = (ceil_div(n, int(stride)) for n, stride in zip(grid, pool.stride, strict=True))
    return t, h, w


def ceil_div(n: int, stride: int) -> int:
    """Return n / stride, rounded up."""
    return -(-n // stride)
