"""Video Swin: attention in windows of space and time, shifted from block to block, in a pyramid of four stages.

    Liu, Ning, Cao, Wei, Zhang, Lin, Hu. Video Swin Transformer. CVPR 2022.

In no table of the STAT paper. Swin-T, -S and -B as torchvision publishes them (`swin3d_t`, `swin3d_s`, `swin3d_b`): 32
frames of 224 pixels, 87.8, 165.7 and 281.3 GFLOPs a view, 28.2, 49.8 and 88.0 M parameters. The layers are
torchvision's, and so are the names of the weights. (torchvision prints half of these costs: those of 16 frames.)

NOTE: where a map is narrower than a window, each place takes the bias of another pair of places than in a whole window,
as in the authors' code.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_of, ranged, sized
from .base import Clip, ModelConfig, VideoModel

HEAD = 32  # channels of a head
Triple = tuple[int, int, int]  # in time, height and width
SIZES = {  # (width of the first stage, blocks of each stage, the authors' stochastic depth; torchvision has 0.1)
    "tiny": (32, (2, 2, 2, 1), 0.0),  # ours, for scale=tiny; the authors' 'tiny' is t
    "t": (96, (2, 2, 6, 2), 0.1),
    "s": (96, (2, 2, 18, 2), 0.2),
    "b": (128, (2, 2, 18, 2), 0.3),
}


@dataclass
class Config(ModelConfig):
    """Everything that defines a Video Swin Transformer."""

    name: str = "swin3d"
    size: str = one_of("t", tuple(SIZES), size=True)
    window_size: list[int] = sized([8, 7, 7])  # patches in time, height and width
    stochastic_depth: float | None = ranged(
        None, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0. null: that of SIZES
    # Factor on the classifier's learning rate: the authors' backbone, from image weights, has a tenth of its rate.
    head_rate: float = ranged(10.0, 0, above=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.window_size) != 3 or min(self.window_size) < 1:
            raise ValueError(f"window_size={list(self.window_size)}: three whole numbers from 1 on are allowed")

    def build(self, clip: Clip, num_classes: int) -> "Swin3D":
        """Return a Video Swin Transformer for such clips."""
        return Swin3D(self, clip, num_classes)


class Swin3D(VideoModel):
    """Normalised clips (B, 3, T, H, W) to logits (B, num_classes).

    Positions are relative, within a window, so clips may have any size: what patches and windows lack is filled up with
    zeros, as in the authors' code.
    """

    no_decay = ("relative_position_bias_table",)

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        from torchvision.models.video.swin_transformer import SwinTransformer3d

        super().__init__()
        self.config, self.clip = config, clip
        width, depths, rate = SIZES[config.size]
        # torchvision draws the weights: linear layers and bias tables with std 0.02.
        network = SwinTransformer3d(
            patch_size=[2, 4, 4],
            embed_dim=width,
            depths=list(depths),
            num_heads=[width * 2**stage // HEAD for stage in range(len(depths))],
            window_size=list(config.window_size),
            stochastic_depth_prob=rate if config.stochastic_depth is None else config.stochastic_depth,
            num_classes=num_classes,
        )
        self.patch_embed = network.patch_embed
        self.features = network.features
        self.norm = network.norm
        self.head = network.head
        self.lr_scale = {} if config.head_rate == 1 else {"head": config.head_rate}
        for block in self.units():
            block.attn = WindowAttention(block.attn)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.norm(self.features(self.patch_embed(clip)))  # (B, T/2, H/32, W/32, C)
        return self.head(x.mean((1, 2, 3)))

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return [block for stage in self.features[::2] for block in stage]


class WindowAttention(nn.Module):
    """torchvision's ShiftedWindowAttention3d with its layers, by PyTorch's fused attention.

    Self-attention in each window of a map, (B, T, H, W, C) -> the same. The windows of every second block are shifted
    by half of their size; what comes from the other end of the map is masked.
    """

    relative_position_index: Tensor  # (n, n): the row of the table for two places of a whole window

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.window_size, self.shift_size = attention.window_size, attention.shift_size
        self.num_heads: int = attention.num_heads
        self.qkv, self.proj = attention.qkv, attention.proj
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", attention.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        grid = triple(x.shape[1:4])
        # A map that is no larger than a window on an axis is one window there.
        window = triple(min(w, n) for w, n in zip(self.window_size, grid, strict=True))
        shift = triple(s if n > w else 0 for s, n, w in zip(self.shift_size, grid, self.window_size, strict=True))
        t, h, w = (-n % size for n, size in zip(grid, window, strict=True))
        x = F.pad(x, (0, 0, 0, w, 0, h, 0, t))
        full = triple(x.shape[1:4])
        if any(shift):
            x = x.roll([-s for s in shift], (1, 2, 3))
        q, k, v = self.qkv(into_windows(x, window)).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.bias(q.shape[3])
        if any(shift):
            # Each window has a mask of its own: windows and heads are the heads of one attention.
            mask = (bias + beyond(full, window, shift, x.device).to(bias.dtype)[:, None] * -100).flatten(0, 1)
            x = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=mask[None])
            x = x.unflatten(1, (-1, self.num_heads))
        else:
            x = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=bias[None])
            x = x.unflatten(0, q.shape[:2])
        x = out_of_windows(self.proj(x.transpose(2, 3).flatten(3)), window, full)
        if any(shift):
            x = x.roll(shift, (1, 2, 3))
        return x[:, : grid[0], : grid[1], : grid[2]]

    def bias(self, n: int) -> Tensor:
        """Return what relative positions add before the softmax between n places of a window, (heads, n, n)."""
        rows = self.relative_position_bias_table[self.relative_position_index[:n, :n].flatten()]
        return rows.view(n, n, self.num_heads).permute(2, 0, 1)


def into_windows(x: Tensor, window: Triple) -> Tensor:
    """(B, T, H, W, C) -> (B, number of windows, places of a window, C)."""
    (_, T, H, W, _), (t, h, w) = x.shape, window
    x = x.unflatten(3, (W // w, w)).unflatten(2, (H // h, h)).unflatten(1, (T // t, t))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def out_of_windows(x: Tensor, window: Triple, grid: Triple) -> Tensor:
    """(B, number of windows, places of a window, C) -> (B, T, H, W, C), T x H x W being the grid."""
    (T, H, W), (t, h, w) = grid, window
    x = x.unflatten(2, window).unflatten(1, (T // t, H // h, W // w))
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def beyond(grid: Triple, window: Triple, shift: Triple, device: torch.device) -> Tensor:
    """Return whether two places of a window lie at opposite ends of the map, which was rolled by the shift.

    Bool, (number of windows, n, n).
    """
    region = torch.zeros(1, *grid, 1, dtype=torch.int64, device=device)
    for axis, (n, w, s) in enumerate(zip(grid, window, shift, strict=True)):
        at = torch.arange(n, device=device)
        part = (at >= n - w).long() + (at >= n - s).long()
        region = 3 * region + part.view(-1, *[1] * (3 - axis))
    places = into_windows(region, window)[0, :, :, 0]
    return places[:, :, None] != places[:, None]


def triple(numbers: Iterable[int]) -> Triple:
    """Return three numbers, in time, height and width."""
    t, h, w = numbers
    return t, h, w
