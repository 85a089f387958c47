"""Generates the built-in data sets once, as real H.264 files that depend on their config and seed alone.

`motion.py` and `probe.py` draw the frames; this module codes, writes and lists them in the form of Kinetics.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import ClassVar, cast

import av
import numpy as np
import numpy.typing as npt
from rich.console import Console

from ..errors import InputError, check_ranges, ranged
from ..files import locked
from ..progress import shown
from .splits import SPLITS

TRIES = 16  # at a video before it is given up

VideoId = tuple[str, int]  # split, index in it


@dataclass(unsafe_hash=True)  # not frozen: OmegaConf makes a frozen dataclass read-only on the command line
class BuiltIn:
    """What to generate: keys `data.<KIND>.*`."""

    KIND: ClassVar[str]  # name of the data set
    VERSION: ClassVar[int]  # of the generator: raise it whenever the same config gives other videos
    CLASSES: ClassVar[tuple[str, ...]]

    seed: int = ranged(0, 0, 2**32 - 1)
    height: int = ranged(48, 32, 1024)  # pixels, even
    width: int = ranged(64, 32, 1024)  # pixels, even
    frames: int = ranged(48, 8, 1000)
    fps: int = ranged(24, 1, 240)
    train_videos: int = ranged(3000, 1, 10**6)  # a multiple of the number of classes, so that labels are balanced
    val_videos: int = ranged(480, 1, 10**6)  # likewise
    classes: tuple[str, ...] = ()  # a class's label is its place here; default: all of CLASSES

    def frames_of(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Draw a video from config, split and index alone: (frames, height, width, 3) uint8 RGB, before coding."""
        raise NotImplementedError

    def label_of(self, index: int) -> int:
        """Return the label of a video of either split."""
        return index % len(self.classes)

    def __post_init__(self) -> None:
        prefix = f"data.{self.KIND}."
        for f in fields(self):
            value = getattr(self, f.name)
            # True or 48.0 would make another folder for the same videos.
            if f.name != "classes" and type(value) is not type(f.default):
                raise InputError(f"{prefix}{f.name}={value!r}: allowed is a number such as {f.default}")
        check_ranges(self, prefix)
        listed = isinstance(self.classes, Sequence) and not isinstance(self.classes, str)
        names = tuple(self.classes) if listed else ()  # YAML gives a list
        if not names or not all(name in self.CLASSES for name in names) or len(set(names)) < len(names):
            allowed = "a list of different names out of: " + ", ".join(self.CLASSES)
            raise InputError(f"{prefix}classes={self.classes!r}: allowed is {allowed}")
        self.classes = names
        for name, step in (("height", 2), ("width", 2), ("train_videos", len(names)), ("val_videos", len(names))):
            if (value := getattr(self, name)) % step:
                raise InputError(f"{prefix}{name}={value}: allowed is a multiple of {step}")

    def videos(self, split: str) -> int:
        """Return the number of videos of a split."""
        return {"train": self.train_videos, "val": self.val_videos}[split]

    @property
    def folder_name(self) -> str:
        """Name of the data set's folder; each config and generator version has its own."""
        neutral = {f.name: f.metadata["neutral"] for f in fields(self) if "neutral" in f.metadata}
        keys = {key: value for key, value in asdict(self).items() if key not in neutral or value != neutral[key]}
        text = json.dumps({"version": self.VERSION, **keys}, sort_keys=True)
        return f"{self.KIND}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def encode(frames: npt.NDArray[np.uint8], fps: int) -> bytes:
    """Return frames (T, H, W, 3) uint8 RGB as an .mp4 file."""
    # One thread, as x264's choices depend on their number; none of those that depend on the processor's instructions.
    # Keyframes alone: a clip of every third frame is decoded without the two between, and coding is faster, too.
    options = {"crf": "23", "preset": "ultrafast", "threads": "1", "g": "1", "bf": "0"}
    options["x264-params"] = "cpu-independent=1"
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def ensure(root: Path, config: BuiltIn, *, workers: int | None = None, progress: bool = True) -> Path:
    """Return the folder of the data set below `root`; generate it if it is not there.

    The folder holds `train/*.mp4`, `val/*.mp4`, `train.csv` and `val.csv` (`relative/path.mp4 label`),
    `classes.txt` (label = line) and `<kind>.json`. It gets its name last, so a folder of that name is whole.
    The videos do not depend on `workers` (processes; default: one a core, fewer if there are few videos). With more
    than one, a script that calls this needs its `if __name__ == "__main__":`, as always with multiprocessing.
    """
    folder, console = Path(root) / config.folder_name, Console(stderr=True, quiet=not progress, markup=False)

    def busy(who: str) -> None:
        console.print(f"{config.KIND}: {who} generates the videos in {folder.parent}; waiting for it", soft_wrap=True)

    lock = folder.with_name(f".{folder.name}.lock")
    try:
        if not folder.exists():
            with locked(lock, busy):
                try:
                    if not folder.exists():
                        _make(folder, config, workers, console)
                finally:
                    lock.unlink(missing_ok=True)  # who waits has it open
    except OSError as error:  # that of a full disk names neither the folder nor the work
        where = f"{error.strerror or error} while generating the {config.KIND} videos in"
        raise OSError(error.errno, where, str(folder)) from error
    if not _is_whole(folder, config):
        raise FileExistsError(f"{folder} has files missing; delete it, and it will be generated again")
    return folder


def _make(folder: Path, config: BuiltIn, workers: int | None, console: Console) -> None:
    """Generate a data set beside its folder, which gets its name last."""
    maker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    partial = folder.with_name(f".{folder.name}.partial-{maker}")
    try:
        _remove_stale(folder.parent)
        _generate(partial, config, workers, console)
        try:
            partial.rename(folder)
        except OSError:
            if not _is_whole(folder, config):
                raise  # otherwise a process that the lock did not stop was first, and its folder stays
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path, config: BuiltIn) -> bool:
    with suppress(OSError, ValueError, TypeError, KeyError):
        about = json.loads((folder / f"{config.KIND}.json").read_text())
        lists = all((folder / name).is_file() for name in ("classes.txt", *(f"{s}.csv" for s in SPLITS)))
        videos = all(len(list((folder / s).glob("*.mp4"))) == config.videos(s) for s in SPLITS)
        return lists and videos and type(config)(**about["config"]) == config
    return False


def _remove_stale(root: Path) -> None:
    """Remove what killed processes of this machine left; whether one of another machine lives can't be asked."""
    for path in root.glob(f".*.partial-{socket.gethostname()}-*-*"):
        try:
            os.kill(int(path.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            pass  # another user's, alive; or a folder that is not ours


def _generate(folder: Path, config: BuiltIn, workers: int | None, console: Console) -> None:
    videos = [(split, index) for split in SPLITS for index in range(config.videos(split))]
    console.print(f"{config.KIND}: generating {len(videos)} videos in {folder.parent}", soft_wrap=True)
    begin = time.monotonic()
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        lines = [f"{_path(s, index)} {config.label_of(index)}\n" for s, index in videos if s == split]
        (folder / f"{split}.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in config.classes))
    counts = {s: dict.fromkeys(config.classes, config.videos(s) // len(config.classes)) for s in SPLITS}
    about = {"version": config.VERSION, "config": asdict(config), "videos": counts}
    (folder / f"{config.KIND}.json").write_text(json.dumps(about, indent=2) + "\n")
    workers = workers or max(1, min(os.cpu_count() or 1, len(videos) // 100))  # each takes a second to start
    with closing(_write_all(folder, config, videos, workers)) as done:  # closing it ends the workers
        for _ in shown(done, config.KIND, len(videos), console):
            pass
    console.print(f"{config.KIND}: done in {time.monotonic() - begin:.0f} s")


def _path(split: str, index: int) -> str:
    return f"{split}/{index:06d}.mp4"


def _write(folder: Path, config: BuiltIn, split: str, index: int) -> None:
    """Write a video, the same bytes each time.

    NOTE: makes it, from the drawing to the file, until two in a row agree. On a loaded machine about one in a thousand
    came out otherwise, in bursts (docs/log.md).
    """
    last = b""
    for _ in range(TRIES):
        video = encode(config.frames_of(split, index), config.fps)
        if video == last:
            (folder / _path(split, index)).write_bytes(video)  # not by FFmpeg, which can lose the error of a full disk
            return
        last = video
    raise InputError(f"{_path(split, index)} came out otherwise {TRIES} times; start again on a quiet machine")


def _write_all(folder: Path, config: BuiltIn, videos: list[VideoId], workers: int) -> Generator[None, None, None]:
    """Write all videos, yielding after each."""
    if workers == 1:
        for video in videos:
            _write(folder, config, *video)
            yield
        return
    # A pipe for each process instead of a pool: a pool's workers outlive a parent that is killed, these see their
    # pipe break. Spawned, not forked, because the caller may have threads.
    spawn = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    done = 0
    try:
        for k in range(workers):
            pipe, end = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_work, args=(folder, config, videos[k::workers], end), daemon=True)
            process.start()
            end.close()
            processes.append(process)
            pipes.append(pipe)
        while pipes:
            for pipe in cast(list[Connection], wait(pipes)):
                try:
                    error = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if error is not None:
                    raise error
                done += 1
                yield
    finally:
        for process in processes:
            process.kill()
            process.join()
    if done < len(videos):
        raise RuntimeError(f"{config.KIND}: a worker process died after {done} of {len(videos)} videos; memory full?")


def _work(folder: Path, config: BuiltIn, videos: list[VideoId], pipe: Connection) -> None:
    """Write videos in a worker process; send None for each, or the error that ended the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with suppress(BrokenPipeError):  # the parent is gone: stop
        try:
            for video in videos:
                _write(folder, config, *video)
                pipe.send(None)
        except BrokenPipeError:
            raise
        except Exception as error:
            pipe.send(error)
