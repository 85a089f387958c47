"""What a command says of a data set: keys `data.*`."""

from dataclasses import dataclass, field

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
    fold: int = one_of(1, (1, 2, 3))  # of UCF101's and HMDB51's three splits
    held_out: float = ranged(0.2, 0, 1, above=True, below=True)  # layout=own: share of each class for validation
    seed: int = ranged(0, 0)  # layout=own: of the draw of these
    max_absent: float = ranged(0.0, 0, 1, below=True)  # share of a list's videos that may be missing; all are counted
    max_unreadable: float = ranged(0.01, 0, 1, below=True)  # share of the videos that may be empty or broken, likewise
    max_shared: float = ranged(0.0, 0, 1)  # share of the validation videos that may be training videos, too
    wait_seconds: float = ranged(300.0, 0)  # to wait for videos whose disk is gone; 0: the run stops at once
    limits: Limits = field(default_factory=Limits)  # what reading one video may cost
    short_side: int = ranged(256, 1)  # of the frame that views are cropped from, pixels
    mean: float = ranged(0.45, 0, 1)  # of the pixels, 0 to 1; SlowFast's and MViT's for Kinetics and SSv2
    std: float = ranged(0.225, 0, above=True)
    hflip: bool = True  # flip training clips at random; false if labels name directions
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
        return Split(self.fold, self.held_out, self.seed)

    @property
    def built_in(self) -> MotionConfig | ProbeConfig | None:
        """Return what to generate, None if the data set is not one of ours."""
        return self.motion or self.probe

    def __post_init__(self) -> None:
        check_ranges(self, "data.")
        if self.multi_label and self.class_groups:
            raise InputError("data.class_groups=true: must be false with data.multi_label=true")
