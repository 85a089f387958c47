"""What vision transformers share: layers, the clips that patches fill, and the names and shapes of published ViTs."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Clip
from ..positions import square_grid
from ..published import Renames, refuse_parts

PATCH = 16  # pixels, height and width
RATIO = 4  # of the width between the two feed-forward layers to the width

# Names of a ViT of any form -> timm's. Queries, keys and values may be three layers: `attn.query`, `key`, `value`.
VIT: Renames = (
    # transformers' ViT, ViViT and TimeSformer: as in its files, and as its newer classes have them in memory
    (r"^(vit|vivit|timesformer)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(?=\d)", "blocks."),
    (r"\.attention\.attention\.(query|key|value|qkv)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    # torchvision's
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.(0|linear_1)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.(3|linear_2)\.", r"\1.mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def check_patches(clip: Clip, frames: int = 1) -> None:
    """Raise ValueError if patches of `frames` x 16 x 16 do not fill a clip, or a test's crop is not the training's."""
    if clip.T % frames:
        raise ValueError(f"T={clip.T}: multiples of {frames} are allowed, the frames of a patch")
    if clip.crop % PATCH:
        raise ValueError(f"crop={clip.crop}: multiples of {PATCH} are allowed, the side of a patch")
    if clip.view_crop != clip.crop:
        raise ValueError(
            f"clip.test_crop={clip.test_crop}: each patch has its position, so crop={clip.crop} alone is allowed"
        )


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError if the heads do not share the width evenly."""
    if width % heads:
        raise ValueError(f"heads={heads}: width {width} does not divide into {heads} heads")


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with each `query`, `key` and `value` as one `qkv` of three times the rows."""
    joined = dict(state)
    for name in state:
        layer, _, part = name.rpartition(".query.")
        names = [f"{layer}.{x}.{part}" for x in ("query", "key", "value")]
        if layer and all(n in state and state[n].shape == state[name].shape and state[n].dim() for n in names):
            joined[f"{layer}.qkv.{part}"] = torch.cat([joined.pop(n) for n in names])
    return joined


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with each `qkv` as a `query`, a `key` and a `value`, which have a third of the rows each."""
    split = dict(state)
    for name in state:
        layer, _, part = name.rpartition(".qkv.")
        if layer and state[name].dim() and len(state[name]) % 3 == 0:
            rows = split.pop(name).tensor_split(3)
            split |= {f"{layer}.{x}.{part}": t for x, t in zip(("query", "key", "value"), rows, strict=True)}
    return split


def of_an_image(state: Mapping[str, Tensor], patches: str) -> bool:
    """Return whether weights are an image ViT's, whose patches have no axis of time.

    Raises:
        ValueError: if its blocks scale their branches, or its patches have another side; one line.
    """
    weight = state.get(f"{patches}.weight")
    if weight is None or weight.dim() != 4:
        return False
    for scale in (".ls1.", ".lambda_1", ".layer_scale1."):
        refuse_parts(state, scale, "a scale of a branch")
    if weight.shape[-2:] != (PATCH, PATCH):
        side = " x ".join(map(str, weight.shape[-2:]))
        raise ValueError(f"another network: {patches}.weight is of patches of {side} pixels, here {PATCH} x {PATCH}")
    return True


def without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an image's weights with a name for its classifier that is no model's, so that it stays in the file."""
    return {f"image.{name}" if name.startswith("head.") else name: t for name, t in state.items()}


def on_grid(positions: Tensor, places: int) -> Tensor:
    """Return an image's positions (1, 1 + n, C), the class token's first, interpolated to so many places.

    Raises:
        ValueError: if the n are not a square grid; one line.
    """
    if positions.dim() != 3 or len(positions) != 1:
        raise ValueError(f"positions of an image: {tuple(positions.shape)}, where (1, 1 + n, channels) is needed")
    if positions.shape[1] == 1 + places:
        return positions
    try:
        return square_grid(1, 1)(positions, torch.Size([1, 1 + places, positions.shape[2]]))
    except ValueError as error:
        raise ValueError(f"positions of an image: {error}") from None


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(C / heads)) v, head by head: (L, n, C), (L, m, C), (L, m, C) -> (L, n, C)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention in each of L sequences: (L, n, C) -> (L, n, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self.proj(attend(q, k, v, self.heads))


class MLP(nn.Module):
    """Two linear layers with an activation between: (..., C) -> (..., C)."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, RATIO * width)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole items of the batch with probability `rate`, in training only.

    What is kept is divided by its probability, if ``rescale``.
    """

    def __init__(self, rate: float, rescale: bool = True) -> None:
        super().__init__()
        self.rate, self.rescale = rate, rescale

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate if self.rescale else 1))
