"""STAT, the Shrinking Temporal Attention Transformer.

    Li, Xiong, Han, Guo. Shrinking Temporal Attention in Transformers for Video Action Recognition. AAAI 2022.

The paper's layer table is missing; the defaults are recovered from its printed GFLOPs (docs/recovered.md).
`Config` says what a model is, `STAT` builds it. A smaller one is a few arguments:

    STAT(Config(widths=[24, 48, 96, 192], depths=[1, 1, 2, 1], heads=[1, 1, 2, 4]), Clip(T=16, crop=48), num_classes=12)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import one_of, ranged, sized
from ..base import Clip, ModelConfig, Panel, VideoModel
from ..positions import along_time, square_grid
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


@dataclass
class Config(ModelConfig):
    """Everything that defines a STAT; checks itself and raises ValueError with one line.

    ``depths``, ``widths``, ``heads`` and ``kv_strides`` describe a pyramid of four stages at 1/4, 1/8, 1/16 and 1/32
    of the frame (MViT-B's); the stem says which of them comes first: `conv3` enters at 1/8 and leaves the first out.
    """

    name: str = "stat"
    modules: list[str] = field(default_factory=lambda: list(MODULES))  # CA with any of SA, LA (Table 1)
    t_o: int = 3  # window of short-term attention, in frames after the stem (Table 2)
    spatial_token: str = one_of("class_token", SPATIAL_TOKENS)  # Table 3
    l_ta: int = ranged(1, 0)  # temporal aggregation layers, 0 = mean (Table 4)
    stem: Any = "conv3"  # a name of STEMS (Table 5), or a list of convolutions, each {kernel, stride, channels}
    depths: list[int] = sized([1, 2, 11, 2])
    widths: list[int] = sized([96, 192, 384, 768])
    heads: list[int] = sized([1, 2, 4, 8])
    kv_strides: list[int] = sized([8, 4, 2, 1])  # of P_CA, relative to the grid that enters a block
    sa_kernel: int = ranged(3, 1)  # of P_SA
    sa_stride: int = ranged(2, 1)
    mlp_ratio: float = ranged(4.0, 0.01)
    pos_std: float = ranged(0.02, 0, 2, above=True, size=True)  # of the positions' first values; the stem's are near 1
    stochastic_depth: float = ranged(
        0.2, 0, 1, below=True, size=True, noise=True
    )  # of the last block; grows linearly from 0
    head_dropout: float = ranged(0.5, 0, 1, below=True, size=True, noise=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modules(self.modules, self.t_o)
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
        if self.sa_kernel % 2 == 0:
            raise ValueError(f"sa_kernel={self.sa_kernel}: odd numbers are allowed")

    def check(self, clip: Clip) -> None:
        """Raise ValueError if the stem's strides do not divide the clip, or a test's crop is not the training's."""
        t, h, w = self.stem_stride
        if t > clip.T or clip.T % t:
            raise ValueError(f"T={clip.T}: the stem halves time, so multiples of its temporal stride {t} are allowed")
        if h != w or clip.crop < h or clip.crop % h:
            raise ValueError(f"crop={clip.crop}: multiples of the stem's spatial stride {h} x {w} are allowed")
        if clip.view_crop != clip.crop:
            raise ValueError(
                f"clip.test_crop={clip.test_crop}: STAT has a position a token, so crop={clip.crop} alone is allowed"
            )

    def build(self, clip: Clip, num_classes: int) -> "STAT":
        """Return a STAT for such clips."""
        return STAT(self, clip, num_classes)

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The stem's convolutions."""
        if isinstance(self.stem, str):
            return STEMS[self.stem][0](self.widths)
        return tuple(_as_conv(conv) for conv in self.stem)

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


def _as_conv(conv: Any) -> Conv:
    """Return a Conv from a Conv, a (kernel, stride, channels) list or a mapping with those keys."""
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


class STAT(VideoModel):
    """Clips (B, 3, T, crop, crop), normalised floats, to logits (B, num_classes)."""

    no_decay = ("class_token", "aggregation.video_token", "pos_spatial", "pos_temporal")

    def __init__(self, config: Config | None = None, clip: Clip | None = None, num_classes: int = 400) -> None:
        super().__init__()
        self.config, self.clip = config or Config(), clip or Clip()
        self.config.check(self.clip)
        c = self.config
        stride_t, stride, _ = c.stem_stride
        self.n_t = self.clip.T // stride_t  # frames after the stem
        self.grid: Grid = (self.clip.crop // stride, self.clip.crop // stride)  # patch tokens of a frame, (n_h, n_w)
        dim = c.widths[c.first_stage]
        self.stem = Stem(c.convs)
        has_class_token = c.spatial_token == "class_token"
        self.class_token = nn.Parameter(torch.zeros(1, 1, 1, dim)) if has_class_token else None
        self.pos_spatial = nn.Parameter(torch.zeros(1, 1, has_class_token + self.grid[0] * self.grid[1], dim))
        self.pos_temporal = nn.Parameter(torch.zeros(1, self.n_t, 1, dim))
        blocks = self._blocks()
        if has_class_token:  # the aggregation reads the class tokens, so the last block makes nothing else
            blocks[-1].sta.class_queries_only = True
            if blocks[-1].sta.pool_q is not None:
                blocks[-1].sta.pool_q.requires_grad_(False)  # without use, but a weight of the layout
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(c.widths[-1])
        self.aggregation = TemporalAggregation(c.widths[-1], c.heads[-1], c.l_ta, c.mlp_ratio)
        self.head_dropout = nn.Dropout(c.head_dropout)
        self.head = nn.Linear(c.widths[-1], num_classes)
        self.positions = {"pos_spatial": square_grid(2, int(has_class_token)), "pos_temporal": along_time(1)}
        self.reset_parameters()

    def _blocks(self) -> list[STABlock]:
        c, grid = self.config, self.grid
        stages = [s for s in range(c.first_stage, len(c.depths)) for _ in range(c.depths[s])]
        blocks = []
        for i, stage in enumerate(stages):
            enters_stage = i > 0 and stages[i - 1] != stage
            next_stage = stages[min(i + 1, len(stages) - 1)]
            sta = STA(
                c.widths[stage],
                c.heads[stage],
                grid,
                modules=tuple(c.modules),
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
        for token, std in (
            (self.class_token, 0.02),
            (self.pos_spatial, self.config.pos_std),
            (self.pos_temporal, self.config.pos_std),
            (self.aggregation.video_token, 0.02),
        ):
            if token is not None:
                nn.init.trunc_normal_(token, std=std)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, crop, crop) -> logits (B, num_classes), in training and in evaluation."""
        return self.head(self.head_dropout(self.aggregation(self.frame_tokens(clip))))

    def frame_tokens(self, clip: Tensor) -> Tensor:
        """One token a frame, normalised: (B, 3, T, crop, crop) -> (B, n_t, C)."""
        x = self.tokens(clip)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x.mean(2) if self.class_token is None else x[:, :, 0]

    def tokens(self, clip: Tensor) -> Tensor:
        """What the first block gets: (B, 3, T, crop, crop) -> (B, n_t, S + n_h n_w, C), positions added."""
        self.clip.check_input(clip)
        x = self.stem(clip)  # (B, n_t, n_h n_w, C)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(*x.shape[:2], -1, -1), x], dim=2)
        return x + self.pos_spatial + self.pos_temporal

    def units(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self.blocks)

    def counted(self) -> "STAT":
        """Return the model with its whole last block, which the paper counts; the model computes what is read of it."""
        cast(STABlock, self.blocks[-1]).sta.class_queries_only = False
        return self

    def look(self, clip: Tensor) -> list[Panel]:
        """Return where CA, LA and the aggregation look."""
        from .look import panels

        return panels(self, clip)
