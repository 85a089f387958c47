"""Small videos for the tests: numbered ones in any codec, and a tiny motion set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from stat_video.data.built_in import ensure
from stat_video.data.motion import MotionConfig

Pixels = npt.NDArray[np.uint8]
WriteVideo = Callable[..., Path]

MOTION = MotionConfig(height=32, width=40, frames=16, train_videos=24, val_videos=12)


def numbered(count: int, height: int, width: int) -> Pixels:
    """Frames (count, height, width, 3) that carry their number as eight bars, black or white, over all the height."""
    bars = np.array([[i >> bit & 1 for bit in range(8)] for i in range(count)])  # (count, 8)
    bar_of_column = np.arange(width) * 8 // width
    return np.ascontiguousarray(
        np.broadcast_to(bars[:, None, bar_of_column, None] * 215 + 20, (count, height, width, 3))
    )


def write(
    path: Path,
    count: int = 24,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    fps: int = 25,
    pixels: str = "yuv420p",
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of `numbered` frames; `times` are their time stamps in 1/fps seconds, 0, 1, 2 ... unless told."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for i, frame in enumerate(numbered(count, *size).astype(np.uint8)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i if times is None else times[i]
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_video() -> WriteVideo:
    """`write`: there is no importing from a conftest."""
    return write


@pytest.fixture(scope="session")
def motion_config() -> MotionConfig:
    """The configuration of `motion_folder`."""
    return MOTION


@pytest.fixture(scope="session")
def motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 12 validation videos of 16 frames, 32 x 40 pixels, 12 classes. To be read only."""
    return ensure(tmp_path_factory.mktemp("motion"), MOTION, workers=1, progress=False)
