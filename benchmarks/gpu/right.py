"""Phase 1: does the device compute what it should?

The reference is a float64 one written out (attention, depthwise convolution), or the CPU (the whole model). On a CPU
the whole model in float32 is compared with float64.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stat_video.models.parts import depthwise
from stat_video.models.stat.attention import KeyLayout, PoolCA, existing_keys

from .measure import (
    Gradients,
    Sizes,
    backend,
    clips,
    compiled_by_block,
    cosine,
    device_here,
    error,
    exact,
    fp32_as_it_is,
    gradients,
    has_grouped_window,
    has_triton_depthwise,
    kept_bytes,
    on_poisoned_memory,
    sizes_of,
    stat_of,
)
from .report import Report

LOGITS, GRADIENTS = 1e-4, 1e-3  # fp32 against the reference, |difference| / |reference|
LOGITS_BF16, COSINE_BF16 = 2e-2, 0.99  # bf16 autocast against fp32
BF16, FP32 = 1e-2, 1e-5  # of a single kernel, and of two equal ways
STRONG = 120.0  # scores are this far below 0 once: where kernels that keep log-sum-exp have failed (pytorch#196678)
BF16_STRONG = 0.2  # there rounding counts for more: what is sought is NaN and gross error
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
UNUSED = ("cudnn",)  # trainer.attention=auto leaves it out


def run(report: Report) -> None:
    """Check kernels first, then the whole model, then that equal ways give equal numbers."""
    device, sizes = device_here(), sizes_of(report.settings.tiny)
    # NOTE: on a CPU without oneDNN, whose gradients of a bf16 convolution's weights are wrong (its 3.12.0 in PyTorch
    # 2.14, seen on an AMD EPYC with avx512_bf16). Nothing here trains in bf16 on a CPU.
    torch.backends.mkldnn.enabled = device.type != "cpu"
    with fp32_as_it_is():
        depthwise_convolutions(report, sizes, device)
        stem(report, sizes, device)
        attention(report, sizes, device, [name for name in BACKENDS if name not in UNUSED])
        whole_model(report, sizes, device)
        equal_ways(report, sizes, device)
        attention(report, sizes, device, UNUSED)  # last: its kernels are planned shape by shape, which takes long


# ------------------------------------------------------------------------------------------- convolutions, (d), (f)


def depthwise_convolutions(report: Report, sizes: Sizes, device: torch.device) -> None:
    """P_CA's convolution, forward and both gradients, on views of qkv, against shifted products in float64."""
    ways = {"pytorch": (torch.float32, torch.bfloat16)}
    if has_triton_depthwise(device):
        ways["triton"] = (torch.float32, torch.bfloat16)
    else:
        report.note(f"P_CA in Triton: skipped, {'triton is missing' if device.type == 'cuda' else 'only on CUDA'}")
    shapes = sorted(set(pool_shapes(sizes)))
    passed = {}
    for way, dtypes in ways.items():
        report.doing(f"P_CA by {way}")
        for dtype in dtypes:
            worst = Worst()
            with backend(depthwise=way):
                for shape in shapes:
                    for what, found in zip(("out", "dx", "dw"), pool_errors(shape, dtype, device), strict=True):
                        worst.see(found, f"{what} of {shape}")
            limit = FP32 if dtype == torch.float32 else BF16
            name = f"P_CA by {way}, {str(dtype)[6:]}, worst: {worst.where}"
            passed[way] = report.check(name, worst.value, limit) and passed.get(way, True)
    report.found(depthwise=[way for way, ok in passed.items() if ok])


class PoolShape(NamedTuple):
    """What a PoolCA convolves: tokens of B clips."""

    T: int
    height: int
    channels: int
    stride: int


def pool_shapes(sizes: Sizes) -> Iterator[PoolShape]:
    """Yield the shape of each P_CA of the model, for the shortest clip."""
    T = min(sizes.window)
    with torch.device("meta"):
        model = stat_of(sizes, T)
    for block in model.blocks:
        for pool in block.sta.modules():
            if isinstance(pool, PoolCA):
                yield PoolShape(model.n_t, block.sta.grid[0], pool.conv.in_channels, pool.conv.stride[-1])


def pool_errors(shape: PoolShape, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Return the errors of the result and of both gradients."""
    T, n, C, stride = shape
    qkv = torch.randn(2, T, 1 + n * n, 3 * C, device=device).to(dtype)
    weight = torch.randn(C, 1, 3, 3, 3, device=device).to(dtype)
    grad = torch.randn(2, C, T, -(-n // stride), -(-n // stride), device=device).to(dtype)

    def work() -> Sequence[Tensor]:
        x = qkv.detach().clone().requires_grad_()
        w = weight.detach().clone().requires_grad_()
        keys = x.chunk(3, dim=-1)[1][:, :, 1:].unflatten(2, (n, n)).permute(0, 4, 1, 2, 3)
        y = depthwise_of_the_model()(keys, w, stride)
        return [y.detach().clone(), *torch.autograd.grad(y, (x, w), grad)]

    y, dx, dw = on_poisoned_memory(work)
    x = qkv.detach().double().chunk(3, dim=-1)[1][:, :, 1:].unflatten(2, (n, n)).permute(0, 4, 1, 2, 3)
    x = x.contiguous().requires_grad_()
    w = weight.double().requires_grad_()
    expected = shifted_products(x, w, stride)
    expected_dx, expected_dw = torch.autograd.grad(expected, (x, w), grad.double())
    dx = dx.chunk(3, dim=-1)[1][:, :, 1:].unflatten(2, (n, n)).permute(0, 4, 1, 2, 3)
    return [error(y, expected), error(dx, expected_dx), error(dw, expected_dw)]


def depthwise_of_the_model() -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the function that STAT's attention calls."""
    from stat_video.models.stat import attention

    return getattr(attention, "depthwise_conv3d", depthwise.depthwise_conv3d)


def shifted_products(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the depthwise 3x3x3 convolution as 27 shifted products: (B, C, T, H, W) -> (B, C, T, H', W')."""
    T, H, W = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1, 1, 1))
    total: Any = 0
    for t in range(3):
        for h in range(3):
            for w in range(3):
                shifted = padded[:, :, t : t + T, h : h + H : stride, w : w + W : stride]
                total = total + shifted * weight[:, 0, t, h, w].view(-1, 1, 1, 1)
    return total


def stem(report: Report, sizes: Sizes, device: torch.device) -> None:
    """The stem's convolutions, forward and the gradients of their weights, against float64 on the CPU."""
    report.doing("the stem")
    T = min(sizes.window)
    model = stat_of(sizes, T).stem.to(device)
    video, _ = clips(sizes, T, 1, device)
    reference = copy.deepcopy(model).cpu().double()
    expected = reference(exact(video))
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, list(reference.parameters()), grad)
    for dtype, limit in ((torch.float32, FP32), (torch.bfloat16, BF16)):

        def work(dtype: torch.dtype = dtype) -> Sequence[Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                out = model(video)
            return [out.detach().clone(), *torch.autograd.grad(out, list(model.parameters()), grad.to(out))]

        out, *grads = on_poisoned_memory(work)
        found = [error(out.cpu(), expected), *(error(a.cpu(), b) for a, b in zip(grads, expected_grads, strict=True))]
        # Several convolutions follow each other, so roundings to bf16 do.
        limit = limit if dtype == torch.float32 else 2 * limit
        report.check(f"stem, {str(dtype)[6:]}, out and gradients", max(found), limit)


# --------------------------------------------------------------------------------------------------- attention, (c)


def attention(report: Report, sizes: Sizes, device: torch.device, names: Sequence[str]) -> None:
    """Each backend of F.scaled_dot_product_attention at every number of queries and keys of the tables, both passes."""
    lengths, queries, dim = layouts(sizes)
    right = list(report.result["found"].get("attention", []))
    for name in names:
        which = BACKENDS[name]
        report.doing(f"attention by {name}")
        worst = {0.0: Worst(), STRONG: Worst()}
        refused: set[str] = set()
        left_out = 0
        for L, (layout, n_t) in sorted(lengths.items()):
            # Flash takes no mask; without one it is what BACKEND.window=grouped calls.
            mask = None if name == "flash" else existing_keys(layout, n_t, device)
            for N_q in queries:
                for below, seen in worst.items():
                    case = f"N_q {N_q}, L {L}{', mask' if mask is not None else ''}"
                    if report.left <= 0:
                        left_out += 1
                        continue
                    try:
                        found = attention_errors(which, N_q, L, n_t, dim, mask, below, device)
                    except RuntimeError as reason:
                        if "out of memory" in str(reason):
                            raise
                        refused.add(case)
                        continue
                    for what, value in zip(("out", "dq", "dk", "dv"), found, strict=True):
                        seen.see(value, f"{what} at {case}")
        if refused:
            report.note(f"attention by {name}: refuses {len(refused)} of {len(lengths) * len(queries)} shapes here")
        if left_out:
            report.note(f"attention by {name}: {left_out} cases left out, no time")
        if not worst[0.0].where:
            continue
        kind = "option" if name in UNUSED else "right"
        checks = [
            report.check(f"attention by {name}, worst: {worst[0.0].where}", worst[0.0].value, BF16, kind=kind),
            report.check(
                f"attention by {name}, scores near -{STRONG:g}, worst: {worst[STRONG].where}",
                worst[STRONG].value,
                BF16_STRONG,
                kind=kind,
            ),
        ]
        if all(checks) and not refused and not left_out:
            right.append(name)
    report.found(attention=right)


def layouts(sizes: Sizes) -> tuple[dict[int, tuple[KeyLayout, int]], list[int], int]:
    """Return ({L: (its layout, n_t)}, numbers of queries, width of a head) of all blocks of all rows of the tables."""
    lengths: dict[int, tuple[KeyLayout, int]] = {}
    queries = {1}  # of the last block
    dim = 0
    for T, t_o in sizes.windows:
        with torch.device("meta"):
            model = stat_of(sizes, T, t_o)
        for block in model.blocks:
            layout = block.sta.key_layout(model.n_t)
            lengths[layout.ca + len(layout.neighbours) * layout.sa + layout.la] = layout, model.n_t
            queries.add(block.sta.first_patch + block.sta.out_grid[0] * block.sta.out_grid[1])
            dim = block.sta.head_dim
    return lengths, sorted(queries, reverse=True), dim


def attention_errors(
    which: Any, N_q: int, L: int, n_t: int, dim: int, mask: Tensor | None, below: float, device: torch.device
) -> list[float]:
    """Return the errors of out, dQ, dK and dV in bf16 against float64, two heads, scores shifted down by `below`."""
    q, k, v, grad = (torch.randn(n_t, 2, n, dim, device=device, dtype=torch.float32) for n in (N_q, L, L, N_q))
    if below:
        apart = (below / dim**0.5) ** 0.5
        sign = torch.randint(0, 2, (dim,), device=device) * 2.0 - 1
        q, k = q + apart * sign, k - apart * sign
    q, k, v, grad = (x.bfloat16() for x in (q, k, v, grad))
    shaped = None if mask is None else mask.view(n_t, 1, 1, L)

    def work() -> Sequence[Tensor]:
        inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        with sdpa_kernel([which]):
            out = F.scaled_dot_product_attention(*inputs, attn_mask=shaped)
            return [out.detach().clone(), *torch.autograd.grad(out, inputs, grad)]

    found = on_poisoned_memory(work)
    exact_inputs = [x.double().requires_grad_() for x in (q, k, v)]
    scores = exact_inputs[0] @ exact_inputs[1].transpose(-2, -1) / dim**0.5
    if shaped is not None:
        scores = scores.masked_fill(~shaped, float("-inf"))
    expected = scores.softmax(-1) @ exact_inputs[2]
    references = [expected, *torch.autograd.grad(expected, exact_inputs, grad.double())]
    return [error(a, b) for a, b in zip(found, references, strict=True)]


class Worst:
    """The largest of the errors that are seen, and where it was."""

    def __init__(self) -> None:
        self.value, self.where = 0.0, ""

    def see(self, value: float, where: str) -> None:
        """Take an error into account."""
        if not self.where or value > self.value:
            self.value, self.where = value, where


# ---------------------------------------------------------------------------------------- the whole model, (a), (b)


def whole_model(report: Report, sizes: Sizes, device: torch.device) -> None:
    """STAT at each clip length, two clips: the device against the CPU, and bf16 autocast against fp32 on the device."""
    for T in sizes.window:
        report.doing(f"the whole model, T={T}")
        model = stat_of(sizes, T, noise=False).train()
        video, labels = clips(sizes, T, 2, torch.device("cpu"))
        if device.type == "cpu":  # against itself in float64
            reference = gradients(copy.deepcopy(model).double(), video.double(), labels)
        else:
            reference = gradients(model, video, labels)
        model, video, labels = model.to(device), video.to(device), labels.to(device)
        ours = gradients(model, video, labels)
        report.check(f"T={T}: logits", error(ours.logits, reference.logits), LOGITS)
        report.check(f"T={T}: loss", abs(ours.loss / reference.loss - 1), LOGITS)
        worst = worst_gradient(ours, reference)
        report.check(f"T={T}: gradients, worst: {worst.where}", worst.value, GRADIENTS)
        mixed = gradients(model, video, labels, mixed=True)
        report.check(f"T={T}: logits, bf16 autocast", error(mixed.logits, ours.logits), LOGITS_BF16)
        report.check(
            f"T={T}: cosine of the gradients, bf16 autocast", cosine(mixed.flat, ours.flat), COSINE_BF16, at_least=True
        )


def worst_gradient(ours: Gradients, reference: Gradients) -> Worst:
    """Return the largest error of a parameter's gradient."""
    worst = Worst()
    for name, expected in reference.of.items():
        worst.see(error(ours.of[name], expected), name)
    return worst


# ------------------------------------------------------------------------------------------------- equal ways, (e)


def equal_ways(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Compiled and eager, recomputed and kept, one pass and four, masked and grouped window: the same numbers."""
    T = min(sizes.window)
    batch = 2 if report.settings.tiny else 16
    passes = min(4, batch)
    model = stat_of(sizes, T, noise=False).train().to(device)
    video, labels = clips(sizes, T, batch, device)
    plain = gradients(model, video, labels)

    def same(name: str, ours: Gradients, limit: float = FP32, reference: Gradients = plain) -> bool:
        return report.check(name, max(error(ours.logits, reference.logits), error(ours.flat, reference.flat)), limit)

    report.doing("one pass and several")
    same(f"{batch} clips in one pass = in {passes}, fp32", gradients(model, video, labels, passes=passes), 10 * FP32)
    report.doing("recomputed and kept")
    kept = {}
    for on in (True, False):
        with backend(recompute=on):
            same(f"recompute {'on' if on else 'off'} = as it is, fp32", gradients(model, video, labels))
            kept[on] = kept_bytes(model, video, labels)
            title = f"kept for the backward pass, recompute {'on' if on else 'off'}"
            report.figure(title, kept[on] / batch / 2**20, "MiB/clip")
    if kept[True] == kept[False]:
        report.note("recompute: BACKEND.recompute changes nothing here")
    report.found(recompute=kept[True] != kept[False])
    windows = ["masked"]
    if has_grouped_window(sizes, device):
        report.doing("masked and grouped window")
        with backend(window="grouped"):
            if same("grouped window = masked, fp32", gradients(model, video, labels)):
                windows.append("grouped")
    else:
        report.note("grouped window: skipped, it is not there yet")
    report.found(window=windows)
    report.doing("compiled and eager")
    # Without a code generator: phase 4 compares what it compiles for speed. Tiny without autograd's graph, for time.
    how = "eager" if report.settings.tiny else "aot_eager"
    compiled = compiled_by_block(model, how)
    for mixed, limit in ((False, FP32), (True, BF16))[: 1 if report.settings.tiny else None]:
        if report.left <= 0:
            report.note(f"compiled by block ({how}): left out, no time")
            break
        eager = gradients(model, video, labels, mixed=True) if mixed else plain
        name = f"compiled by block ({how}) = eager, {'bf16' if mixed else 'fp32'}"
        same(name, gradients(compiled, video, labels, mixed=mixed), limit, eager)
