"""Reads a video that lies as a folder of pictures; and what a video file and such a folder have in common."""

import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from pytorchvideo.data.video import Video
from torch import Tensor

from ..errors import InputError
from .limits import Limits
from .orientation import Picture
from .sampling import ChooseFrames
from .storage import Lost, lost

log = logging.getLogger(__name__)
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}  # the files that are read in a folder of frames
ORIENTATIONS = {  # EXIF's numbers; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Inspection:
    """What decoding every packet, or every picture, tells of a video."""

    frames: int
    fps: float
    height: int
    width: int
    codec: str
    pixels: str  # FFmpeg's name of the pixel format
    trouble: str  # '' if it is whole


_WARNED: set[str] = set()  # videos that this process has warned of


def warn_of_damage(name: str, readable: int, of: int, what: str) -> None:
    """Log, once for each video, that clips are drawn from fewer frames than there should be."""
    if name not in _WARNED:
        _WARNED.add(name)
        log.warning("%s: %d of %d %s; clips are drawn from those", name, readable, of, what)


class _HasFrames(Protocol):
    def frame_count(self) -> int: ...
    def frames(self, choose: ChooseFrames) -> Tensor: ...


def to_clip(video: _HasFrames, rate: float, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
    """Return the frames in [start_sec, end_sec) in PyTorchVideo's form: float32 (3, frames, H, W) from 0 to 255."""
    # The first frame at or after each time; 1e-6, as the float of a time such as 0.07 s lies a little after it.
    first, last = (max(math.ceil(float(t) * rate - 1e-6), 0) for t in (start_sec, end_sec))
    if first >= min(last, video.frame_count()):
        return {"video": None, "audio": None}
    frames = video.frames(lambda n: list(range(min(first, n - 1), min(last, n))))
    return {"video": frames.permute(3, 0, 1, 2).float(), "audio": None}


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Return pictures as (T, H, W, 3); those of another size are resized to the first one's."""
    height, width = pictures[0].shape[:2]
    return np.stack(
        [
            p if p.shape[:2] == (height, width) else np.asarray(Image.fromarray(p).resize((width, height)))
            for p in pictures
        ]
    )


def pixels_of(picture: Image.Image) -> Picture:
    """Return a picture upright, as its EXIF orientation says, as uint8 RGB (H, W, 3); ValueError for floats."""
    with suppress(Exception):  # damaged EXIF data raise errors of many kinds, and say nothing of the pixels
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        if (turn := ORIENTATIONS.get(orientation)) is not None:
            picture = picture.transpose(turn)
    if picture.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if picture.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255 instead of scaling them
        high = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255)  # the byte that Pillow takes of 16-bit RGB
        return np.repeat(high.astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def sizes_of(sizes: Collection[tuple[int, int]]) -> list[str]:
    """Return a line on the sizes (height, width) of a video's frames if there are several."""
    if len(sizes) < 2:
        return []
    named = ", ".join(f"{width}x{height}" for height, width in [*sizes][:3])
    return [f"frames of {len(sizes)} sizes, {named}; those of a clip are resized to its first"]


class FrameFolder(Video):
    """A video as a folder of pictures, in the order of their numbers (Something-Something v2's usual form).

    Pictures of optical flow, `flow_x_00001.jpg`, that lie beside are left out; those that can't be read are, too, and
    are named.
    """

    def __init__(self, folder: Path, fps: float, limits: Limits) -> None:
        """Take the folder's pictures; InputError if there is none. ``fps`` (SSv2's is 12) only matters to times."""
        self.name, self.fps, self.rate, self.limits = str(folder), fps, Fraction(fps), limits
        files = [f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith((".", "flow_"))]
        if not files:
            raise InputError(f"{folder}: no picture in the folder ({', '.join(sorted(PICTURES))} are looked for)")
        numbers = {file: [int(n) for n in re.findall("[0-9]+", file.stem)] for file in files}
        series = sorted({re.sub("[0-9]+", "N", file.stem) for file in files})
        if len(series) > 1 and any(numbers.values()):
            raise InputError(f"{folder}: pictures of several series, {', '.join(series[:3])}; one is expected")
        self._files = sorted(files, key=lambda file: (numbers[file], file.name))
        frames: dict[str, Path] = {}
        for file in self._files:
            frame = re.sub("(?<![.0-9])0+(?=[0-9])", "", file.stem)  # img_00001 and img_1 are one
            if (other := frames.setdefault(frame, file)) is not file:
                raise InputError(f"{folder}: {other.name} and {file.name} are the same frame; one of them is expected")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self._files) / self.fps

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        """Return the frames in [start_sec, end_sec) in PyTorchVideo's form: float32 (3, frames, H, W) from 0 to 255."""
        return to_clip(self, self.fps, start_sec, end_sec)

    def frame_count(self) -> int:
        """Return the number of pictures."""
        return len(self._files)

    def decoded(self) -> Iterator["av.VideoFrame"]:
        """Yield all frames in their order; pictures that can't be read are skipped."""
        for _, picture in self._readable([]):
            yield av.VideoFrame.from_ndarray(picture, format="rgb24")

    def inspect(self) -> Inspection:
        """Read every picture; InputError if none can be read."""
        bad: list[InputError] = []
        count, sizes = 0, dict[tuple[int, int], None]()
        for _, picture in self._readable(bad):
            count += 1
            sizes[picture.shape[0], picture.shape[1]] = None
        first = bad[0].line.removeprefix(f"{self.name}/") if bad else ""
        trouble = [f"{len(bad)} pictures can't be read, first {first}"] if bad else []
        if not count:
            raise InputError(f"{self.name}: {trouble[0]}")
        trouble += sizes_of(sizes)
        (height, width), codec = next(iter(sizes)), self._files[0].suffix[1:].lower()
        return Inspection(count, self.fps, height, width, codec, "rgb24", "; ".join(trouble))

    def frames(self, choose: ChooseFrames) -> Tensor:
        """Return the frames that `choose` takes, uint8 (T, H, W, 3); it is asked again if some can't be read."""
        try:
            return self.clips([choose])[0]
        except Lost:  # it may be sound
            raise
        except InputError:
            readable = [file for file, _ in self._readable([])]
            if not readable:
                raise
            warn_of_damage(self.name, len(readable), len(self._files), "pictures can be read")
            self._files = readable
            return self.frames(choose)

    def clips(self, choices: Sequence[ChooseFrames]) -> list[Tensor]:
        """Return the frames that each of several choices takes; InputError if one of them can't be read."""
        taken = [choose(len(self._files)) for choose in choices]
        read = {i: self._read(self._files[i]) for i in set(chain(*taken))}
        return [torch.from_numpy(stacked([read[i] for i in indices])) for indices in taken]

    def _readable(self, bad: list[InputError]) -> Iterator[tuple[Path, Picture]]:
        """Yield each picture that can be read; add why the others can't to ``bad``."""
        for file in self._files:
            try:
                yield file, self._read(file)
            except Lost:
                raise
            except InputError as error:
                bad.append(error)

    def _read(self, file: Path) -> Picture:
        """Return a picture; Lost if the disk does not return it, InputError if it cannot be decoded."""
        self.limits.check_file(file)
        with lost(file):
            if file.is_dir():
                raise InputError(f"{file}: unreadable picture (not a file)")
            content = file.read_bytes()
        try:
            with Image.open(BytesIO(content)) as picture:
                self.limits.check_frame(str(file), picture.height, picture.width)
                return pixels_of(picture)
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError(f"{file}: unreadable picture (not a picture)") from None
        except (OSError, ValueError, NotImplementedError, Image.DecompressionBombError) as error:
            raise InputError(f"{file}: unreadable picture ({error})") from None
