"""What a training would take: clips, GPU-hours, memory, data; counted as far as possible, else plainly assumed."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from ..config import Config, Recipe
from ..data.config import DataConfig
from ..data.lists import read_counts
from ..errors import InputError
from ..hardware import Pass, choose_pass, devices
from ..models.base import Clip, ModelConfig
from ..models.count import gmacs, step_gmacs
from ..models.memory import USABLE, StepMemory, step_memory
from ..progress import WideTable
from ..runs.differing import differing, in_words
from ..trainer_arguments import steps_of_epoch
from .config import Hardware
from .gpus import GPU, find_gpu
from .measured import PLACE, measured_share

# (classes, training videos) as published, for a data set that is not there. Kinetics-400: the paper; 600 and 700:
# Carreira et al. 2018, 2019; SSv2: its authors' release; UCF101 and HMDB51: split 1.
PUBLISHED = {
    "kinetics400": (400, 240_000),
    "kinetics600": (600, 392_622),
    "kinetics700": (700, 545_317),
    "ssv2": (174, 168_913),
    "ucf101": (101, 9_537),
    "hmdb51": (51, 3_570),
}
BATCHES = (1, 2, 4, 8, 16, 32, 64)


# ms of one core, measured on videos of 10 s (H.264): reading 16, 32 and 64 frames of one, a straight line between;
# and cropping, and RandAugment of, 16 frames. From docs/data.md, table 'Fed', of the originals.
READ_MS = {16: 52.0, 32: 59.0, 64: 73.0}
CROP_MS, RANDAUGMENT_MS = 3.8, 37.1


def clip_ms(T: int, recipe: Recipe) -> float:
    """Return milliseconds of one core for a training clip of T frames, the default of Hardware.clip_ms.

    A video is read once for its repeats, which share their frames or draw their own.
    """
    frames = T if recipe.repeats_share_frames else T * recipe.repeats
    read = float(np.interp(frames, list(READ_MS), list(READ_MS.values())))
    augment = RANDAUGMENT_MS if recipe.augment.randaugment_ops and not recipe.augment.device else 0
    return read / recipe.repeats + (CROP_MS + augment) * T / 16


def sizes(config: DataConfig) -> tuple[int, int | None, bool]:
    """Return (classes, training videos, whether these are only the published ones).

    For a data set that is neither there nor in PUBLISHED: 400 classes, and None for the videos.
    """
    classes, videos = read_counts(config)
    if videos is not None and classes is not None:
        return classes, videos, False
    return *PUBLISHED.get(config.name, (400, None)), True


@dataclass(frozen=True)
class Estimate:
    """Cost of one run on some hardware."""

    config: Config
    hardware: Hardware

    @property
    def gpu(self) -> GPU:
        """The kind that it would run on."""
        return find_gpu(self.hardware.gpu)

    @property
    def model(self) -> tuple[ModelConfig, Clip, int]:
        """(model, clip, classes of the data set): the arguments of `models.count`."""
        return self.config.model, self.config.clip, sizes(self.config.data)[0]

    @cached_property
    def gmacs(self) -> float:
        """1e9 multiply-adds of one view of the test."""
        return gmacs(*self.model)

    @cached_property
    def step_gmacs(self) -> float:
        """1e9 multiply-adds of a training step, for each of its clips."""
        return step_gmacs(*self.model, recomputed=self.config.trainer.gradient_checkpointing)

    @cached_property
    def clips(self) -> int | None:
        """Clips of the whole training; None if the number of videos is not known."""
        videos, recipe = sizes(self.config.data)[1], self.config.recipe
        if recipe.max_steps is not None:
            return recipe.max_steps * recipe.batch_size
        if videos is None or not recipe.epochs:
            return None
        clips = min(videos, recipe.train_videos or videos) * recipe.repeats
        if "limit_train_batches" in self.config.trainer.more:
            clips = steps_of_epoch(self.config.trainer.more, clips // recipe.batch_size) * recipe.batch_size
        return clips * recipe.epochs

    @property
    def clips_in_words(self) -> str:
        """How `clips` comes about: '96,000,000 = 240,000 videos (as published) x 200 epochs x 2 a batch'."""
        _, videos, published = sizes(self.config.data)
        recipe = self.config.recipe
        if recipe.max_steps is not None:
            return f"{self.clips:,} = {recipe.max_steps:,} steps of {recipe.batch_size}"
        if videos is None:
            return f"unknown, since data={self.config.data.name} is not there"
        if not recipe.epochs:
            return f"unknown, as many as take {recipe.least_steps:,} steps of {recipe.batch_size}"
        known = " (as published)" if published else ""
        if (of_epoch := (self.clips or 0) // recipe.epochs) != videos * recipe.repeats:
            return f"{self.clips:,} = {of_epoch:,} clips of {videos:,} videos{known} x {recipe.epochs} epochs"
        return f"{self.clips:,} = {videos:,} videos{known} x {recipe.epochs} epochs x {recipe.repeats} a batch"

    @property
    def measured(self) -> bool:
        """Whether the speed is `trainer.clips_per_second`."""
        return bool(self.config.trainer.clips_per_second)

    @cached_property
    def share(self) -> tuple[float, str]:
        """(share of the GPU's peak that training reaches, where it comes from): as told, measured, or estimated.

        Raises InputError if the file that `measured` names has none for this GPU, clip length and precision.
        """
        hardware, gpu, T = self.hardware, self.gpu, self.config.clip.T
        if hardware.share is not None:
            return hardware.share, "as told"
        file = Path(hardware.measured or Path(self.config.folders.logs) / PLACE).expanduser()
        found = None
        with nullcontext() if hardware.measured else suppress(InputError):
            found = measured_share(file, gpu, T) if gpu.kind(self.config.trainer.precision) == "bf16" else None
        if found is not None:
            return found, f"measured at T = {T}: {file}"
        if hardware.measured:
            raise InputError(
                f"measured={file}: no share of {gpu.name} at T = {T} in bf16; share=N is allowed in its place"
            )
        return gpu.share, "estimated in conf/gpus.yaml, not measured"

    @property
    def clips_per_second(self) -> float:
        """Training speed of one GPU: as measured, else a share of its peak."""
        trainer = self.config.trainer
        if trainer.clips_per_second:
            return trainer.clips_per_second / (devices(trainer) * trainer.num_nodes)
        return self.share[0] * self.gpu.rate(trainer.precision) / (2e9 * self.step_gmacs)

    @property
    def gpu_hours(self) -> float | None:
        """Time of the training on one GPU, without validation and test."""
        return None if self.clips is None else self.clips / self.clips_per_second / 3600

    def at_once(self, memory: float | None, mixed: bool) -> Pass:
        """Return how a GPU of so many bytes, None for a CPU, computes a step in mixed precision or fp32."""
        return choose_pass(self.config, self.model[2], memory, mixed)

    def memory(self, mixed: bool, checkpointing: bool, recompute: bool) -> StepMemory:
        """Return the memory of a step in mixed precision or fp32, with or without gradient checkpointing, recompute."""
        return step_memory(*self.model, mixed, checkpointing, recompute, self.config.recipe.copies)

    @property
    def mixed(self) -> bool:
        """Whether the run computes in 16 bits."""
        return self.gpu.kind(self.config.trainer.precision) != "fp32"

    def cores(self, clips_per_second: float) -> float:
        """Return how many cores, busy with nothing else, make so many clips a second."""
        ms = self.hardware.clip_ms
        return clips_per_second * (clip_ms(self.config.clip.T, self.config.recipe) if ms is None else ms) / 1000

    def to_gpu(self, clips_per_second: float) -> float:
        """Return MB/s of pixels that go to the GPUs, a byte a value."""
        return clips_per_second * 3 * self.config.clip.T * self.config.clip.crop**2 / 1e6

    def from_disk(self, clips_per_second: float) -> float | None:
        """Return MB/s of files that are read; None if their size is not given."""
        size = self.hardware.video_mb
        return None if size is None else clips_per_second * size


def memory_table(e: Estimate) -> Table:
    """Return the memory of a training step over batch sizes, and the largest batch that the GPU takes."""
    at_once = e.at_once(e.gpu.bytes, e.mixed)
    ways = {
        f"{words}{', recomputed' if again else ''}": e.memory(mixed, again, at_once.recompute)
        for mixed, words in ((False, "fp32"), (True, "bf16/fp16"))
        for again in (False, True)
    }
    state = e.memory(False, False, at_once.recompute).state
    table = Table(
        title="Memory of a training step, GB",
        box=SIMPLE,
        padding=(0, 1),
        caption="recomputed: trainer.gradient_checkpointing=true; kept: activations that wait for the backward pass\n"
        f"{state / 1e9:.2f} GB of each step are weights, gradients and what {e.config.recipe.optimizer} keeps of each\n"
        f"a run takes up to {at_once.clips} (trainer.batch_per_device={e.config.trainer.batch_per_device}), "
        f"trainer.recompute={str(at_once.recompute).lower()}",
    )
    table.add_column("clips at once")
    for way in ways:
        table.add_column(way, justify="right")
    table.add_row("kept of each clip", *(f"{m.kept[1] / 1e9:.3f}" for m in ways.values()), end_section=True)
    for batch in BATCHES:
        table.add_row(str(batch), *(f"{m.whole(batch) / 1e9:.2f}" for m in ways.values()))
    fits = f"fit in {USABLE:.0%} of {e.gpu.memory:g} GiB"
    table.add_row(fits, *(f"{m.largest_batch(e.gpu.bytes):,}" for m in ways.values()))
    return table


def time_table(e: Estimate) -> WideTable:
    """Return speed, data rate and time of a training on several numbers of GPUs."""
    step, forward = e.step_gmacs, gmacs(e.config.model, replace(e.config.clip, test_crop=None), e.model[2])
    table = WideTable(
        title=f"Training on {e.gpu.name}",
        box=SIMPLE,
        padding=(0, 1),
        caption=f"{how_fast(e)}; a step is {step:.1f} GMACs a clip, {step / forward:.1f} forward passes\n"
        f"clips: {e.clips_in_words}\n"
        f"cores: that read videos, {1000 * e.cores(1):.0f} ms a clip, and do nothing else (clip_ms=)",
    )
    for column in ("GPUs", "clips/s", "to GPU, MB/s", "disk, MB/s", "cores", "wall time", "GPU hours"):
        table.add_column(column, justify="right")
    table.secondary = ["disk, MB/s", "to GPU, MB/s"]
    for n in e.hardware.gpus:
        speed = n * e.clips_per_second
        disk = e.from_disk(speed)
        table.add_row(
            str(n),
            _figure(speed),
            f"{e.to_gpu(speed):,.0f}",
            "-" if disk is None else f"{disk:,.0f}",
            f"{e.cores(speed):,.0f}",
            duration(e.gpu_hours, n),
            in_hours(e.gpu_hours),
        )
    return table


def grid_table(estimates: Sequence[Estimate]) -> Table:
    """Return a row a run of an experiment, with the sum of their GPU hours."""
    first = estimates[0]
    axes, same = differing([asdict(e.config) for e in estimates])
    hours = [e.gpu_hours for e in estimates]
    total = None if None in hours else sum(h for h in hours if h is not None)
    clips = list(dict.fromkeys(e.clips_in_words for e in estimates))
    speeds = "\n".join(dict.fromkeys(how_fast(e) for e in estimates)) + (
        ", taken for every row" if first.measured else ""
    )
    table = Table(
        title=f"{first.config.name} on {first.gpu.name}",
        caption=f"{in_words(same)}\n{speeds}\nclips: {', '.join(clips)}\n"
        "kept: activations of a clip, GB; fit: clips on a GPU at once, without/with gradient checkpointing; "
        "cores: that read videos for one GPU",
        show_footer=True,
        box=SIMPLE,
        padding=0,
    )
    for i, name in enumerate(axes):
        table.add_column(name, "all" if i == 0 else "", overflow="fold")
    for name in ("GMACs", "kept", "fit", "clips/s", "cores"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("GPU h", in_hours(total), justify="right", no_wrap=True)
    for n in first.hardware.gpus:
        table.add_column(f"on {n}", duration(total, n), justify="right", no_wrap=True)
    for i, e in enumerate(estimates):
        recompute = e.at_once(e.gpu.bytes, e.mixed).recompute
        plain, checkpointed = (e.memory(e.mixed, again, recompute) for again in (False, True))
        table.add_row(
            *(values[i] for values in axes.values()),
            f"{e.gmacs:.2f}",
            f"{plain.kept[1] / 1e9:.3f}",
            f"{plain.largest_batch(e.gpu.bytes)}/{checkpointed.largest_batch(e.gpu.bytes)}",
            _figure(e.clips_per_second),
            f"{e.cores(e.clips_per_second):.0f}",
            in_hours(hours[i]),
            *(duration(hours[i], n) for n in first.hardware.gpus),
        )
    return table


def how_fast(e: Estimate) -> str:
    """Say where the speed comes from."""
    if e.measured:
        return f"speed measured: trainer.clips_per_second={e.config.trainer.clips_per_second:g}"
    precision = e.config.trainer.precision
    peak = f"{e.gpu.rate(precision) / 1e12:g} TFLOP/s ({e.gpu.kind(precision)})"
    share, source = e.share
    return f"speed assumed: share={share:g} ({source}) of the {peak} of the data sheet"


def _figure(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 1 else f"{x:.3f}"


def in_hours(hours: float | None) -> str:
    """'485', '5.1', '-'."""
    return "-" if hours is None else _figure(hours)


def duration(gpu_hours: float | None, gpus: int) -> str:
    """'3.2 d', '5.1 h', '12 min'."""
    if gpu_hours is None:
        return "-"
    hours = gpu_hours / gpus
    return f"{hours / 24:.1f} d" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
