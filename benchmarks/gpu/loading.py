"""Phase 5: how fast videos become clips here, beside what phase 4 says that the GPU takes.

The 48 videos are coded on the spot: a few of ten seconds, at both ends of what Kinetics has of keyframes, each linked
under several names. All of them stay in the system's file cache, so no disk is measured.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import torch
import torch.nn.functional as F
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from stat_video.data.augment import Augment
from stat_video.data.dataset import ClipDataset, TrainSampler
from stat_video.data.randaugment import RandAugment
from stat_video.data.reader import PathHandler
from stat_video.data.sampling import segment_frames
from stat_video.data.transforms import ColorJitter, TrainTransform
from stat_video.models.base import Clip

from .measure import Sizes, Work, clips, device_here, in_turns, sizes_of, stat_of, training_step
from .report import Report

HEIGHT, WIDTH, GOPS = 256, 340, (12, 250)
VIDEOS, SOURCES = 48, 2
REPEATS, BATCH = 2, 8  # the recipe's clips of a video; clips of a loader's batch
RECIPE = Augment(randaugment_ops=4, randaugment_magnitude=7.0, randaugment_std=0.5)  # on the CPU, of STAT's recipe
FED = 0.9  # of phase 4's best speed


def run(report: Report) -> None:
    """Measure the parts of a clip, the loaders, the transfer."""
    device, sizes = device_here(), sizes_of(report.settings.tiny)
    report.doing("coding videos")
    videos = footage(report.settings.work / "videos", report.settings.tiny)
    of_a_clip(report, videos, sizes)
    rates = loaders(report, videos, sizes, device)
    fed(report, rates)
    if device.type == "cuda":
        transfer(report, sizes, device)
    else:
        report.note("transfer to the device: left out on a CPU")


def footage(folder: Path, tiny: bool) -> list[Path]:
    """Return the videos; of each coded one there are several links, half of all are of each GOP."""
    sources, frames, count = (1, 24, 4) if tiny else (SOURCES, 250, VIDEOS)
    folder.mkdir(parents=True)
    coded = []
    for source in range(sources):
        pictures = pan(frames, source)
        for gop in GOPS:
            coded.append(folder / f"source{source}-gop{gop}.mp4")
            code(pictures, gop, coded[-1])
    videos = []
    for i in range(count):
        videos.append(folder / f"{i:02}.mp4")
        os.link(coded[i % len(coded)], videos[-1])
    return videos


def pan(frames: int, seed: int) -> list[Any]:
    """Return pictures (height, width, 3) of a camera that moves over a scene, with the noise of a sensor."""
    draw = torch.Generator().manual_seed(seed)
    scales = ((8, 60.0), (64, 40.0), (256, 12.0))  # a scene has coarse and fine structure
    scene = sum(
        strength * F.interpolate(torch.randn(1, 3, n, n, generator=draw), (2 * HEIGHT, 2 * WIDTH), mode="bilinear")
        for n, strength in scales
    )[0]
    pictures = []
    for i in range(frames):
        y, x = (round(n * (1 + math.sin(i / 40 + seed + shift)) / 2) for n, shift in ((HEIGHT, 0), (WIDTH, 1)))
        noise = 4 * torch.randn(3, HEIGHT, WIDTH, generator=draw)
        picture = scene[:, y : y + HEIGHT, x : x + WIDTH] + noise + 128
        pictures.append(picture.clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy())
    return pictures


def code(pictures: list[Any], gop: int, target: Path) -> None:
    """Write a video as H.264 by x264's own choices but for the GOP."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def of_a_clip(report: Report, videos: list[Path], sizes: Sizes) -> None:
    """Measure the parts that make one clip, on one thread, as a data worker does."""
    report.doing("the parts of a clip")
    T, few = clip_length(sizes), videos[: 4 if report.settings.tiny else 16]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    crop = TrainTransform(sizes.crop, Augment(), hflip=True)
    parts: dict[str, list[float]] = {"read": [], "crop": [], "jitter": [], "RandAugment": []}
    for video in few:
        choose = segment_frames(torch.rand(T).tolist())
        frames, ms = clocked(
            lambda video=video, choose=choose: PathHandler().video_from_path(str(video)).frames(choose)
        )
        parts["read"].append(ms)
        pixels, ms = clocked(lambda frames=frames: crop(frames))
        parts["crop"].append(ms)
        clip = tv_tensors.Video(pixels)
        parts["jitter"].append(clocked(lambda clip=clip: ColorJitter(0.4)(clip))[1])
        randaugment = RandAugment(RECIPE.randaugment_ops, RECIPE.randaugment_magnitude, RECIPE.randaugment_std)
        parts["RandAugment"].append(clocked(lambda clip=clip, by=randaugment: by(clip))[1])
    torch.set_num_threads(threads)
    for name, times in parts.items():
        report.figure(f"a clip of {T} frames: {name}{', not in the recipe' if name == 'jitter' else ''}", times, "ms")


def clocked(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return what a call returns, and its ms."""
    begun = time.perf_counter()
    result = work()
    return result, 1e3 * (time.perf_counter() - begun)


def clip_length(sizes: Sizes) -> int:
    """Return the frames of the clips that are read."""
    return min(sizes.window)


def loaders(report: Report, videos: list[Path], sizes: Sizes, device: torch.device) -> dict[int, float]:
    """Return clips a second by the number of data workers; measured beside it: no reading shared by the repeats."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = (1,) if report.settings.tiny else sorted({1, min(8, cores), cores})
    rates: dict[int, float] = {}
    for workers in counts:
        if report.left <= 0:
            report.note(f"{workers} workers: left out, no time")
            continue
        report.doing(f"a loader of {workers} workers")
        found = clips_per_second(loader(videos, sizes, workers, device), report)
        rates[workers] = report.figure(f"loader, {workers} workers, repeats read once", found, "clips/s")
    if report.left > 0:
        report.doing("a loader that reads each repeat")
        found = clips_per_second(loader(videos, sizes, counts[-1], device, share_frames=False), report)
        report.figure(f"loader, {counts[-1]} workers, each repeat read", found, "clips/s")
    if report.left > 0:
        report.doing("a loader that leaves RandAugment to the device")
        augment = replace(RECIPE, device=True)
        found = clips_per_second(loader(videos, sizes, counts[-1], device, augment=augment), report)
        report.figure(f"loader, {counts[-1]} workers, RandAugment on the device", found, "clips/s")
    return rates


def loader(
    videos: list[Path],
    sizes: Sizes,
    workers: int,
    device: torch.device,
    share_frames: bool = True,
    augment: Augment = RECIPE,
) -> "DataLoader[Any]":
    """Return a training loader as a run has it, all repeats of a video of the same frames or each of its own."""
    data = ClipDataset(
        LabeledVideoPaths([(str(video), {"label": 0}) for video in videos]),
        Clip(T=clip_length(sizes), crop=sizes.crop),
        train=TrainTransform(sizes.crop, augment, hflip=True),
        share_frames=share_frames,
    )
    sampler = TrainSampler(len(data), seed=0, repeats=REPEATS, step=BATCH)
    how = {"num_workers": workers, "persistent_workers": True, "pin_memory": device.type == "cuda"}
    return DataLoader(data, BATCH, sampler=sampler, **how)


def clips_per_second(loader: "DataLoader[Any]", report: Report) -> list[float]:
    """Return the speed in each of several stretches; the first epoch, in which the workers start, is left out."""
    seconds, stretches = (0.0, 2) if report.settings.tiny else (2.0, 3)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    endless, rates = batches(), []
    for _ in range(len(loader)):
        next(endless)
    for _ in range(stretches):
        begun, done = time.perf_counter(), 0
        while not done or time.perf_counter() - begun < seconds:
            done += len(next(endless)["video"])
        rates.append(done / (time.perf_counter() - begun))
    return rates


def fed(report: Report, rates: dict[int, float]) -> None:
    """Compare the loader of all cores with phase 4's best step; say how many cores and workers that needs."""
    best = report.settings.found(4, "best", {})
    if not rates or not best:
        report.note("cores that a GPU needs: phase 4 has no figure" if rates else "no loader was measured")
        return
    T, wanted = next((T, found["clips_per_second"]) for T, found in best.items())
    gpus = max(1, int(report.settings.found(0, "machine", {}).get("gpus", 1)))
    workers, rate = max(rates.items())
    needed = math.ceil(FED * wanted * gpus / (rate / workers))
    report.figure(f"cores for {gpus} GPUs at T={T}", needed, "")
    name = f"clips/s of {workers} workers / {gpus} x phase 4's best, T={T} (needs {needed} cores)"
    report.check(name, rate / (gpus * wanted), FED, at_least=True, kind="floor")
    report.found(workers=max(1, min(workers // gpus, math.ceil(needed / gpus))))


def transfer(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Measure sending a batch of clips to the device alone and beside training steps, and what it costs those."""
    if report.left <= 0:
        report.note("transfer: left out, no time")
        return
    report.doing("transfer to the device")
    T = clip_length(sizes)
    batch = sizes.batches[T][0]
    here = torch.randint(256, (batch, T, 3, sizes.crop, sizes.crop), dtype=torch.uint8).pin_memory()
    there = torch.empty_like(here, device=device)
    step = training_step(stat_of(sizes, T).train().to(device), [clips(sizes, T, batch, device)])
    beside = torch.cuda.Stream()

    def both() -> None:
        with torch.cuda.stream(beside):
            there.copy_(here, non_blocking=True)
        step()

    works: dict[str, Work] = {"sending a batch": lambda: there.copy_(here, non_blocking=True), "a step": step}
    works["a step, a batch sent beside it"] = both
    times = in_turns(works, sizes.rounds, sizes.warmups, device, report)
    for name, of in times.items():
        report.figure(f"{name}, {batch} clips", of.device, "ms")
    report.figure("sending", [here.numel() / (ms / 1e3) / 1e9 for ms in times["sending a batch"].device], "GB/s")
