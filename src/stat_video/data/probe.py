"""The built-in data set `probe`: an object hops among four places, and only the order of its hops tells the class.

It is a diagnostic of the mechanism, not evidence about Kinetics. The stem alone sees the motion of an object that moves
smoothly, so such videos say nothing about SA or LA. Here an object hops further than the stem's receptive field, and
the class is where it is now relative to where it was before. The warm object, the actor, makes the class; cool objects,
which differ from it in colour alone, do the same things at random.

A video has eight moments; an object is seen in three bursts of two neighbouring moments (0 1, 3 4, 6 7):

- near: in each burst it hops to the next place, clockwise or counter-clockwise; each burst begins at a random place.
  The two moments that tell the class are neighbours.
- far: it keeps its place during a burst, and the next burst is one place further, clockwise or counter-clockwise.
  Between two moments that tell the class there is at least one without the object.

Now and then an object is not seen at a moment of its bursts, and in a few videos the actor is never seen: every model
has to guess there, which keeps the best below 97 %. Half of the training videos are easier, none of the validation's:
there the actor is alone and always seen. Models learn the rules sooner with them (docs/log.md).

A single moment shows each object at a random place, whatever the class. Played backwards, a near video belongs to the
other near class. Without their order, its frames are pairs of neighbouring places in both classes: they tell near from
far and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ranged
from .built_in import BuiltIn
from .pictures import Crop, cut, draw_crop
from .splits import SPLITS

BURSTS = ((0, 1), (3, 4), (6, 7))
MOMENTS = 8
PLACES = ((-1, -1), (-1, 1), (1, 1), (1, -1))  # row, column; clockwise on the screen
HIDDEN = -9
_REACH = 0.25  # of the short side, from the middle to a place along each axis
_RADIUS = (0.088, 0.108)  # of the short side
_WARM = ((200, 250), (140, 200), (30, 80))  # red, green, blue; of a cool object the other way round


class _Track(NamedTuple):
    """How an object moves."""

    far: bool
    sense: int  # 1 clockwise, -1 counter-clockwise


_TRACKS = {
    "near: clockwise": _Track(far=False, sense=1),
    "near: counter-clockwise": _Track(far=False, sense=-1),
    "far: clockwise": _Track(far=True, sense=1),
    "far: counter-clockwise": _Track(far=True, sense=-1),
}
CLASSES: tuple[str, ...] = tuple(_TRACKS)

_STREAM = 2  # of the random numbers; VERSION also rises with the coding


@dataclass(unsafe_hash=True)
class ProbeConfig(BuiltIn):
    """Which probe videos to generate."""

    KIND = "probe"
    VERSION = 5
    CLASSES = CLASSES

    width: int = ranged(48, 32, 1024)
    train_videos: int = ranged(3200, 1, 10**6)
    val_videos: int = ranged(400, 1, 10**6)
    classes: tuple[str, ...] = CLASSES
    cool: int = ranged(1, 0, 2)  # objects beside the actor
    missing: float = ranged(0.1, 0, 1, below=True)  # chance of each object at each moment not to be seen
    blank: float = ranged(0.06, 0, 1, below=True)  # chance of a video not to show its actor at any moment
    alone: float = ranged(0.5, 0, 1)  # chance of a training video to show its actor alone and at each of its moments

    def frames_of(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        return render(draw(self, split, index))


@dataclass(frozen=True)
class ProbeScene:
    """Everything that one video is made of. Only `label` and `places` depend on the class."""

    config: ProbeConfig
    split: str
    index: int
    label: int
    places: npt.NDArray[np.int64]  # (objects, moments): index of PLACES, or HIDDEN; the actor first
    background: Crop
    brightness: float  # mean of the background, 0-255
    contrast: float  # of the background, 1 is the photograph's own
    colours: npt.NDArray[np.float64]  # (objects, 3), 0-255
    radius: float  # pixels
    shift: tuple[float, float]  # of the four places, pixels
    noise: float  # standard deviation, 0-255


def draw(config: ProbeConfig, split: str, index: int) -> ProbeScene:
    """Draw video `index` of a split from the arguments alone."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index, _STREAM])
    side = min(config.height, config.width)
    label = config.label_of(index)
    actor = _TRACKS[config.classes[label]]
    colours = [[rng.uniform(*bounds) for bounds in (_WARM if i == 0 else _WARM[::-1])] for i in range(1 + config.cool)]
    tracks = [actor, *(_any_track(rng) for _ in range(config.cool))]
    places = np.stack([_places(rng, track) for track in tracks])
    hidden = rng.random(places.shape) < config.missing
    hidden[0] |= rng.random() < config.blank
    alone = rng.random() < config.alone
    if split == "train" and alone:
        hidden[0], hidden[1:] = False, True
    return ProbeScene(
        config=config,
        split=split,
        index=index,
        label=label,
        background=draw_crop(rng, split == "train", config.width / config.height, (0.5, 1.0)),
        brightness=rng.uniform(30, 70),
        contrast=rng.uniform(0.1, 0.2),
        colours=np.array(colours),
        radius=rng.uniform(*_RADIUS) * side,
        shift=(rng.uniform(-2, 2) * side / 48, rng.uniform(-2, 2) * side / 48),
        noise=rng.uniform(0.5, 4.0),
        # NOTE: two objects may be at one place. If such draws were repeated, the objects' offset would tell the class.
        places=np.where(hidden, HIDDEN, places),
    )


def _any_track(rng: np.random.Generator) -> _Track:
    return _Track(far=bool(rng.integers(2)), sense=int(rng.choice([-1, 1])))


def _places(rng: np.random.Generator, track: _Track) -> npt.NDArray[np.int64]:
    """Draw the place of one object at each moment, HIDDEN between its bursts."""
    places = np.full(MOMENTS, HIDDEN)
    first = rng.integers(len(PLACES), size=len(BURSTS))
    if track.far:
        first = first[0] + track.sense * np.arange(len(BURSTS))
    for (start, end), place in zip(BURSTS, first, strict=True):
        places[start], places[end] = place, place if track.far else place + track.sense
    return np.where(places == HIDDEN, HIDDEN, places % len(PLACES))


def render(scene: ProbeScene) -> npt.NDArray[np.uint8]:
    """Return the video's frames before coding: (frames, height, width, 3) uint8 RGB."""
    config = scene.config
    rng = np.random.default_rng([config.seed, SPLITS.index(scene.split), scene.index, _STREAM, 1])
    photo = cut(scene.background, config.width, config.height)
    still = scene.brightness + scene.contrast * (photo - photo.mean())
    row, column = np.mgrid[: config.height, : config.width].astype(np.float32)
    reach = _REACH * min(config.height, config.width)
    moments = np.repeat(still[None], MOMENTS, axis=0)
    for i, track in enumerate(scene.places):
        for moment, place in enumerate(track):
            if place == HIDDEN:
                continue
            beside = 2 * np.pi * i / len(scene.places)
            y = config.height / 2 - 0.5 + PLACES[place][0] * reach + scene.shift[0] + np.sin(beside) * scene.radius
            x = config.width / 2 - 0.5 + PLACES[place][1] * reach + scene.shift[1] + np.cos(beside) * scene.radius
            alpha = np.clip(scene.radius + 0.5 - np.hypot(row - y, column - x), 0, 1)[..., None]
            moments[moment] += alpha * (scene.colours[i] - moments[moment])
    at = np.arange(config.frames) * MOMENTS // config.frames
    noise = rng.standard_normal((config.frames, config.height, config.width, 1), dtype=np.float32)
    return np.asarray(np.clip(moments[at] + scene.noise * noise, 0, 255), dtype=np.uint8)
