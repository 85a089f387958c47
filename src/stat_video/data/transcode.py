"""Copies of a data set made for training: `src/prepare.py do=transcode`. The originals are only read."""

import io
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..progress import shown
from ..runs.files import replacing
from .config import DataConfig
from .layouts import SPLITS
from .lists import find_root, read_listing
from .manifest import ABSENT, VideoRow
from .reader import PathHandler, PyAVVideo
from .sampling import view_frames
from .verify import in_parallel, listed

Pixels = npt.NDArray[np.uint8]
SAMPLE = 12  # videos on which speed and quality are measured
REPEATS = 5  # readings of each
OK, COPIED = "transcoded", "unreadable, copied as it is"


@dataclass
class Encoding:
    """How the copies are coded: H.264, no audio, a keyframe each `gop` frames, three B-frames between any two others.

    No frame refers to a B-frame, so those that are not wanted are never decoded; and they make the files smaller.
    """

    short_side: int = 256  # never enlarged
    gop: int = 12
    crf: int = 20
    preset: str = "medium"

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise InputError(f"short_side={self.short_side}: an even number from 16 on is allowed")
        if self.gop < 1:
            raise InputError(f"gop={self.gop}: 1 or more frames are allowed")
        if not 0 <= self.crf <= 51:
            raise InputError(f"crf={self.crf}: 0 (lossless) to 51 is allowed")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the copy, even as 4:2:0 needs them."""
        scale = min(1.0, self.short_side / min(height, width))
        return tuple(max(2, 2 * round(n * scale / 2)) for n in (height, width))  # type: ignore[return-value]


@dataclass(frozen=True)
class Copy:
    """One video, original and copy."""

    row: VideoRow
    path: str  # of the copy, below the new folder
    state: str
    reason: str
    bytes_before: int
    bytes_after: int


def transcode(config: DataConfig, out: Path, encoding: Encoding, workers: int | None, console: Console) -> list[Copy]:
    """Write copies and lists (`path label`) into `out`; what a killed call finished is kept.

    Returns what became of each video.
    A video of which no frame can be read is copied as it is, so that it is counted there as it was here.
    """
    root = find_root(config).resolve()
    if out.resolve() == root or out.resolve().is_relative_to(root) or root.is_relative_to(out.resolve()):
        raise InputError(f"out={out}: the copies need a folder of their own, outside {root}")
    rows = [row for row in listed(root, config) if row.status != ABSENT]
    unique = list({row.path: row for row in rows}.values())
    console.print(f"Transcoding {len(unique)} videos of {root} into {out}", soft_wrap=True)
    done = in_parallel(lambda row: copy(root, out, row, encoding), unique, workers)
    copies = {}
    for made in shown(done, "transcode", len(unique), console):
        copies[made.row.path] = made
        if made.state != OK:
            console.print(f"{made.row.path}: {made.state} ({made.reason})", soft_wrap=True, highlight=False)
    _write(out / "classes.txt", read_listing(root, config).classes)
    for split in SPLITS:
        _write(out / f"{split}.csv", [f"{copies[r.path].path} {r.label}" for r in rows if r.split == split])
    return list(copies.values())


def copy(root: Path, out: Path, row: VideoRow, encoding: Encoding) -> Copy:
    """Make one copy, unless it is there whole."""
    source = root / row.path
    before = sum(f.stat().st_size for f in source.iterdir()) if source.is_dir() else source.stat().st_size
    name = copied_name(row.path)
    target = out / name
    if target.is_file() and not _same(source, target):
        return Copy(row, name, OK, "", before, target.stat().st_size)
    state, reason = OK, ""
    try:
        content = encode(source, encoding)
    except (InputError, av.FFmpegError, OSError) as error:
        state, reason = COPIED, error.line if isinstance(error, InputError) else str(error)
        content = b"" if source.is_dir() else source.read_bytes()
    with replacing(target) as file:
        file.write(content)
    return Copy(row, name, state, reason.removeprefix(f"{source}: "), before, len(content))


def copied_name(path: str) -> str:
    """Where the copy of a listed video lies below the new folder, whatever the list says of where the original is.

    A list may name videos outside the data set's folder, `/data/a.mp4` or `../a.mp4`: they are read there, and nothing
    is written there. The ending stays in the name: a.avi and a.mp4 of one folder are two videos.
    """
    plain = os.path.normpath(path)
    if plain.startswith((os.sep, f"..{os.sep}")):
        plain = f"elsewhere/{plain.replace(f'..{os.sep}', 'up/').lstrip(os.sep)}"
    return plain if plain.endswith(".mp4") else f"{plain}.mp4"


def _same(source: Path, target: Path) -> bool:
    if source.is_dir():
        return target.stat().st_size == 0
    return source.stat().st_size == target.stat().st_size and source.read_bytes() == target.read_bytes()


def encode(source: Path, encoding: Encoding) -> bytes:
    """An mp4 with all frames of a video that decode, evenly spaced in time; InputError where there is none."""
    video = PathHandler().video_from_path(str(source))
    # From memory to memory: a full disk is met where the file is written, and said there.
    content, count, to_yuv = io.BytesIO(), 0, VideoReformatter()
    rate = video.rate.limit_denominator(1001) or Fraction(25)
    options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(encoding.gop), "bf": "3"}
    options |= {"tune": "fastdecode", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0:open-gop=0:threads=1"}
    stream: av.VideoStream | None = None
    with av.open(content, "w", format="mp4") as container:
        for frame in video.decoded():
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = encoding.size(frame.height, frame.width)
                stream.pix_fmt = "yuv420p"
            picture = to_yuv.reformat(
                frame, stream.width, stream.height, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1
            )
            picture.pts, picture.time_base, picture.pict_type = count, 1 / rate, PictureType.NONE
            container.mux(stream.encode(picture))
            count += 1
        if stream is None:
            raise InputError(f"{source}: no frame could be decoded")
        container.mux(stream.encode(None))
    copied = PyAVVideo(io.BytesIO(content.getvalue()), f"copy of {source}").frame_count()
    if copied != count:
        raise InputError(f"{source}: its copy has {copied} of {count} frames")
    return content.getvalue()


@dataclass(frozen=True)
class Gain:
    """What the copies are worth, measured on some of them."""

    videos: int
    faster: float  # CPU time of reading T frames of the originals / of the copies, medians, read in turn
    smaller: float  # bytes of all originals / of all copies
    psnr: float  # dB, mean over the sample, of the copies against the originals at the copies' size


def measure(root: Path, out: Path, copies: Sequence[Copy], T: int) -> Gain | None:
    """Speed, size and quality of the copies; None where nothing was transcoded."""
    made = [c for c in copies if c.state == OK]
    if not made:
        return None
    sample = [made[i * len(made) // min(SAMPLE, len(made))] for i in range(min(SAMPLE, len(made)))]
    handler, choose = PathHandler(), view_frames(T, 0, 1)
    ratios, psnr = [], []
    for c in sample:
        paths = (str(root / c.row.path), str(out / c.path))
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for path, taken in zip(paths, seconds, strict=True):
                start = time.process_time()
                handler.video_from_path(path).frames(choose)
                taken.append(time.process_time() - start)
        ratios.append(statistics.median(seconds[0]) / statistics.median(seconds[1]))
        original, copied = (handler.video_from_path(path).frames(choose).numpy() for path in paths)
        psnr.append(_psnr(original, copied))
    smaller = sum(c.bytes_before for c in made) / sum(c.bytes_after for c in made)
    return Gain(len(sample), statistics.median(ratios), smaller, statistics.mean(psnr))


def _psnr(original: Pixels, copied: Pixels) -> float:
    resize, (height, width) = VideoReformatter(), copied.shape[1:3]
    errors = []
    for a, b in zip(original, copied, strict=True):
        frame = av.VideoFrame.from_ndarray(a, format="rgb24")
        scaled = resize.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        errors.append(np.mean((scaled.to_ndarray().astype(float) - b) ** 2))
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))


def copies_table(out: Path, copies: Sequence[Copy], gain: Gain | None) -> Table:
    """What became of the videos, and what it gained."""
    states = Counter(c.state for c in copies)
    about = (
        "nothing to measure"
        if gain is None
        else (
            f"T frames are read in 1/{gain.faster:.1f} of the CPU time (median of {gain.videos} videos), files are "
            f"1/{gain.smaller:.2f} of the size, PSNR {gain.psnr:.1f} dB"
        )
    )
    table = Table(title=f"copies in {out}", caption=about)
    for column in ("videos", OK, COPIED):
        table.add_column(column, justify="right")
    table.add_row(str(len(copies)), str(states[OK]), str(states[COPIED]))
    return table


def _write(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
