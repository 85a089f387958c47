"""ViViT: a ViT on tubelets of a clip, with joint attention over space and time or an encoder for each.

    Arnab, Dehghani, Heigold, Sun, Lucic, Schmid. ViViT: A Video Vision Transformer. ICCV 2021.

Rows ViViT-16 of Tables 6 and 7, which are ViViT-L/16x2 of 32 frames, that is of 16 tubelets in time. Table 6: joint
attention, 1,446 GFLOPs a view of 224 pixels, 307.5 M parameters. Table 7: the factorised encoder with four layers in
time (model.temporal_depth=4), 991 GFLOPs, 354.7 M. Written anew; files of transformers load into the joint model,
and image ViTs of transformers, timm and torchvision into both.

NOTE: all figures that the authors print are 0.3 to 0.9 % above the multiply-adds of the matrix products.
NOTE: the accuracy printed for SSv2, 65.4 / 89.8, is of the paper's first version; the second has 65.9 / 89.9.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.vit import (
    MLP,
    PATCH,
    VIT,
    StochasticDepth,
    attend,
    check_heads,
    check_patches,
    of_an_image,
    on_grid,
    split_qkv,
    without_head,
)
from .positions import along_time, square_grid, time_and_grid
from .published import Renames

TUBELET = 2  # frames


@dataclass
class Config(ModelConfig):
    """Everything that defines a ViViT."""

    released = ({"depth": 12, "width": 768, "heads": 12}, {"depth": 24, "width": 1024, "heads": 16})  # B and L

    name: str = "vivit"
    temporal_depth: int = ranged(0, 0)  # blocks of the factorised model's encoder of time; 0: joint attention
    depth: int = ranged(24, 1, size=True)
    width: int = ranged(1024, 1, size=True)
    heads: int = ranged(16, 1, size=True)
    stochastic_depth: float = ranged(
        0.0, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the tubelets do not fill the clip, or a test's crop is not the training's."""
        check_patches(clip, TUBELET)

    def build(self, clip: Clip, num_classes: int) -> "ViViT":
        """Return a ViViT for such clips."""
        return ViViT(self, clip, num_classes)


class ViViT(VideoModel):
    """Normalised clips (B, 3, T, crop, crop) to logits (B, num_classes)."""

    no_decay = ("class_token", "position")
    new_parts = ("time_encoder",)
    # transformers' ViViT, which is the joint model alone, and an image ViT of any form
    renames: ClassVar[Renames] = (
        *VIT,
        (r"^cls_token$", "encoder.class_token"),
        (r"^pos_embed$", "encoder.position"),
        (r"^patch_embed\.proj\.", "patches."),
        (r"^(blocks|norm)\.", r"encoder.\1."),
        (r"^(encoder\.blocks\.\d+)\.attn\.", r"\1.attention."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        frames, places = clip.T // TUBELET, (clip.crop // PATCH) ** 2
        self.patches = nn.Conv3d(3, config.width, (TUBELET, PATCH, PATCH), stride=(TUBELET, PATCH, PATCH))
        tokens = places if config.temporal_depth else frames * places
        self.encoder = Encoder(tokens, config, config.depth)
        self.time_encoder = Encoder(frames, config, config.temporal_depth) if config.temporal_depth else None
        self.head = nn.Linear(config.width, num_classes)
        if config.temporal_depth:
            self.positions = {"encoder.position": square_grid(1, 1), "time_encoder.position": along_time(1, 1)}
        else:
            self.positions = {"encoder.position": time_and_grid(frames, places, first=1)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as the authors do: Glorot's rule, and zero for class tokens and the classifier."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Encoder):
                nn.init.normal_(module.position, std=0.02)
        nn.init.kaiming_normal_(self.patches.weight, nonlinearity="linear")
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, crop, crop), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.patches(clip).flatten(3).permute(0, 2, 3, 1)  # (B, T / 2, N, C)
        if self.time_encoder is None:
            return self.head(self.encoder(x.flatten(1, 2)))
        slices = self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # (B, T / 2, C)
        return self.head(self.time_encoder(slices))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give an image ViT's patches to the central frame of each tubelet, and its positions to all frames.

        As the paper does: all other frames of a tubelet get zeros, and the factorised model's encoder of time is new.
        The classifier of images stays in the file.
        """
        state = split_qkv(state)
        if of_an_image(state, "patches"):
            state, weight = without_head(state), state["patches.weight"]
            tubelets = weight.new_zeros(*weight.shape[:2], TUBELET, *weight.shape[2:])
            tubelets[:, :, TUBELET // 2] = weight
            state["patches.weight"] = tubelets
            if "encoder.position" in state and self.time_encoder is None:
                frames, places = self.clip.T // TUBELET, (self.clip.crop // PATCH) ** 2
                token, grid = on_grid(state["encoder.position"], places).split([1, places], dim=1)
                state["encoder.position"] = torch.cat([token, grid.repeat(1, frames, 1)], dim=1)
        elif (file := state.get("patches.weight")) is not None and file.dim() == 5 and file.shape[2] != TUBELET:
            raise ValueError(
                f"another network: patches.weight is of tubelets of {file.shape[2]} frames, here {TUBELET}"
            )
        return super().adapt(state)

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return [block for m in self.modules() if isinstance(m, Encoder) for block in m.blocks]


class Encoder(nn.Module):
    """A ViT from n tokens on: sequences (L, n, C) to what their class token becomes, (L, C)."""

    def __init__(self, tokens: int, config: Config, depth: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.position = nn.Parameter(torch.zeros(1, 1 + tokens, config.width))
        rates = [config.stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(config.width, config.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Block(nn.Module):
    """Attention and an MLP, each on the normalised tokens and added to them: (L, n, C) -> (L, n, C).

    NOTE: the authors' stochastic depth does not divide what it keeps by its probability.
    """

    def __init__(self, width: int, heads: int, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, partial(F.gelu, approximate="tanh"))  # which is JAX's GELU
        self.stochastic_depth = StochasticDepth(rate, rescale=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attention(self.norm1(x)))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention, (L, n, C) -> the same; queries, keys and values have a layer each, as in released weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.query(x), self.key(x), self.value(x), self.heads))
