"""What a STAT looked at in one clip: Current Attention, Long-term Attention and temporal aggregation, and a picture."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from .model import STA, STAT
from .model.attention import pooled_grid
from .model.block import STABlock
from .runs.files import replacing

_TINY = torch.finfo(torch.float32).tiny  # weights that all underflow are even instead of 0 / 0


@dataclass(frozen=True)
class Explanation:
    """Attention of one clip, float32 on the CPU; n_t frames after the stem, a stem grid of h x w tokens."""

    current: Tensor  # (n_t, h, w): where each frame looks in itself (CA); sums to 1 a frame
    long_term: Tensor | None  # (n_t,): share of the LA attention that each frame receives; None with LA off
    aggregation: Tensor | None  # (n_t,): share of each frame in what x_cls reads; None with l_ta = 0
    logits: Tensor  # (num_classes,)
    query: str = "class token"  # whose attention it is; 'mean patch' where frames have no class token


@torch.no_grad()
def explain(model: STAT, clip: Tensor) -> Explanation:
    """Run a normalised clip (1, 3, T, crop, crop) in evaluation mode and say where the model looked.

    * `current`: the mean of all blocks' maps of the keys of CA, each resized bilinearly to the stem grid, with every
      key at the centre of its pooling window, and normalised to sum 1.
    * `long_term`: the mean over all blocks of the weights on the n_t keys of LA, each normalised to sum 1.
    * `aggregation`: the weights that x_cls gives the frames in the last aggregation layer, without that to itself.

    All blocks count the same; within one, heads (and for LA querying frames) count by the weight they give those keys.
    The query is each frame's class token. With ``spatial_token="avg_pool"`` there is none: then it is the mean over
    the frame's patch queries, and the keys of LA are the spatial means that stand in for the class tokens.
    """
    if clip.dim() != 5 or len(clip) != 1:
        raise ValueError(f"a clip of {tuple(clip.shape)}; one clip (1, 3, T, crop, crop) can be explained at a time")
    current: list[Tensor] = []
    long_term: list[Tensor] = []
    aggregation: list[Tensor] = []
    grid, scale = model.config.grid, 1  # scale: tokens of the stem grid between neighbours of the block's grid

    def read_block(sta: STA, x: Tensor) -> None:
        nonlocal scale
        weights, keys = sta.attention(x)  # (1, n_t, H, N_q, L)
        weights = (weights[0, :, :, :1] if sta.first_patch else weights[0]).float().mean((1, 2)) + _TINY  # (n_t, L)
        step = scale * sta.pool_k.conv.stride[1]
        ca = _resize(weights[:, : keys.ca].unflatten(1, sta.ca_grid), grid, (step, step))
        current.append(ca / ca.sum((1, 2), keepdim=True))
        if keys.la:
            la = weights[:, -keys.la :].mean(0)  # (n_t,)
            long_term.append(la / la.sum())
        if sta.pool_q is not None:
            scale *= sta.pool_q.conv.stride[1]

    with ExitStack() as undo:  # whatever happens, hooks go and every module gets back its mode
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
            if isinstance(module, STA):
                undo.enter_context(module.register_forward_pre_hook(lambda sta, x: read_block(sta, *x)))
        for layer in model.aggregation.layers[-1:]:
            undo.enter_context(layer.register_forward_pre_hook(lambda m, x: aggregation.append(m.attention(*x))))
        logits = model.eval()(clip)[0].float().cpu()
    x_cls = [weights[0, :, 0, 1:].float().mean(0) + _TINY for weights in aggregation]  # (n_t,), of one layer or none
    return Explanation(
        current=torch.stack(current).mean(0).cpu(),
        long_term=torch.stack(long_term).mean(0).cpu() if long_term else None,
        aggregation=(x_cls[0] / x_cls[0].sum()).cpu() if x_cls else None,
        logits=logits,
        query="mean patch" if model.class_token is None else "class token",
    )


@dataclass(frozen=True)
class QueryAttention:
    """What one query of one block gave its keys: the mean over heads, float32 on the CPU. All of it sums to 1."""

    current: Tensor  # (h, w): the keys of CA, in the query's own frame
    neighbours: dict[int, Tensor]  # frame: (h', w'), the keys of SA, for the window's other frames within the clip
    far: Tensor | None  # (n_t,): the keys of LA, one a frame of the clip; None with LA off


@torch.no_grad()
def query_attention(
    model: STAT, clip: Tensor, block: int, frame: int, query: tuple[int, int] | None = None
) -> QueryAttention:
    """Attention of one query in a normalised clip (1, 3, T, crop, crop), as `model.blocks[block]` has it.

    The query is token (row, column) of the block's query grid (`sta.out_grid`) in frame 0 ... n_t - 1, or with None the
    frame's class token. Raises ValueError where there is no such query.
    """
    sta = cast(STABlock, model.blocks[block]).sta
    (rows, columns), n_t = sta.out_grid, model.config.n_t
    if not 0 <= frame < n_t:
        raise ValueError(f"frame {frame}: after the stem there are frames 0 to {n_t - 1}")
    if query is None and not sta.first_patch:
        raise ValueError("frames have no class token with spatial_token='avg_pool'; name a query (row, column)")
    if query is not None and not (0 <= query[0] < rows and 0 <= query[1] < columns):
        raise ValueError(f"query {query}: the queries of block {block} are a grid of {rows} x {columns}")
    n = 0 if query is None else sta.first_patch + query[0] * columns + query[1]
    found: list[QueryAttention] = []

    def read(sta: STA, x: Tensor) -> None:
        weights, keys = sta.attention(x)  # (1, n_t, H, N_q, L)
        w = weights[0, frame, :, n].float().mean(0).cpu()  # (L,)
        current, short, far = w.split([keys.ca, len(keys.neighbours) * keys.sa, keys.la])
        grid = pooled_grid(sta.ca_grid, sta.sa_kernel, sta.sa_stride)
        maps = zip(keys.neighbours, short.unflatten(0, (-1, *grid)) if keys.neighbours else [], strict=True)
        found.append(
            QueryAttention(
                current.unflatten(0, sta.ca_grid),
                {frame + d: m for d, m in maps if 0 <= frame + d < n_t},
                far if keys.la else None,
            )
        )

    with ExitStack() as undo:
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
        undo.enter_context(sta.register_forward_pre_hook(lambda sta, x: read(sta, *x)))
        model.eval()(clip)
    return found[0]


def _resize(maps: Tensor, size: tuple[int, int], strides: tuple[float, float]) -> Tensor:
    """(n_t, h, w) -> (n_t, *size), bilinear, flat beyond the outermost samples.

    Sample i sits at position i * stride, the centre of its window in a convolution with 'same' padding.
    """

    def weights(samples: int, positions: int, stride: float) -> Tensor:  # (positions, samples), rows sum to 1
        at = (torch.arange(positions, device=maps.device) / stride).clamp(max=samples - 1)
        return (1 - (at[:, None] - torch.arange(samples, device=maps.device)).abs()).clamp(min=0)

    rows, columns = map(weights, maps.shape[1:], size, strides)
    return rows @ maps @ columns.T


# The picture. Lengths in inches. Inferno and Okabe and Ito's blue and orange are safe for the colour-blind.
_WIDTH, _LEFT, _RIGHT, _DPI = 13.0, 1.5, 0.8, 120
_BAR, _OFF, _CLASS, _GAP, _ABOVE = 0.75, 0.25, 0.25, 0.08, 0.3  # heights: bars, a module that is off, a class, spaces
_INK, _GREY, _BLUE, _ORANGE = "#222222", "#6E6E6E", "#0072B2", "#D55E00"
_HEAT = ListedColormap(colormaps["inferno"](torch.linspace(0.35, 1, 256).numpy()))


def draw(
    frames: Tensor, explanation: Explanation, top: Sequence[tuple[str, float]], path: Path, *, title: str = ""
) -> None:
    """Write a PNG: top classes, the frames, where CA looks in them, and how LA and the aggregation weigh them.

    ``frames``, uint8 (T, H, W, 3), are those that the model saw: each of its n_t frames covers T / n_t of them, whose
    first is shown. ``top`` holds (class name, probability from 0 to 1), best first. ``path`` is never half a picture:
    it is written beside and renamed.
    """
    n_t, shape = len(explanation.current), tuple(frames.shape)
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] % n_t:
        raise ValueError(f"frames are {frames.dtype} {shape}; allowed is uint8 (T, H, W, 3), T a multiple of {n_t}")
    with replacing(path) as file:
        _figure(frames.cpu(), explanation, top, title).savefig(file, format="png", dpi=_DPI)


def _figure(frames: Tensor, e: Explanation, top: Sequence[tuple[str, float]], title: str) -> Figure:
    T, H, W = frames.shape[:3]
    n_t, h, w = e.current.shape
    strips = math.ceil(n_t / (8 if n_t <= 16 else 16))
    columns = math.ceil(n_t / strips)
    cell = (_WIDTH - _LEFT - _RIGHT) / max(columns, 8)
    picture = cell * 0.96 * H / W
    modules = [
        ("LA", f"attention to each\nframe's {e.query}", e.long_term, _BLUE, "off: modules without LA"),
        ("Aggregation", "attention of $x_{cls}$\nto each frame", e.aggregation, _ORANGE, "off: l_ta = 0, the mean"),
    ]
    rows = [picture, picture, *(_OFF if share is None else _BAR for _, _, share, _, _ in modules)]
    strip = _ABOVE + sum(rows) + _GAP * len(rows)
    head = 0.2 + (0.45 if title else 0) + _CLASS * len(top)
    height = head + strip * strips + 0.1
    figure = Figure((_WIDTH, height), facecolor="white")

    def axes(y: float, tall: float, x: float = _LEFT, wide: float = cell * columns) -> Axes:
        """Bare axes whose upper left corner is x inches from the left and y inches from the top."""
        ax = figure.add_axes((x / _WIDTH, 1 - (y + tall) / height, wide / _WIDTH, tall / height))
        ax.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(0, 1))
        ax.spines[:].set_visible(False)
        return ax

    x, y = _LEFT / _WIDTH, 1 - 0.18 / height
    figure.text(x, y, _cut(title, 95), size=13, weight="bold", color=_INK, va="top", parse_math=False)
    if top:
        _draw_classes(axes(head - _CLASS * len(top), _CLASS * len(top), wide=_WIDTH - _LEFT), top)

    heat = _resize(e.current, (H, W), (H / h, W / w)) * h * w  # in multiples of even attention, 1 / (h w)
    most = max(2.0, float(e.current.flatten().quantile(0.99)) * h * w)  # a lone peak does not pale all else
    scale = Normalize(1, most, clip=True)
    for s in range(strips):
        shown, y = range(s * columns, min((s + 1) * columns, n_t)), head + s * strip + _ABOVE
        panels = [axes(y + sum(rows[:r]) + r * _GAP, tall) for r, tall in enumerate(rows)]
        _label(panels[0], "Frames", f"{n_t} of the {T} sampled")
        _label(panels[1], "CA", f"where the\n{e.query} looks")
        for column, i in enumerate(shown):
            first, last = i * T // n_t, (i + 1) * T // n_t - 1
            name = f"{first + 1}" if first == last else f"{first + 1}\N{EN DASH}{last + 1}"
            panels[0].text(column, 1.02, name, size=8, color=_GREY, ha="center", va="bottom")
            box = (column - 0.48, column + 0.48, 0, 1)
            panels[0].imshow(frames[first], extent=box, aspect="auto")
            panels[1].imshow(_overlay(frames[first], heat[i], scale), extent=box, aspect="auto")
        for ax, (name, what, share, colour, off) in zip(panels[2:], modules, strict=True):
            _label(ax, name, "" if share is None else what)
            if share is None:
                ax.text(-0.48, 0.5, off, size=9, color=_GREY, va="center", style="italic")
            else:
                _draw_shares(ax, share, shown, colour)

    beside = axes(head + _ABOVE + picture + _GAP, picture, _LEFT + cell * columns + 0.1, 0.1)
    bar = figure.colorbar(ScalarMappable(scale, _HEAT), beside, extend="max" if heat.max() > most else "neither")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, color=_GREY, labelcolor=_GREY)
    bar.set_label("× even attention", size=7, color=_GREY)
    return figure


def _overlay(frame: Tensor, heat: Tensor, scale: Normalize) -> Tensor:
    """uint8 (H, W, 3), (H, W) -> (H, W, 3) in 0..1: grey, and coloured where there is more than even attention."""
    strength = torch.from_numpy(scale(heat.numpy()).data)
    grey = 0.8 * (frame / 255 @ torch.tensor([0.299, 0.587, 0.114]))[..., None]
    alpha = 0.85 * strength[..., None] ** 0.5
    return (1 - alpha) * grey + alpha * torch.from_numpy(_HEAT(strength.numpy())[..., :3]).float()


def _label(ax: Axes, name: str, what: str = "") -> None:
    """Name of a row, and under it what it shows, left of its axes."""
    at, axes, points, va = (0, 0.5), "axes fraction", "offset points", "bottom" if what else "center"
    ax.annotate(name, at, (-8, 0), axes, points, ha="right", va=va, size=11, weight="bold", color=_INK)
    ax.annotate(what, at, (-8, -2), axes, points, ha="right", va="top", size=7.5, color=_GREY)


def _draw_shares(ax: Axes, share: Tensor, shown: range, colour: str) -> None:
    """Bars of the frames `shown`, figures under them, and a line at even shares; one scale for all strips."""
    even = 1 / len(share)
    most = 1.05 * max(float(share.max()), 1.2 * even)
    ax.set_ylim(-0.35 * most, most)
    ax.axhline(0, color=_GREY, linewidth=0.8)
    ax.axhline(even, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.text(1.005, even, "1/$n_t$", transform=ax.get_yaxis_transform(), size=8, color=_INK, va="center")
    for column, value in enumerate(share[shown.start : shown.stop].tolist()):
        ax.bar(column, value, 0.6, color=colour)
        ax.text(column, -0.05 * most, f"{value:.1%}", size=7.5, color=_INK, ha="center", va="top")


def _draw_classes(ax: Axes, top: Sequence[tuple[str, float]]) -> None:
    """For each class a bar from 0 to 100 %, the figure and the name."""
    bar, names = 2.2, 2.95  # inches: length of 100 %, where names begin
    ax.set(xlim=(0, _WIDTH - _LEFT), ylim=(len(top) - 0.5, -0.5))
    _label(ax, f"Top {len(top)}", "probability")
    for i, (name, probability) in enumerate(top):
        weight = "bold" if i == 0 else "normal"
        ax.barh(i, bar, 0.62, color="#EEEEEE")
        ax.barh(i, bar * probability, 0.62, color=_BLUE if i == 0 else "#9DB8CC")
        ax.text(names - 0.12, i, f"{probability:.1%}", size=10, color=_INK, weight=weight, ha="right", va="center")
        ax.text(names, i, _cut(name, 100), size=10, color=_INK, weight=weight, va="center", parse_math=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
