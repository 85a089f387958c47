"""How position embeddings move to another clip length or crop: `VideoModel.positions`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Resize


def along_time(dim: int, tokens: int = 0) -> Resize:
    """Return a Resize that interpolates linearly along a dimension of time; `tokens` in front of it stay."""

    def resize(positions: Tensor, shape: torch.Size) -> Tensor:
        first, frames = positions.split([tokens, positions.shape[dim] - tokens], dim=dim)
        x = frames.movedim(dim, -1)
        flat, T = x.reshape(1, -1, x.shape[-1]), shape[dim] - tokens
        moved = F.interpolate(flat, T, mode="linear").reshape(*x.shape[:-1], T)
        return torch.cat([first, moved.movedim(-1, dim).to(positions.dtype)], dim=dim)

    return resize


def square_grid(dim: int, tokens: int = 0) -> Resize:
    """Return a Resize that interpolates a square grid, flattened at `dim`, bicubically; `tokens` in front of it stay.

    The last dimension holds the channels. ValueError if the positions are not a square grid.
    """

    def resize(positions: Tensor, shape: torch.Size) -> Tensor:
        first, grid = positions.split([tokens, positions.shape[dim] - tokens], dim=dim)
        old, new = (round((n - tokens) ** 0.5) for n in (positions.shape[dim], shape[dim]))
        if old * old != grid.shape[dim]:
            raise ValueError(f"{grid.shape[dim]} patch positions are not a square grid")
        x = grid.movedim(dim, -1)  # (..., C, n_h n_w)
        x = x.reshape(1, -1, old, old)
        x = F.interpolate(x, (new, new), mode="bicubic", antialias=new < old)
        x = x.reshape(*grid.movedim(dim, -1).shape[:-1], new * new).movedim(-1, dim)
        return torch.cat([first, x.to(positions.dtype)], dim=dim)

    return resize


def time_and_grid(frames: int, places: int, *, first: int = 0, frame_tokens: int = 0, place_tokens: int = 0) -> Resize:
    """Return a Resize for positions (1, first + frames * places, C) of this clip, one frame's places after the other's.

    `frame_tokens` of the frames and `place_tokens` of the places belong to tokens, which stay, as the `first` ones do.
    Positions of an image, `places` of them, go to all frames. Others are those of another clip length or of another
    crop; ValueError if they are of both, or can be of either, since their number alone does not tell.
    """

    def resize(positions: Tensor, shape: torch.Size) -> Tensor:
        n = positions.shape[1] - first
        if n == places:
            return torch.cat([positions[:, :first], positions[:, first:].repeat(1, frames, 1)], dim=1)
        readings = [(n // places, places)] if n % places == 0 else []
        if n % frames == 0 and round((n // frames - place_tokens) ** 0.5) ** 2 == n // frames - place_tokens:
            readings.append((frames, n // frames))
        if len(readings) != 1:
            why = "both of another clip length and of another crop" if readings else "of no clip of this length or crop"
            raise ValueError(f"{n} positions can be those {why}; {frames} x {places} are needed")
        t, h_w = readings[0]
        front, field = positions.split([first, n], dim=1)
        field = field.unflatten(1, (t, h_w))
        if t != frames:
            field = along_time(1, frame_tokens)(field, torch.Size([1, frames, h_w]))
        if h_w != places:
            field = square_grid(2, place_tokens)(field, torch.Size([1, frames, places]))
        return torch.cat([front, field.flatten(1, 2)], dim=1)

    return resize
