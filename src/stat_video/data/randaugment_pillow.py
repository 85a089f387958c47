"""RandAugment's operators by Pillow, picture by picture, as MViT's release has them from timm.

Its rounding and its bicubic are part of them. They define what those on whole clips give (randaugment_device.py), and
make the tables of those that change each pixel by itself.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageEnhance, ImageOps

Operator = Callable[[Image.Image, float], Image.Image]  # (picture, level from -1 to 1) -> picture
GREY = 128  # of all channels of what comes in from outside the frame


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
