"""The built-in data set `motion`: small H.264 videos in which only motion tells the class.

One object (a handwritten digit, or a piece cut out of a photograph) moves over a still photograph. Everything that a
single frame shows has the same distribution for every class: the position is uniform on a plane that repeats itself,
the angle uniform, the size log-uniform, and each motion starts so that this holds at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .built_in import BuiltIn
from .pictures import DIGIT_CUT, Crop, Floats, cut, digits, draw_crop
from .splits import SPLITS


class _Motion(NamedTuple):
    """How the object of a class moves: directions (-1, 0, 1) on the screen, x to the right, y down, turn clockwise."""

    x: int = 0
    y: int = 0
    turn: int = 0
    grow: int = 0
    reverses: bool = False


_MOTIONS = {
    "moving left": _Motion(x=-1),
    "moving right": _Motion(x=1),
    "moving up": _Motion(y=-1),
    "moving down": _Motion(y=1),
    "turning clockwise": _Motion(turn=1),
    "turning counter-clockwise": _Motion(turn=-1),
    "coming closer": _Motion(grow=1),
    "going away": _Motion(grow=-1),
    "moving left then right": _Motion(x=-1, reverses=True),
    "moving right then left": _Motion(x=1, reverses=True),
    "moving up then down": _Motion(y=-1, reverses=True),
    "moving down then up": _Motion(y=1, reverses=True),
}
CLASSES: tuple[str, ...] = tuple(_MOTIONS)

# Of a whole video, so that a longer or larger one shows the same motion. At the default 48 frames of 48 x 64 pixels:
_TRAVEL = (0.7, 1.6)  # periods of the plane: 0.7 to 1.6 pixels a frame
_TURNS = (0.55, 1.2)  # full turns: 4 to 9 degrees a frame
_RAMPS = (1.0, 1.5)  # runs through the size range: 2 to 3 % of the size a frame
_REVERSAL = (0.4, 0.6)  # moment of the reversal
_SIZE = (0.3, 0.66)  # diameter in periods of the plane: 14 to 32 pixels


@dataclass(unsafe_hash=True)  # not frozen: OmegaConf makes a frozen dataclass read-only on the command line
class MotionConfig(BuiltIn):
    """Which motion videos to generate."""

    KIND = "motion"
    VERSION = 4
    CLASSES = CLASSES

    classes: tuple[str, ...] = CLASSES

    @property
    def period(self) -> int:
        """Pixels after which the plane repeats itself, down and across.

        NOTE: the short side in both directions. So every square crop of the short side holds the whole object (perhaps
        wrapped round its edge), and the rest of the frame shows parts of it again.
        """
        return min(self.height, self.width)

    def frames_of(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        return render(draw(self, split, index))


@dataclass(frozen=True)
class MotionScene:
    """Everything that one video is made of. Only `label` and `motion` depend on the class."""

    config: MotionConfig
    split: str
    index: int
    label: int
    motion: str
    digit: int | None  # index of scikit-learn's handwritten digits; None: a blob cut out of a photograph
    blob: tuple[tuple[float, float], ...]  # amplitude and phase of the blob's outline, k = 1, 2, ...
    texture: Crop  # what fills the object
    background: Crop
    colour: tuple[float, float, float]  # mean of the object, 0-255
    texture_contrast: float  # standard deviation of the object's filling, 0-255
    brightness: float  # mean of the background, 0-255
    contrast: float  # of the background, 1 is the photograph's own
    noise: float  # standard deviation, 0-255
    x: float  # centre at frame 0, pixels modulo the period
    y: float
    angle: float  # at frame 0, radians, clockwise on the screen
    phase: float  # size at frame 0: 0 smallest, 1 largest, logarithmic
    travel: float  # speeds, see _TRAVEL, _TURNS, _RAMPS, _REVERSAL
    turns: float
    ramps: float
    reversal: float


def draw(config: MotionConfig, split: str, index: int) -> MotionScene:
    """Draw video `index` of a split from the arguments alone."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    label = config.label_of(index)
    # Draw every number for every class: a class that skipped a draw would shift those after it.
    train, first = split == "train", round(DIGIT_CUT * len(digits()))
    digit = int(rng.integers(0, first) if train else rng.integers(first, len(digits())))
    return MotionScene(
        config=config,
        split=split,
        index=index,
        label=label,
        motion=config.classes[label],
        digit=digit if rng.random() < 0.5 else None,
        blob=tuple((rng.uniform(0.5, 1.0) * 0.35 / k**0.5, rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 4)),
        texture=draw_crop(rng, train, 1.0, (0.15, 0.4)),
        background=draw_crop(rng, train, config.width / config.height, (0.5, 1.0)),
        colour=(rng.uniform(130, 230), rng.uniform(130, 230), rng.uniform(130, 230)),
        texture_contrast=rng.uniform(20, 45),
        brightness=rng.uniform(40, 90),
        contrast=rng.uniform(0.1, 0.2),
        noise=rng.uniform(0.5, 3.0),
        x=rng.uniform(0, config.period),
        y=rng.uniform(0, config.period),
        angle=rng.uniform(0, 2 * np.pi),
        phase=rng.uniform(0, 1),
        travel=rng.uniform(*_TRAVEL),
        turns=rng.uniform(*_TURNS),
        ramps=rng.uniform(*_RAMPS),
        reversal=rng.uniform(*_REVERSAL),
    )


def poses(scene: MotionScene) -> npt.NDArray[np.float64]:
    """Return the object's (frames, 4): x, y (pixels, not wrapped), angle (radians, clockwise), diameter (pixels)."""
    config, motion = scene.config, _MOTIONS[scene.motion]
    t = np.arange(config.frames) / config.frames
    way = scene.travel * config.period * (np.minimum(t, 2 * scene.reversal - t) if motion.reverses else t)
    # The size jumps back at the end of its range; a soft return would tell the class in single frames.
    phase = (scene.phase + motion.grow * scene.ramps * t) % 1.0
    low, high = (share * config.period for share in _SIZE)
    return np.stack(
        [
            scene.x + motion.x * way,
            scene.y + motion.y * way,
            scene.angle + motion.turn * scene.turns * 2 * np.pi * t,
            low * (high / low) ** phase,
        ],
        axis=1,
    )


def render(scene: MotionScene) -> npt.NDArray[np.uint8]:
    """Return the video's frames before coding: (frames, height, width, 3) uint8 RGB."""
    config, pose = scene.config, poses(scene).astype(np.float32)
    rng = np.random.default_rng([config.seed, SPLITS.index(scene.split), scene.index, 1])
    photo = cut(scene.background, config.width, config.height)
    still = (scene.brightness + scene.contrast * (photo - photo.mean())).transpose(2, 0, 1).copy()  # (3, H, W)
    noise = rng.standard_normal((config.frames, config.height, config.width), dtype=np.float32)
    frames = still[:, None] + noise * np.float32(scene.noise)  # (3, T, H, W): a plane a colour is fastest

    # Offsets of the pixels from the nearest copy of the object, then in its own axes, where its radius is 1.
    half = config.period / 2
    dx = (np.arange(config.width, dtype=np.float32) - pose[:, :1] + half) % config.period - half  # (T, W)
    dy = (np.arange(config.height, dtype=np.float32) - pose[:, 1:2] + half) % config.period - half  # (T, H)
    radius = pose[:, 3] / 2
    near = (dx**2)[:, None, :] + (dy**2)[:, :, None] < (radius**2)[:, None, None]
    places = np.flatnonzero(near)  # (N,)
    t, pixel = np.divmod(places, config.height * config.width)
    i, j = np.divmod(pixel, config.width)
    cos, sin = (np.cos(pose[:, 2]) / radius)[t], (np.sin(pose[:, 2]) / radius)[t]
    u = cos * dx[t, j] + sin * dy[t, i]
    v = cos * dy[t, i] - sin * dx[t, j]

    *colours, opacity = _bilinear(_sprite(scene), np.stack([v, u]))  # (N,) each
    for plane, behind, colour in zip(frames, still, colours, strict=True):
        # Add instead of set, so that the noise lies over the object too.
        plane.reshape(-1)[places] += opacity * (colour - behind.reshape(-1)[pixel])
    np.clip(frames, 0, 255, out=frames)
    return np.ascontiguousarray(frames.astype(np.uint8).transpose(1, 2, 3, 0))


def _bilinear(planes: Floats, at: Floats) -> list[Floats]:
    """Return square planes (C, S, S) at N places (2, N), rows and columns in -1 to 1: C x (N,)."""
    side = planes.shape[-1]
    place = (at + 1) * np.float32((side - 1) / 2)
    low = np.minimum(place.astype(np.intp), side - 2)
    (down, right), first = (place - low).astype(np.float32), low[0] * side + low[1]
    up, left = 1 - down, 1 - right
    corners = [
        (first, up * left),
        (first + 1, up * right),
        (first + side, down * left),
        (first + side + 1, down * right),
    ]
    return [sum(plane.take(place) * share for place, share in corners) for plane in planes.reshape(len(planes), -1)]


def _sprite(scene: MotionScene) -> Floats:
    """Return the object in the square round its unit circle, (4, S, S): its colours 0-255 and its opacity 0-1."""
    side = round(_SIZE[1] * scene.config.period)
    v, u = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    if scene.digit is not None:
        from scipy import ndimage  # takes as long to import as all of this package

        ink = np.pad(digits()[scene.digit], 1)  # (10, 10), 0-1
        row, column = np.nonzero(ink > 0.3)
        middle = (row.min() + row.max()) / 2, (column.min() + column.max()) / 2
        reach = np.hypot(row - middle[0], column - middle[1]).max() + 0.7  # + 0.7: half a pixel's diagonal
        at = np.stack([middle[0] + v * reach, middle[1] + u * reach])
        alpha = np.clip((ndimage.map_coordinates(ink, at, order=3) - 0.25) / 0.25, 0, 1)
    else:
        theta, waves = np.arctan2(v, u), enumerate(scene.blob, start=1)
        rim = np.exp(sum(size * np.cos(k * theta + shift) for k, (size, shift) in waves))  # in each direction
        alpha = np.clip((rim / rim.max() - np.hypot(u, v)) * side / 4, 0, 1)  # two soft pixels at full size
    texture = cut(scene.texture, side, side)
    texture = (texture - texture.mean()) / (texture.std() + 1.0)  # + 1: a plain piece of sky stays plain
    filling = np.clip(np.asarray(scene.colour) + scene.texture_contrast * texture, 0, 255)
    return np.concatenate([filling.transpose(2, 0, 1), alpha[None]]).astype(np.float32)
