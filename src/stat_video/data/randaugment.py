"""RandAugment as MViT's release runs it, timm's `rand-m7-n4-mstd0.5-inc1`, on all frames of a clip alike.

There Pillow changes frame by frame, and its rounding and its bicubic are part of the operators below. Clips are changed
by the same operators on all frames at once (randaugment_device.py), in the data workers as on the device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import tv_tensors

Operator = Callable[[Image.Image, float], Image.Image]  # (picture, level from -1 to 1) -> picture
GREY = 128  # of all channels of what comes in from outside the frame
HIGHEST = 10.0  # magnitude, of level 1
FRAMES_AT_ONCE = 16  # in a data worker; more of them outgrow a CPU's caches


class Drawn(tuple[tuple[str, float], ...]):
    """(name, level) of the operators drawn for a clip, in the order in which they are applied.

    The data loader makes a plain list of those of a batch: they stay on the host, which needs them there.
    """


default_collate_fn_map[Drawn] = lambda batch, *, collate_fn_map=None: list(batch)


def _rotation(level: float, width: int, height: int) -> tuple[float, ...]:
    """Return Pillow's own matrix of a rotation around the middle, by 30 degrees at level 1."""
    angle = -math.radians(30 * level % 360)
    cos, sin, x, y = round(math.cos(angle), 15), round(math.sin(angle), 15), width / 2, height / 2
    return (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)


# (level, width, height) -> (a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f).
MATRICES: dict[str, Callable[[float, int, int], Sequence[float]]] = {
    "Rotate": _rotation,
    "ShearX": lambda level, width, height: (1, 0.3 * level, 0, 0, 1, 0),
    "ShearY": lambda level, width, height: (1, 0, 0, 0.3 * level, 1, 0),
    "TranslateXRel": lambda level, width, height: (1, 0, 0.45 * level * width, 0, 1, 0),
    "TranslateYRel": lambda level, width, height: (1, 0, 0, 0, 1, 0.45 * level * height),
}


def _affine(name: str) -> Operator:
    def move(picture: Image.Image, level: float) -> Image.Image:
        how = Image.Transform.AFFINE, MATRICES[name](level, *picture.size), Image.Resampling.BICUBIC
        return picture.transform(picture.size, *how, fillcolor=(GREY,) * 3)

    return move


def enhancement(level: float) -> float:
    """Return the factor on what sets a picture apart from a plain one: a black, grey or smooth one."""
    return max(0.1, 1 + 0.9 * level)


def _enhance(what: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operator:
    return lambda picture, level: what(picture).enhance(enhancement(level))


def _posterize(picture: Image.Image, level: float) -> Image.Image:
    kept = 4 - int(4 * abs(level))  # bits; none at the highest level, which Pillow's own posterize refuses
    return picture.point([i >> 8 - kept << 8 - kept for i in range(256)] * 3)


def _solarize_add(picture: Image.Image, level: float) -> Image.Image:
    add = int(110 * abs(level))
    return picture.point([min(255, i + add) if i < 128 else i for i in range(256)] * 3)


# The fifteen in timm's order. Of those without a direction the sign of the level is left out.
OPERATORS: dict[str, Operator] = {
    "AutoContrast": lambda picture, level: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, level: ImageOps.equalize(picture),
    "Invert": lambda picture, level: ImageOps.invert(picture),
    "Rotate": _affine("Rotate"),
    "PosterizeIncreasing": _posterize,
    "SolarizeIncreasing": lambda picture, level: ImageOps.solarize(picture, 256 - int(256 * abs(level))),
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _enhance(ImageEnhance.Color),
    "ContrastIncreasing": _enhance(ImageEnhance.Contrast),
    "BrightnessIncreasing": _enhance(ImageEnhance.Brightness),
    "SharpnessIncreasing": _enhance(ImageEnhance.Sharpness),
    "ShearX": _affine("ShearX"),
    "ShearY": _affine("ShearY"),
    "TranslateXRel": _affine("TranslateXRel"),
    "TranslateYRel": _affine("TranslateYRel"),
}


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
        from .randaugment_device import apply_operators  # which needs the operators above

        drawn = self.draw()
        parts = [apply_operators(part[None], [drawn])[0] for part in clip.as_subclass(Tensor).split(FRAMES_AT_ONCE)]
        return tv_tensors.wrap(torch.cat(parts), like=clip)
