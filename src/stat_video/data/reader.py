"""Reads the chosen frames of a video, a file or a folder of pictures, as a PyTorchVideo `Video`.

If the container's time stamps can be trusted, the packets of a file are listed first, without decoding: their number is
the number of frames, their sorted times say which packet holds which frame, and only what the wanted frames need is
decoded (`_by_plan`). Otherwise, and on any doubt, every packet is decoded and the bad ones are skipped (`_whole`).
"""

import logging
import math
import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from av.codec.context import ThreadType
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from ..errors import InputError
from .sampling import ChooseFrames

log = logging.getLogger(__name__)
TIMED = {"mov", "mp4", "matroska", "webm", "mpegts"}  # containers whose time stamps order the frames; not AVI
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}  # the files that are read in a folder of frames
READ_ERRORS = (InputError, av.FFmpegError, OSError, ValueError)  # what reading a video may raise
Found = dict[int, np.ndarray]  # frame index -> (H, W, 3) uint8
_DAMAGED: set[str] = set()  # videos that this process has warned of


def reason_of(error: Exception, path: str) -> str:
    """Return why the video at `path` cannot be read, without its path."""
    return (error.line if isinstance(error, InputError) else str(error)).removeprefix(f"{path}: ")


class _Doubt(Exception):
    """A frame did not come out of the packet that should hold it: decode everything."""


@dataclass(frozen=True)
class DecodePlan:
    """When each frame is shown, and the groups of packets that can be decoded by themselves."""

    times: list[int]  # of the frames in their order
    groups: list[list["av.Packet"]]  # in decode order; each begins with a keyframe

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.times)


@dataclass(frozen=True)
class Inspection:
    """What decoding every packet tells of a video."""

    frames: int
    fps: float
    height: int
    width: int
    codec: str
    pixels: str  # FFmpeg's name of the pixel format
    trouble: str  # '' if it is whole


class PyAVVideo(Video):
    """A video file read with PyAV: decodes what it must, converts only the wanted frames to RGB, keeps uint8.

    Every method raises InputError, naming the video, if there is nothing to read.
    """

    def __init__(self, file: BinaryIO, video_name: str | None = None, decode_audio: bool = False) -> None:
        self._bytes = file.read()
        self.name = video_name or "video"
        if not self._bytes:
            raise InputError(f"{self.name}: the file is empty")

    @property
    def rate(self) -> Fraction:
        """Average number of frames a second, 0 if the file does not say."""
        with self._open() as (_, stream):
            return stream.average_rate or Fraction(0)

    @property
    def duration(self) -> float:
        """Length in seconds, by the frame count and the average rate."""
        return self.frame_count() / float(self.rate or 1)

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        """Return the frames in [start_sec, end_sec) in PyTorchVideo's form: float32 (3, frames, H, W) from 0 to 255."""
        rate = float(self.rate or 1)
        # The first frame at or after each time; 1e-6, as the float of a time such as 0.07 s lies a little after it.
        first, last = (max(math.ceil(float(t) * rate - 1e-6), 0) for t in (start_sec, end_sec))
        if first >= min(last, self.frame_count()):
            return {"video": None, "audio": None}
        frames = self.frames(lambda n: list(range(min(first, n - 1), min(last, n))))
        return {"video": frames.permute(3, 0, 1, 2).float(), "audio": None}

    def frame_count(self) -> int:
        """Return the number of frames, counted without decoding if the time stamps can be trusted."""
        with self._open() as (container, stream):
            packets = self._packets(container, stream)
            plan = plan_of(container, packets)
        return plan.count if plan else self._whole([])[1]

    def frames(self, choose: ChooseFrames) -> Tensor:
        """Return the frames that `choose` takes, uint8 (T, H, W, 3); it is asked again if fewer frames decode."""
        with self._open() as (container, stream):
            packets = self._packets(container, stream)
            plan = plan_of(container, packets)
            promised = plan.count if plan else sum(1 for p in packets if not p.is_discard)
            found: Found | None = None
            if plan and promised:
                indices = choose(promised)
                try:
                    found = _by_plan(stream, plan, set(indices))
                except (_Doubt, av.FFmpegError):
                    found = None
        if found is None:
            indices = choose(promised) if promised else []
            found, decoded = self._whole(indices)
            if decoded and decoded != promised:
                if plan and self.name not in _DAMAGED:  # a sound AVI may have packets without a frame
                    _DAMAGED.add(self.name)
                    log.warning("%s: %d of %d frames decode; clips are drawn from those", self.name, decoded, promised)
                indices = choose(decoded)
                found, _ = self._whole(indices)
        if not found:
            raise InputError(f"{self.name}: no frame could be decoded")
        _one_size(self.name, {frame.shape[:2] for frame in found.values()})
        return torch.from_numpy(np.stack([found[i] for i in indices]))

    def inspect(self) -> Inspection:
        """Decode every packet, converting none; InputError if no frame comes out, or frames of several sizes."""
        frames = errors = concealed = 0
        sizes = set()
        reason = ""
        with self._open() as (container, stream):
            packets = self._packets(container, stream)
            # The header's count, less what an edit list hides. An AVI's header also counts packets without a frame.
            timed = TIMED & set(container.format.name.split(","))
            promised = stream.frames - sum(p.is_discard for p in packets) if timed else 0.9 * stream.frames
            for packet in [*packets, None]:
                try:
                    decoded = stream.codec_context.decode(packet)
                except av.FFmpegError as error:
                    errors, reason = errors + 1, error.strerror or str(error)
                    continue
                frames += len(decoded)
                sizes |= {(frame.height, frame.width) for frame in decoded}
                concealed += sum(frame.is_corrupt for frame in decoded)
            context = stream.codec_context
            if not frames:
                raise InputError(f"{self.name}: unreadable video ({reason or 'no frame in it'})")
            height, width = _one_size(self.name, sizes)
            trouble = [f"{errors} packets do not decode ({reason})"] if errors else []
            trouble += [f"{concealed} frames are damaged"] if concealed else []
            trouble += [f"{frames} of {stream.frames} frames are there"] if frames < promised else []
            rate = float(stream.average_rate or 0)
            return Inspection(frames, rate, height, width, context.name, context.pix_fmt or "", "; ".join(trouble))

    def decoded(self) -> Iterator["av.VideoFrame"]:
        """Yield all frames in their order, in their coded pixel format; bad packets are skipped."""
        with self._open() as (container, stream):
            for packet in [*self._packets(container, stream), None]:
                with suppress(av.FFmpegError):
                    yield from stream.codec_context.decode(packet)

    def _whole(self, indices: Sequence[int]) -> tuple[Found, int]:
        """Decode everything, skipping bad packets; return those of `indices` that are there, and the frame count."""
        found, count, wanted = Found(), 0, set(indices)
        to_rgb = VideoReformatter()
        reason = "no frame in it"
        with self._open() as (container, stream):
            for packet in [*self._packets(container, stream), None]:
                try:
                    decoded = stream.codec_context.decode(packet)
                except av.FFmpegError as error:
                    reason = error.strerror or str(error)
                    continue
                for frame in decoded:
                    if count in wanted:
                        found[count] = _rgb(to_rgb, frame)
                    count += 1
        if not count:
            raise InputError(f"{self.name}: unreadable video ({reason})")
        return found, count

    def _packets(self, container: "av.container.InputContainer", stream: "av.VideoStream") -> list["av.Packet"]:
        """Return all packets of the stream, undecoded; of a file that breaks off, those before the break."""
        packets: list[av.Packet] = []
        try:
            packets.extend(p for p in container.demux(stream) if p.size)
        except av.FFmpegError as error:
            if not packets:
                raise InputError(f"{self.name}: unreadable video ({error.strerror})") from error
        return packets

    @contextmanager
    def _open(self) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
        try:
            container = av.open(BytesIO(self._bytes), mode="r", metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"{self.name}: not a readable video ({error.strerror})") from error
        with container:
            stream = _video_stream(container)
            if stream is None:
                raise InputError(f"{self.name}: no video stream in the file")
            if stream.codec_context is None:
                raise InputError(f"{self.name}: unreadable video (no decoder for its codec)")
            stream.codec_context.thread_count = 1  # the data workers are the threads
            stream.codec_context.thread_type = ThreadType.NONE
            yield container, stream


def _one_size(name: str, sizes: Set[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the size (height, width) that all frames have; InputError if there are several."""
    if len(sizes) > 1:
        one, other = sorted(sizes)[:2]
        raise InputError(f"{name}: the frame size changes within the video, {one} and {other}")
    (size,) = sizes
    return size


def has_video(file: Path) -> bool:
    """Return whether there is a video stream in a file, by its header."""
    with suppress(av.FFmpegError, OSError), av.open(str(file), metadata_errors="replace") as container:
        return _video_stream(container) is not None
    return False


def _video_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """Return the first video stream that is no picture attached to a sound file, such as its cover."""
    streams = container.streams.video
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)


def plan_of(container: "av.container.InputContainer", packets: Sequence["av.Packet"]) -> DecodePlan | None:
    """Return which packet holds which frame; None if the time stamps cannot be trusted."""
    if not TIMED & set(container.format.name.split(",")) or not packets or not packets[0].is_keyframe:
        return None
    times = [p.pts for p in packets if not p.is_discard]
    if any(time is None for time in times) or len(set(times)) < len(times):
        return None
    if any(p.is_corrupt or p.pts is None for p in packets):
        return None
    groups: list[list[av.Packet]] = []
    for packet in packets:
        if packet.is_keyframe:
            groups.append([])
        groups[-1].append(packet)
    return DecodePlan(sorted(time for time in times if time is not None), groups)


def _by_plan(stream: "av.VideoStream", plan: DecodePlan, wanted: set[int]) -> Found:
    """Decode the groups that hold a wanted frame, each up to its last; _Doubt if a wanted frame does not come out."""
    index_of = {plan.times[i]: i for i in wanted}
    last = _last_needed(plan, index_of)
    codec, to_rgb, found = stream.codec_context, VideoReformatter(), Found()

    def take(frames: Sequence["av.VideoFrame"]) -> None:
        for frame in frames:
            i = index_of.get(frame.pts) if frame.pts is not None else None
            if i is not None:
                found[i] = _rgb(to_rgb, frame)

    gap = False
    for group, end in zip(plan.groups, last, strict=True):
        if not end:
            gap = True
            continue
        if gap:
            take(codec.decode(None))
            codec.flush_buffers()
        for packet in group[:end]:
            # Skip frames that are not wanted and that no other frame refers to.
            codec.skip_frame = "DEFAULT" if packet.pts in index_of else "NONREF"
            take(codec.decode(packet))
        gap = end < len(group)
    take(codec.decode(None))
    if len(found) < len(wanted):
        raise _Doubt
    return found


def _last_needed(plan: DecodePlan, index_of: dict[int, int]) -> list[int]:
    """Return how many packets of each group must be decoded, from its first; 0: none."""
    last = [0] * len(plan.groups)
    for g, group in enumerate(plan.groups):
        for n, packet in enumerate(group, 1):
            if packet.pts in index_of:
                last[g] = n
                # A frame shown before its group's keyframe also refers to the group before.
                if g and packet.pts is not None and packet.pts < (group[0].pts or 0):
                    last[g - 1] = len(plan.groups[g - 1])
    return last


def _rgb(to_rgb: VideoReformatter, frame: "av.VideoFrame") -> np.ndarray:
    # One thread: else libswscale would start a thread a core for each frame.
    picture = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
    # Upright, as players show it: a phone stores frames lying on their side, and by how much to turn them.
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture


class FrameFolder(Video):
    """A video as a folder of pictures, in the order of their numbers (Something-Something v2's usual form).

    Pictures of optical flow, `flow_x_00001.jpg`, that lie beside are left out.
    """

    def __init__(self, folder: Path, fps: float = 12) -> None:
        """Take the folder's pictures; InputError if there is none. ``fps`` (default: SSv2's) only matters to times."""
        self.name, self.fps, self.rate = str(folder), fps, Fraction(fps)
        files = [f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith((".", "flow_"))]
        if not files:
            raise InputError(f"{folder}: no picture in the folder ({', '.join(sorted(PICTURES))} are looked for)")
        numbers = {file: [int(n) for n in re.findall("[0-9]+", file.stem)] for file in files}
        series = sorted({re.sub("[0-9]+", "N", file.stem) for file in files})
        if len(series) > 1 and any(numbers.values()):
            raise InputError(f"{folder}: pictures of several series, {', '.join(series[:3])}; one is expected")
        self._files = sorted(files, key=lambda file: (numbers[file], file.name))

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self._files) / self.fps

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        """Return the frames in [start_sec, end_sec) in PyTorchVideo's form: float32 (3, frames, H, W) from 0 to 255."""
        first, last = (max(math.ceil(float(t) * self.fps - 1e-6), 0) for t in (start_sec, end_sec))
        if first >= min(last, len(self._files)):
            return {"video": None, "audio": None}
        frames = self.frames(lambda n: list(range(first, min(last, n))))
        return {"video": frames.permute(3, 0, 1, 2).float(), "audio": None}

    def frame_count(self) -> int:
        """Return the number of pictures."""
        return len(self._files)

    def decoded(self) -> Iterator["av.VideoFrame"]:
        """Yield all frames in their order."""
        for file in self._files:
            yield av.VideoFrame.from_ndarray(self._read(file), format="rgb24")

    def inspect(self) -> Inspection:
        """Read every picture; InputError names the first that cannot be read, or two sizes."""
        height, width = _one_size(self.name, {self._read(file).shape[:2] for file in self._files})
        codec = self._files[0].suffix[1:].lower()
        return Inspection(len(self._files), self.fps, height, width, codec, "rgb24", "")

    def frames(self, choose: ChooseFrames) -> Tensor:
        """Return the frames that `choose` takes, uint8 (T, H, W, 3)."""
        indices = choose(len(self._files))
        read = {i: self._read(self._files[i]) for i in set(indices)}
        _one_size(self.name, {frame.shape[:2] for frame in read.values()})
        return torch.from_numpy(np.stack([read[i] for i in indices]))

    def _read(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, NotImplementedError, Image.DecompressionBombError) as error:  # UnidentifiedImageError is one
            raise InputError(f"{file}: unreadable picture ({error})") from None


AnyVideo = PyAVVideo | FrameFolder


class PathHandler(VideoPathHandler):
    """PyTorchVideo's path handler with our readers in place of its decoders."""

    def video_from_path(
        self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 12
    ) -> AnyVideo:
        """Open the file, or the folder of frames, at `filepath`; InputError if it is missing or empty."""
        path = Path(filepath)
        if path.is_dir():
            return FrameFolder(path, fps)
        if not path.is_file():
            raise InputError(f"{filepath}: no such video")
        with path.open("rb") as file:
            return PyAVVideo(file, str(path))
