"""Which keys a frame attends to (Eq. 7), and the attention itself (Eq. 8); shapes are those of attention.py.

A window that reaches beyond the clip's ends has fewer neighbours. There are two ways for it, `BACKEND.window`. Masked:
the key list of every frame has a place for each neighbour of the window, and a mask takes out those that do not exist.
Grouped: frames with equally many neighbours share a call whose lists hold no others, so it needs no mask, which CUDA's
fastest kernels do not take.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parts.backend import BACKEND
from ..parts.precision import autocast_is_on

ALIGNED = 8  # CUDA's kernels copy a mask in each call if its rows do not begin at multiples of so many numbers


class KeyLayout(NamedTuple):
    """Where the keys of one frame come from, in their order in the key list (Eq. 7)."""

    ca: int  # keys of the frame itself
    sa: int  # keys of one neighbour
    neighbours: tuple[int, ...]  # offsets in frames, e.g. (-1, 1); len(neighbours) * sa keys
    la: int  # class-token keys, one a frame of the clip (the frame's own included)


class Keys(NamedTuple):
    """What the key lists, or the value lists, of all frames are made of; None where a module is off."""

    ca: Tensor  # (B, n_t, n_ca, C)
    sa: Tensor | None  # (B, n_t, n_sa, C)
    la: Tensor | None  # (B, n_t, C), the same for every frame of the clip

    def lists(self, layout: KeyLayout) -> Tensor:
        """Return (B, n_t, L, C), with zeros for neighbours that do not exist."""
        parts = [self.ca]
        if self.sa is not None:
            parts += neighbours_of(self.sa, layout.neighbours)
        return self._joined(parts)

    def lists_inside(self, begin: int, end: int, layout: KeyLayout) -> Tensor:
        """Return (B, end - begin, L, C) of the frames begin ... end - 1, whose neighbours all exist."""
        assert self.sa is not None
        return self._joined([self.ca[:, begin:end], *(self.sa[:, begin + d : end + d] for d in layout.neighbours)])

    def lists_of(self, frames: list[int], layout: KeyLayout) -> Tensor:
        """Return (B, len(frames), L', C) of frames with equally many neighbours, without those that do not exist."""
        assert self.sa is not None
        reach, n_t, parts = max(layout.neighbours), self.ca.shape[1], []
        for i in frames:
            parts.append(self.ca[:, i])
            spans = (max(i - reach, 0), i), (i + 1, min(i + 1 + reach, n_t))
            parts += [self.sa[:, begin:end].flatten(1, 2) for begin, end in spans if begin < end]
            parts += [] if self.la is None else [self.la]
        return torch.cat(parts, dim=1).unflatten(1, (len(frames), -1))

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if self.la is not None:
            parts = [*parts, self.la[:, None].expand(-1, parts[0].shape[1], -1, -1)]  # Eqs. 4 and 5
        return torch.cat(parts, dim=2)


def attend(q: Tensor, keys: Keys, values: Keys, layout: KeyLayout, heads: int) -> Tensor:
    """Eq. 8, per head, scale 1 / sqrt(D): queries (B, n_t, N_q, C) -> (B, n_t, N_q, C)."""
    if layout.neighbours and BACKEND.window == "grouped":
        return _attend_in_groups(q, keys, values, layout, heads)
    bias = _bias(q, layout) if layout.neighbours else None
    return _attend(q, keys.lists(layout), values.lists(layout), heads, bias)


def by_head(x: Tensor, heads: int) -> Tensor:
    """(B, n_t, N, C) -> (B n_t, H, N, D)."""
    return x.flatten(0, 1).unflatten(2, (heads, -1)).transpose(1, 2)


def neighbours_of(x: Tensor, offsets: tuple[int, ...]) -> list[Tensor]:
    """For each offset what that neighbour of every frame has of x, (B, n_t, n, C) like x; zeros where it is outside."""
    n_t, reach = x.shape[1], max(offsets)
    x = F.pad(x, (0, 0, 0, 0, reach, reach))  # never wrapped or repeated; `existing_keys` masks it out
    return [x[:, reach + d : reach + d + n_t] for d in offsets]


def existing_keys(layout: KeyLayout, n_t: int, device: torch.device) -> Tensor | None:
    """Boolean (n_t, L): False where a key belongs to a neighbour outside the clip; None where all exist."""
    if not layout.neighbours:
        return None
    # Made on the device: a tensor from a list of Python would have a GPU waited for in each block.
    ca, sa, la = (torch.ones(1, n_t, n, 1, dtype=torch.bool, device=device) for n in (layout.ca, layout.sa, layout.la))
    return torch.cat([ca, *neighbours_of(sa, layout.neighbours), la], dim=2).view(n_t, -1)


def _attend(q: Tensor, keys: Tensor, values: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    frames = q.shape[:2]
    q, keys, values = (by_head(x, heads) for x in (q, keys, values))
    x = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
    return x.transpose(1, 2).flatten(2).unflatten(0, frames)


def _attend_in_groups(q: Tensor, keys: Keys, values: Keys, layout: KeyLayout, heads: int) -> Tensor:
    """One call for each pair of frames that are equally far from the clip's two ends, one for all between them."""
    n_t, reach = q.shape[1], max(layout.neighbours)
    ends = min(reach, n_t - 1 - reach)  # frames at either end that see fewer neighbours than those between
    # One split: slices would each fill a gradient of all queries with zeros around their own.
    queries = q.split([1] * ends + [n_t - 2 * ends] + [1] * ends, dim=1)
    first, last = [], []
    for i in range(ends):
        k, v = (x.lists_of([i, n_t - 1 - i], layout) for x in (keys, values))
        pair = _attend(torch.cat([queries[i], queries[-1 - i]], dim=1), k, v, heads).split(1, dim=1)
        first.append(pair[0])
        last.append(pair[1])
    if ends == reach:
        k, v = (x.lists_inside(ends, n_t - ends, layout) for x in (keys, values))
    else:  # the clip is shorter than the window: each of them sees all frames
        k, v = (x.lists_of(list(range(ends, n_t - ends)), layout) for x in (keys, values))
    return torch.cat([*first, _attend(queries[ends], k, v, heads), *reversed(last)], dim=1)


def _bias(q: Tensor, layout: KeyLayout) -> Tensor:
    """(B n_t, 1, 1, L) for `scaled_dot_product_attention`: 0 where a key exists, else -inf."""
    B, n_t = q.shape[:2]
    dtype = q.dtype
    if autocast_is_on(q) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(q.device.type)  # else it would be cast in each call
    # What is traced, or only followed (a subclass of Tensor, the meta device), is not to be met again outside of that.
    if type(q) is not Tensor or q.is_meta or torch.compiler.is_compiling():
        return _new_bias(layout, B, n_t, q.device, dtype)
    return _kept_bias(layout, B, n_t, q.device, dtype)


@lru_cache(maxsize=64)
def _kept_bias(layout: KeyLayout, B: int, n_t: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the same tensor for all blocks and passes, one that a backward pass may keep."""
    with torch.inference_mode(False):
        return _new_bias(layout, B, n_t, device, dtype)


def _new_bias(layout: KeyLayout, B: int, n_t: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    exists = existing_keys(layout, n_t, device)
    assert exists is not None
    L = exists.shape[1]
    bias = torch.zeros(n_t, L, dtype=dtype, device=device).masked_fill_(~exists, float("-inf"))
    bias = F.pad(bias, (0, -L % ALIGNED)).expand(B, -1, -1).reshape(B * n_t, 1, 1, -1)
    return bias[..., :L]
