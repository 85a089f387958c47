"""How fast videos become clips: ours beside PyTorchVideo's pipeline, on the same files, in one run.

    make bench-data                          # footage made here
    make bench-data VIDEOS="folder clip.mp4" # real footage

Footage is coded as 10 s of H.264, 340 x 256 at 25 frames a second, once for each GOP. Peers take turns on it, and a
figure is the median of the rounds' ratios. Writes benchmarks/results/data.json and the tables in docs/data.md.

    python benchmarks/data.py --only fed VIDEOS   # the cores that the paper's recipe needs; the rest stays as it was
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from page import processor, table, write_part
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from pytorchvideo.data.encoded_video import EncodedVideo
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from stat_video.compose import rows as rows_of
from stat_video.config import Config
from stat_video.data.augment import Augment
from stat_video.data.config import DataConfig
from stat_video.data.dataset import ClipDataset, TrainRequest, TrainSampler
from stat_video.data.encoding import Encoding
from stat_video.data.layouts.base import VIDEOS
from stat_video.data.loader import PART, joined, part_of
from stat_video.data.pictures import photos
from stat_video.data.reader import PathHandler
from stat_video.data.sampling import Views, segment_frames, training_frames
from stat_video.data.transcode import transcode
from stat_video.data.transforms import TrainTransform
from stat_video.files import write_json
from stat_video.hardware import cores
from stat_video.models.base import Clip, VideoModel
from stat_video.paths import PROJECT
from stat_video.runs.code import provenance
from stat_video.training.optim import make_optimizer
from stat_video.training.session import make_data

T, CROP, HEIGHT, WIDTH, FRAMES, FPS = 16, 224, 256, 340, 250, 25
GOPS = (12, 50, 250)
WORKERS = 2
SOURCES = 6  # clips of footage at most
LENGTHS = (16, 32, 64)  # T of the paper's clips
WAYS = ("before", "now", "device")  # each repeat reads its video; once for all; and RandAugment on the device
PARTS = ("read", "crop", "RandAugment", "before", "own frames", "now", "device")
FED = (440, 750)  # clips/s that a GPU takes
FLOORS = {"originals": 65, "copies": 20}  # ms of a clip at T = 16
RESULT, PAGE = PROJECT / "benchmarks/results/data.json", PROJECT / "docs/data.md"
SHOWN = ("torch", "torchvision", "av", "pytorchvideo")  # versions beside the table
console = Console()


@dataclass
class Figure:
    """One row of the table."""

    name: str
    values: list[float]  # of the rounds, or of the files
    floor: float
    aim: float
    more_is_better: bool
    unit: str = ""
    about: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> str:
        better = (lambda a, b: a >= b) if self.more_is_better else (lambda a, b: a <= b)
        return "aim" if better(self.median, self.aim) else "floor" if better(self.median, self.floor) else "below"


# ---------------------------------------------------------------------------------------------------- footage


def made_here() -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Photographs that the camera pans over, with the noise of a sensor and something that moves."""

    def pan(photo: np.ndarray, seed: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        scaled = v2.functional.resize(torch.from_numpy(photo).permute(2, 0, 1), [2 * HEIGHT, 2 * WIDTH], antialias=True)
        picture = scaled.permute(1, 2, 0).numpy()
        thing = np.ascontiguousarray(picture[:60, :80])
        for i in range(FRAMES):
            y, x = (round(n * (1 + np.sin(i / 40 + seed + shift)) / 2) for n, shift in ((HEIGHT, 0), (WIDTH, 1)))
            frame = picture[y : y + HEIGHT, x : x + WIDTH].astype(np.int16)
            at = 3 * i % (WIDTH - 80)
            frame[100:160, at : at + 80] = thing
            yield (frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8)

    for seed, (name, photo) in enumerate(islice((p for p in photos().items() if p[0] not in ("brick", "grass")), 4)):
        yield name, pan(photo, seed)


def footage(videos: Sequence[Path], folder: Path) -> dict[int, list[Path]]:
    """GOP -> coded clips; those that are there are kept."""
    files = [f for v in videos for f in (sorted(v.iterdir()) if v.is_dir() else [v]) if f.suffix.lower() in VIDEOS]
    sources: Iterator[tuple[str, Iterable[np.ndarray]]] = ((f.stem, real(f)) for f in files) if videos else made_here()
    coded: dict[int, list[Path]] = {gop: [] for gop in GOPS}
    for name, frames in islice(sources, SOURCES):
        targets = {gop: folder / f"gop{gop}" / f"{name}.mp4" for gop in GOPS}
        if not all(target.is_file() for target in targets.values()):
            console.print(f"coding {name}")
            kept = list(islice(frames, FRAMES))
            pictures = list(islice(cycle([*kept, *kept[::-1]]), FRAMES))  # a shorter one runs there and back
            for gop, target in targets.items():
                encode(pictures, gop, target)
        for gop, target in targets.items():
            coded[gop].append(target)
    return coded


def real(path: Path) -> Iterator[np.ndarray]:
    for frame in PathHandler().video_from_path(str(path)).decoded():
        yield frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray()


def encode(frames: Sequence[np.ndarray], gop: int, target: Path) -> None:
    """x264's own choices but for the GOP: up to three B-frames, keyframes at cuts too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".new.mp4")
    with av.open(str(beside), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    beside.replace(target)


# ------------------------------------------------------------------------------------------------------ peers


class StockTransform:
    """PyTorchVideo's `create_video_transform(mode="train", aug_type="randaug")` in its order, with torchvision v2.

    `pytorchvideo.transforms` itself does not import beside today's torchvision.
    """

    def __init__(self) -> None:
        self.randaugment = v2.RandAugment(num_ops=2, magnitude=9)
        self.normalize = v2.Normalize([0.45] * 3, [0.225] * 3)
        self.crop = v2.Compose([v2.RandomResizedCrop(CROP, antialias=True), v2.RandomHorizontalFlip()])

    def __call__(self, item: dict[str, Any]) -> torch.Tensor:
        clip = subsample(item["video"])
        clip = self.randaugment(clip.to(torch.uint8).transpose(0, 1)).float() / 255
        return self.crop(self.normalize(clip))


class OurTransformOnTheirClip:
    """The paper's train transforms, as ours, on what PyTorchVideo reads."""

    def __init__(self) -> None:
        self.transform = TrainTransform(CROP, Augment(), hflip=True)

    def __call__(self, item: dict[str, Any]) -> torch.Tensor:
        return self.transform(subsample(item["video"]).to(torch.uint8).permute(1, 2, 3, 0))


def subsample(clip: torch.Tensor) -> torch.Tensor:
    """UniformTemporalSubsample(T): (3, frames, H, W) -> (3, T, H, W)."""
    return clip.index_select(1, torch.linspace(0, clip.shape[1] - 1, T).long())


def stock(paths: Sequence[Path], transform: Callable[[dict[str, Any]], torch.Tensor]) -> DataLoader[Any]:
    """Its Kinetics pipeline: whole videos, as segments are of a whole video."""
    data = LabeledVideoDataset(
        [(str(path), {"label": 0}) for path in paths],
        make_clip_sampler("random", FRAMES / FPS),
        RandomSampler,
        transform,
        decode_audio=False,
        decoder="pyav",
    )
    return DataLoader(data, 4, num_workers=WORKERS, persistent_workers=True)


def ours(paths: Sequence[Path], repeats: int) -> DataLoader[Any]:
    """Our training loader, `repeats` clips of each video an epoch, each with a reading of its own."""
    videos = LabeledVideoPaths([(str(path), 0) for path in paths for _ in range(repeats)])
    data = ClipDataset(videos, Clip(T=T, crop=CROP), train=TrainTransform(CROP, Augment(), hflip=True))
    return DataLoader(data, 4, sampler=TrainSampler(len(data), seed=0), num_workers=WORKERS, persistent_workers=True)


def clips_per_second(loader: DataLoader[Any]) -> float:
    """Of an epoch whose workers run already."""
    start, clips = time.perf_counter(), 0
    for batch in loader:
        clips += len(batch["video"] if isinstance(batch, dict) else batch)
    return clips / (time.perf_counter() - start)


# ---------------------------------------------------------------------------------------------------- figures


def throughput(paths: Sequence[Path], copies: Sequence[Path], rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """Clips a second of four loaders in turn."""
    loaders = {
        "ours": ours(paths, 4),
        "stock": stock(paths, StockTransform()),
        "stock reading, our transforms": stock(paths, OurTransformOnTheirClip()),
        "ours, transcoded": ours(copies, 4),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for round_ in range(rounds + 1):  # in the first the workers start
        for name, loader in loaders.items():
            rate = clips_per_second(loader)
            if round_:
                rates[name].append(rate)
    pairs = {name: [a / b for a, b in zip(rates["ours"], rates[name], strict=True)] for name in rates}
    medians = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    also = statistics.median(pairs["stock reading, our transforms"])
    return [
        Figure(
            "clips/s, ours / PyTorchVideo's pipeline", pairs["stock"], 7, 14, True, "x",
            f"{medians['ours']} / {medians['stock']} clips/s; with our transforms in both {also:.1f} x",
        ),
        Figure(
            "clips/s, transcoded / original files", [1 / p for p in pairs["ours, transcoded"]], 1.5, 4, True, "x",
            f"{medians['ours, transcoded']} / {medians['ours']} clips/s",
        ),
    ], {"clips_per_second": rates}  # fmt: skip


def cpu_time(coded: dict[int, list[Path]], rounds: int) -> tuple[Figure, dict[str, Any]]:
    """CPU time of reading T frames / of decoding every packet of the same file, without converting one."""
    rng = np.random.default_rng(0)
    ratios: dict[int, list[float]] = {}
    for gop, paths in coded.items():
        for path in paths:
            times: dict[str, list[float]] = {"read": [], "decode": []}
            for _ in range(rounds):
                choose = segment_frames(rng.random(T).tolist())
                start = time.process_time()
                PathHandler().video_from_path(str(path)).frames(choose)
                middle = time.process_time()
                decode_all(path)
                times["read"].append(middle - start)
                times["decode"].append(time.process_time() - middle)
            ratios.setdefault(gop, []).append(statistics.median(times["read"]) / statistics.median(times["decode"]))
    by_gop = {gop: statistics.median(values) for gop, values in ratios.items()}
    about = ", ".join(f"GOP {gop}: {value:.2f}" for gop, value in by_gop.items())
    name = f"CPU time, reading {T} frames / decoding every packet"
    return Figure(name, [v for values in ratios.values() for v in values], 0.75, 0.55, False, "", about), {
        "cpu_by_gop": by_gop
    }


def decode_all(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                stream.codec_context.decode(packet if packet.size else None)


def memory(paths: Sequence[Path]) -> tuple[Figure, dict[str, Any]]:
    """Peak memory of reading one video, each in a process of its own that has read another one before."""
    mib: dict[str, list[float]] = {"ours": [], "stock": []}
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        for peer, found in mib.items():
            command = [sys.executable, __file__, "--memory", peer, str(other), str(path)]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    ratios = [a / b for a, b in zip(mib["ours"], mib["stock"], strict=True)]
    about = f"{statistics.median(mib['ours']):.1f} / {statistics.median(mib['stock']):.1f} MiB"
    return Figure("peak memory of reading one video, ours / PyTorchVideo", ratios, 0.1, 0.03, False, "", about), {
        "memory_mib": mib
    }


def peak_memory(peer: str, other: Path, path: Path) -> float:
    """KiB that reading `path` adds to what the process holds (Linux)."""

    def read(file: Path) -> object:
        if peer == "ours":
            return PathHandler().video_from_path(str(file)).frames(segment_frames([0.5] * T))
        video = EncodedVideo.from_path(str(file), decode_audio=False, decoder="pyav")
        clip = video.get_clip(Fraction(0), Fraction(FRAMES, FPS))["video"]
        return subsample(clip)

    with av.open(str(other)) as container:  # what FFmpeg itself takes once
        next(container.decode(video=0))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = status("VmRSS")
    read(path)
    return status("VmHWM") - before


def status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return float(line.split()[1])


def waiting(folder: Path, steps: int) -> tuple[Figure, dict[str, Any]]:
    """Share of a tiny training step on `motion` that is spent waiting for the next batch."""
    shares = {}
    for name, workers, threads in (("default", None, os.cpu_count() or 1), ("1 worker, 1 thread", 1, 1)):
        torch.set_num_threads(threads)
        told = ["scale=tiny", f"folders.built_in={folder}", "data.motion.train_videos=480", "data.motion.val_videos=12"]
        (row,) = rows_of("train", Config, [*told, f"trainer.workers={workers or 'null'}"])
        config = row.config
        data = make_data(config, Views.parse(config.views), config.trainer.batch_per_device)
        model = config.build(12)
        optimizer = make_optimizer(model, config.recipe)
        shares[name] = step_shares(data.train_dataloader(), data.normalize, model, optimizer, steps)
        about = f"{workers or data.workers} workers, {threads} threads, {data.batch_size} clips a step"
        shares[name] = {"about": about, "percent": shares[name]}
    also = statistics.median(shares["1 worker, 1 thread"]["percent"])
    figure = Figure(
        "share of a tiny training step spent waiting for data (`motion`)", shares["default"]["percent"], 20, 5, False,
        "%", f"{shares['default']['about']}; with 1 worker and 1 thread {also:.1f} %",
    )  # fmt: skip
    return figure, {"waiting": shares}


def step_shares(
    loader: DataLoader[Any], normalize: torch.nn.Module, model: VideoModel, optimizer: torch.optim.Optimizer, steps: int
) -> list[float]:
    """Percent of each step; the first ones, in which the workers start, are left out."""
    shares: list[float] = []
    batches = (joined(parts) for _ in iter(int, 1) for parts in loader)
    for step in range(steps + 5):
        start = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(normalize(batch["video"])), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 5:
            shares.append(100 * (got - start) / (time.perf_counter() - start))
    return shares


# -------------------------------------------------------------------------------------------------------- fed


class OneByOne(Dataset[Any]):
    """The items of a data set asked for one by one: each repeat reads its video anew."""

    def __init__(self, data: ClipDataset) -> None:
        self.data = data

    def __getitem__(self, request: Any) -> Any:
        return self.data[request]


def paper_set(paths: Sequence[Path], frames: int, on_device: bool = False) -> tuple[ClipDataset, int]:
    """The training clips of the paper's recipe and how many there are of a video; RandAugment is on the CPU or not."""
    (row,) = rows_of("train", Config, ["scale=paper", f"clip=T{frames}"])
    config = row.config
    augment = replace(config.recipe.augment, randaugment_ops=0) if on_device else config.recipe.augment
    transform = TrainTransform(config.clip.crop, augment, config.data.hflip)
    videos = LabeledVideoPaths([(str(path), 0) for path in paths])
    share = config.recipe.repeats_share_frames
    return ClipDataset(videos, config.clip, train=transform, share_frames=share), config.recipe.repeats


def clip_times(paths: Sequence[Path], frames: int, rounds: int) -> dict[str, list[float]]:
    """CPU ms of a training clip by part, of each video the median of the rounds; all take turns on a video."""
    data, repeats = paper_set(paths, frames)
    own, _ = paper_set(paths, frames)  # each repeat has its own frames
    own.share_frames = False
    for_device, _ = paper_set(paths, frames, on_device=True)
    handler, times = PathHandler(), {part: [] for part in PARTS}
    for video, path in enumerate(paths):
        taken: dict[str, list[float]] = {part: [] for part in PARTS}
        for epoch in range(rounds):
            requests = [TrainRequest(video, epoch, repeat) for repeat in range(repeats)]
            choose = training_frames(data.clip, np.random.default_rng([0, epoch, video]))
            works: dict[str, Callable[[], object]] = {
                "read": lambda path=path, choose=choose: handler.video_from_path(str(path)).frames(choose),
                "before": lambda requests=requests: [data[request] for request in requests],
                "own frames": lambda requests=requests: own.__getitems__(requests),
                "now": lambda requests=requests: data.__getitems__(requests),
                "device": lambda requests=requests: for_device.__getitems__(requests),
            }
            for name, work in works.items():
                begin = time.process_time()
                work()
                taken[name].append(1000 * (time.process_time() - begin) / repeats)
            taken["crop"].append(taken["device"][-1] - taken["read"][-1])
            taken["RandAugment"].append(taken["now"][-1] - taken["device"][-1])
        for part, values in taken.items():
            times[part].append(statistics.median(values))
    return times


def loader_rates(paths: Sequence[Path], frames: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Number of workers -> way -> clips a second of the rounds, the ways in turn."""
    rates: dict[str, dict[str, list[float]]] = {}
    for workers in sorted({1, 2, cores()}):
        enough = [*paths] * ceil(2 * PART * workers / len(paths))  # some parts for each worker
        data, repeats = paper_set(enough, frames)
        sampler, part = TrainSampler(len(data), seed=0, repeats=repeats), part_of(len(data), repeats)
        how: dict[str, Any] = {"sampler": sampler, "num_workers": workers, "persistent_workers": True}
        loaders = {
            "before": DataLoader(OneByOne(data), part, **how),
            "now": DataLoader(data, part, **how),
            "device": DataLoader(paper_set(enough, frames, on_device=True)[0], part, **how),
        }
        found = rates.setdefault(str(workers), {way: [] for way in loaders})
        for round_ in range(rounds + 1):  # in the first the workers start
            sampler.set_epoch(round_)
            for way, loader in loaders.items():
                rate = clips_per_second(loader)
                if round_:
                    found[way].append(rate)
    return rates


def fed(paths: Sequence[Path], copies: Sequence[Path], rounds: int) -> dict[str, Any]:
    """What the CPU does for a training clip, and how many cores feed a GPU."""
    torch.set_num_threads(1)  # as in a data worker
    began = {"machine": machine(), **provenance()}
    kinds = {"originals": paths, "copies": copies}
    ms = {kind: {str(T): clip_times(of, T, rounds) for T in LENGTHS} for kind, of in kinds.items()}
    rates = {kind: loader_rates(of, LENGTHS[0], rounds) for kind, of in kinds.items()}
    torch.set_num_threads(os.cpu_count() or 1)
    return {**began, "ms": ms, "clips_per_second": rates, "rounds": rounds, "finished": now()}


def fed_part(result: dict[str, Any]) -> str:
    """The part of the page on what is fed, in Markdown."""
    median = {
        kind: {T: {part: statistics.median(values) for part, values in parts.items()} for T, parts in of_kind.items()}
        for kind, of_kind in result["ms"].items()
    }
    head = ("videos", "T", "read", "crop", "RandAugment", "before", "own frames", "now", "RandAugment on the device")
    lines = [
        (kind, T, *(f"{parts[part]:.1f}" for part in PARTS)) for kind, of in median.items() for T, parts in of.items()
    ]
    needed = [
        (kind, T, *(f"{rate * parts[way] / 1000:.0f}" for rate in FED for way in WAYS))
        for kind, of in median.items()
        for T, parts in of.items()
    ]
    rates = [
        (kind, workers, *(f"{statistics.median(of[way]):.1f}" for way in WAYS))
        for kind, of_kind in result["clips_per_second"].items()
        for workers, of in of_kind.items()
    ]
    at = str(LENGTHS[0])
    floors = [
        f"{kind}, RandAugment on the {where}: {median[kind][at][way]:.1f} ms, floor {floor}, "
        f"{'reached' if median[kind][at][way] <= floor else 'not reached'}"
        for kind, floor in FLOORS.items()
        for way, where in (("now", "CPU"), ("device", "device"))
    ]
    ways = ("before", "now", "RandAugment on the device")
    where = f"{result['machine']['cpu']}, {result['machine']['cores']} cores; {result['finished'][:10]}"
    return "\n".join(
        [
            "**Fed.** CPU ms of a training clip by the paper's recipe, medians over the videos; two clips of a video "
            "share its frames. Before: each of them reads the video. Now: it is read once. Own frames: each draws its "
            "own, and they are read at once (`recipe.repeats_share_frames=false`). Except in the last column "
            "RandAugment is on the CPU.",
            "",
            table(head, lines),
            f"At T = {at}: {'; '.join(floors)}.",
            "",
            "Cores that feed so many clips a second:",
            "",
            table(("videos", "T", *(f"{rate}/s, {way}" for rate in FED for way in ways)), needed),
            f"Clips a second of the training loader, T = {at}:",
            "",
            table(("videos", "workers", *ways), rates),
            f"{where}.",
        ]
    )


# ----------------------------------------------------------------------------------------------------- output


def machine() -> dict[str, Any]:
    return {"cpu": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def rows(figures: Sequence[Figure]) -> Iterator[tuple[str, ...]]:
    for f in figures:
        digits = 3 if f.floor < 1 else 1
        value, low, high = (f"{v:.{digits}f}" for v in (f.median, min(f.values), max(f.values)))
        yield f.name, f"{value} {f.unit}".strip(), f"{low} to {high}", f"{f.floor:g}", f"{f.aim:g}", f.reached, f.about


def write(figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """JSON, and the tables on the page between its marks."""
    write_json(RESULT, {"figures": [{**asdict(f), "median": f.median, "reached": f.reached} for f in figures], **about})
    head = ("figure", "median", "range", "floor", "aim", "reached", "about")
    packages = ", ".join(f"{name} {about['versions'][name]}" for name in SHOWN)
    where = (
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores; {packages}; {about['footage']}; {WORKERS} data "
        f"workers, T = {T}, crop {CROP}; {about['finished'][:10]}. All values: `benchmarks/results/data.json`."
    )
    parts = [table(head, [*rows(figures)]), where, *([f"\n{fed_part(about['fed'])}"] if "fed" in about else [])]
    write_part(PAGE, "data.py", "\n".join(parts))
    shown = Table(*head)
    for cells in rows(figures):
        shown.add_row(*cells)
    console.print(shown)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def before() -> tuple[list[Figure], dict[str, Any]]:
    """What the last run wrote: (figures, the rest)."""
    about = json.loads(RESULT.read_text(encoding="utf-8"))
    known = [field.name for field in fields(Figure)]
    return [Figure(**{name: f[name] for name in known}) for f in about.pop("figures")], about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, help="files or folders of real footage; none: made here")
    parser.add_argument("--folder", type=Path, default=PROJECT / "data/benchmark", help="where coded footage is kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["fed"], help="measure this part, and keep the others as they were")
    parser.add_argument("--footage-only", action="store_true", help="code the footage and stop")
    parser.add_argument("--memory", nargs=3, metavar=("PEER", "OTHER", "VIDEO"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.memory:
        print(peak_memory(told.memory[0], Path(told.memory[1]), Path(told.memory[2])))
        return
    folder = told.folder / ("real" if told.videos else "made")
    coded = footage(told.videos, folder)
    paths = [path for of_gop in coded.values() for path in of_gop]
    copies = copied(folder, paths)
    if told.footage_only:
        return
    if told.only:
        figures, about = before()
        write(figures, {**about, "fed": fed(paths, copies, told.rounds)})
        return
    began = {"machine": machine(), **provenance()}
    figures, details = throughput(paths, copies, told.rounds)
    for measure in (
        lambda: cpu_time(coded, told.rounds),
        lambda: memory(coded[GOPS[-1]][:3]),
        lambda: waiting(told.folder, 40),
    ):
        figure, more = measure()
        figures.append(figure)
        details |= more
    what = "real clips" if told.videos else "clips made here"
    write(
        figures,
        {
            **began,
            "footage": f"{len(paths) // len(GOPS)} {what}, each with GOP {', '.join(map(str, GOPS))}",
            "rounds": told.rounds,
            "finished": now(),
            "details": details,
            "fed": fed(paths, copies, told.rounds),
        },
    )


def copied(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """What `src/prepare.py do=transcode` makes of the footage."""
    (folder / "classes.txt").write_text("clip\n")
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text("".join(f"{path.relative_to(folder)} 0\n" for path in paths))
    out = folder.with_name(f"{folder.name}_copies")
    made = transcode(DataConfig("footage", root=str(folder)), out, Encoding(), None)
    return [out / copy.path for copy in made]


if __name__ == "__main__":
    main()
