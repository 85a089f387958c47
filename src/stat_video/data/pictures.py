"""The pictures that the built-in videos are made of: photographs and handwritten digits.

They ship inside the wheels of scikit-learn and scikit-image, so nothing is downloaded. Training takes the left part of
each photograph and the first digits, validation the right part and the last digits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

_SKIMAGE_PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
_SKLEARN_PHOTOS = ("china", "flower")
PHOTO_CUT = 0.7  # share of a photograph's width that training takes, from the left
DIGIT_CUT = 0.8  # share of the digits that training takes, from the first


class Crop(NamedTuple):
    """A box of whole pixels in one of the photographs."""

    photo: str
    left: int
    top: int
    width: int
    height: int


def draw_crop(rng: np.random.Generator, train: bool, aspect: float, scale: tuple[float, float]) -> Crop:
    """Draw a box of an aspect (width / height), `scale` times the largest that fits the split's part of a photo."""
    photo = list(photos())[rng.integers(len(photos()))]
    height, full_width = photos()[photo].shape[:2]
    cut = round(PHOTO_CUT * full_width)
    first, width = (0, cut) if train else (cut, full_width - cut)
    box_height = rng.uniform(*scale) * min(height, width / aspect)
    h, w = max(1, int(box_height)), max(1, int(box_height * aspect))
    left, top = first + rng.integers(width - w + 1), rng.integers(height - h + 1)
    return Crop(photo, int(left), int(top), w, h)


@lru_cache(maxsize=1)
def digits() -> Floats:
    """Return scikit-learn's handwritten digits, (1797, 8, 8), 0-1."""
    from sklearn.datasets import load_digits  # here, as it is slow to import and only generating needs it

    return np.asarray(load_digits().images / 16, dtype=np.float32)


@lru_cache(maxsize=1)
def photos() -> dict[str, npt.NDArray[np.uint8]]:
    """Return the photographs by name, (H, W, 3) each."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = {name: getattr(data, name)() for name in _SKIMAGE_PHOTOS}
    found |= {name: load_sample_image(f"{name}.jpg") for name in _SKLEARN_PHOTOS}
    return {name: a if a.ndim == 3 else np.stack([a] * 3, axis=2) for name, a in found.items()}


def cut(crop: Crop, width: int, height: int) -> Floats:
    """Return a crop resized to (height, width, 3), 0-255; sliced first, as resizing a box reads beyond its edge."""
    box = photos()[crop.photo][crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    resized = Image.fromarray(np.ascontiguousarray(box)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)
