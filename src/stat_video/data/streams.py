"""The video stream of a file."""

from contextlib import suppress
from pathlib import Path

import av
from av.stream import Disposition


def has_video(file: Path) -> bool:
    """Return whether there is a video stream in a file, by its header."""
    with suppress(av.FFmpegError, OSError), av.open(str(file), metadata_errors="replace") as container:
        return video_stream(container) is not None
    return False


def video_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """Return the first video stream that is no picture attached to a sound file, such as its cover."""
    streams = container.streams.video
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)
