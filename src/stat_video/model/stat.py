"""STAT, the Shrinking Temporal Attention Transformer.

    Li, Xiong, Han, Guo. Shrinking Temporal Attention in Transformers for Video Action Recognition. AAAI 2022.

The paper's layer table is missing; the defaults are recovered from its printed GFLOPs (README, 'What is recovered').
`STATConfig` says what a model is, `STAT` builds it. A smaller one is a few arguments:

    STAT(STATConfig(T=16, crop=48, widths=(24, 48, 96, 192), depths=(1, 1, 2, 1), heads=(1, 1, 2, 4)))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .aggregation import AggregationLayer, TemporalAggregation
from .attention import MODULES, STA, Grid, PoolCA, check_modules
from .block import STABlock
from .stem import Conv, Stem

SPATIAL_TOKENS = ("class_token", "avg_pool")
STAGE_STRIDES = (4, 8, 16, 32)  # spatial stride of each stage of the pyramid, as in MViT-B

_K3, _HALVE = (3, 3, 3), (1, 2, 2)


def _conv3(widths: Sequence[int]) -> tuple[Conv, ...]:
    w = widths[1]
    return Conv(_K3, (2, 2, 2), w // 3), Conv(_K3, _HALVE, w // 2), Conv(_K3, _HALVE, w)


# Table 5. A stem is convolutions and the stage of the pyramid that its tokens enter: each stem that reaches a coarser
# grid replaces the stage that worked at the finer one.
STEMS: dict[str, tuple[Callable[[Sequence[int]], tuple[Conv, ...]], int]] = {
    "conv1": (lambda w: (Conv((3, 7, 7), (2, 4, 4), w[0]),), 0),
    "conv3": (_conv3, 1),
    "conv5": (lambda w: (*_conv3(w), Conv(_K3, _HALVE, w[2]), Conv(_K3, (1, 1, 1), w[2])), 2),
    # NOTE: the strides as Table 5 prints them multiply to (4, 32, 32) and leave 15.5 GMACs where the text says that
    # the overhead stays the same, so `conv5` above is the default reading of that row.
    "conv5_printed": (lambda w: (*_conv3(w), Conv(_K3, (2, 2, 2), w[2]), Conv(_K3, _HALVE, w[2])), 2),
}


@dataclass(frozen=True)
class STATConfig:
    """Everything that defines a STAT; checks itself and raises ValueError with one line.

    ``depths``, ``widths``, ``heads`` and ``kv_strides`` describe a pyramid of four stages at 1/4, 1/8, 1/16 and 1/32
    of the frame (MViT-B's); the stem says which of them comes first: `conv3` enters at 1/8 and leaves the first out.
    """

    T: int = 16  # frames of a clip
    crop: int = 224  # height and width of a clip, pixels
    modules: tuple[str, ...] = MODULES  # CA with any of SA, LA (Table 1)
    t_o: int = 3  # window of short-term attention, in frames after the stem (Table 2)
    spatial_token: str = "class_token"  # or avg_pool (Table 3)
    l_ta: int = 1  # temporal aggregation layers, 0 = mean (Table 4)
    stem: str | tuple[Conv, ...] = "conv3"  # a name of STEMS (Table 5), or convolutions
    depths: tuple[int, ...] = (1, 2, 11, 2)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    kv_strides: tuple[int, ...] = (8, 4, 2, 1)  # of P_CA, relative to the grid that enters a block
    sa_kernel: int = 3  # of P_SA
    sa_stride: int = 2
    mlp_ratio: float = 4.0
    num_classes: int = 400
    stochastic_depth: float = 0.2  # of the last block; grows linearly from 0
    head_dropout: float = 0.5
    gradient_checkpointing: bool = False  # recompute each block in the backward pass

    def __post_init__(self) -> None:
        for name in ("modules", "depths", "widths", "heads", "kv_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.stem, str):
            object.__setattr__(self, "stem", tuple(_as_conv(c) for c in self.stem))
        check_modules(self.modules, self.t_o)
        self._check_stages()
        self._check_clip()

    def _check_stages(self) -> None:
        if isinstance(self.stem, str) and self.stem not in STEMS:
            raise ValueError(f"stem={self.stem}: allowed are {', '.join(STEMS)} or a list of convolutions")
        for name in ("depths", "widths", "heads", "kv_strides"):
            values = getattr(self, name)
            if len(values) != len(STAGE_STRIDES) or min(values) < 1:
                raise ValueError(
                    f"{name}={list(values)}: one whole number from 1 on for each of the stages at "
                    f"1/{', 1/'.join(map(str, STAGE_STRIDES))} of the frame"
                )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"heads={list(self.heads)}: width {width} does not divide into {heads} heads")
        if self.convs[-1].channels != self.widths[self.first_stage]:
            raise ValueError(
                f"stem: its last convolution has {self.convs[-1].channels} channels, but the stage that it enters has "
                f"width {self.widths[self.first_stage]}"
            )
        if self.spatial_token not in SPATIAL_TOKENS:
            raise ValueError(f"spatial_token={self.spatial_token}: allowed are {', '.join(SPATIAL_TOKENS)}")
        at_least: dict[str, float] = {"l_ta": 0, "num_classes": 1, "sa_kernel": 1, "sa_stride": 1, "mlp_ratio": 0.01}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: allowed is {least} or more")
        if self.sa_kernel % 2 == 0:
            raise ValueError(f"sa_kernel={self.sa_kernel}: odd numbers are allowed")
        for name in ("stochastic_depth", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: allowed is 0 to below 1")

    def _check_clip(self) -> None:
        t, h, w = self.stem_stride
        if t > self.T or self.T % t:
            raise ValueError(f"T={self.T}: the stem halves time, so multiples of its temporal stride {t} are allowed")
        if h != w or self.crop < h or self.crop % h:
            raise ValueError(f"crop={self.crop}: multiples of the stem's spatial stride {h} x {w} are allowed")

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The stem's convolutions."""
        return STEMS[self.stem][0](self.widths) if isinstance(self.stem, str) else self.stem

    @property
    def stem_stride(self) -> tuple[int, int, int]:
        """Strides of the whole stem in time, height and width."""
        t = h = w = 1
        for conv in self.convs:
            t, h, w = t * conv.stride[0], h * conv.stride[1], w * conv.stride[2]
        return t, h, w

    @property
    def first_stage(self) -> int:
        """Index of the stage of the pyramid that the stem's tokens enter."""
        if isinstance(self.stem, str):
            return STEMS[self.stem][1]
        stride = self.stem_stride[1]
        if stride not in STAGE_STRIDES:
            raise ValueError(f"stem: its spatial strides multiply to {stride}; allowed are {STAGE_STRIDES}")
        return STAGE_STRIDES.index(stride)

    @property
    def n_t(self) -> int:
        """Frames after the stem."""
        return self.T // self.stem_stride[0]

    @property
    def grid(self) -> Grid:
        """Patch tokens of a frame after the stem, (n_h, n_w)."""
        return self.crop // self.stem_stride[1], self.crop // self.stem_stride[2]


def _as_conv(conv: Any) -> Conv:
    """A Conv from a Conv, a (kernel, stride, channels) list or a mapping with those keys."""
    try:
        kernel, stride, channels = (conv[k] for k in Conv._fields) if hasattr(conv, "keys") else conv
        conv = Conv(_triple(kernel), _triple(stride), int(channels))
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"stem: {conv} is not a convolution; allowed is {{kernel, stride, channels}}") from None
    if min(conv.stride) < 1 or conv.channels < 1 or any(k < 1 or k % 2 == 0 for k in conv.kernel):
        raise ValueError(f"stem: {conv}: kernels are odd, strides and channels at least 1")
    return conv


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    t, h, w = (int(v) for v in values)
    return t, h, w


class STAT(nn.Module):
    """Clips (B, 3, T, crop, crop), normalised floats, to logits (B, num_classes)."""

    def __init__(self, config: STATConfig = STATConfig()) -> None:
        super().__init__()
        self.config = c = config
        dim = c.widths[c.first_stage]
        self.stem = Stem(c.convs)
        has_class_token = c.spatial_token == "class_token"
        self.class_token = nn.Parameter(torch.zeros(1, 1, 1, dim)) if has_class_token else None
        self.pos_spatial = nn.Parameter(torch.zeros(1, 1, has_class_token + c.grid[0] * c.grid[1], dim))
        self.pos_temporal = nn.Parameter(torch.zeros(1, c.n_t, 1, dim))
        blocks = self._blocks()
        if has_class_token:  # the aggregation reads the class tokens, so the last block makes nothing else
            blocks[-1].sta.class_queries_only = True
            if blocks[-1].sta.pool_q is not None:
                blocks[-1].sta.pool_q.requires_grad_(False)  # without use, but a weight of the layout
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(c.widths[-1])
        self.aggregation = TemporalAggregation(c.widths[-1], c.heads[-1], c.l_ta, c.mlp_ratio)
        self.head_dropout = nn.Dropout(c.head_dropout)
        self.head = nn.Linear(c.widths[-1], c.num_classes)
        self.reset_parameters()

    def _blocks(self) -> list[STABlock]:
        c, grid = self.config, self.config.grid
        stages = [s for s in range(c.first_stage, len(c.depths)) for _ in range(c.depths[s])]
        blocks = []
        for i, stage in enumerate(stages):
            enters_stage = i > 0 and stages[i - 1] != stage
            next_stage = stages[min(i + 1, len(stages) - 1)]
            sta = STA(
                c.widths[stage],
                c.heads[stage],
                grid,
                modules=c.modules,
                t_o=c.t_o,
                q_stride=2 if enters_stage else 1,
                kv_stride=c.kv_strides[stage],
                sa_kernel=c.sa_kernel,
                sa_stride=c.sa_stride,
                class_token=self.class_token is not None,
            )
            rate = c.stochastic_depth * i / max(len(stages) - 1, 1)
            blocks.append(STABlock(sta, c.widths[stage], c.widths[next_stage], c.mlp_ratio, rate))
            grid = sta.out_grid
        return blocks

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew; the paper is silent on how.

        NOTE: MViT draws linear weights with std 0.02 whatever their width. Here the std is 0.02 at the paper's last
        width, 768, and goes with 1 / sqrt(inputs) below it, so that a narrow STAT starts like a wide one. Poolings
        start near plain subsampling, the stem as He et al. propose. With MViT's values throughout, a tiny STAT stays
        at chance on the motion videos for more than 1,000 steps. Values and projections of the aggregation start near
        the identity: x_cls begins near the mean of the frame tokens, which is what l_ta = 0 makes of them. With random
        ones a tiny STAT stays at chance on the probe for one to five epochs where l_ta > 0 (docs/log.md).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 * (768 / module.in_features) ** 0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PoolCA):
                nn.init.trunc_normal_(module.conv.weight, std=0.02)
                module.conv.weight[:, :, 1, 1, 1] += 1
        for layer in self.aggregation.layers:
            assert isinstance(layer, AggregationLayer)
            for weight in (layer.qkv.weight.chunk(3)[-1], layer.proj.weight):  # of the values, of the projection
                weight.diagonal().add_(1)
        for conv in self.stem.layers:
            assert isinstance(conv, nn.Conv3d)
            assert conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        for token in (self.class_token, self.pos_spatial, self.pos_temporal, self.aggregation.video_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, crop, crop) -> logits (B, num_classes), in training and in evaluation."""
        return self.head(self.head_dropout(self.aggregation(self.frame_tokens(clip))))

    def frame_tokens(self, clip: Tensor) -> Tensor:
        """One token a frame, normalised: (B, 3, T, crop, crop) -> (B, n_t, C)."""
        x = self.tokens(clip)
        for block in self.blocks:
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = self.norm(x)
        return x.mean(2) if self.class_token is None else x[:, :, 0]

    def tokens(self, clip: Tensor) -> Tensor:
        """What the first block gets: (B, 3, T, crop, crop) -> (B, n_t, S + n_h n_w, C), positions added."""
        c = self.config
        if tuple(clip.shape[1:]) != (3, c.T, c.crop, c.crop):
            raise ValueError(f"a clip of {tuple(clip.shape[1:])}; this STAT takes (3, {c.T}, {c.crop}, {c.crop})")
        x = self.stem(clip)  # (B, n_t, n_h n_w, C)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(*x.shape[:2], -1, -1), x], dim=2)
        return x + self.pos_spatial + self.pos_temporal
