"""Temporal Aggregation Block: a video token reads the class tokens of all frames (Table 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import MLP


class AggregationLayer(nn.Module):
    """A pre-norm transformer layer over 1 + n_t tokens."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(mlp_ratio * dim), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + n_t, C) -> (B, 1 + n_t, C)."""
        q, k, v = self._queries_keys_values(x)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(x, self.norm2)

    def attention(self, x: Tensor) -> Tensor:
        """Weights (B, H, 1 + n_t, 1 + n_t) that `forward` uses."""
        q, k, _ = self._queries_keys_values(x)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, ...]:
        B, n, C = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, n, 3, self.heads, C // self.heads)
        return tuple(t.transpose(1, 2) for t in qkv.unbind(2))  # each (B, H, 1 + n_t, D)


class TemporalAggregation(nn.Module):
    """x_cls and the n_t frame tokens through l_ta layers; l_ta = 0 is their mean (Table 4)."""

    def __init__(self, dim: int, heads: int, l_ta: int, mlp_ratio: float) -> None:
        super().__init__()
        self.video_token = nn.Parameter(torch.zeros(1, 1, dim)) if l_ta else None
        self.layers = nn.ModuleList(AggregationLayer(dim, heads, mlp_ratio) for _ in range(l_ta))

    def forward(self, frame_tokens: Tensor) -> Tensor:
        """(B, n_t, C) -> (B, C)."""
        if self.video_token is None:
            return frame_tokens.mean(1)
        x = torch.cat([self.video_token.expand(frame_tokens.shape[0], -1, -1), frame_tokens], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]
