"""Phase 4: how fast a training step is, in each way of computing, beside torchvision's MViT-B; and by parts.

All is bf16 autocast with fused AdamW on random clips. What is compared takes turns; the plain way is what training
uses. Ways that phase 1 found wrong are not tried. What the advice needs comes first, MViT-B and the parts last.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stat_video.models import base
from stat_video.models.memory import step_memory
from stat_video.models.stat.attention import PoolCA

from .measure import (
    Sizes,
    Times,
    Way,
    Work,
    autocast,
    batches_here,
    clips,
    compiled_by_block,
    device_here,
    error,
    forward_pass,
    gradients,
    in_turns,
    mvit_of,
    plain_way,
    sizes_of,
    stat_of,
    timed,
    training_step,
    wait,
)
from .report import Report

MVIT = 1.7  # floor of clips/s of a step, STAT / MViT-B
MEMORY = 0.10  # largest difference between a step's memory and what was predicted
COMPILED = 1e-2  # as phase 1's, bf16
RANDAUGMENT = (4, 7.0, 0.5)  # operators, magnitude and its spread, of STAT's recipe
COMPILE_SECONDS = 45.0  # that the first compilation is given at least


def run(report: Report) -> None:
    """Measure the ways at the shortest clip and compiled, then the best at all lengths, MViT-B beside, and parts."""
    device, sizes = device_here(), sizes_of(report.settings.tiny)
    sizes = sizes._replace(batches={T: batches_here(sizes, T, device) for T in sizes.window})
    speed = Speed(report, sizes, device)
    T = min(sizes.window)
    ways = possible_ways(report, device)
    *smaller, largest = sizes.batches[T]
    speed.ways(T, smaller, {name: ways[name] for name in ("plain", "all of these")})
    best = speed.ways(T, [largest], ways)
    compiles = speed.compiled(T, best)
    for longer in sizes.window:
        if longer != T and report.left > 0:
            speed.ways(longer, sizes.batches[longer], {"plain": plain_way(device), "best": best})
            if compiles:
                speed.compiled(longer, best)
    augmentation(report, sizes, T, device)
    for length in sizes.window:
        if report.left > 0:
            speed.beside_mvit(length, best)
    parts(report, sizes, T, device, best)


def possible_ways(report: Report, device: torch.device) -> dict[str, Way]:
    """Return the ways to try; each differs from the plain one in one thing, the last is of all that may be faster."""
    right, plain = report.settings, plain_way(device)
    ways = {"plain": plain}
    everything = plain._replace(recompute=False)
    name = "kept, not recomputed" if plain.recompute else "recomputed"
    ways[name] = plain._replace(recompute=not plain.recompute)
    if device.type == "cuda":
        ways["cuDNN does not search"] = plain._replace(search=False)
        for name in ("efficient", "cudnn"):
            if name in right.found(1, "attention", []):
                ways[f"attention: {name}"] = plain._replace(attention=name)
    if "grouped" in right.found(1, "window", []):
        ways["window: grouped"] = plain._replace(window="grouped")
        everything = everything._replace(window="grouped")
    if "triton" in right.found(1, "depthwise", []):
        ways["P_CA: triton"] = plain._replace(depthwise="triton")
        everything = everything._replace(depthwise="triton")
    if right.found(1, "attention") is None:
        report.note("phase 1 was not run: only what is in use is measured")
    return {**ways, "all of these": everything}


def augmentation(report: Report, sizes: Sizes, T: int, device: torch.device) -> None:
    """Measure RandAugment on the device (recipe.augment.device=true) on the largest batch, as STAT's recipe has it."""
    try:
        from stat_video.data.randaugment import RandAugment
        from stat_video.data.randaugment_device import apply_operators
    except ModuleNotFoundError as error:
        report.note(f"RandAugment on the device: skipped: no {error.name}")
        return
    report.doing("RandAugment on the device")
    batch = sizes.batches[T][-1]
    video = torch.randint(256, (batch, T, 3, sizes.crop, sizes.crop), dtype=torch.uint8, device=device)
    draw = RandAugment(*RANDAUGMENT).draw

    def work() -> None:
        apply_operators(video, [list(draw()) for _ in range(batch)])

    works: dict[str, Work] = {"RandAugment": work}
    times = in_turns(works, sizes.rounds, sizes.warmups, device, report)["RandAugment"]
    report.figure(f"T={T}, {batch} clips: RandAugment on the device", times.device, "ms")
    report.figure(f"T={T}, {batch} clips: RandAugment on the device, until the CPU had told it", times.host, "ms")
    clean()


class Speed:
    """The measurements, and for each clip length the fastest way that was right."""

    def __init__(self, report: Report, sizes: Sizes, device: torch.device) -> None:
        self.report, self.sizes, self.device = report, sizes, device
        self.best: dict[str, dict[str, Any]] = {}  # T: what the advice reads
        self.tables: dict[str, Any] = {}
        self.compile_seconds = COMPILE_SECONDS
        self.rows: list[list[str]] = [["T", "clips", "way", "ms", "CPU ms", "clips/s", "MFU", "GiB", "reserved"]]

    def ways(self, T: int, batches: Sequence[int], ways: dict[str, Way]) -> Way:
        """Measure a training step in each way, all taking turns, at each batch; return the fastest of the last one."""
        plain = found = plain_way(self.device)
        for batch in batches:
            if self.report.left <= 0:
                self.report.note(f"T={T}, {batch} clips: left out, no time")
                continue
            self.report.doing(f"T={T}, {batch} clips: {', '.join(ways)}")
            try:
                speeds = self._ways(T, batch, ways)
            except torch.cuda.OutOfMemoryError:
                self.report.note(f"T={T}, {batch} clips: do not fit")
                continue
            finally:
                clean()
            # Less than a hundredth faster is no reason to leave what is in use.
            name = max(speeds, key=lambda name: speeds[name] * (1.01 if ways[name] == plain else 1))
            found = ways[name]
            self._keep(T, batch, speeds[name], found)
        return found

    def _ways(self, T: int, batch: int, ways: dict[str, Way]) -> dict[str, float]:
        model = stat_of(self.sizes, T).train().to(self.device)
        step = training_step(model, [clips(self.sizes, T, batch, self.device) for _ in range(2)])
        works, memory = {}, {}
        for name, way in ways.items():
            works[name] = chosen(way, step, self.device)
            memory[name] = peak(works[name], self.device)
        times = in_turns(works, self.sizes.rounds, self.sizes.warmups, self.device, self.report)
        return {name: self._row(T, batch, name, times[name], memory[name]) for name in ways}

    def _row(self, T: int, batch: int, name: str, times: Times, memory: tuple[float, float]) -> float:
        """Keep what was measured of a way; return clips a second."""
        label = f"T={T}, {batch} clips, {name}"
        ms = self.report.figure(f"{label}: step", times.device, "ms")
        host = sorted(times.host)[len(times.host) // 2]
        per_second = self.report.figure(f"{label}: speed", [1e3 * batch / t for t in times.device], "clips/s")
        rate = self.flops(T) * per_second
        known = self.report.settings.found(0, "matmul_flops")
        mfu = f"{100 * rate / known:.0f} %" if known else ""
        late = " (launches)" if self.device.type == "cuda" and host > ms else ""
        self.rows.append(
            [str(T), str(batch), name, f"{ms:.1f}", f"{host:.1f}{late}", f"{per_second:.1f}", mfu]
            + [f"{n / 2**30:.1f}" for n in memory]
        )
        self.tables["Training step; MFU is of phase 0's matrix product"] = self.rows
        self.report.found(tables=self.tables)
        return per_second

    def flops(self, T: int) -> float:
        """Return additions and multiplications of a clip's training step: three forward passes' worth."""
        if not hasattr(self, "_flops"):
            self._flops: dict[int, float] = {}
        if T not in self._flops:
            with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
                stat_of(self.sizes, T).eval()(torch.empty(1, 3, T, self.sizes.crop, self.sizes.crop))
            self._flops[T] = 3.0 * counter.get_total_flops()
        return self._flops[T]

    def _keep(self, T: int, batch: int, per_second: float, way: Way) -> None:
        """Take a measurement for the best one of its clip length if it is."""
        if per_second > self.best.get(str(T), {}).get("clips_per_second", 0.0):
            self.best[str(T)] = {
                "batch": batch,
                "clips_per_second": per_second,
                "flops_per_second": self.flops(T) * per_second,
                "ways": {key: value for key, value in way._asdict().items() if key != "search"},
            }
        self.report.found(best=self.best)

    def beside_mvit(self, T: int, best: Way) -> None:
        """Measure STAT, plain and best, and torchvision's MViT-B in turns, on the most clips that fit."""
        batch = self.sizes.batches[T][0]
        while batch:
            self.report.doing(f"beside MViT-B, T={T}, {batch} clips")
            try:
                return self._beside_mvit(T, batch, best)
            except torch.cuda.OutOfMemoryError:
                self.report.note(f"beside MViT-B, T={T}: {batch} clips do not fit")
                batch //= 2
            finally:
                clean()
        return None

    def _beside_mvit(self, T: int, batch: int, best: Way) -> None:
        batches = [clips(self.sizes, T, batch, self.device) for _ in range(2)]
        ours, theirs = (m.train().to(self.device) for m in (stat_of(self.sizes, T), mvit_of(self.sizes, T)))
        plain = plain_way(self.device)
        kinds = {"forward": forward_pass, "step": training_step}
        rows = [["", "STAT, ms", "MViT-B, ms", "clips/s, STAT / MViT-B"]]
        for kind, make in kinds.items():
            work, other = make(ours, batches), make(theirs, batches)
            ways = {"STAT": (plain, work), "best": (best, work), "MViT-B": (plain, other)}
            works = {name: chosen(way, todo, self.device) for name, (way, todo) in ways.items()}
            memory = {name: peak(work, self.device)[0] for name, work in works.items()}
            times = in_turns(works, self.sizes.rounds, self.sizes.warmups, self.device, self.report)
            for name in ("STAT", "best"):
                ratios = [b / a for a, b in zip(times[name].device, times["MViT-B"].device, strict=True)]
                label = f"T={T}, {kind}: clips/s, {name if name == 'STAT' else 'STAT, best way'} / MViT-B"
                ratio = self.report.figure(label, ratios, "x")
                if kind == "step" and name == "STAT":
                    self.report.check(label, ratio, MVIT, at_least=True, kind="floor")
                ms, their_ms = (sorted(times[n].device)[len(ratios) // 2] for n in (name, "MViT-B"))
                title = kind if name == "STAT" else f"{kind}, best way"
                rows.append([title, f"{ms:.1f}", f"{their_ms:.1f}", f"{ratio:.2f}"])
            rows.append([f"{kind}, GiB", *(f"{memory[n] / 2**30:.2f}" for n in ("STAT", "MViT-B")), ""])
        self.tables[f"STAT beside torchvision's MViT-B, T={T}, {batch} clips"] = rows
        self.report.found(tables=self.tables)
        if self.device.type == "cuda":
            self._prediction(T, batch, ours, batches)

    def _prediction(self, T: int, batch: int, model: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
        """Compare a step's memory with the one that memory.py predicts."""
        clip = base.Clip(T=T, crop=self.sizes.crop)
        expected = step_memory(
            model.config, clip, self.sizes.classes, mixed=True, checkpointing=False,
            recompute=plain_way(self.device).recompute,
        ).whole(batch)  # fmt: skip
        clean()
        model.zero_grad(set_to_none=True)
        before = torch.cuda.memory_allocated() - sum(p.nbytes for p in [*model.parameters(), *model.buffers()])
        step = chosen(plain_way(self.device), training_step(model, batches), self.device)
        measured = peak(step, self.device, again=2)[0] - before
        self.report.figure(f"T={T}, {batch} clips: predicted memory of a step", expected / 2**30, "GiB")
        self.report.check(f"T={T}: memory / prediction - 1", abs(measured / expected - 1), MEMORY, kind="floor")

    def compiled(self, T: int, best: Way) -> bool:
        """Measure the best way, compiled by block, beside itself; return whether its gradients are the eager ones."""
        batch = int(self.best.get(str(T), {}).get("batch", 0))
        if not batch or self.report.left < self.compile_seconds:
            self.report.note(f"T={T}: compiled: left out, no time")
            return False
        self.report.doing(f"T={T}, {batch} clips: compiling")
        way, begun, cuda = best._replace(compile=True), time.monotonic(), self.device.type == "cuda"
        try:
            model = stat_of(self.sizes, T, noise=False).train().to(self.device)
            batches = [clips(self.sizes, T, batch, self.device) for _ in range(2)]
            with best.chosen(self.device):
                eager = gradients(model, *batches[0], mixed=cuda)
                quick = compiled_by_block(model, "inductor" if cuda else "eager")
                ours = gradients(quick, *batches[0], mixed=cuda)
            self.compile_seconds = 1.3 * (time.monotonic() - begun)
            self.report.figure(f"T={T}: compiling", time.monotonic() - begun, "s")
            worst = max(error(ours.logits, eager.logits), error(ours.flat, eager.flat))
            right = self.report.check(
                f"T={T}: compiled by block = eager, {'bf16' if cuda else 'fp32'}", worst, 5 * COMPILED
            )
            works = {
                "best": chosen(best, training_step(model, batches), self.device),
                "compiled": chosen(way, training_step(quick, batches), self.device),
            }
            memory = {name: peak(work, self.device) for name, work in works.items()}
            times = in_turns(works, self.sizes.rounds, self.sizes.warmups, self.device, self.report)
            speeds = {name: self._row(T, batch, name, times[name], memory[name]) for name in works}
            if right and speeds["compiled"] > speeds["best"]:
                self._keep(T, batch, speeds["compiled"], way)
            return right
        except torch.cuda.OutOfMemoryError:
            self.report.note(f"T={T}: compiled: does not fit")
            return True
        finally:
            clean()


def chosen(way: Way, work: Work, device: torch.device) -> Work:
    """Return the work as it is done in a way."""

    def done() -> None:
        with way.chosen(device):
            work()

    return done


def peak(work: Work, device: torch.device, again: int = 1) -> tuple[float, float]:
    """Return the most bytes that are in use, and that the allocator holds, within a call; (0, 0) on a CPU."""
    for _ in range(again):
        if device.type == "cuda":
            wait(device)
            torch.cuda.reset_peak_memory_stats()
        work()
    if device.type != "cuda":
        return 0.0, 0.0
    wait(device)
    return float(torch.cuda.max_memory_allocated()), float(torch.cuda.max_memory_reserved())


def clean() -> None:
    """Give back the memory of what is no longer in use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------- by parts


def parts(report: Report, sizes: Sizes, T: int, device: torch.device, way: Way) -> None:
    """Measure the parts of a block of each stage, and the stem's convolutions, forward and backward."""
    batch = sizes.batches[T][0]
    rows = [["part", "input", "ms", "TFLOP/s", "TB/s"]]
    model = stat_of(sizes, T).train().to(device)
    for name, module, x in parts_of(model, clips(sizes, T, batch, device)[0]):
        if report.left <= 0:
            report.note(f"parts: from {name} on left out, no time")
            break
        report.doing(f"part: {name}")
        rows.append(part(report, name, module, x, way, device))
    report.found(tables={**report.result["found"].get("tables", {}), "Parts, forward and backward": rows})
    clean()


def parts_of(model: Any, video: Tensor) -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Yield (name, module, its inputs) of the stem's layers and of the parts of the last block of each width."""
    last = {block.sta.qkv.in_features: block for block in model.blocks}
    wanted: dict[nn.Module, str] = {layer: f"stem {i}" for i, layer in enumerate(model.stem.layers)}
    for width, block in last.items():
        wanted |= {block.sta.qkv: f"qkv {width}", block.mlp.fc1: f"fc1 {width}", block.mlp.fc2: f"fc2 {width}"}
        wanted |= {block.sta.pool_k: f"P_CA {width}", block.norm1: f"LN {width}", block.sta: f"STA {width}"}
    seen: dict[nn.Module, tuple[Any, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        seen.setdefault(module, inputs)

    hooks = [module.register_forward_hook(note) for module in wanted]
    with torch.no_grad(), autocast(video.device):
        model(video)
    for hook in hooks:
        hook.remove()
    for module, inputs in seen.items():
        yield wanted[module], module, inputs


def part(
    report: Report, name: str, module: nn.Module, inputs: tuple[Any, ...], way: Way, device: torch.device
) -> list[str]:
    """Return the row of a part: 3 forward passes' operations, and the least bytes that both passes have to move."""
    x = torch.randn_like(inputs[0]).requires_grad_()
    with way.chosen(device), autocast(device):
        out = module(x, *inputs[1:])
    grad = torch.randn_like(out)

    def work() -> None:
        with way.chosen(device):
            with autocast(device):
                out = module(x, *inputs[1:])
            out.backward(grad)
        x.grad = None
        module.zero_grad()

    work()
    times = [timed(work, device)[0] for _ in range(5)]
    ms = report.figure(f"part {name}", times, "ms")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), autocast(device):
        module(x, *inputs[1:])
    # Read x twice and write its gradient, write the result and read its gradient twice; in 16 bits.
    moved = 2.0 * 3 * (x.numel() + out.numel()) + 3 * sum(p.nbytes for p in module.parameters())
    flops = 0.0 if isinstance(module, PoolCA) else 3.0 * counter.get_total_flops()
    rates = [n / (ms / 1e3) / 1e12 for n in (flops, moved)]
    shape = "x".join(map(str, inputs[0].shape))
    return [name, shape, f"{ms:.3f}", f"{rates[0]:.1f}" if flops else "", f"{rates[1]:.2f}"]
