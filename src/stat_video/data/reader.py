"""Reads the chosen frames of a video, a file or a folder of pictures, as a PyTorchVideo `Video`.

If the container's time stamps can be trusted, the packets of a file are listed first, without decoding: their number is
the number of frames, their sorted times say which packet holds which frame, and only what the wanted frames need is
decoded (`decode_plan.py`). Otherwise, and on any doubt, every packet is decoded and the bad ones are skipped.

Whoever reads a video, for training, a test, a prediction, a verification or a copy, reads it here: they agree on what
can be read, and on the frames.
"""

import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import torch
from av.codec.context import ThreadType
from av.video.reformatter import VideoReformatter
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from ..errors import InputError
from .cut_off import cut_off
from .decode_plan import Doubt, Skip, decode_by, is_timed, plan_of
from .frame_folder import FrameFolder, Inspection, sizes_of, stacked, to_clip, warn_of_damage
from .limits import MEGA, Limits
from .orientation import Picture, turn_of, turned
from .sampling import ChooseFrames
from .storage import lost
from .streams import video_stream

READ_ERRORS = (InputError, av.FFmpegError, OSError, ValueError)  # what reading a video may raise


def reason_of(error: Exception, path: str) -> str:
    """Return why the video at `path` cannot be read, without its path."""
    return (error.line if isinstance(error, InputError) else str(error)).removeprefix(f"{path}: ")


class _Decoder:
    """A stream's decoder that minds the limits."""

    def __init__(self, name: str, stream: "av.VideoStream", limits: Limits) -> None:
        self.name, self.context, self.limits = name, stream.codec_context, limits
        self.seconds = 0.0  # of CPU time so far
        self.concealed = False  # whether a frame was damaged, and was made up from those that happened to be decoded
        self.can_skip = self.context.name != "libdav1d"  # which takes what to skip at its start, once for all

    def decode(self, packet: "av.Packet | None", skip: Skip = "DEFAULT") -> list["av.VideoFrame"]:
        """Return the frames that come out once a packet is in; None: those that are left."""
        begin = time.thread_time()
        if self.can_skip:
            self.context.skip_frame = skip
        frames = self.context.decode(packet)
        for frame in frames:
            self.limits.check_frame(self.name, frame.height, frame.width)
            self.concealed |= frame.is_corrupt
        self.seconds += time.thread_time() - begin
        self.limits.check_time(self.name, self.seconds)
        return frames

    def restart(self) -> None:
        """Forget all frames, to go on at a later keyframe."""
        self.context.flush_buffers()


class PyAVVideo(Video):
    """A video file read with PyAV: decodes what it must, converts only the wanted frames to RGB, keeps uint8.

    Every method raises InputError, naming the video, if there is nothing to read or it costs more than `limits`.
    """

    def __init__(
        self,
        file: BinaryIO,
        video_name: str | None = None,
        decode_audio: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.name, self.limits = video_name or "video", limits or Limits()
        with lost(Path(self.name)):  # decoding reads from memory: whatever fails there is the video's fault
            self._bytes = file.read()
        if not self._bytes:
            raise InputError(f"{self.name}: the file is empty")

    @property
    def rate(self) -> Fraction:
        """Average number of frames a second, 0 if the file does not say."""
        with self._open() as (_, stream, _):
            return stream.average_rate or Fraction(0)

    @property
    def duration(self) -> float:
        """Length in seconds, by the frame count and the average rate."""
        return self.frame_count() / float(self.rate or 1)

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, Tensor | None]:
        """Return the frames in [start_sec, end_sec) in PyTorchVideo's form: float32 (3, frames, H, W) from 0 to 255."""
        return to_clip(self, float(self.rate or 1), start_sec, end_sec)

    def frame_count(self) -> int:
        """Return the number of frames, counted without decoding if the time stamps can be trusted."""
        with self._open() as (container, stream, _):
            packets = self._packets(container, stream)
            plan = plan_of(container, packets)
        return plan.count if plan else self._whole(set())[1]

    def frames(self, choose: ChooseFrames) -> Tensor:
        """Return the frames that `choose` takes, uint8 (T, H, W, 3); it is asked again if fewer frames decode.

        Frames of several sizes are resized to that of the first one taken.
        """
        return self.clips([choose])[0]

    def clips(self, choices: Sequence[ChooseFrames]) -> list[Tensor]:
        """Return what `frames` returns for each of several choices, decoded at once.

        Raises Doubt if there are several and a part that one of them needs is damaged: the others may not need it, so
        each has to be read by itself.
        """
        to_rgb = VideoReformatter()
        with self._open() as (container, stream, decoder):
            packets = self._packets(container, stream)
            plan = plan_of(container, packets)
            promised = plan.count if plan else sum(1 for p in packets if not p.is_discard)
            taken = [choose(promised) for choose in choices] if promised else []
            found: dict[int, Picture] | None = None
            if plan and promised:
                with suppress(Doubt, av.FFmpegError):
                    found = decode_by(plan, decoder, set(chain(*taken)), lambda frame: _rgb(to_rgb, frame))
                if len(choices) > 1 and (found is None or decoder.concealed):
                    raise Doubt
        if found is None:
            found, decoded = self._whole(set(chain(*taken)))
            if decoded and decoded != promised:
                if plan:  # a sound AVI may have packets without a frame
                    warn_of_damage(self.name, decoded, promised, "frames decode")
                taken = [choose(decoded) for choose in choices]
                found, _ = self._whole(set(chain(*taken)))
        if not found:
            raise InputError(f"{self.name}: no frame could be decoded")
        return [torch.from_numpy(stacked([found[i] for i in indices])) for indices in taken]

    def inspect(self) -> Inspection:
        """Decode every packet, converting none; InputError if no frame comes out."""
        frames = errors = concealed = 0
        sizes: dict[tuple[int, int], None] = {}
        reason = ""
        with self._open() as (container, stream, decoder):
            packets = self._packets(container, stream)
            # The header's count, less what an edit list hides. An AVI's header also counts packets without a frame.
            timed = is_timed(container)
            promised = stream.frames - sum(p.is_discard for p in packets) if timed else 0.9 * stream.frames
            for packet in [*packets, None]:
                try:
                    decoded = decoder.decode(packet)
                except av.FFmpegError as error:
                    errors, reason = errors + 1, error.strerror or str(error)
                    continue
                frames += len(decoded)
                sizes |= dict.fromkeys((frame.height, frame.width) for frame in decoded)
                concealed += sum(frame.is_corrupt for frame in decoded)
            context = stream.codec_context
            if not frames:
                raise InputError(f"{self.name}: unreadable video ({reason or 'no frame in it'})")
            trouble = [f"{errors} packets do not decode ({reason})"] if errors else []
            trouble += [f"{concealed} frames are damaged"] if concealed else []
            if frames < promised:
                trouble.append(f"{frames} of {stream.frames} frames are there")
            elif missing := cut_off(self._bytes):
                trouble.append(f"cut off: {missing}")
            trouble += sizes_of(sizes)
            rate = float(stream.average_rate or 0)
            height, width = next(iter(sizes))
            return Inspection(frames, rate, height, width, context.name, context.pix_fmt or "", "; ".join(trouble))

    def decoded(self) -> Iterator["av.VideoFrame"]:
        """Yield all frames in their order, in their coded pixel format; bad packets are skipped."""
        with self._open() as (container, stream, decoder):
            for packet in [*self._packets(container, stream), None]:
                with suppress(av.FFmpegError):
                    yield from decoder.decode(packet)

    def _whole(self, wanted: Set[int]) -> tuple[dict[int, Picture], int]:
        """Decode everything, skipping bad packets; return those of `wanted` that are there, and the frame count."""
        found: dict[int, Picture] = {}
        count = 0
        to_rgb = VideoReformatter()
        reason = "no frame in it"
        with self._open() as (container, stream, decoder):
            for packet in [*self._packets(container, stream), None]:
                try:
                    decoded = decoder.decode(packet)
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
    def _open(self) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream", _Decoder]]:
        try:
            container = av.open(BytesIO(self._bytes), mode="r", metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"{self.name}: not a readable video ({error.strerror})") from error
        with container:
            stream = video_stream(container)
            if stream is None:
                raise InputError(f"{self.name}: no video stream in the file")
            context = stream.codec_context
            if context is None:
                raise InputError(f"{self.name}: unreadable video (no decoder for its codec)")
            if context.height and context.width:  # before a frame takes its memory
                self.limits.check_frame(self.name, context.height, context.width)
            context.options = {"max_pixels": str(int(self.limits.megapixels * MEGA))}
            context.thread_count = 1  # the data workers are the threads
            context.thread_type = ThreadType.NONE
            yield container, stream, _Decoder(self.name, stream, self.limits)


def _rgb(to_rgb: VideoReformatter, frame: "av.VideoFrame") -> Picture:
    # One thread: else libswscale would start a thread a core for each frame.
    picture: Any = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return turned(picture, turn_of(frame))


AnyVideo = PyAVVideo | FrameFolder


class PathHandler(VideoPathHandler):
    """PyTorchVideo's path handler with our readers in place of its decoders."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__()
        self.limits = limits or Limits()

    def video_from_path(
        self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 12
    ) -> AnyVideo:
        """Open the file, or the folder of frames, at `filepath`.

        Raises Lost if the disk does not return it, InputError if it is empty or too large.
        """
        path = Path(filepath)
        self.limits.check_file(path)
        with lost(path):
            if path.is_dir():
                return FrameFolder(path, fps, self.limits)
            with path.open("rb") as file:
                return PyAVVideo(file, str(path), limits=self.limits)
