"""Shrinking Temporal Attention (STA): Section 'Shrinking Temporal Attention Module', Eqs. 1-8.

Shapes
    B    clips in the batch              n_t  frames after the stem (T / 2 by default)
    C    width, n_c in the paper         n_h, n_w  token grid that enters the block
    H    heads                           D    head width, C / H
    S    1 where every frame has a class token, else 0
    N_q  S + query tokens of a frame     n_ca, n_sa  keys of a frame for CA and SA
    L    keys of a frame in all: n_ca + (neighbours) * n_sa + n_t
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts.depthwise import depthwise_conv3d
from .window import KeyLayout, Keys, attend, by_head, existing_keys

MODULES = ("CA", "SA", "LA")
Grid = tuple[int, int]


def pooled_grid(grid: Grid, kernel: int, stride: int) -> Grid:
    """Grid that a kernel of odd size with padding (kernel - 1) / 2 leaves."""
    n_h, n_w = ((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in grid)
    return n_h, n_w


class PoolCA(nn.Module):
    """P_CA of Eq. 2: depthwise 3x3x3 convolution, temporal stride 1, then LayerNorm, on patch tokens only.

    Each of the C channels has a kernel of its own (MViT shares one among its heads): so the parameters come to the
    44.3 M that the recovered model has, against 44.0 M.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, stride=(1, stride, stride), padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, n_t, n_h n_w, C) -> (B, n_t, n_h' n_w', C)."""
        x = x.unflatten(2, grid).permute(0, 4, 1, 2, 3)  # (B, C, n_t, n_h, n_w)
        x = depthwise_conv3d(x, self.conv.weight, self.conv.stride[-1])
        return self.norm(x.flatten(3).permute(0, 2, 3, 1))


class STA(nn.Module):
    """One fused attention over current, short-term and long-term keys (Eqs. 1-8).

    Takes and returns ``(B, n_t, S + n_h n_w, C)``, so it drops into any transformer block; with
    ``q_stride`` > 1 the returned grid is `out_grid`. ``modules`` must hold CA; t_o is odd, and 1 means no
    short-term attention; a window wider than the clip sees what is there.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: Grid,
        *,
        modules: tuple[str, ...] = MODULES,
        t_o: int = 3,
        q_stride: int = 1,
        kv_stride: int = 1,
        sa_kernel: int = 3,
        sa_stride: int = 2,
        class_token: bool = True,
    ) -> None:
        super().__init__()
        check_modules(modules, t_o)
        if dim % heads:
            raise ValueError(f"width {dim} does not divide into {heads} heads")
        self.heads, self.head_dim, self.grid = heads, dim // heads, grid
        self.t_o, self.modules_used = t_o, tuple(modules)
        self.sa_kernel, self.sa_stride = sa_kernel, sa_stride
        self.first_patch = 1 if class_token else 0  # S
        self.class_queries_only = False  # the class token of each frame alone asks; for who reads nothing else
        self.out_grid = pooled_grid(grid, 3, q_stride)
        self.ca_grid = pooled_grid(grid, 3, kv_stride)

        self.qkv = nn.Linear(dim, 3 * dim)
        self.pool_q = PoolCA(dim, q_stride) if q_stride > 1 else None
        self.pool_k = PoolCA(dim, kv_stride)
        self.pool_v = PoolCA(dim, kv_stride)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_t, S + n_h n_w, C) -> (B, n_t, S + n_h' n_w', C), the grid of `out_grid`.

        With ``class_queries_only`` the class tokens alone: (B, n_t, 1, C).
        """
        q, keys, values = self._queries_keys_values(x, self.class_queries_only)
        return self.proj(attend(q, keys, values, self.key_layout(x.shape[1]), self.heads))

    def attention(self, x: Tensor) -> tuple[Tensor, KeyLayout]:
        """Weights (B, n_t, H, N_q, L) that `forward` gives the keys, for pictures and tests, and the key layout."""
        B, n_t = x.shape[:2]
        q, k, _, exists = self.queries_keys_values(x)
        scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
        if exists is not None:
            scores = scores.masked_fill(~exists, float("-inf"))
        return scores.softmax(-1).unflatten(0, (B, n_t)), self.key_layout(n_t)

    def key_layout(self, n_t: int) -> KeyLayout:
        """Layout of the key list for a clip of n_t frames."""
        reach = min(self.t_o // 2, n_t - 1) if "SA" in self.modules_used else 0
        sa_h, sa_w = pooled_grid(self.ca_grid, self.sa_kernel, self.sa_stride)
        return KeyLayout(
            ca=self.ca_grid[0] * self.ca_grid[1],
            sa=sa_h * sa_w,
            neighbours=tuple(d for d in range(-reach, reach + 1) if d),
            la=n_t if "LA" in self.modules_used else 0,
        )

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Q (B n_t, H, N_q, D), K and V (B n_t, H, L, D), and which keys exist (B n_t, 1, 1, L), Eqs. 1-7."""
        B, n_t = x.shape[:2]
        layout = self.key_layout(n_t)
        q, keys, values = self._queries_keys_values(x)
        q, k, v = (by_head(t, self.heads) for t in (q, keys.lists(layout), values.lists(layout)))
        exists = existing_keys(layout, n_t, x.device)
        if exists is not None:
            exists = exists.expand(B, -1, -1).reshape(B * n_t, 1, 1, -1)
        return q, k, v, exists

    def _queries_keys_values(self, x: Tensor, class_queries_only: bool = False) -> tuple[Tensor, Keys, Keys]:
        """Queries (B, n_t, N_q, C), and what the lists of keys and of values are made of, Eqs. 1-6."""
        n_t, n = x.shape[1:3]
        S = self.first_patch
        if n != S + self.grid[0] * self.grid[1]:
            raise ValueError(f"{n} tokens a frame do not make a class token (S = {S}) and a grid of {self.grid}")
        if class_queries_only:
            (w_q, w_kv), (b_q, b_kv) = (p.tensor_split([self.proj.in_features]) for p in self.qkv.parameters())
            q, (k, v) = F.linear(x[:, :, :S], w_q, b_q), F.linear(x, w_kv, b_kv).chunk(2, dim=-1)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # Eq. 1; each (B, n_t, n, C)
            if self.pool_q is not None:  # Eq. 2; the class token passes by
                class_tokens, patches = q.split([S, n - S], dim=2)
                q = torch.cat([class_tokens, self.pool_q(patches, self.grid)], dim=2)
        layout = self.key_layout(n_t)
        return q, self._keys(k, self.pool_k, layout), self._keys(v, self.pool_v, layout)

    def _keys(self, k: Tensor, pool: PoolCA, layout: KeyLayout) -> Keys:
        """What the lists of keys, or of values, are made of (B, n_t, n, C), Eqs. 2-6."""
        S = self.first_patch
        # One split: slices would each fill the gradient of all tokens with zeros around their own.
        class_tokens, patches = k.split([S, k.shape[2] - S], dim=2)
        k_ca = pool(patches, self.grid)
        k_sa = self._pool_sa(k_ca) if layout.neighbours else None
        k_la = None
        if layout.la:
            # Eq. 6 takes the class tokens of K and V as projected, neither pooled nor normalised. Without a class
            # token (Table 3, 'spatial avg-pooling') the spatial mean of the frame's K and V stands in for it.
            k_la = class_tokens.squeeze(2) if S else patches.mean(2)  # (B, n_t, C)
        return Keys(k_ca, k_sa, k_la)

    def _pool_sa(self, k_ca: Tensor) -> Tensor:
        """P_SA of Eq. 3, 2-D average pooling: (B, n_t, n_ca, C) -> (B, n_t, n_sa, C)."""
        x = k_ca.flatten(0, 1).transpose(1, 2).unflatten(2, self.ca_grid)  # (B n_t, C, h, w)
        x = F.avg_pool2d(x, self.sa_kernel, self.sa_stride, self.sa_kernel // 2)
        return x.flatten(2).transpose(1, 2).unflatten(0, k_ca.shape[:2])


def check_modules(modules: Sequence[str], t_o: int) -> None:
    """Raise ValueError unless modules is CA with any of SA and LA, and t_o is odd and at least 1."""
    unknown = [m for m in modules if m not in MODULES]
    if unknown or "CA" not in modules or len(set(modules)) != len(modules):
        raise ValueError(f"modules={list(modules)}: CA alone or with SA, LA or both is allowed, each once")
    if t_o < 1 or t_o % 2 == 0:
        raise ValueError(f"t_o={t_o}: the window has a frame in its middle, so t_o is odd and at least 1: 1, 3, 5, ...")
