"""What a STAT looked at in one clip: Current Attention, Long-term Attention and temporal aggregation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..base import Panel
from ..parts.resize import resize_maps
from .attention import STA, pooled_grid
from .block import STABlock

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
def explain(model: Any, clip: Tensor) -> Explanation:
    """Return where a STAT looks in a normalised clip (1, 3, T, crop, crop), run in evaluation mode.

    * `current`: the mean of all blocks' maps of the keys of CA, each resized bilinearly to the stem grid, with every
      key at the centre of its pooling window, and normalised to sum 1.
    * `long_term`: the mean over all blocks of the weights on the n_t keys of LA, each normalised to sum 1.
    * `aggregation`: the weights that x_cls gives the frames in the last aggregation layer, without that to itself.

    All blocks count the same. Within one, heads (and for LA the querying frames) count by the weight that they give
    those keys. The query is each frame's class token; with ``spatial_token="avg_pool"`` there is none, and it is the
    mean over the frame's patch queries. The keys of LA are then the spatial means that stand in for the class tokens.

    Raises:
        ValueError: if the clip is not of the model's shape, or more than one.
    """
    if clip.dim() != 5 or len(clip) != 1:
        raise ValueError(f"a clip of {tuple(clip.shape)}; one clip (1, 3, T, crop, crop) can be explained at a time")
    current: list[Tensor] = []
    long_term: list[Tensor] = []
    aggregation: list[Tensor] = []
    grid, scale = model.grid, 1  # scale: tokens of the stem grid between neighbours of the block's grid

    def read_block(sta: STA, x: Tensor) -> None:
        nonlocal scale
        weights, keys = sta.attention(x)  # (1, n_t, H, N_q, L)
        weights = (weights[0, :, :, :1] if sta.first_patch else weights[0]).float().mean((1, 2)) + _TINY  # (n_t, L)
        step = scale * sta.pool_k.conv.stride[1]
        ca = resize_maps(weights[:, : keys.ca].unflatten(1, sta.ca_grid), grid, (step, step))
        current.append(ca / ca.sum((1, 2), keepdim=True))
        if keys.la:
            la = weights[:, -keys.la :].mean(0)  # (n_t,)
            long_term.append(la / la.sum())
        if sta.pool_q is not None:
            scale *= sta.pool_q.conv.stride[1]

    with ExitStack() as undo:  # whatever happens, the hooks are removed and every module gets its mode back
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


def panels(model: Any, clip: Tensor) -> list[Panel]:
    """Return the rows of the picture of a normalised clip (1, 3, T, crop, crop): CA, LA and the aggregation."""
    e = explain(model, clip)
    return [
        Panel("CA", f"where the\n{e.query} looks", e.current),
        Panel("LA", f"attention to each\nframe's {e.query}", e.long_term, off="off: modules without LA"),
        Panel("Aggregation", "attention of $x_{cls}$\nto each frame", e.aggregation, off="off: l_ta = 0, the mean"),
    ]


@dataclass(frozen=True)
class QueryAttention:
    """What one query of one block gave its keys: the mean over heads, float32 on the CPU. All of it sums to 1."""

    current: Tensor  # (h, w): the keys of CA, in the query's own frame
    neighbours: dict[int, Tensor]  # frame: (h', w'), the keys of SA, for the window's other frames within the clip
    far: Tensor | None  # (n_t,): the keys of LA, one a frame of the clip; None with LA off


@torch.no_grad()
def query_attention(
    model: Any, clip: Tensor, block: int, frame: int, query: tuple[int, int] | None = None
) -> QueryAttention:
    """Return the attention of one query of `model.blocks[block]` in a normalised clip (1, 3, T, crop, crop).

    The query is token (row, column) of the block's query grid (`sta.out_grid`) in frame 0 ... n_t - 1, or with None the
    frame's class token. Raises ValueError if there is no such query.
    """
    sta = cast(STABlock, model.blocks[block]).sta
    (rows, columns), n_t = sta.out_grid, model.n_t
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
