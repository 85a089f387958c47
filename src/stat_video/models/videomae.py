"""VideoMAE: a plain ViT on tubelets of a clip, which its authors train first to fill in masked tubelets.

    Tong, Song, Wang, Wang. VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
    Pre-Training. NeurIPS 2022.

In no table of the STAT paper. ViT-B as its authors fine-tune it: 16 frames of 224 pixels, 180 GFLOPs a view, 86.5 M
parameters; the pre-training itself is not here. The layers are transformers', an extra: pip install
'stat-video[videomae]'. Its files load, and the authors' own, of the pre-training and after fine-tuning.

NOTE: the norms' epsilon is the authors' 1e-6; transformers has 1e-12, and 1e-5 before the classifier.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError, ranged
from .base import Clip, ModelConfig, VideoModel
from .parts.vit import PATCH, RATIO, StochasticDepth, check_heads, check_patches

TUBELET = 2  # frames


@dataclass
class Config(ModelConfig):
    """Everything that defines a VideoMAE."""

    name: str = "videomae"
    depth: int = ranged(12, 1, size=True)
    width: int = ranged(768, 1, size=True)
    heads: int = ranged(12, 1, size=True)
    stochastic_depth: float = ranged(
        0.1, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0
    # Factor on the learning rate from a block to the one before it; the last one's is the classifier's times this.
    layer_decay: float = ranged(0.75, 0, 1, above=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads)

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the tubelets do not fill the clip, or a test's crop is not the training's."""
        check_patches(clip, TUBELET)

    def build(self, clip: Clip, num_classes: int) -> "VideoMAE":
        """Return a VideoMAE for such clips; InputError if transformers is not installed."""
        return VideoMAE(self, clip, num_classes)


class VideoMAE(VideoModel):
    """Normalised clips (B, 3, T, crop, crop) to logits (B, num_classes). The mean of all tokens is classified."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        # transformers
        (r"^videomae\.embeddings\.patch_embeddings\.projection\.", "patches."),
        (r"^videomae\.encoder\.layer\.", "blocks."),
        (r"^classifier\.", "head."),
        (r"\.attention\.attention\.q_bias$", ".attention.attention.query.bias"),  # before its version 5
        (r"\.attention\.attention\.v_bias$", ".attention.attention.value.bias"),
        # the authors
        (r"^encoder\.blocks\.", "blocks."),  # of the pre-training
        (r"^(encoder\.)?patch_embed\.proj\.", "patches."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.q_bias$", ".attention.attention.query.bias"),
        (r"\.attn\.v_bias$", ".attention.attention.value.bias"),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    )

    def __init__(self, config: Config, clip: Clip, num_classes: int) -> None:
        super().__init__()
        config.check(clip)
        self.config, self.clip = config, clip
        tokens = clip.T // TUBELET * (clip.crop // PATCH) ** 2
        self.patches = nn.Conv3d(3, config.width, (TUBELET, PATCH, PATCH), stride=(TUBELET, PATCH, PATCH))
        self.register_buffer("position", sines(tokens, config.width), persistent=False)
        self.blocks = nn.ModuleList(blocks(config))
        self.fc_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, num_classes)
        powers = {f"blocks.{i}": config.depth - i for i in range(config.depth)} | {"patches": config.depth + 1}
        self.lr_scale = {name: config.layer_decay**power for name, power in powers.items() if config.layer_decay != 1}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as the authors do; those of the classifier begin near zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.001)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, crop, crop), in training and in evaluation."""
        self.clip.check_input(clip)
        x = self.patches(clip).flatten(2).transpose(1, 2)  # (B, T/2 N, C)
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x.mean(1)))

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights in which queries, keys and values have a layer each; the authors' have one for all."""
        adapted = {}
        for name, tensor in state.items():
            block, joint, _ = name.partition(".attn.qkv.weight")
            if not joint:
                adapted[name] = tensor
                continue
            for part, weight in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                adapted[f"{block}.attention.attention.{part}.weight"] = weight
        return adapted


class Block(nn.Module):
    """The layers of transformers' VideoMAELayer, with stochastic depth, which that lacks: (B, n, C) -> (B, n, C)."""

    def __init__(self, layer: Any, rate: float) -> None:
        super().__init__()
        self.layernorm_before, self.attention = layer.layernorm_before, layer.attention
        self.layernorm_after, self.intermediate, self.output = layer.layernorm_after, layer.intermediate, layer.output
        self.stochastic_depth = StochasticDepth(rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attention(self.layernorm_before(x)))
        return x + self.stochastic_depth(self.output.dense(self.intermediate(self.layernorm_after(x))))


def blocks(config: Config) -> list[Block]:
    """Return the blocks, of transformers' layers."""
    try:
        from transformers import VideoMAEConfig
        from transformers.models.videomae.modeling_videomae import VideoMAELayer
    except ImportError as error:
        raise InputError("model=videomae: needs transformers; pip install 'stat-video[videomae]'") from error
    keys: dict[str, Any] = {
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": RATIO * config.width,
        "layer_norm_eps": 1e-6,
        "attn_implementation": "sdpa",
    }
    settings = VideoMAEConfig(**keys)
    rates = [config.stochastic_depth * i / max(config.depth - 1, 1) for i in range(config.depth)]
    return [Block(VideoMAELayer(settings), rate) for rate in rates]


def sines(tokens: int, width: int) -> Tensor:
    """Return the positions (1, n, C): in channels 2i and 2i + 1 the sine and cosine of n / 10000^(2i / C)."""
    pairs = torch.arange(width, dtype=torch.float64).div(2, rounding_mode="floor")
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * pairs / width)
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos())[None].float()
