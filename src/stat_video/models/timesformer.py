"""TimeSformer: a ViT whose blocks attend over time, then over space.

    Bertasius, Wang, Torresani. Is Space-Time Attention All You Need for Video Understanding? ICML 2021.

Rows TimeSformer-96 of Tables 6 and 7, which are TimeSformer-L with divided attention: 96 frames, 2,380 GFLOPs a view of
224 pixels, 121.6 M parameters (SSv2: 121.5 M). It is a ViT-B, not the ViT-L that the tables print. Written anew; the
names of weights are the authors', which are timm's of a ViT, and files of transformers and torchvision load too.

NOTE: on SSv2 the paper's L has 96 frames, which the row's cost is of; the released config and weights have 64.
"""

from dataclasses import dataclass
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
    Attention,
    StochasticDepth,
    check_heads,
    check_patches,
    join_qkv,
    of_an_image,
    without_head,
)
from .positions import along_time, square_grid
from .published import Renames


@dataclass
class Config(ModelConfig):
    """Everything that defines a TimeSformer."""

    name: str = "timesformer"
    depth: int = ranged(12, 1, size=True)
    width: int = ranged(768, 1, size=True)
    heads: int = ranged(12, 1, size=True)
    stochastic_depth: float = ranged(
        0.1, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the patches do not fill the frames, or a test's crop is not the training's."""
        check_patches(clip)

    def build(self, clip: Clip, num_classes: int) -> "TimeSformer":
        """Return a TimeSformer for such clips."""
        return TimeSformer(self, clip, num_classes)


class TimeSformer(VideoModel):
    """Normalised clips (B, 3, T, crop, crop) to logits (B, num_classes), of the class token."""

    no_decay = ("cls_token", "pos_embed", "time_embed")
    new_parts = ("temporal_fc", "time_embed")
    renames: ClassVar[Renames] = (
        (r"^model\.", ""),  # the authors' files
        # transformers' TimeSformer
        (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
        (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
        (r"\.temporal_layernorm\.", ".temporal_norm1."),
        (r"\.temporal_dense\.", ".temporal_fc."),
        (r"^(timesformer\.)?embeddings\.time_embeddings$", "time_embed"),
        # and what it shares with an image ViT of any form
        *VIT,
        (r"^patch_embed\.proj\.", "patch_embed."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        places = (clip.crop // PATCH) ** 2
        self.patch_embed = nn.Conv2d(3, config.width, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, config.width))
        self.time_embed = nn.Parameter(torch.zeros(1, clip.T, config.width))
        rates = [config.stochastic_depth * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.width, config.heads, clip.T, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, num_classes)
        self.positions = {"pos_embed": square_grid(1, 1), "time_embed": along_time(1)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as the authors do; time's positions and projections start at zero, so that a ViT stays one.

        NOTE: the authors' std is 0.02 at their width of 768. It goes with 1 / sqrt(width), so that a narrow TimeSformer
        starts like a wide one.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 * (768 / self.config.width) ** 0.5)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.zeros_(block.temporal_fc.weight)  # type: ignore[union-attr, arg-type]
        for token in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, crop, crop), in training and in evaluation."""
        self.clip.check_input(clip)
        frames = clip.transpose(1, 2).flatten(0, 1)
        x = self.patch_embed(frames).flatten(2).transpose(1, 2)  # (B T, N, C)
        x = x.unflatten(0, (-1, self.clip.T)) + self.pos_embed[:, None, 1:] + self.time_embed[:, :, None]
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        x = torch.cat([class_token, x.flatten(1, 2)], dim=1)  # (B, 1 + T N, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give a ViT's attention over space, and the norm before it, to time too, as the authors do.

        The classifier of images stays in the file.
        """
        state = join_qkv(state)
        if not any(".temporal_attn." in name for name in state) and of_an_image(state, "patch_embed"):
            state = without_head(state)
        for name in [name for name in state if name.startswith("blocks.")]:
            over_time = name.replace(".attn.", ".temporal_attn.").replace(".norm1.", ".temporal_norm1.")
            if over_time not in state:
                state[over_time] = state[name].clone()
        return super().adapt(state)

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)


class Block(nn.Module):
    """Attention over the T frames of each place, over the class token and the N places of each frame, and an MLP.

    The class token takes no part in time. In space each frame has a copy of it, and it gets the mean of their results.
    """

    def __init__(self, width: int, heads: int, T: int, rate: float) -> None:
        super().__init__()
        self.T = T
        self.temporal_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.temporal_attn = Attention(width, heads)
        self.temporal_fc = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, F.gelu)
        self.stochastic_depth = StochasticDepth(rate)  # of single places in time, of single frames in space

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + T N, C), the class token first and then frame by frame -> the same."""
        token, x = x.tensor_split([1], dim=1)
        x = x.unflatten(1, (self.T, -1))  # (B, T, N, C)
        x = x + self.over_time(x)
        seen = self.over_space(token, x)
        token = token + seen[:, :, 0].mean(1, keepdim=True)
        x = torch.cat([token, (x + seen[:, :, 1:]).flatten(1, 2)], dim=1)
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))

    def over_time(self, x: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        places = x.transpose(1, 2)
        seen = self.temporal_attn(self.temporal_norm1(places.flatten(0, 1)))
        return self.temporal_fc(self.stochastic_depth(seen)).unflatten(0, places.shape[:2]).transpose(1, 2)

    def over_space(self, token: Tensor, x: Tensor) -> Tensor:
        """(B, 1, C), (B, T, N, C) -> (B, T, 1 + N, C)."""
        frames = torch.cat([token[:, None].expand(-1, self.T, -1, -1), x], dim=2)
        seen = self.attn(self.norm1(frames.flatten(0, 1)))
        return self.stochastic_depth(seen).unflatten(0, frames.shape[:2])
