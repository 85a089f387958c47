"""Turns and mirrors frames as their file's display matrix says: phones store frames that lie on their side."""

from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


class Turn(NamedTuple):
    """A way to turn or mirror a picture: first swap its rows and columns, then reverse them."""

    swap: bool
    rows: bool
    columns: bool


def turn_of(frame: av.VideoFrame) -> Turn | None:
    """Return the quarter turns and mirrors nearest to the frame's display matrix, None if there is nothing to do.

    The matrix (FFmpeg's `libavutil/display.h`) takes a pixel at (x, y) to (a x + c y, b x + d y). One of zeros says
    nothing.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    swap = abs(b) + abs(c) > abs(a) + abs(d)
    turn = Turn(True, b < 0, c < 0) if swap else Turn(False, d < 0, a < 0)
    return turn if any(turn) else None


def turned(picture: Picture, turn: Turn | None) -> Picture:
    """Return the picture (H, W, ...) as the turn says; a view of it."""
    if turn is None:
        return picture
    picture = picture.swapaxes(0, 1) if turn.swap else picture
    return picture[:: -1 if turn.rows else 1, :: -1 if turn.columns else 1]


def turned_yuv(frame: av.VideoFrame, turn: Turn) -> av.VideoFrame:
    """Return a yuv420p frame of even sides as the turn says."""
    height, width = frame.height, frame.width
    planes: Any = frame.to_ndarray()  # (H * 3 / 2, W)
    shapes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    parts = np.split(planes.ravel(), np.cumsum([h * w for h, w in shapes])[:-1])
    flat = [turned(part.reshape(shape), turn).ravel() for part, shape in zip(parts, shapes, strict=True)]
    out_width = height if turn.swap else width
    return av.VideoFrame.from_ndarray(np.concatenate(flat).reshape(-1, out_width), format="yuv420p")
