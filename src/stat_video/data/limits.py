"""What reading one video may cost."""

import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, check_ranges, ranged
from .storage import lost

GIB, MEGA = 2**30, 10**6


@dataclass
class Limits:
    """What reading a video may take, keys `data.limits.*`; one that takes more is named and counts as unreadable.

    Each method raises InputError if its limit is passed. What is read at once, the repeats of a video in training and
    its temporal clips in a test, takes the file's size plus their T frames each.
    """

    gib: float = ranged(4.0, 0, above=True)  # size of the file in GiB; of a folder no more than T pictures are read
    megapixels: float = ranged(36.0, 0, above=True)  # of a frame, as coded; one of 8K has 33
    aspect: float = ranged(16.0, 1)  # long side of a frame / short side, which is what a resize keeps
    # Decoded frames of a video in memory, in a test: temporal clips with more frames in all take several readings.
    frames: int = ranged(160, 1, neutral=160)
    seconds: float = ranged(600.0, 0, above=True)  # CPU time of decoding, each time that the video is opened

    def __post_init__(self) -> None:
        check_ranges(self, "data.limits.")

    def check_file(self, path: Path) -> None:
        """Refuse what is no file or folder, such as a pipe, and what is too large; Lost if it is not there."""
        with lost(path):
            about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            return
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: not a file")
        if (size := about.st_size) > self.gib * GIB:
            raise InputError(f"{path}: has {size / GIB:,.1f} GiB; data.limits.gib={self.gib:g} is allowed")

    def check_frame(self, name: str, height: int, width: int) -> None:
        """Refuse a frame that is too large or too long."""
        if height * width > self.megapixels * MEGA:
            allowed = f"data.limits.megapixels={self.megapixels:g} is allowed"
            raise InputError(f"{name}: frames of {width}x{height} pixels; {allowed}")
        if max(height, width) > self.aspect * min(height, width):
            raise InputError(
                f"{name}: frames of {width}x{height} pixels; data.limits.aspect={self.aspect:g} is allowed"
            )

    def check_time(self, name: str, seconds: float) -> None:
        """Refuse what has taken too long."""
        if seconds > self.seconds:
            raise InputError(f"{name}: takes longer to decode than data.limits.seconds={self.seconds:g} allows")
