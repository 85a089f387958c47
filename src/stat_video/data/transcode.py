"""Makes copies of a data set that are read fast: `src/prepare.py do=transcode`. The originals are only read."""

import io
import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from rich.table import Table

from ..errors import InputError, printable
from ..files import replacing, write_json
from ..models.base import Clip
from ..progress import say
from .config import DataConfig
from .encoding import Encoding
from .limits import Limits
from .lists import find_root, numbers_of, read_listing
from .manifest import ABSENT, DAMAGED, VideoRow, manifest_path, read_manifest
from .orientation import Turn, turn_of, turned_yuv
from .parallel import in_parallel
from .reader import READ_ERRORS, AnyVideo, PathHandler, PyAVVideo, reason_of
from .sampling import ChooseFrames, view_frames
from .splits import SPLITS
from .storage import Lost, lost, patiently
from .verify import listed

Pixels = npt.NDArray[np.uint8]
SAMPLE = 12  # videos on which speed and quality are measured
REPEATS = 5  # readings of each
RGB = 0  # FFmpeg's number of a "colour matrix" that is none
TRANSCODED, COPIED, EMPTY = "transcoded", "copied as it is", "left empty"
BEGUN = "transcode.json"  # in the new folder: what its copies are made of, and how


@dataclass(frozen=True)
class Copy:
    """One video and its copy."""

    row: VideoRow
    path: str  # of the copy, below the new folder
    state: str
    reason: str
    bytes_before: int
    bytes_after: int


def transcode(config: DataConfig, out: Path, encoding: Encoding, workers: int | None) -> list[Copy]:
    """Write copies and lists (`path label`) into `out`, keeping those that a killed call finished; return all copies.

    A video of which no frame can be read is copied as it is (a folder, or what is too large: as an empty file), and one
    that is absent stays in the lists, so that the copies' data set counts both as the original one does.
    """
    root = find_root(config).resolve()
    rows = listed(root, config)
    names = {row.path: name_of_copy(root, row.path) for row in rows}
    if twice := [name for name, n in Counter(names.values()).items() if n > 1]:
        raise InputError(f"{root}: two videos would have their copies at {twice[0]}")
    _begin(root, out, encoding)
    unique = list({row.path: row for row in rows if row.status != ABSENT}.values())
    say(f"Transcoding {len(unique)} videos of {root} into {out}")
    _say_damaged(root, config)

    paths = [str(root / row.path) for row in unique]

    def make(row: VideoRow) -> Copy:
        return patiently(
            lambda: copy(root, out, row, names[row.path], encoding, config.limits),
            str(root / row.path),
            paths,
            config.wait_seconds,
        )

    copies = []
    for made in in_parallel(make, unique, workers, "transcode"):
        copies.append(made)
        if made.state != TRANSCODED:
            say(f"{made.row.path}: {made.state} ({made.reason})")
    _write(out / "classes.txt", read_listing(root, config).classes)
    for split in SPLITS:
        lines = [[names[row.path], *numbers_of(row.label)] for row in rows if row.split == split]
        _write(out / f"{split}.csv", [" ".join(map(str, line)) for line in lines])
    return sorted(copies, key=lambda made: made.path)


def _say_damaged(root: Path, config: DataConfig) -> None:
    """Print which originals the manifest calls damaged; their copies are whole and will not show it."""
    manifest = read_manifest(manifest_path(root, config))
    lines = [
        f"{row.path}: damaged ({row.reason}); its copy holds what decodes" for row in manifest if row.status == DAMAGED
    ]
    if not manifest:
        lines = ["The originals are not verified: which of them are damaged, no copy will tell (do=verify)"]
    for line in dict.fromkeys(lines):
        say(line)


def copies_config(config: DataConfig, out: Path) -> DataConfig:
    """Return the config of the data set that the copies in `out` are."""
    changed = {
        "layout": "lists",
        "classes": None,
        "train": None,
        "val": None,
        "videos": ".",
        "manifest": None,
        "fold": 1,
    }
    return replace(config, root=str(out), **changed)  # type: ignore[arg-type]


def name_of_copy(root: Path, path: str) -> str:
    """Return a copy's path below the new folder. The ending stays, as a.avi and a.mp4 in a folder are two videos."""
    place = Path(path)
    if place.is_absolute() or ".." in place.parts:  # a list may name videos outside its folder
        place = Path("outside", *(root / path).resolve().parts[1:])
    name = str(place) if place.suffix == ".mp4" else f"{place}.mp4"
    return printable(name).lstrip()  # a list holds a name a line, in UTF-8


def _begin(root: Path, out: Path, encoding: Encoding) -> None:
    """Note in `out` what its copies are made of; InputError if it holds originals, other copies or anything else."""
    target = out.resolve()
    if target == root or target.is_relative_to(root) or root.is_relative_to(target):
        raise InputError(f"out={out}: the copies need a folder of their own, outside {root}")
    about = {"source": str(root), **asdict(encoding)}
    begun = out / BEGUN
    if begun.is_file():
        try:
            before = dict(json.loads(begun.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise InputError(f"{begun}: not what do=transcode writes; name another folder") from None
        if other := [f"{key}={before.get(key)}" for key, value in about.items() if before.get(key) != value]:
            raise InputError(f"out={out}: it holds copies made with {', '.join(other)}; name another folder")
        return
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:  # av.codec.codec.UnknownCodecError is one
        raise InputError("this build of PyAV has no H.264 encoder (libx264); that of PyPI has it") from None
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"out={out}: there is something else at that place; name a new folder")
    write_json(begun, about)


def copy(root: Path, out: Path, row: VideoRow, name: str, encoding: Encoding, limits: Limits) -> Copy:
    """Make one copy unless it is there. It gets its original's time, so that a later change of that is noticed.

    Raises Lost if the disk does not return the original.
    """
    source, target = root / row.path, out / name
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{target}: a link that leads out of {out}; the originals could be where it leads")
    with lost(source):
        when = source.stat().st_mtime_ns
        before = sum(f.stat().st_size for f in source.iterdir()) if source.is_dir() else source.stat().st_size
    # Some file systems keep whole seconds only.
    whole = target.is_file() and target.stat().st_mtime_ns in (when, when // 10**9 * 10**9)
    if whole and not _unread(source, target, limits):
        return Copy(row, name, TRANSCODED, "", before, target.stat().st_size)
    state, reason = TRANSCODED, ""
    try:
        content = encode(source, encoding, limits)
    except READ_ERRORS as error:
        if isinstance(error, Lost):
            raise
        reason = reason_of(error, str(source))
        state = COPIED if _can_be_copied(source, limits) else EMPTY
        with lost(source):
            content = source.read_bytes() if state == COPIED else b""
    with replacing(target) as file:
        file.write(content)
    os.utime(target, ns=(when, when))
    return Copy(row, name, state, reason, before, len(content))


def _can_be_copied(source: Path, limits: Limits) -> bool:
    with suppress(InputError):
        limits.check_file(source)
        return source.is_file()
    return False


def _unread(source: Path, target: Path, limits: Limits) -> bool:
    """Return whether a copy is that of a video which could not be read; it is tried again."""
    size = target.stat().st_size
    if not size or not _can_be_copied(source, limits):
        return size == 0
    return source.stat().st_size == size and source.read_bytes() == target.read_bytes()


def encode(source: Path, encoding: Encoding, limits: Limits | None = None) -> bytes:
    """Return an mp4 of all frames of a video that decode, upright, evenly spaced in time; InputError if none does."""
    video = PathHandler(limits).video_from_path(str(source))
    # Into memory: the error of a full disk then comes from the write of the file, which names it.
    content, count, to_yuv = io.BytesIO(), 0, VideoReformatter()
    rate = video.rate.limit_denominator(1001) or Fraction(25)
    options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(encoding.gop), "bf": "3"}
    options |= {"tune": "fastdecode", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0:open-gop=0:threads=1"}
    stream: av.VideoStream | None = None
    turn: Turn | None = None
    with av.open(content, "w", format="mp4") as container:
        for frame in video.decoded():
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=options)
                height, width = encoding.size(frame.height, frame.width)
                turn = turn_of(frame)
                stream.height, stream.width = (width, height) if turn and turn.swap else (height, width)
                stream.pix_fmt = "yuv420p"
            picture = to_yuv.reformat(frame, width, height, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1)
            if count == 0 and picture.colorspace != RGB:  # else the copy would be shown in other colours
                for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
                    setattr(stream.codec_context, tag, getattr(picture, tag))
            if turn:
                picture = turned_yuv(picture, turn)
            picture.pts, picture.time_base, picture.pict_type = count, 1 / rate, PictureType.NONE
            container.mux(stream.encode(picture))
            count += 1
        if stream is None:
            raise InputError(f"{source}: no frame could be decoded")
        container.mux(stream.encode(None))
    copied = PyAVVideo(io.BytesIO(content.getvalue()), f"copy of {source}").frame_count()
    if copied != count:
        raise RuntimeError(f"{source}: its copy has {copied} of {count} frames")
    return content.getvalue()


@dataclass(frozen=True)
class Gain:
    """What the copies gain, measured on some of them."""

    videos: int
    faster: float  # CPU time of reading T frames of the originals / of the copies, medians, read in turn
    smaller: float  # bytes of all originals / of all copies
    psnr: float  # dB, mean over the sample, against originals at the copies' size; NaN: none differs, or has a pair


def measure(root: Path, out: Path, copies: Sequence[Copy], T: int) -> Gain | None:
    """Return speed, size and quality of the copies, measured on clips of T frames; None if there is none to measure."""
    made = [c for c in copies if c.state == TRANSCODED]
    choose = view_frames(Clip(T=T), 0, 1)
    sample = [made[i * len(made) // min(SAMPLE, len(made))] for i in range(min(SAMPLE, len(made)))]
    ratios, psnr = [], []
    for c in sample:
        try:
            original, copied = (PathHandler().video_from_path(str(path)) for path in (root / c.row.path, out / c.path))
            ratios.append(_faster(original, copied, choose))
            if original.frame_count() == copied.frame_count():  # a damaged original has fewer
                found = _psnr(*(video.frames(choose).numpy() for video in (original, copied)))
                psnr += [found] if math.isfinite(found) else []  # one that is exact would hide the others
        except READ_ERRORS:
            continue  # for example an original whose frame size changes; that of its copy does not
    if not ratios:
        return None
    smaller = sum(c.bytes_before for c in made) / sum(c.bytes_after for c in made)
    return Gain(len(ratios), statistics.median(ratios), smaller, statistics.mean(psnr) if psnr else math.nan)


def _faster(original: AnyVideo, copied: AnyVideo, choose: ChooseFrames) -> float:
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for video, taken in zip((original, copied), seconds, strict=True):
            start = time.process_time()
            video.frames(choose)
            taken.append(time.process_time() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _psnr(original: Pixels, copied: Pixels) -> float:
    """Return dB of RGB as the reader gives it; infinite if not a frame differs."""
    resize, (height, width) = VideoReformatter(), copied.shape[1:3]
    errors = []
    for a, b in zip(original, copied, strict=True):
        frame = av.VideoFrame.from_ndarray(a, format="rgb24")
        scaled = resize.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        errors.append(np.mean((scaled.to_ndarray().astype(float) - b) ** 2))
    error = float(np.mean(errors))
    return 10 * math.log10(255**2 / error) if error else math.inf


def copies_table(out: Path, copies: Sequence[Copy], gain: Gain | None) -> Table:
    """Return a table of how many videos were transcoded and copied, and what that gained."""
    states = Counter(c.state for c in copies)
    about = "nothing to measure"
    if gain is not None:
        about = (
            f"reading T frames takes 1/{gain.faster:.1f} of the CPU time (median of {gain.videos} videos), "
            f"the files are {1 / gain.smaller:.2f} x as large, PSNR {gain.psnr:.1f} dB"
        )
    table = Table(title=f"copies in {out}", caption=about)
    for column in ("videos", TRANSCODED, COPIED, EMPTY):
        table.add_column(column, justify="right")
    table.add_row(str(len(copies)), *(str(states[state]) for state in (TRANSCODED, COPIED, EMPTY)))
    return table


def _write(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
