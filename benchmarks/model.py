"""How fast STAT is and what it needs: beside its peers on the same clips, taking turns, in one process.

    make bench                                    # every part; minutes on a CPU
    make bench ONLY="--only forward --rounds 3"   # one part; the others keep their last figures

Writes benchmarks/results/model_<device>.json and, from it, the tables of docs/performance.md. On CUDA it measures
bf16 and channels-last, with events and the allocator's peak; --compile adds compiled forms.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from page import processor, table, write_part
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import mvit as torchvision_mvit
from torchvision.models.video import mvit_v1_b

from stat_video import paper
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.files import write_json
from stat_video.models import base, find, stat
from stat_video.models.memory import step_memory
from stat_video.paths import PROJECT
from stat_video.runs.code import provenance

RESULTS, PAGE = PROJECT / "benchmarks/results", PROJECT / "docs/performance.md"
PARTS = ("forward", "step", "memory", "largest", "peers", "attention", "rate", "profile", "tiny")
WINDOW = {16: 3, 32: 5, 64: 7}  # t_o by clip length, as in the paper
console = Console()

# -------------------------------------------------------------------------------------------------------- peers


def ours(name: str, T: int, **keys: Any) -> nn.Module:
    """Return a model of src/stat_video/models at its full size, for 224 pixels and 400 classes."""
    return find(name)(**keys).build(base.Clip(T=T), 400)


def stat_of(T: int) -> nn.Module:
    return ours("stat", T, t_o=WINDOW[T])


def mvit_b(T: int) -> nn.Module:
    """Return torchvision's MViT-B as it is; its clip length is in its position embeddings alone."""
    model = mvit_v1_b()
    model.pos_encoding = torchvision_mvit.PositionalEncoding(96, (56, 56), T // 2, rel_pos_embed=False)
    return model


class Peer(NamedTuple):
    """A model and the clip that it is measured on."""

    build: Callable[[], nn.Module]
    frames: int
    crop: int
    step_bytes: float = 0  # of a training step on one clip, as predicted; 0: it fits


PAIR = {
    f"{name} T={T}": Peer(lambda f=f, T=T: f(T), T, 224)
    for T in (16, 32, 64)
    for name, f in (("STAT", stat_of), ("MViT-B", mvit_b))
}


@cache
def peers() -> dict[str, Peer]:
    """Return STAT, torchvision's own MViT-B, and every other system of the paper at its full size and clip.

    Their names are those of the files, with what is not at its default at full size.
    """
    found = {"STAT T=16": PAIR["STAT T=16"], "MViT-B 16x4, torchvision": PAIR["MViT-B T=16"]}
    for name in paper.load().others():
        (row,) = rows("train", Config, [f"model={name}", "scale=paper", "trainer=cpu"])
        config = row.config
        need = step_memory(config.model, config.clip, 400, mixed=False, checkpointing=False).whole(1)
        found[config.model.label] = Peer(partial(config.build, 400), config.clip.T, config.clip.crop, need)
    return found


def make_clip(frames: int, crop: int, batch: int, device: torch.device) -> Tensor:
    clip = torch.randn(batch, 3, frames, crop, crop, device=device)
    return clip.contiguous(memory_format=torch.channels_last_3d) if device.type == "cuda" else clip


# ---------------------------------------------------------------------------------------------------- measuring


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """One call, waited for."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    clock = clock_of(torch.get_num_threads())
    start_time = clock()
    work()
    return clock() - start_time


def clock_of(threads: int) -> Callable[[], float]:
    """One thread is timed by the processor time that it got, so that others on the machine do less harm."""
    return time.process_time if threads == 1 else time.perf_counter


def in_turns(works: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round has a call of each, and one round before is for warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            taken = seconds(work, device)
            if i:
                times[name].append(taken)
    return times


def precision(device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def forward(model: nn.Module, clip: Tensor, device: torch.device) -> Callable[[], Any]:
    def work() -> None:
        model.eval()
        with torch.inference_mode(), precision(device):
            model(clip)

    return work


def step(model: nn.Module, clip: Tensor, device: torch.device) -> Callable[[], Any]:
    """Forward, backward and AdamW's step, as in training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    labels = torch.zeros(len(clip), dtype=torch.long, device=device)

    def work() -> None:
        model.train()
        with precision(device):
            loss = F.cross_entropy(model(clip).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def memory(model: nn.Module, clip: Tensor, device: torch.device) -> dict[str, float]:
    """MiB: what the backward pass finds kept after a forward pass, and the most in use within a step, weights apart."""
    model.train()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with precision(device):
            loss = model(clip).float().square().sum()
        saved = torch.cuda.memory_allocated() - before
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        changes = allocations(lambda: model(clip).square().sum().backward())
        peak = max(accumulate(changes))
        kept: list[Tensor] = []
        saved = sum(allocations(lambda: kept.append(model(clip))))
    model.zero_grad()
    return {"saved_mib": saved / 2**20, "peak_mib": peak / 2**20}


def allocations(work: Callable[[], Any]) -> list[int]:
    """Bytes taken (or, negative, given back) by the CPU's allocator, in the order of time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]


def macs(model: nn.Module, clip: Tensor) -> float:
    """Count multiply-adds as computed, in matrix products, convolutions and attention, on the meta device."""
    # no_grad, since under inference_mode the counter can't follow a parameter that is a module's input (VidTr).
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").eval()(clip.to("meta"))
    return counter.get_total_flops() / 2


def figure(times: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "rounds": len(times)}


# -------------------------------------------------------------------------------------------------------- parts


def pair(lengths: Sequence[int], work: Callable[..., Callable[[], Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Measure STAT and torchvision's MViT-B built for the same T, all lengths taking turns; by T."""
    works, counts = {}, {}
    for name in (f"{model} T={T}" for T in lengths for model in ("STAT", "MViT-B")):
        build, frames, crop, _ = PAIR[name]
        model = build().to(args.device)
        clip = make_clip(frames, crop, args.batch, args.device)
        counts[name] = macs(model, clip) / args.batch
        works[name] = work(model, clip, args.device)
        if args.compile:
            works[f"{name}, compiled"] = work(torch.compile(model), clip, args.device)
    times = in_turns(works, args.rounds, args.device)
    rows: dict[str, Any] = {}
    for T in lengths:
        ours, theirs, shortest = (times[name] for name in (f"STAT T={T}", f"MViT-B T={T}", f"STAT T={lengths[0]}"))
        rows[str(T)] = {
            "seconds": {name: figure(t) for name, t in times.items() if f"T={T}" in name},
            "macs": {name: count for name, count in counts.items() if f"T={T}" in name},
            "ratio": figure([b / a for a, b in zip(ours, theirs, strict=True)]),
            "growth": figure([b / a for a, b in zip(shortest, ours, strict=True)]),
            "batch": args.batch,
        }
        say(f"T = {T}: {rows[str(T)]['ratio']['median']:.2f} x MViT-B")
    return rows


def measure_forward(args: argparse.Namespace) -> dict[str, Any]:
    return pair((16, 32, 64), forward, args)


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    return pair((16,), step, args)


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in ("STAT T=16", "MViT-B T=16"):
        build, frames, crop, _ = PAIR[name]
        rows[name] = memory(build().to(args.device), make_clip(frames, crop, args.batch, args.device), args.device)
        say(f"{name}: {rows[name]['saved_mib']:.0f} MiB kept")
    return rows


def measure_largest(args: argparse.Namespace) -> dict[str, Any]:
    """STAT and MViT-B at T = 16 and the largest batch of 1, 2, 4, 8 whose training step fits in memory for both."""
    need = max(
        memory(PAIR[name][0]().to(args.device), make_clip(16, 224, 1, args.device), args.device)["peak_mib"] * 2**20
        for name in ("STAT T=16", "MViT-B T=16")
    )
    batch = max(b for b in (1, 2, 4, 8) if b == 1 or 1.5 * b * need < all_memory(args.device))
    say(f"{batch} clips fit")
    larger = argparse.Namespace(**{**vars(args), "batch": batch})
    parts = {key: pair((16,), work, larger)["16"] for key, work in (("forward", forward), ("step", step))}
    return {"batch": batch, **parts}


def all_memory(device: torch.device) -> int:
    """Bytes of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure_peers(args: argparse.Namespace) -> dict[str, Any]:
    """Forward, step and memory of every peer, one loaded at a time for the memory, all for the turns.

    One whose library is not installed, or whose step needs more than a third of the memory, is named with the reason.
    """
    rows: dict[str, Any] = {}
    forwards, steps = {}, {}
    chosen = {n: p for n, p in peers().items() if not args.peers or any(word in n for word in ["STAT", *args.peers])}
    largest = all_memory(args.device) / 3  # they are in memory together, though one at a time has its activations
    for name, (build, frames, crop, need) in chosen.items():
        try:
            if need > largest:
                raise RuntimeError(f"a step on one clip takes {need / 2**30:.0f} GiB")
            model = build().to(args.device)
            clip = make_clip(frames, crop, args.batch, args.device)
            parameters = sum(p.numel() for p in model.parameters())
            rows[name] = {
                "frames": frames,
                "crop": crop,
                "parameters": parameters,
                "macs": macs(model, clip) / args.batch,
            }
            rows[name] |= memory(model, clip, args.device)
            forwards[name], steps[name] = forward(model, clip, args.device), step(model, clip, args.device)
        except (ImportError, OSError, RuntimeError) as error:
            rows[name] = {"missing": str(error).splitlines()[0][:120]}
            say(f"{name}: not measured ({rows[name]['missing']})")
    for key, works in (("forward", forwards), ("step", steps)):
        for name, times in in_turns(works, args.rounds, args.device).items():
            rows[name][key] = figure(times)
            say(f"{name}, {key}: {rows[name][key]['median']:.2f} s")
    return rows


class JointAttention(nn.Module):
    """Plain attention among all tokens of the clip: (B, n_t, n, C) -> the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))
        y = self.proj(y.transpose(1, 2).flatten(2))
        return y.view_as(x)


def measure_attention(args: argparse.Namespace) -> dict[str, Any]:
    """Attention alone at the width and grid of most blocks, by clip length."""
    dim, heads, grid, rows = 384, 4, (14, 14), {}
    pooling = torchvision_mvit.MultiscaleAttention(
        [8, *grid], dim, dim, heads, [], [3, 3, 3], [], [1, 2, 2], False, False, False, 0.0, nn.LayerNorm
    )
    layers: dict[str, nn.Module] = {
        "STA": stat.STA(dim, heads, grid, kv_stride=2),
        "joint space-time": JointAttention(dim, heads),
        "MViT's pooling": pooling,
    }
    for n_t in (4, 8, 16, 32, 64):
        tokens = torch.randn(1, n_t, 1 + grid[0] * grid[1], dim, device=args.device)
        calls: dict[str, Callable[[], Any]] = {}
        for name, layer in layers.items():
            inputs: tuple[Any, ...] = (tokens,)
            if name.startswith("MViT"):  # one class token a clip
                inputs = (tokens.flatten(1, 2)[:, : 1 + n_t * grid[0] * grid[1]], (n_t, *grid))
            calls[name] = attention_call(layer.to(args.device), inputs, args.device)
        rows[str(n_t)] = {name: figure(t) for name, t in in_turns(calls, args.rounds, args.device).items()}
        say(f"n_t = {n_t}: " + ", ".join(f"{k} {1e3 * v['median']:.1f} ms" for k, v in rows[str(n_t)].items()))
    return rows


def attention_call(layer: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Callable[[], Any]:
    def work() -> None:
        with torch.inference_mode(), precision(device):
            layer(*inputs)

    return work


def measure_rate(args: argparse.Namespace) -> dict[str, Any]:
    """The machine's rate of matrix products at the shapes of STAT's linear layers, and STAT's share of it, T = 16."""
    model = stat_of(16).to(args.device).eval()
    clip = make_clip(16, 224, args.batch, args.device)
    shapes: Counter[tuple[int, int, int]] = Counter()

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].numel() // layer.in_features
        shapes[rows, layer.in_features, layer.out_features] += 1

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    forward(model, clip, args.device)()
    for hook in hooks:
        hook.remove()
    count = macs(model, clip)
    dtype = torch.bfloat16 if args.device.type == "cuda" else torch.float32
    tensors = {
        s: [torch.randn(n, device=args.device, dtype=dtype) for n in ((s[0], s[1]), (s[2], s[1]))] for s in shapes
    }

    def products() -> None:
        for shape, times in shapes.items():
            a, w = tensors[shape]
            for _ in range(times):
                a @ w.t()

    times = in_turns({"products": products, "STAT": forward(model, clip, args.device)}, args.rounds, args.device)
    work = sum(n * m * k * j for (m, k, j), n in shapes.items())
    rates = [2 * work / t for t in times["products"]]
    shares = [2 * count / t / r for t, r in zip(times["STAT"], rates, strict=True)]
    say(f"{statistics.median(rates) / 1e9:.0f} GFLOP/s, STAT at {statistics.median(shares):.2f} of it")
    return {"rate": figure(rates), "share": figure(shares), "macs": count}


# kind of work -> words of the names of PyTorch's operators; the first that fits counts, the rest is "other"
KINDS = {
    "attention": ("scaled_dot_product",),
    "convolutions": ("convolution", "conv3d"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm",),
    "copies, concatenation, zeros": ("copy_", "cat", "fill_", "zero_"),
    "AdamW": ("adamw",),
    "matrix products": ("mm",),
}


def kind_of(operator: str) -> str:
    name = operator.removeprefix("aten::")
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")


def measure_profile(args: argparse.Namespace) -> dict[str, Any]:
    """Where the time goes, by kind of operator: seconds of a forward pass and a step at T = 16, and of a tiny step."""
    rows: dict[str, Any] = {}
    full = stat_of(16), make_clip(16, 224, args.batch, args.device)
    tiny = tiny_config().build(12), make_clip(16, 48, 16, args.device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if args.device.type == "cuda" else [])]
    for name, (model, clip), work in (("forward", full, forward), ("step", full, step), ("tiny step", tiny, step)):
        call_once = work(model.to(args.device), clip, args.device)
        call_once()
        with profile(activities=kinds) as profiler:
            for _ in range(args.rounds):
                call_once()
        found: Counter[str] = Counter()
        for event in profiler.key_averages():
            taken = event.self_device_time_total if args.device.type == "cuda" else event.self_cpu_time_total
            found[kind_of(event.key)] += taken / 1e6 / args.rounds
        rows[name] = dict(found.most_common())
        say(f"{name}: " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in rows[name].items()))
    return rows


def tiny_config() -> Config:
    """Return the config of `python src/train.py`: the tiny STAT."""
    (row,) = rows("train", Config, ["scale=tiny"])
    config: Config = row.config
    return config


FIRST = "edc68577c1a1dd70e594ee0a0065052da72e7f75"  # the first version that trained the tiny STAT
TINY_STEP = """
import ast, inspect, statistics, sys, time
import torch
from stat_video.training.optim import Recipe, make_optimizer

torch.set_num_threads(1)
sizes = ast.literal_eval(sys.argv[2])
try:
    from stat_video.models import base, stat
except ImportError:  # the first version
    from stat_video.model import STAT, STATConfig
    model = STAT(STATConfig(T=16, crop=48, num_classes=12, **sizes))
else:
    model = stat.Config(**sizes).build(base.Clip(T=16, crop=48), 12)
fused = {"fused": True} if "fused" in inspect.signature(make_optimizer).parameters else {}
optimizer = make_optimizer(model, Recipe(), **fused)
clips, labels, times = torch.randn(16, 3, 16, 48, 48), torch.zeros(16, dtype=torch.long), []
for _ in range(int(sys.argv[1]) + 3):
    start = time.process_time()
    torch.nn.functional.cross_entropy(model(clips), labels).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.process_time() - start)
print(statistics.median(times[3:]))
"""


def measure_tiny(args: argparse.Namespace) -> dict[str, Any]:
    """A training step of the tiny STAT, 16 clips, one CPU thread: this version and the first one, taking turns."""
    tiny = asdict(tiny_config().model)
    sizes = {key: tiny[key] for key in ("depths", "widths", "heads", "kv_strides", "stochastic_depth", "head_dropout")}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", FIRST, "src"], cwd=PROJECT, capture_output=True)
        if archive.returncode:
            return {"missing": f"commit {FIRST[:7]} is not in this copy"}
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)

        def median(src: Path) -> float:
            words = [sys.executable, "-c", TINY_STEP, str(4 * args.rounds), repr(sizes)]
            run = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(src)}, capture_output=True, check=True)
            return float(run.stdout)

        turns = [(median(Path(folder) / "src"), median(PROJECT / "src")) for _ in range(args.rounds)]
    first, now = zip(*turns, strict=True)
    result = {"first": figure(first), "now": figure(now), "ratio": figure([a / b for a, b in turns])}
    say(f"tiny step: {result['ratio']['median']:.2f} x the first version")
    return result


MEASURE = {part: globals()[f"measure_{part}"] for part in PARTS}


# -------------------------------------------------------------------------------------------------------- tables


def spread(f: dict[str, float], scale: float = 1, digits: int = 2) -> str:
    return f"{f['median'] * scale:.{digits}f} ({f['min'] * scale:.{digits}f} to {f['max'] * scale:.{digits}f})"


def verdict(value: float, floor: float, aim: float, less: bool = False) -> str:
    sign = -1 if less else 1
    return "aim" if sign * value >= sign * aim else "floor" if sign * value >= sign * floor else "**below**"


def targets(result: dict[str, Any]) -> str:
    rows = []

    def row(name: str, value: float, text: str, floor: float, aim: float, less: bool = False) -> None:
        rows.append([name, text, f"{floor:g}", f"{aim:g}", verdict(value, floor, aim, less)])

    for T, floor, aim in ((16, 1.55, 1.7), (32, 1.9, 2.2), (64, 3.0, 3.6)):
        if f := result.get("forward", {}).get(str(T), {}).get("ratio"):
            row(f"clips/s forward, T = {T}, STAT / MViT-B", f["median"], spread(f), floor, aim)
    if f := result.get("step", {}).get("16", {}).get("ratio"):
        row("clips/s training step, T = 16, STAT / MViT-B", f["median"], spread(f), 1.7, 1.95)
    if m := result.get("memory"):
        kept = m["STAT T=16"]["saved_mib"] / m["MViT-B T=16"]["saved_mib"]
        row("activations kept for the backward pass, STAT / MViT-B", kept, f"{kept:.2f}", 0.5, 0.35, less=True)
    if r := result.get("rate"):
        row("share of the matmul rate, forward, T = 16", r["share"]["median"], spread(r["share"]), 0.9, 0.97)
    if f := result.get("forward", {}).get("64", {}).get("growth"):
        row("time T = 64 / time T = 16, forward", f["median"], spread(f), 4.5, 4.1, less=True)
    if f := result.get("tiny", {}).get("ratio"):
        row("clips/s tiny training step, one thread, this version / the first", f["median"], spread(f), 1.5, 3)
    return table(["figure", "median (min to max)", "floor", "aim", "met"], rows)


def origins(result: dict[str, Any]) -> str:
    """Where each part was measured, and of what: --only leaves the others as they were, maybe of another machine."""
    found: dict[str, list[str]] = {}
    for part, about in result["about"].items():
        m = about["machine"]
        line = (
            f"{m['processor']}, {m['cores']} cores, {m['threads']} threads ({m['clock']}), {m['device']}, "
            f"{m['dtype']}; torch {m['torch']}, torchvision {m['torchvision']}; commit {str(about['commit'])[:7]}"
            f"{'+' if about['changed_since_commit'] else ''}, {about['measured'][:10]}"
        )
        found.setdefault(line, []).append(part)
    return "".join(f"- {', '.join(parts)}: {line}.\n" for line, parts in found.items())


def page(result: dict[str, Any]) -> str:
    text = [origins(result), targets(result)]
    for key, title in (("forward", "Forward pass"), ("step", "Forward, backward and AdamW's step")):
        if rows := result.get(key):
            lines = [
                [name, f"{r['macs'].get(name, 0) / 1e9:.1f}" if name in r["macs"] else "", spread(f, 1e3, 0)]
                for r in rows.values()
                for name, f in r["seconds"].items()
            ]
            batch = result["about"][key]["batch"]
            text += [f"### {title}, 224 x 224, batch {batch}\n", table(["model", "GMACs", "ms"], lines)]
    if m := result.get("memory"):
        lines = [[n, f"{r['saved_mib']:.0f}", f"{r['peak_mib']:.0f}"] for n, r in m.items()]
        text += ["### Memory of a training step, weights apart\n", table(["model", "kept, MiB", "peak, MiB"], lines)]
    if largest := result.get("largest"):
        lines = [
            [
                f"{name}, {title}",
                spread(r["seconds"][name], 1e3, 0),
                spread(r["ratio"]) if name.startswith("STAT") else "",
            ]
            for key, title in (("forward", "forward"), ("step", "training step"))
            for r in (largest[key],)
            for name in r["seconds"]
        ]
        text += [
            f"### Batch {largest['batch']}, the largest of 1, 2, 4, 8 whose step fits here for both\n",
            table(["model", "ms", "clips/s, STAT / MViT-B"], lines),
        ]
    if measured := result.get("peers"):
        lines = [
            [n, *[""] * 6, f"not measured: {r['missing']}"]
            if "missing" in r
            else [
                n,
                f"{r['frames']} x {r['crop']}",
                f"{r['macs'] / 1e9:.1f}",
                f"{r['parameters'] / 1e6:.1f}",
                spread(r["forward"], 1e3, 0),
                spread(r["step"], 1e3, 0),
                f"{r['saved_mib']:.0f}",
                f"{r['peak_mib']:.0f}",
            ]
            for n, r in measured.items()
        ]
        lines += [[n, *[""] * 6, "not measured yet"] for n in paper.load().others() if n not in measured]
        head = ["model", "clip", "GMACs", "Mpar.", "forward, ms", "step, ms", "kept, MiB", "peak, MiB"]
        text += ["### Peers, one clip\n", table(head, lines)]
    if rows := result.get("attention"):
        names = list(next(iter(rows.values())))
        lines = [[n_t, *(spread(r[n], 1e3, 1) for n in names)] for n_t, r in rows.items()]
        text += ["### Attention alone, width 384, 14 x 14 tokens a frame, ms\n", table(["n_t", *names], lines)]
    if where := result.get("profile"):
        totals = {name: sum(kinds.values()) for name, kinds in where.items()}
        lines = [
            [
                kind,
                *(f"{1e3 * k.get(kind, 0):.0f} ({100 * k.get(kind, 0) / totals[n]:.0f} %)" for n, k in where.items()),
            ]
            for kind in where["step"]
        ]
        lines.append(["all", *(f"{1e3 * total:.0f}" for total in totals.values())])
        text += ["### Where STAT's time goes, T = 16, by the profiler, ms\n", table(["kind", *where], lines)]
    if r := result.get("rate"):
        text.append(
            f"Matrix products at the shapes of STAT's linear layers: {spread(r['rate'], 1e-9, 0)} GFLOP/s; STAT's "
            f"forward pass computes {r['macs'] / 1e9:.1f} GMACs (the paper's count, with all tokens of the last "
            "block, is 59.1).\n"
        )
    return "\n".join(text)


def machine(args: argparse.Namespace) -> dict[str, Any]:
    cuda = args.device.type == "cuda"
    return {
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "events" if cuda else clock_of(torch.get_num_threads()).__name__,
        "device": str(args.device),
        "dtype": "bf16 autocast, channels last" if cuda else "fp32",
        **{name: version(name) for name in ("torch", "torchvision", "pytorchvideo")},
    }


def say(line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="STAT beside its peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--peers", nargs="+", default=[], help="words of the peers' names; STAT is always among them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of a CPU; one is the steadiest where others work")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compiled forms too, in forward and step")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        say("No CUDA here: the CPU alone is measured")
        if args.device != "cpu":
            parser.error(f"--device={args.device}: no CUDA device here; cpu is allowed")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = torch.device(args.device)
    torch.manual_seed(0)
    file = RESULTS / f"model_{args.device.type}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    code = provenance()  # before the results are written into the tree
    for part in args.only:
        say(f"[bold]{part}[/bold]")
        result[part] = MEASURE[part](args)
        measured = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"machine": machine(args), "batch": args.batch, "measured": measured, **code}
        result["about"] = {**result.get("about", {}), part: about}
        write_json(file, result)
        write_part(PAGE, "model.py", page(result))
    say(targets(result))


if __name__ == "__main__":
    main()
