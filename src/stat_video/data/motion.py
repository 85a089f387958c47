"""The built-in data set `motion`: small H.264 videos in which only motion tells the class.

One object (a handwritten digit, or a piece cut out of a photograph) moves over a still photograph. All that
shows in a single frame is drawn alike for every class: the position is uniform on a plane that repeats
itself, the angle uniform, the size log-uniform, and each motion starts so that this holds at every moment.

The pictures ship inside the wheels of scikit-learn and scikit-image: nothing is downloaded. Training takes
the left part of each photograph and the first of the digits, validation the right part and the last.
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
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import track
from scipy import ndimage

VERSION = 2  # of the generator: raise it whenever the same config gives other videos
SPLITS = ("train", "val")

Floats = npt.NDArray[np.float32]
Job = tuple[str, int]  # split and index of a video


class _Motion(NamedTuple):
    """What a class does: directions (-1, 0, 1) on the screen, x to the right, y down, turning clockwise."""

    x: int = 0
    y: int = 0
    turn: int = 0
    grow: int = 0
    reverses: bool = False


_MOTIONS = {
    "moving left": _Motion(x=-1),
    "moving right": _Motion(x=1),
    "moving up": _Motion(y=-1),
    "moving down": _Motion(y=1),
    "turning clockwise": _Motion(turn=1),
    "turning counter-clockwise": _Motion(turn=-1),
    "coming closer": _Motion(grow=1),
    "going away": _Motion(grow=-1),
    "moving left then right": _Motion(x=-1, reverses=True),
    "moving right then left": _Motion(x=1, reverses=True),
    "moving up then down": _Motion(y=-1, reverses=True),
    "moving down then up": _Motion(y=1, reverses=True),
}
CLASSES: tuple[str, ...] = tuple(_MOTIONS)

# A video, so that a longer or larger one shows the same motion. At the default 48 frames of 48 x 64 pixels:
_TRAVEL = (0.7, 1.6)  # periods of the plane: 0.7 to 1.6 pixels a frame
_TURNS = (0.55, 1.2)  # full turns: 4 to 9 degrees a frame
_RAMPS = (1.0, 1.5)  # runs through the size range: 2 to 3 % of the size a frame
_REVERSAL = (0.4, 0.6)  # moment of the reversal
_SIZE = (0.3, 0.66)  # diameter in periods of the plane: 14 to 32 pixels

_SKIMAGE_PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
_SKLEARN_PHOTOS = ("china", "flower")
_PHOTO_CUT = 0.7  # training takes this share of the width, from the left; validation the rest
_DIGIT_CUT = 0.8  # likewise of the digits


@dataclass(unsafe_hash=True)  # not frozen: OmegaConf makes a frozen dataclass read-only on the command line
class MotionConfig:
    """What to generate. Checks itself: raises a one-line ValueError."""

    seed: int = 0
    height: int = 48  # pixels, even
    width: int = 64  # pixels, even
    frames: int = 48
    fps: int = 24
    train_videos: int = 3000  # a multiple of the number of classes, so that labels are balanced
    val_videos: int = 480
    classes: tuple[str, ...] = field(default=CLASSES)  # label = index

    def __post_init__(self) -> None:
        listed = isinstance(self.classes, Sequence) and not isinstance(self.classes, str)
        names = tuple(self.classes) if listed else ()  # YAML gives a list
        if not names or not all(name in CLASSES for name in names) or len(set(names)) < len(names):
            allowed = "a list of different names out of: " + ", ".join(CLASSES)
            raise ValueError(f"motion: classes={self.classes!r} is not allowed; use {allowed}")
        object.__setattr__(self, "classes", names)
        for name, low, high, step in (
            ("seed", 0, 2**32 - 1, 1),
            ("height", 32, 1024, 2),
            ("width", 32, 1024, 2),
            ("frames", 8, 1000, 1),
            ("fps", 1, 240, 1),
            ("train_videos", len(names), 10**6, len(names)),
            ("val_videos", len(names), 10**6, len(names)),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high or value % step:
                kind = "an integer" if step == 1 else f"a multiple of {step}"
                raise ValueError(f"motion: {name}={value!r} is not allowed; use {kind} from {low} to {high}")

    @property
    def period(self) -> int:
        """Pixels after which the plane repeats itself, both ways.

        NOTE: the short side, not the frame's two sides. So every square crop of the short side holds the
        whole object (perhaps wrapped round its edge); the rest of the frame shows parts of it once more.
        """
        return min(self.height, self.width)

    def videos(self, split: str) -> int:
        return {"train": self.train_videos, "val": self.val_videos}[split]

    @property
    def folder_name(self) -> str:
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return f"motion-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class Crop(NamedTuple):
    """A box of whole pixels in one of the photographs."""

    photo: str
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Scene:
    """All that one video is made of. Fields but `label` and `motion` are drawn independently of the class."""

    config: MotionConfig
    split: str
    index: int
    label: int
    motion: str
    digit: int | None  # index of scikit-learn's handwritten digits; None: a blob cut out of a photograph
    blob: tuple[tuple[float, float], ...]  # amplitude and phase of the blob's outline, k = 1, 2, ...
    texture: Crop  # what fills the object
    background: Crop
    colour: tuple[float, float, float]  # mean of the object, 0-255
    texture_contrast: float  # standard deviation of the object's filling, 0-255
    brightness: float  # mean of the background, 0-255
    contrast: float  # of the background, 1 is the photograph's own
    noise: float  # standard deviation, 0-255
    x: float  # centre at frame 0, pixels modulo the period
    y: float
    angle: float  # at frame 0, radians, clockwise on the screen
    phase: float  # size at frame 0: 0 smallest, 1 largest, logarithmic
    travel: float  # speeds, see _TRAVEL, _TURNS, _RAMPS, _REVERSAL
    turns: float
    ramps: float
    reversal: float

    @property
    def object_id(self) -> str:
        return "-".join(map(str, self.texture if self.digit is None else ("digit", self.digit)))


def draw(config: MotionConfig, split: str, index: int) -> Scene:
    """Draw video `index` of a split: a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    label = index % len(config.classes)
    # Every number is drawn for every class: one that skipped a draw would shift those after it.
    train, cut = split == "train", round(_DIGIT_CUT * len(_digits()))
    digit = int(rng.integers(0, cut) if train else rng.integers(cut, len(_digits())))
    return Scene(
        config=config,
        split=split,
        index=index,
        label=label,
        motion=config.classes[label],
        digit=digit if rng.random() < 0.5 else None,
        blob=tuple((rng.uniform(0.5, 1.0) * 0.35 / k**0.5, rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 4)),
        texture=_draw_crop(rng, train, 1.0, (0.15, 0.4)),
        background=_draw_crop(rng, train, config.width / config.height, (0.5, 1.0)),
        colour=(rng.uniform(130, 230), rng.uniform(130, 230), rng.uniform(130, 230)),
        texture_contrast=rng.uniform(20, 45),
        brightness=rng.uniform(40, 90),
        contrast=rng.uniform(0.1, 0.2),
        noise=rng.uniform(0.5, 3.0),
        x=rng.uniform(0, config.period),
        y=rng.uniform(0, config.period),
        angle=rng.uniform(0, 2 * np.pi),
        phase=rng.uniform(0, 1),
        travel=rng.uniform(*_TRAVEL),
        turns=rng.uniform(*_TURNS),
        ramps=rng.uniform(*_RAMPS),
        reversal=rng.uniform(*_REVERSAL),
    )


def _draw_crop(rng: np.random.Generator, train: bool, aspect: float, scale: tuple[float, float]) -> Crop:
    """Box of an aspect (width / height), `scale` times the largest that fits the split's part of a photo."""
    photo = list(_photos())[rng.integers(len(_photos()))]
    height, full_width = _photos()[photo].shape[:2]
    cut = round(_PHOTO_CUT * full_width)
    first, width = (0, cut) if train else (cut, full_width - cut)
    box_height = rng.uniform(*scale) * min(height, width / aspect)
    h, w = max(1, int(box_height)), max(1, int(box_height * aspect))
    left, top = first + rng.integers(width - w + 1), rng.integers(height - h + 1)
    return Crop(photo, int(left), int(top), w, h)


def poses(scene: Scene) -> npt.NDArray[np.float64]:
    """The object, (frames, 4): x, y (pixels, not wrapped), angle (radians, clockwise), diameter (pixels)."""
    config, motion = scene.config, _MOTIONS[scene.motion]
    t = np.arange(config.frames) / config.frames
    way = scene.travel * config.period * (np.minimum(t, 2 * scene.reversal - t) if motion.reverses else t)
    # The size jumps back at the end of its range: to soften that would tell the class in single frames.
    phase = (scene.phase + motion.grow * scene.ramps * t) % 1.0
    low, high = (share * config.period for share in _SIZE)
    return np.stack(
        [
            scene.x + motion.x * way,
            scene.y + motion.y * way,
            scene.angle + motion.turn * scene.turns * 2 * np.pi * t,
            low * (high / low) ** phase,
        ],
        axis=1,
    )


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """The video's frames before coding: (frames, height, width, 3) uint8 RGB."""
    config, pose = scene.config, poses(scene).astype(np.float32)
    rng = np.random.default_rng([config.seed, SPLITS.index(scene.split), scene.index, 1])
    photo = _cut(scene.background, config.width, config.height)
    still = scene.brightness + scene.contrast * (photo - photo.mean())
    noise = rng.standard_normal((config.frames, config.height, config.width, 1), dtype=np.float32)
    frames = still + np.repeat(noise * np.float32(scene.noise), 3, axis=3)  # (T, H, W, 3)

    # Offsets of the pixels from the nearest copy of the object, then in its own axes, where its radius is 1.
    half = config.period / 2
    dx = (np.arange(config.width, dtype=np.float32) - pose[:, :1] + half) % config.period - half  # (T, W)
    dy = (np.arange(config.height, dtype=np.float32) - pose[:, 1:2] + half) % config.period - half  # (T, H)
    radius = pose[:, 3] / 2
    near = dx[:, None, :] ** 2 + dy[:, :, None] ** 2 < radius[:, None, None] ** 2
    t, i, j = np.nonzero(near)  # (N,) each
    cos, sin = np.cos(pose[t, 2]), np.sin(pose[t, 2])
    u = (cos * dx[t, j] + sin * dy[t, i]) / radius[t]
    v = (cos * dy[t, i] - sin * dx[t, j]) / radius[t]

    filling, alpha = _sprite(scene)
    at = (np.stack([v, u]) + 1) / 2 * (len(alpha) - 1)
    *colour, opacity = (ndimage.map_coordinates(c, at, order=1) for c in (*filling, alpha))  # (N,) each
    # Added, not set: the noise lies over the object too.
    frames[t, i, j] += opacity[:, None] * (np.stack(colour, axis=1) - still[i, j])
    return np.asarray(np.clip(frames, 0, 255, out=frames), dtype=np.uint8)


def _sprite(scene: Scene) -> tuple[Floats, Floats]:
    """The object in the square round its unit circle: colours (3, S, S) 0-255 and opacity (S, S) 0-1."""
    side = round(_SIZE[1] * scene.config.period)
    v, u = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    if scene.digit is not None:
        ink = np.pad(_digits()[scene.digit], 1)  # (10, 10), 0-1
        row, column = np.nonzero(ink > 0.3)
        middle = (row.min() + row.max()) / 2, (column.min() + column.max()) / 2
        reach = np.hypot(row - middle[0], column - middle[1]).max() + 0.7  # + 0.7: half a pixel's diagonal
        at = np.stack([middle[0] + v * reach, middle[1] + u * reach])
        alpha = np.clip((ndimage.map_coordinates(ink, at, order=3) - 0.25) / 0.25, 0, 1)
    else:
        theta, waves = np.arctan2(v, u), enumerate(scene.blob, start=1)
        rim = np.exp(sum(size * np.cos(k * theta + shift) for k, (size, shift) in waves))  # in each direction
        alpha = np.clip((rim / rim.max() - np.hypot(u, v)) * side / 4, 0, 1)  # two soft pixels at full size
    texture = _cut(scene.texture, side, side)
    texture = (texture - texture.mean()) / (texture.std() + 1.0)  # + 1: a plain piece of sky stays plain
    filling = np.clip(np.asarray(scene.colour) + scene.texture_contrast * texture, 0, 255)
    return filling.transpose(2, 0, 1).astype(np.float32), alpha.astype(np.float32)


@lru_cache(maxsize=1)
def _digits() -> Floats:
    from sklearn.datasets import load_digits  # slow to import: only for those who generate

    return np.asarray(load_digits().images / 16, dtype=np.float32)  # (1797, 8, 8), 0-1


@lru_cache(maxsize=1)
def _photos() -> dict[str, npt.NDArray[np.uint8]]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = {name: getattr(data, name)() for name in _SKIMAGE_PHOTOS}
    photos |= {name: load_sample_image(f"{name}.jpg") for name in _SKLEARN_PHOTOS}
    return {name: a if a.ndim == 3 else np.stack([a] * 3, axis=2) for name, a in photos.items()}  # (H, W, 3)


def _cut(crop: Crop, width: int, height: int) -> Floats:
    """A crop resized to (height, width, 3), 0-255; sliced first, as resizing a box looks beyond its edge."""
    box = _photos()[crop.photo][crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    resized = Image.fromarray(np.ascontiguousarray(box)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def encode(frames: npt.NDArray[np.uint8], fps: int) -> bytes:
    """Frames (T, H, W, 3) uint8 RGB -> an .mp4 file, the same bytes for the same frames.

    NOTE: coded until two results agree. On a loaded machine x264 gave other bytes for the same frames about once
    in a thousand videos, in bursts (docs/log.md); nothing else on the way to the file ever differed.
    """
    previous = b""
    for _ in range(8):
        file = _encode(frames, fps)
        if file == previous:
            return file
        previous = file
    raise RuntimeError("motion: the H.264 encoder gave eight different files for the same frames")


def _encode(frames: npt.NDArray[np.uint8], fps: int) -> bytes:
    # One thread, as x264's choices depend on the number. No B-frames: time stamps start at zero without an
    # edit list, so that all readers count alike. A keyframe each half second for those that seek.
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "g": "12", "bf": "0"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def ensure(root: Path, config: MotionConfig, *, workers: int | None = None, progress: bool = True) -> Path:
    """Return the folder of the data set below `root`, generating it when it is not there.

    The folder holds `train/*.mp4`, `val/*.mp4`, `train.csv` and `val.csv` (`relative/path.mp4 label`),
    `classes.txt` (label = line) and `motion.json`. It gets its name when whole, so one that exists is done.
    The videos do not depend on `workers` (default: one a core). With more than one, a script that calls this
    needs its `if __name__ == "__main__":`, as always with multiprocessing.
    """
    folder = Path(root) / config.folder_name
    if folder.exists():
        if not _is_whole(folder, config):
            raise FileExistsError(f"{folder} has files missing; delete it, and it will be generated again")
        return folder
    maker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    partial = folder.with_name(f".{folder.name}.partial-{maker}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        _generate(partial, config, workers, Console(stderr=True, quiet=not progress))
        try:
            partial.rename(folder)
        except OSError:
            if not _is_whole(folder, config):
                raise  # else another process was first: its copy stays
    except OSError as error:  # a full disk says neither where nor during what
        where = f"{error.strerror or error} while generating the motion videos in"
        raise OSError(error.errno, where, str(folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path, config: MotionConfig) -> bool:
    with suppress(OSError, ValueError, TypeError, KeyError):
        about = json.loads((folder / "motion.json").read_text())
        lists = all((folder / name).is_file() for name in ("classes.txt", *(f"{s}.csv" for s in SPLITS)))
        videos = all(len(list((folder / s).glob("*.mp4"))) == config.videos(s) for s in SPLITS)
        return lists and videos and MotionConfig(**about["config"]) == config
    return False


def _remove_stale(root: Path) -> None:
    """Remove what killed generations of this machine left; elsewhere a process can't be asked after."""
    for path in root.glob(f".motion-*.partial-{socket.gethostname()}-*-*"):
        try:
            os.kill(int(path.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            pass  # someone else's, alive; or not ours


def _generate(folder: Path, config: MotionConfig, workers: int | None, console: Console) -> None:
    jobs = [(split, index) for split in SPLITS for index in range(config.videos(split))]
    console.print(f"motion: generating {len(jobs)} videos in {folder.parent}", soft_wrap=True)
    begin = time.monotonic()
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        lines = [f"{_video(s, index)} {index % len(config.classes)}\n" for s, index in jobs if s == split]
        (folder / f"{split}.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in config.classes))
    counts = {s: dict.fromkeys(config.classes, config.videos(s) // len(config.classes)) for s in SPLITS}
    about = {"version": VERSION, "config": asdict(config), "videos": counts}
    (folder / "motion.json").write_text(json.dumps(about, indent=2) + "\n")
    workers = workers or max(1, min(os.cpu_count() or 1, len(jobs) // 100))  # each takes a second to start
    with closing(_write_all(folder, config, jobs, workers)) as done:  # ends the workers, whatever happens
        for _ in track(done, "motion", len(jobs), console=console, disable=not console.is_terminal):
            pass
    console.print(f"motion: done in {time.monotonic() - begin:.0f} s")


def _video(split: str, index: int) -> str:
    return f"{split}/{index:06d}.mp4"


def _write(folder: Path, config: MotionConfig, split: str, index: int) -> None:
    video = encode(render(draw(config, split, index)), config.fps)
    (folder / _video(split, index)).write_bytes(video)  # FFmpeg itself can lose the error of a full disk


def _write_all(folder: Path, config: MotionConfig, jobs: list[Job], workers: int) -> Generator[None, None, None]:
    """Write all videos, yielding after each."""
    if workers == 1:
        for job in jobs:
            _write(folder, config, *job)
            yield
        return
    # A pipe for each process, not a pool: a pool's workers outlive a parent that is killed, these see their
    # pipe break. Spawned, not forked, because the caller may hold threads.
    spawn = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    done = 0
    try:
        for k in range(workers):
            pipe, end = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_work, args=(folder, config, jobs[k::workers], end), daemon=True)
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
    if done < len(jobs):
        raise RuntimeError(f"motion: a worker process died after {done} of {len(jobs)} videos; memory full?")


def _work(folder: Path, config: MotionConfig, jobs: list[Job], pipe: Connection) -> None:
    """Of a worker process: write videos; send None for each, or the error that ended the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with suppress(BrokenPipeError):  # the parent is gone: stop
        try:
            for job in jobs:
                _write(folder, config, *job)
                pipe.send(None)
        except BrokenPipeError:
            raise
        except Exception as error:
            pipe.send(error)
