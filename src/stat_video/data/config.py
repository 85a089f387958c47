"""What a command says of a data set: `data.*` keys."""

from dataclasses import dataclass

from ..errors import InputError
from .layouts import LAYOUTS
from .motion import MotionConfig
from .probe import ProbeConfig

READERS = ("pyav", "torchcodec")


@dataclass
class DataConfig:
    """A data set and how its frames become clips."""

    name: str = "motion"
    root: str | None = None  # folder of the videos and lists
    setting: str = "folders.built_in"  # the key that a user sets to name that folder; for messages
    layout: str = "lists"  # the form it comes in: layouts.py
    classes: str | None = None  # these three relative to root; null: where the layout looks for them
    train: str | None = None
    val: str | None = None
    videos: str = "."  # the folder, relative to root, below which the videos are
    manifest: str | None = None  # of src/prepare.py; null: manifest.csv below root
    fold: int = 1  # of UCF101's and HMDB51's three splits
    max_absent: float = 0.0  # share of a list's videos that may not be there, each counted; more ends in one line
    max_unreadable: float = 0.01  # share of the videos that may be empty or broken, likewise
    reader: str = "pyav"  # or torchcodec, where it and FFmpeg are installed
    short_side: int = 256  # of the frame that views are cropped from, pixels
    mean: float = 0.45  # of the pixels, 0 to 1; SlowFast's and MViT's for Kinetics and SSv2
    std: float = 0.225
    hflip: bool = True  # off where labels name directions
    views: str = "5x1"  # the protocol that the paper tests it with
    class_groups: bool = False  # classes are named 'group: class', and accuracy is reported for each group too
    motion: MotionConfig | None = None  # only data=motion: generated when it is not there
    probe: ProbeConfig | None = None  # only data=probe, likewise

    @property
    def built_in(self) -> MotionConfig | ProbeConfig | None:
        """What to generate, where the data set is one of ours."""
        return self.motion or self.probe

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"data.layout={self.layout}: allowed are {', '.join(LAYOUTS)}")
        if self.fold not in (1, 2, 3):
            raise InputError(f"data.fold={self.fold}: allowed are 1, 2, 3")
        if self.reader not in READERS:
            raise InputError(f"data.reader={self.reader}: allowed are {', '.join(READERS)}")
        for key in ("max_absent", "max_unreadable"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"data.{key}={getattr(self, key)}: a share from 0 to below 1 is allowed")
        if not 0 <= self.mean <= 1 or self.std <= 0:
            raise InputError(
                f"data.mean={self.mean}, data.std={self.std}: a mean from 0 to 1 and a std above 0 are allowed"
            )
