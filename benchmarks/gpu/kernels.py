"""Phase 2: where the time of a training pass goes, by kind of kernel, and how long the device has nothing to do."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from .measure import Sizes, clips, device_here, loss_of, sizes_of, stat_of, training_step
from .report import Report

# Kind: pieces of the names of its kernels (CUDA) or operators (CPU); the first that fits counts.
KINDS = {
    "attention": ("flash", "fmha", "sdpa", "attention", "cutlassF", "cutlassB"),
    "depthwise convolution": ("depthwise", "dw_"),
    "convolution": ("conv", "fprop", "dgrad", "wgrad", "implicit", "im2col", "vol2col"),
    "matrix product": ("gemm", "cutlass", "wgmma", "nvjet", "addmm", "aten::mm", "aten::bmm", "ampere_", "hopper_"),
    "layer norm": ("layer_norm", "layernorm", "LayerNorm", "GammaBeta"),
    "GELU": ("gelu", "Gelu", "GELU"),
    "optimizer": ("adam", "Adam", "multi_tensor", "foreach"),
    "concatenation": ("CatArray", "aten::cat", "aten::stack"),
    "copy and cast": ("copy", "Memcpy", "Memset", "memcpy", "memset", "_to_copy", "fill"),
}
FORBIDDEN = ("slow_conv", "vol2col", "conv_depthwise3d")
DEPTHWISE = 0.10  # largest share of a pass


def run(report: Report) -> None:
    """Profile one training pass at each clip length."""
    device, sizes = device_here(), sizes_of(report.settings.tiny)
    tables: dict[str, Any] = {}
    for T in list(sizes.window)[: 1 if report.settings.tiny else None]:
        if report.left <= 0:
            report.note(f"T={T}: left out, no time")
            continue
        report.doing(f"profiling a pass, T={T}")
        tables |= one_pass(report, sizes, T, device)
        report.found(tables=tables)


def one_pass(report: Report, sizes: Sizes, T: int, device: torch.device) -> dict[str, Any]:
    """Return the table of a clip length: ms, share and launches of each kind of kernel."""
    batch = sizes.batches[T][0]
    model = stat_of(sizes, T).train().to(device)
    batches = [clips(sizes, T, batch, device) for _ in range(2)]
    backends = attention_of_blocks(model, *batches[0])
    report.note(f"T={T}: attention of {', '.join(f'{n} x {name}' for name, n in Counter(backends).items())}")
    report.check(f"T={T}: attention by math", sum("math" in name for name in backends), 0)
    step = training_step(model, batches)
    for _ in range(sizes.warmups):
        step()
    cuda = device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU] if cuda else [ProfilerActivity.CPU], record_shapes=True
    ) as seen:
        step()
        if cuda:
            torch.cuda.synchronize()
    ms, launches = Counter[str](), Counter[str]()
    names: set[str] = {event.name for event in seen.events()}
    if cuda:
        kernels = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA and not annotates(e)]
        for event in kernels:
            kind = kind_of(event.name)
            ms[kind] += event.time_range.elapsed_us() / 1e3
            launches[kind] += 1
        idle = idle_share([(e.time_range.start, e.time_range.end) for e in kernels])
        report.figure(f"T={T}: share of a pass in which the GPU has nothing to do", idle, "")
    else:
        for event in seen.events():
            if event.name.startswith("aten::"):
                kind = kind_of(event.name)
                ms[kind] += event.self_cpu_time_total / 1e3
                launches[kind] += 1
    report.figure(f"T={T}: kernels of a pass of {batch} clips", sum(launches.values()), "")
    if cuda:  # a CPU's own convolution is one of these
        for word in FORBIDDEN:
            report.check(f"T={T}: {word}", sum(word in name for name in names), 0)
        # cuDNN's depthwise kernels bear no name of their own: count what runs below the operator.
        depthwise = depthwise_ms(seen) or ms["depthwise convolution"]
        share = depthwise / max(sum(ms.values()), 1e-9)
        report.figure(f"T={T}: depthwise convolutions", depthwise, "ms")
        report.check(f"T={T}: share of depthwise convolutions", share, DEPTHWISE, kind="floor")
    rows = [
        [kind, f"{value:.2f}", f"{100 * value / max(sum(ms.values()), 1e-9):.0f} %", launches[kind]]
        for kind, value in ms.most_common()
    ]
    return {f"T={T}, {batch} clips, bf16: kernels of a training step": [["kind", "ms", "share", "launches"], *rows]}


def kind_of(name: str) -> str:
    """Return the kind of a kernel or operator."""
    return next((kind for kind, pieces in KINDS.items() if any(piece in name for piece in pieces)), "other")


def annotates(event: Any) -> bool:
    """Return whether an event only marks a stretch of others, such as a step of the optimizer."""
    return bool(getattr(event, "is_user_annotation", False)) or event.name.startswith(("Optimizer.", "ProfilerStep"))


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Return the share of the time from the first start to the last end that no span covers."""
    covered, until = 0.0, min(start for start, _ in spans)
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - covered / (max(end for _, end in spans) - min(start for start, _ in spans))


def depthwise_ms(seen: Any) -> float:
    """Return the ms of all kernels below convolutions whose weight is (C, 1, 3, 3, 3)."""
    total = 0.0
    with_shapes = seen.key_averages(group_by_input_shape=True)
    for event in with_shapes:
        shapes = [list(shape) for shape in event.input_shapes or []]
        if event.key in ("aten::convolution", "aten::convolution_backward") and any(
            len(shape) == 5 and shape[1:] == [1, 3, 3, 3] for shape in shapes
        ):
            total += getattr(event, "device_time_total", 0.0) / 1e3
    return total


class Noting(TorchDispatchMode):
    """Notes the names of the operators of fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.partition(".")[0]
        if "scaled_dot_product" in name and "backward" not in name:
            self.names.append(name.removeprefix("_scaled_dot_product_").replace("_attention", ""))
        return function(*args, **(kwargs or {}))


def attention_of_blocks(model: torch.nn.Module, video: Tensor, labels: Tensor) -> list[str]:
    """Return the backend that each call of attention takes in training: 'efficient', 'flash', 'cudnn' or 'math'."""
    with Noting() as noting:
        loss_of(model, video, labels, mixed=True)
    calls = len(model.units()) + len(model.aggregation.layers)
    return noting.names + (calls - len(noting.names)) * ["math"]  # math is no operator of its own
