"""Reading the chosen frames of a video file, as a PyTorchVideo `Video`."""

import logging
import math
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from ..errors import InputError
from .sampling import ChooseFrames

log = logging.getLogger(__name__)


class PyAVVideo(Video):
    """A video read with PyAV: decodes in order, converts only the wanted frames to RGB, keeps uint8.

    Raises InputError, naming the video, where there is nothing to read.
    """

    def __init__(self, file: BinaryIO, video_name: str | None = None, decode_audio: bool = False) -> None:
        self._bytes = file.read()
        self.name = video_name or "video"
        if not self._bytes:
            raise InputError(f"{self.name}: the file is empty")

    @property
    def duration(self) -> float:
        """Seconds, by the frame count and the average rate."""
        with self._open() as container:
            rate = container.streams.video[0].average_rate
        return self.frame_count() / float(rate or 1)

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        """PyTorchVideo's form: float32 (3, frames, H, W) in 0 ... 255 of the frames in [start_sec, end_sec)."""
        with self._open() as container:
            rate = float(container.streams.video[0].average_rate or 1)
        # The first frame at or after each time; the 1e-6 is for times such as 0.07 s that float makes a little later.
        first, last = (math.ceil(float(t) * rate - 1e-6) for t in (start_sec, end_sec))
        first, last = max(first, 0), min(last, self.frame_count())
        if first >= last:
            return {"video": None, "audio": None}
        frames = self.frames(lambda n: list(range(min(first, n - 1), min(last, n))))
        return {"video": frames.permute(3, 0, 1, 2).float(), "audio": None}

    def frame_count(self) -> int:
        """Video packets that hold a frame to show, counted without decoding."""
        try:
            with self._open() as container:
                packets = container.demux(container.streams.video[0])
                return sum(1 for p in packets if p.size and not p.is_discard)
        except av.FFmpegError as error:
            raise InputError(f"{self.name}: unreadable video ({error.strerror})") from error

    def frames(self, choose: ChooseFrames) -> Tensor:
        """uint8 (T, H, W, 3): the frames that `choose` takes from the frame count, which it may be asked twice."""
        count = self.frame_count()
        frames, decoded = self._decode(choose(count)) if count else ([], 0)
        if not frames and decoded:  # the packets promised more frames than the decoder gave
            log.warning("%s: %d of %d frames decode; clips are drawn from those", self.name, decoded, count)
            frames, decoded = self._decode(choose(decoded))
        if not frames:
            raise InputError(f"{self.name}: no frame could be decoded")
        sizes = sorted({frame.shape[:2] for frame in frames})
        if len(sizes) > 1:
            raise InputError(f"{self.name}: the frame size changes within the video, {sizes[0]} and {sizes[1]}")
        return torch.from_numpy(np.stack(frames))

    def _decode(self, indices: list[int]) -> tuple[list[np.ndarray], int]:
        """The frames at `indices` ([] if one is missing) and how many frames were decoded on the way."""
        wanted, found, decoded = set(indices), {}, 0
        to_rgb = VideoReformatter()  # one for all frames: each new one costs more than decoding a small frame
        try:
            with self._open() as container:
                for frame in container.decode(container.streams.video[0]):
                    if decoded in wanted:
                        # One thread: sws would start one a core for each frame, and the data workers are the threads.
                        found[decoded] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    decoded += 1
                    if len(found) == len(wanted):
                        break
        except av.FFmpegError as error:
            if not decoded:
                raise InputError(f"{self.name}: unreadable video ({error.strerror})") from error
        complete = len(found) == len(wanted)
        return ([found[i] for i in indices] if complete else []), decoded

    def _open(self) -> "av.container.InputContainer":
        try:
            container = av.open(BytesIO(self._bytes), mode="r", metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"{self.name}: not a readable video ({error.strerror})") from error
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.name}: no video stream in the file")
        container.streams.video[0].codec_context.thread_count = 1  # the data workers are the threads
        return container


class PathHandler(VideoPathHandler):
    """PyTorchVideo's path handler with our reader in the place of its decoders."""

    def video_from_path(
        self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 30
    ) -> PyAVVideo:
        """Open the file at `filepath`; InputError where it is missing or empty."""
        path = Path(filepath)
        if not path.is_file():
            raise InputError(f"{filepath}: no such video")
        with path.open("rb") as file:
            return PyAVVideo(file, str(path))
