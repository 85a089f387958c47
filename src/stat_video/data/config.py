"""What a command says of a data set: keys `data.*`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, any_value, check_ranges, one_of, path, ranged
from .layouts.base import Split
from .limits import Limits
from .motion import MotionConfig
from .probe import ProbeConfig


@dataclass
class DataConfig:
    """A data set and how its frames become clips."""

    name: str = "motion"
    root: str | None = path()  # folder of the videos and lists
    setting: str = "folders.built_in"  # the key that a user sets to name that folder; for messages
    layout: str = any_value("lists")  # the form it comes in: a file of layouts/
    classes: str | None = path()  # these three relative to root; null: where the layout looks for them
    train: str | None = path()
    val: str | None = path()
    videos: str = path(".")  # the folder, relative to root, below which the videos are
    manifest: str | None = path()  # of src/prepare.py; null: manifest.csv below root
    fold: int = ranged(1, 1)  # of UCF101's and HMDB51's three splits, or of `folds`
    # layout=own: each fold holds other videos out, and all together each video once; 1: `held_out` of them are.
    folds: int = ranged(1, 1, neutral=1)
    # layout=own: a regular expression on a video's path below its class folder. What it matches, or its first group in
    # parentheses, names a recording, person or place, whose videos of all classes stay on one side of the split. null:
    # a third folder level does, as in CLASS/GROUP/VIDEO.
    group: str | None = path(neutral=None)
    held_out: float = ranged(0.2, 0, 1, above=True, below=True)  # layout=own: share of each class for validation
    seed: int = ranged(0, 0)  # layout=own: of the draw of these
    max_absent: float = ranged(0.0, 0, 1, below=True)  # share of a list's videos that may be missing; all are counted
    max_unreadable: float = ranged(0.01, 0, 1, below=True)  # share of the videos that may be empty or broken, likewise
    max_shared: float = ranged(0.0, 0, 1)  # share of the validation videos that may be training videos, too
    wait_seconds: float = ranged(300.0, 0)  # to wait for videos whose disk is gone; 0: the run stops at once
    limits: Limits = field(default_factory=Limits)  # what reading one video may cost
    short_side: int = ranged(256, 1)  # of the frame that views are cropped from, pixels
    # Of the pixels, 0 to 1; SlowFast's and MViT's for Kinetics and SSv2. null: measured on training videos (pixels.py).
    mean: float | None = ranged(0.45, 0, 1, null=True)
    std: float | None = ranged(0.225, 0, above=True, null=True)
    # Flip training clips at random; false if labels name directions; null: by the names of the classes (directions.py).
    hflip: bool | None = True
    first_weights: str | None = path()  # what init is where nobody says it
    views: str = "5x1"  # the test protocol of the paper
    multi_label: bool = any_value(False, neutral=False)  # a video may have several classes, or none
    class_groups: bool = False  # classes are named 'group: class', and accuracy is reported for each group too
    motion: MotionConfig | None = None  # data=motion: what to generate
    probe: ProbeConfig | None = None  # data=probe, likewise
    # That of a model for it, where nobody says `scale` (compose/scale.py); null: any.
    scale: str | None = one_of(None, (None, "tiny", "paper"), neutral=None)

    @property
    def split(self) -> Split:
        """Return how videos are divided where the files leave that open."""
        return Split(self.fold, self.held_out, self.seed, self.folds, self.group)

    @property
    def folder(self) -> Path | None:
        """Return `root` as an absolute path: class folders list each video by where it lies."""
        return None if self.root is None else Path(self.root).expanduser().absolute()

    @property
    def built_in(self) -> MotionConfig | ProbeConfig | None:
        """Return what to generate, None if the data set is not one of ours."""
        return self.motion or self.probe

    def __post_init__(self) -> None:
        check_ranges(self, "data.")
        if self.layout != "own" and (self.folds > 1 or self.group is not None):
            key = f"group={self.group}" if self.group is not None else f"folds={self.folds}"
            raise InputError(f"data.{key}: is of data.layout=own, class folders without a split")
        most = self.folds if self.layout == "own" else 3
        if self.fold > most:
            raise InputError(f"data.fold={self.fold}: must be 1 to {most}" + (", data.folds" if self.folds > 1 else ""))
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise InputError(f"data.group={self.group}: must be a regular expression ({error})") from None
        if self.multi_label and self.class_groups:
            raise InputError("data.class_groups=true: must be false with data.multi_label=true")
