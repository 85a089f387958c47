"""VidTr: a ViT whose attention is separable: over time, and on its result over space.

    Zhang, Li, Liu, Shuai, Zhu, Brattoli, Chen, Marsic, Tighe. VidTr: Video Transformer Without Convolutions. ICCV 2021.

Rows VidTr-16 and VidTr-32 of Table 6, which are VidTr-M 16x4 (T=16) and VidTr-L 32x2 (T=32); 88.7 and 91.1 M
parameters, which no text prints. It is a ViT-B, not the ViT-L that the table prints. The paper's pooling of frames is
that of the Compact VidTr, which is in no row. Written anew; files of the authors' (gluonmm) load, and image ViTs of
theirs, transformers, timm and torchvision.

NOTE: a view of 224 pixels takes 299.5 and 583.4 GFLOPs, not the printed 179 and 351. Of all parts the feed-forward
layers alone come nearest to the print, with 177.6 and 355.1 for the patches. The authors' code writes the projections
of its attention as plain products of tensors, which a counter of linear layers does not see.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.vit import MLP, PATCH, VIT, attend, check_heads, check_patches, join_qkv, of_an_image, on_grid, without_head
from .positions import along_time, square_grid, time_and_grid
from .published import Renames

# NOTE: of the authors' code: positions are added in every block to clips of so many frames, else in the first one.
POSITIONS_EVERYWHERE = 16


@dataclass
class Config(ModelConfig):
    """Everything that defines a VidTr."""

    name: str = "vidtr"
    depth: int = ranged(12, 1, size=True)
    width: int = ranged(768, 1, size=True)
    heads: int = ranged(12, 1, size=True)
    dropout: float = ranged(
        0.1, 0, 1, below=True, size=True, noise=True
    )  # of both attentions' weights and of all branches
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the patches do not fill the frames, or a test's crop is not the training's."""
        check_patches(clip)

    def build(self, clip: Clip, num_classes: int) -> "VidTr":
        """Return a VidTr for such clips."""
        return VidTr(self, clip, num_classes)


class VidTr(VideoModel):
    """Normalised clips (B, 3, T, crop, crop) to logits (B, num_classes).

    To the N patches of each of T frames come a class token of each frame, at place 0, and class tokens of all 1 + N
    places, as frame 0. The token of frame 0 and place 0 is the one that is classified.
    """

    no_decay = ("frame_class", "place_class", "position")
    renames: ClassVar[Renames] = (
        # the authors': trained files, and the ViT that they start from, `vit_inflate.pth`
        (r"^conv_stem\.", "patches."),
        (r"^cls_s$", "frame_class"),
        (r"^cls_t$", "place_class"),
        (r"^pos_embedding$", "position"),
        (r"^encoder\.layers\.(?=\d)", "blocks."),
        (r"^encoder\.norm\.", "norm."),
        (r"\.self_attn\.in_proj_", ".attention.qkv."),
        (r"\.self_attn\.out_proj\.", ".attention.proj."),
        (r"\.linear([12])\.", r".mlp.fc\1."),
        (r"^fc\.", "head."),
        # an image ViT of any other form
        *VIT,
        (r"^cls_token$", "cls"),
        (r"^pos_embed$", "position"),
        (r"^patch_embed\.proj\.", "patches."),
        (r"^(blocks\.\d+)\.attn\.", r"\1.attention."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        frames, places = 1 + clip.T, 1 + (clip.crop // PATCH) ** 2
        self.patches = nn.Conv3d(3, config.width, (1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.frame_class = nn.Parameter(torch.zeros(clip.T, 1, config.width))
        self.place_class = nn.Parameter(torch.zeros(1, places, config.width))
        self.position = nn.Parameter(torch.zeros(1, frames * places, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.width, num_classes)
        self.positions = {
            "frame_class": along_time(0),
            "place_class": square_grid(1, 1),
            "position": time_and_grid(frames, places, frame_tokens=1, place_tokens=1),
        }
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as the authors do, by Glorot's rule.

        NOTE: the authors' class tokens, positions and attention's biases have no first values but those of an ImageNet
        ViT. Here tokens and positions are drawn with ViT's std, 0.02.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight)
        for token in (self.frame_class, self.place_class, self.position):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, crop, crop), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.patches(clip).flatten(3).permute(0, 2, 3, 1)  # (B, T, N, C)
        x = torch.cat([self.frame_class.expand(x.shape[0], -1, -1, -1), x], dim=2)
        x = torch.cat([self.place_class.expand(x.shape[0], -1, -1, -1), x], dim=1)  # (B, 1 + T, 1 + N, C)
        for i, block in enumerate(self.blocks):
            x = block(x, self.position if i == 0 or self.clip.T == POSITIONS_EVERYWHERE else None)
        return self.head(self.head_dropout(self.norm(x[:, 0, 0])))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inflate an image ViT as the authors do; the classifier of images stays in the file.

        All tokens are copies of its class token, and all frames, that of the tokens included, have its positions.
        """
        state = join_qkv(state)
        if of_an_image(state, "patches") or "cls" in state:
            state = without_head(state)
        if "cls" in state and "position" in state:
            token, position, places = state.pop("cls"), state["position"], self.place_class.shape[1]
            if position.numel() > 8 * places * token.numel() or any("linear_temporal" in name for name in state):
                raise ValueError(
                    "another network: one class token and positions of a whole clip, as of the Compact VidTr"
                )
            if token.shape != self.place_class[:, :1].shape:
                raise ValueError(
                    f"these weights do not fit: cls {tuple(token.shape)}, here (1, 1, {self.config.width})"
                )
            state["frame_class"], state["place_class"] = token.repeat(self.clip.T, 1, 1), token.repeat(1, places, 1)
            state["position"] = on_grid(position, places - 1).repeat(1, 1 + self.clip.T, 1)
        return super().adapt(state)

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)


class Block(nn.Module):
    """Separable attention and an MLP, each on the normalised tokens and added to them: (B, F, P, C) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SeparableAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, F.relu, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor | None) -> Tensor:
        y = self.norm1(x)
        if position is not None:
            y = y + position.view_as(y[:1])
        x = x + self.dropout(self.attention(y))
        return x + self.dropout(self.mlp(self.norm2(x)))


class SeparableAttention(nn.Module):
    """Attention over the frames of a place; what it returns are the values of attention over the places of a frame.

    Both have the same queries and keys. NOTE: the values have the positions too; the authors' code ignores those
    without, which it is given.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = nn.Dropout(dropout)  # of the weights, within the fused attention
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, P, C) -> (B, F, P, C)."""
        dropout = self.dropout.p if self.training else 0.0
        q, k, v = self.qkv(x).chunk(3, dim=3)
        places = [y.transpose(1, 2).flatten(0, 1) for y in (q, k, v)]  # (B P, F, C)
        over_time = attend(places[0], places[1], places[2], self.heads, dropout)
        v = over_time.unflatten(0, (x.shape[0], -1)).transpose(1, 2)  # (B, F, P, C)
        over_space = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), self.heads, dropout)
        return self.proj(over_space).unflatten(0, x.shape[:2])
