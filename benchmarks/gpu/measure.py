"""What the phases share: the models and their sizes, clocks, memory full of NaN, errors relative to a reference.

PyTorch, torchvision and stat_video.models alone are imported here.
"""

import copy
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stat_video.models import base, stat
from stat_video.models.memory import step_memory
from stat_video.models.parts import recompute
from stat_video.models.parts.backend import BACKEND, choose_kernels
from stat_video.models.parts.compiled import compile_parts

from .report import Report

Work = Callable[[], Any]
FEWEST, LONGEST = 5, 20.0  # rounds that are measured in any case; seconds after which no other begins


class Way(NamedTuple):
    """One way of computing: keys of `trainer.*`, and cuDNN's search for the fastest convolution.

    The defaults are those of training on CUDA (`plain_way`).
    """

    attention: str = "auto"
    window: str = "auto"
    depthwise: str = "pytorch"
    recompute: bool = False
    compile: bool = False
    search: bool = True

    def choose(self, device: torch.device) -> None:
        """Compute in this way from now on; compiling is left to `compiled_by_block`."""
        # On a CPU as in fp32, with oneDNN: bf16 takes ten times as long without. Phase 1, on right numbers, does.
        ways = {"attention": self.attention, "window": self.window, "depthwise": self.depthwise}
        choose_kernels(device.type, **ways, in_16_bits=device.type == "cuda")
        BACKEND.recompute = self.recompute
        torch.backends.cudnn.benchmark = self.search

    @contextmanager
    def chosen(self, device: torch.device) -> Iterator[None]:
        """Compute in this way inside."""
        ways, search, onednn = vars(BACKEND).copy(), torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled
        kernels = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in SDP}
        self.choose(device)
        try:
            yield
        finally:
            vars(BACKEND).update(ways)
            torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled = search, onednn
            for name, enabled in kernels.items():
                getattr(torch.backends.cuda, f"enable_{name}_sdp")(enabled)


SDP = ("cudnn", "mem_efficient", "flash", "math")


def plain_way(device: torch.device) -> Way:
    """Return the way of training with no key of `trainer.*` given; it keeps all, since clips of STAT always fit."""
    return Way() if device.type == "cuda" else Way(recompute=True, search=False)


class Sizes(NamedTuple):
    """What is measured: the paper's model and clips, or a tiny one for a check of the script itself."""

    config: dict[str, Any]
    crop: int
    classes: int
    window: dict[int, int]  # T: t_o
    windows: tuple[tuple[int, int], ...]  # (T, t_o) of all rows of the paper's tables
    batches: dict[int, tuple[int, ...]]  # T: clips of a pass, the last one the largest
    rounds: int
    warmups: int


FULL = Sizes(
    config={},
    crop=224,
    classes=400,
    window={16: 3, 32: 5, 64: 7},
    windows=((16, 3), (32, 3), (32, 5), (32, 7), (32, 9), (64, 5), (64, 7)),
    batches={16: (16, 32, 64), 32: (32,), 64: (16,)},
    rounds=20,
    warmups=5,
)
TINY = Sizes(
    config={"widths": [24, 48, 96, 192], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 4]},
    crop=32,
    classes=12,
    window={4: 3, 8: 5},
    windows=((4, 3), (8, 3), (8, 5)),
    batches={4: (1, 2), 8: (2,)},
    rounds=2,
    warmups=1,
)

TINY_WORDS = [f"T={min(TINY.window)}", f"crop={TINY.crop}", f"model.depths={TINY.config['depths']}"]  # of a tiny run


def sizes_of(tiny: bool) -> Sizes:
    """Return the sizes; below them nothing of STAT would be made again in the backward pass, so that is forced."""
    if tiny:
        recompute.SMALL = 0
    return TINY if tiny else FULL


def batches_here(sizes: Sizes, T: int, device: torch.device) -> tuple[int, ...]:
    """Return the clips of a pass to measure: those of the sizes that fit, and the most that training takes here."""
    wanted = sizes.batches[T]
    if device.type != "cuda":
        return wanted
    clip, config = base.Clip(T=T, crop=sizes.crop), stat.Config(t_o=sizes.window[T], **sizes.config)
    needs = step_memory(config, clip, sizes.classes, True, False, plain_way(device).recompute)
    fit = needs.largest_batch(torch.cuda.get_device_properties(device).total_memory)
    most = min(fit, wanted[-1])
    return (*(n for n in wanted if n < most), most) if most else ()


def device_here() -> torch.device:
    """Return CUDA's device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stat_of(sizes: Sizes, T: int, t_o: int | None = None, noise: bool = True) -> stat.STAT:
    """Return a STAT with weights drawn anew; without ``noise`` nothing of it is dropped at random in training."""
    keys = {"t_o": t_o or sizes.window[T], **sizes.config}
    if not noise:
        keys |= {"head_dropout": 0.0, "stochastic_depth": 0.0}
    return stat.STAT(stat.Config(**keys), base.Clip(T=T, crop=sizes.crop), sizes.classes)


def mvit_of(sizes: Sizes, T: int) -> nn.Module:
    """Return torchvision's MViT-B as it is, for clips of T frames; at tiny sizes its first two blocks, narrower."""
    from torchvision.models.video import mvit

    if sizes is FULL:
        model = mvit.mvit_v1_b()  # its clip length is in its position embeddings alone
        model.pos_encoding = mvit.PositionalEncoding(96, (56, 56), T // 2, rel_pos_embed=False)
        return model
    block = mvit.MSBlockConfig(1, 24, 24, [], [3, 3, 3], [], [1, 4, 4])
    return mvit.MViT((sizes.crop, sizes.crop), T, [block, block], False, False, False, False, num_classes=sizes.classes)


def clips(sizes: Sizes, T: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return fresh random clips (B, 3, T, crop, crop) and labels (B,): zeros would draw less power and run faster."""
    video = torch.randn(batch, 3, T, sizes.crop, sizes.crop, device=device)
    return video, torch.randint(sizes.classes, (batch,), device=device)


def autocast(device: torch.device, enabled: bool = True) -> Any:
    """Return the precision of training on CUDA, bf16; the same on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def loss_of(model: nn.Module, video: Tensor, labels: Tensor, mixed: bool) -> tuple[Tensor, Tensor]:
    """Return (logits, loss) in bf16 autocast, or without it."""
    with autocast(video.device, mixed):
        logits = model(video)
    return logits, F.cross_entropy(logits.float() if mixed else logits, labels)


def gradients(model: nn.Module, video: Tensor, labels: Tensor, mixed: bool = False, passes: int = 1) -> "Gradients":
    """Run forward and backward, the batch in so many passes; return what came of it, in float64 on the CPU."""
    model.zero_grad()
    all_logits, total = [], 0.0
    for part, targets in zip(video.chunk(passes), labels.chunk(passes), strict=True):
        logits, loss = loss_of(model, part, targets, mixed)
        (loss / passes).backward()
        all_logits.append(logits.detach())
        total += float(loss.detach()) / passes
    grads = {name: exact(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Gradients(exact(torch.cat(all_logits)), total, grads)


class Gradients(NamedTuple):
    """Logits, the loss and the gradients of one batch."""

    logits: Tensor
    loss: float
    of: dict[str, Tensor]

    @property
    def flat(self) -> Tensor:
        """Return all gradients as one vector."""
        return torch.cat([g.flatten() for g in self.of.values()])


def exact(x: Tensor) -> Tensor:
    """Return a tensor in float64 on the CPU."""
    return x.detach().cpu().double()


def error(ours: Tensor, reference: Tensor) -> float:
    """Return |ours - reference| / |reference|, all elements together; infinite if anything of ours is not finite."""
    ours, reference = ours.detach().double(), reference.detach().double().to(ours.device)
    found = float((ours - reference).norm() / reference.norm().clamp_min(1e-30))
    return found if found == found else float("inf")


def cosine(ours: Tensor, reference: Tensor) -> float:
    """Return the cosine between two vectors; -1 if it is not finite."""
    found = float(F.cosine_similarity(ours, reference, dim=0))
    return found if found == found else -1.0


def on_poisoned_memory(work: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    """Return what `work` returns the second time, on memory that is full of NaN.

    Its first results are overwritten by NaN and given back, and the allocator hands such memory out again: so a kernel
    that leaves a part of its result unwritten shows.
    """
    results = work()
    for result in results:
        result.detach().fill_(float("nan"))
    del results
    return work()


@contextmanager
def fp32_as_it_is() -> Iterator[None]:
    """Compute matrix products and convolutions in fp32 without TF32, which cuDNN's convolutions use by default."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    try:
        yield
    finally:
        for place, told in zip(places, before, strict=True):
            place.allow_tf32 = told


@contextmanager
def backend(**ways: Any) -> Iterator[None]:
    """Let the parts of the models compute in these ways: BACKEND's attributes."""
    before = {name: getattr(BACKEND, name) for name in ways}
    for name, way in ways.items():
        setattr(BACKEND, name, way)
    try:
        yield
    finally:
        for name, way in before.items():
            setattr(BACKEND, name, way)


def has_triton_depthwise(device: torch.device) -> bool:
    """Return whether the depthwise convolution in Triton can run here."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def has_grouped_window(sizes: Sizes, device: torch.device) -> bool:
    """Return whether BACKEND.window=grouped leaves no mask: whether it is written."""
    masks: list[bool] = []
    original = F.scaled_dot_product_attention

    def noting(*args: Any, **kwargs: Any) -> Tensor:
        masks.append(kwargs.get("attn_mask") is not None)
        result: Tensor = original(*args, **kwargs)
        return result

    F.scaled_dot_product_attention = noting
    try:
        T = min(sizes.window)
        small = TINY._replace(window={T: sizes.window[T]})
        with backend(window="grouped"), torch.no_grad():
            stat_of(small, T).to(device)(clips(small, T, 1, device)[0])
    finally:
        F.scaled_dot_product_attention = original
    return not any(masks)


def kept_bytes(model: nn.Module, video: Tensor, labels: Tensor) -> int:
    """Return the bytes of different storages that a forward pass keeps for the backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss_of(model, video, labels, mixed=True)
    return sum(kept.values())


def training_step(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], mixed: bool = True) -> Work:
    """Return a training step: forward, backward and fused AdamW, each on the next of the batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    done = 0

    def work() -> None:
        nonlocal done
        video, labels = batches[done % len(batches)]
        done += 1
        loss_of(model, video, labels, mixed)[1].backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def forward_pass(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Work:
    """Return a forward pass as in a test."""

    def work() -> None:
        model.eval()
        with torch.inference_mode(), autocast(batches[0][0].device):
            model(batches[0][0])
        model.train()

    return work


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Work, device: torch.device) -> tuple[float, float]:
    """Return (ms that the device took, by its events; ms until the CPU had told it). On a CPU they are one."""
    wait(device)
    begin = time.perf_counter()
    if device.type != "cuda":
        work()
        ms = 1e3 * (time.perf_counter() - begin)
        return ms, ms
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    told = 1e3 * (time.perf_counter() - begin)
    torch.cuda.synchronize()
    return start.elapsed_time(end), told


class Times(NamedTuple):
    """Of one work in all rounds, ms."""

    device: list[float]
    host: list[float]


def in_turns(
    works: dict[str, Work], rounds: int, warmups: int, device: torch.device, report: Report
) -> dict[str, Times]:
    """Return the times of each work; every round has a call of each. Ends earlier, after a round, if time is short."""
    begun = time.monotonic()
    for work in works.values():
        for _ in range(warmups):
            work()
    times = {name: Times([], []) for name in works}
    for done in range(rounds):
        if done and (report.left <= 0 or (done >= FEWEST and time.monotonic() - begun > LONGEST)):
            break
        for name, work in works.items():
            of_device, of_host = timed(work, device)
            times[name].device.append(of_device)
            times[name].host.append(of_host)
    return times


def compiled_by_block(model: Any, how: str = "inductor") -> nn.Module:
    """Return a copy of the model compiled as trainer.compile does, for the shapes that it meets."""
    model = copy.deepcopy(model)
    compile_parts(model, backend=how, dynamic=False)
    return model
