"""One transformer block (Eqs. 9 and 10) around STA, and the parts it shares with the aggregation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts.recompute import gelu_then, recompute
from ..parts.vit import StochasticDepth
from .attention import STA


class MLP(nn.Module):
    """Two linear layers with GELU between: (..., dim) -> (..., dim_out)."""

    def __init__(self, dim: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim_out)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Of the normalised x where a norm is given; neither that nor the activation is kept for the backward pass."""
        hidden = self.fc1(x) if norm is None else recompute(lambda x: self.fc1(norm(x)), x)
        return gelu_then(self.fc2, hidden)


class STABlock(nn.Module):
    """X_a = STA(LN(X)) + X; X_out = MLP(LN(X_a)) + X_a.

    At a stage change the skip of the attention is max-pooled with Q (`sta.out_grid`), and the skip of an MLP that
    widens takes a linear layer on the normalised tokens, both as in MViT.
    """

    def __init__(self, sta: STA, dim: int, dim_out: int, mlp_ratio: float, stochastic_depth: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.sta = sta
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(mlp_ratio * dim), dim_out)
        self.widen = nn.Linear(dim, dim_out) if dim_out != dim else None
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_t, S + n_h n_w, dim) -> (B, n_t, S + n_h' n_w', dim_out); what `sta` leaves of the tokens."""
        x = self._pooled_skip(x) + self.stochastic_depth(self.sta(self.norm1(x)))
        widen = self.widen
        skip = x if widen is None else recompute(lambda x: widen(self.norm2(x)), x)
        return skip + self.stochastic_depth(self.mlp(x, self.norm2))

    def _pooled_skip(self, x: Tensor) -> Tensor:
        sta = self.sta
        if sta.class_queries_only:
            return x[:, :, :1]
        if sta.pool_q is None:
            return x
        class_token, patches = x.split([sta.first_patch, x.shape[2] - sta.first_patch], dim=2)
        clips = patches.shape[:2]
        patches = patches.flatten(0, 1).transpose(1, 2).unflatten(2, sta.grid)  # (B n_t, C, n_h, n_w)
        patches = F.max_pool2d(patches, 3, stride=sta.pool_q.conv.stride[1:], padding=1)
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, clips)
        return torch.cat([class_token, patches], dim=2)
