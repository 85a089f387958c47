"""RandAugment as MViT's release runs it, timm's `rand-m7-n4-mstd0.5-inc1`, on all frames of a clip alike.

There Pillow changes frame by frame (randaugment_pillow.py). Clips are changed by the same operators on all frames at
once (randaugment_device.py), in the data workers as on the device.
"""

import torch
from torch import Tensor, nn
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import tv_tensors

from .randaugment_device import apply_operators
from .randaugment_pillow import OPERATORS

HIGHEST = 10.0  # magnitude, of level 1
FRAMES_AT_ONCE = 16  # in a data worker; more of them outgrow a CPU's caches


class Drawn(tuple[tuple[str, float], ...]):
    """(name, level) of the operators drawn for a clip, in the order in which they are applied.

    The data loader makes a plain list of those of a batch: they stay on the host, which needs them there.
    """


default_collate_fn_map[Drawn] = lambda batch, *, collate_fn_map=None: list(batch)


class RandAugment(nn.Module):
    """Changes a clip, uint8 (T, 3, H, W), by operators that are drawn with replacement.

    Each is applied with probability 1/2, at a magnitude of its own (normal, cut to 0 to 10) and in one of two
    directions.
    """

    PROBABILITY = 0.5

    def __init__(self, ops: int, magnitude: float, std: float) -> None:
        super().__init__()
        self.ops, self.magnitude, self.std = ops, magnitude, std

    def draw(self) -> Drawn:
        """Draw (name, level) of the operators that are applied."""
        names, drawn = list(OPERATORS), []
        for _ in range(self.ops):
            name = names[int(torch.randint(len(names), ()))]
            applied, forward = (torch.rand(2) < self.PROBABILITY).tolist()
            magnitude = self.magnitude + self.std * torch.randn(()).item()
            level = min(max(magnitude, 0.0), HIGHEST) / HIGHEST
            if applied:
                drawn.append((name, level if forward else -level))
        return Drawn(drawn)

    def forward(self, clip: Tensor) -> Tensor:
        drawn = self.draw()
        if not drawn:
            return clip
        parts = [apply_operators(part[None], [drawn])[0] for part in clip.as_subclass(Tensor).split(FRAMES_AT_ONCE)]
        return tv_tensors.wrap(torch.cat(parts), like=clip)
