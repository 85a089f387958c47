"""Memory of a step: against a sum by hand, hooks on real tensors, the memory of a real process, CUDA's autocasting."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from running import HANGS, ROOT
from stat_video.config import Recipe
from stat_video.models import find, memory
from stat_video.models.base import Clip, ModelConfig, VideoModel
from stat_video.models.count import parameters
from stat_video.models.parts.recompute import recompute_units
from stat_video.models.stat.stat import Config

CLASSES = 400
CLIP = Clip(T=16, crop=96)
# Half of the widths, a stage shorter: enough that the process' own memory is small beside it.
MIDDLE = {"depths": [1, 1, 2, 1], "widths": [48, 96, 192, 384], "heads": [1, 2, 4, 8], "t_o": 5}


class Written(VideoModel):
    """Attention and norms written out, with what autocasting casts and the models of this project do not call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 24, (3, 7, 7), (2, 4, 4), padding=(1, 3, 3), bias=False)
        self.norm = nn.BatchNorm3d(24)
        self.frames = nn.Conv1d(24, 24, 3, padding=1, groups=24)
        self.qkv = nn.Linear(24, 72)
        self.group = nn.GroupNorm(4, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(clip)), inplace=True)
        x = F.max_pool3d(x, (1, 2, 2))
        b, c, t, h, w = x.shape
        x = x + self.frames(x.permute(0, 3, 4, 1, 2).reshape(-1, c, t)).reshape(b, h, w, c, t).permute(0, 3, 4, 1, 2)
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        maps = torch.bmm(q, k.transpose(1, 2)).div(c**0.5).softmax(-1)
        x = self.group(torch.einsum("bij,bjc->bci", maps, v))
        x = F.normalize(x, dim=1) * torch.exp(-x.pow(2)).sum(1, keepdim=True)
        return self.head(x.mean(-1))


class WrittenConfig(ModelConfig):
    """Of Written; `ModelConfig` knows how to print itself."""

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        return Written()


MODELS = {
    "stat": (Config(**MIDDLE), CLIP),
    "tsm": (find("tsm")(name="tsm", depth=18, width=32), Clip(T=8, crop=64)),
    "slowfast": (find("slowfast")(name="slowfast", depth=18, width=32), Clip(T=16, crop=64)),
    "mvit": (find("mvit")(name="mvit", depths=[1, 1, 2, 1], width=48), CLIP),
    "written": (WrittenConfig(name="written"), Clip(T=8, crop=64)),
}


def test_storages_counted_by_hand():
    weight = torch.empty(10, 20, device="meta", requires_grad=True)
    with memory.Live([weight]) as live:
        x = torch.empty(4, 20, device="meta")
        live.add(x)
        y = x @ weight.t()  # a view of the weight, and 4 x 10 floats
        assert (live.bytes, live.peak) == (4 * (80 + 40), 4 * (80 + 40))
        y.add_(1)  # in place
        del x  # but autograd keeps it
        assert live.bytes == 4 * (80 + 40)
        y = y.detach() * 2  # and so the graph, with x and the first y, goes
        assert live.bytes == 4 * 40
        assert live.peak == 4 * (80 + 40 + 40)


def saved_by_hooks(model: nn.Module, clip: torch.Tensor) -> int:
    """Bytes that autograd saves in a forward pass, each storage once, without the model's parameters."""
    known, saved = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(clip).sum()
    del loss
    return sum(size for at, size in saved.items() if at not in known)


def clips(clip: Clip, batch: int, **keys: str) -> torch.Tensor:
    return torch.rand(batch, 3, clip.T, clip.crop, clip.crop, **keys)


@pytest.mark.parametrize("name", ["stat", "tsm"])
def test_activations_are_what_a_real_pass_saves(name):
    config, clip = MODELS[name]
    real = saved_by_hooks(config.build(clip, CLASSES).train(), clips(clip, 2))
    fixed, of_a_clip = memory.step_memory(config, clip, CLASSES, False, False).kept
    assert fixed + 2 * of_a_clip == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_meta_device_shows_what_real_tensors_do(name, checkpointing):
    config, clip = MODELS[name]
    model = config.build(clip, CLASSES).train()
    if checkpointing:
        recompute_units(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with memory.Live(memory.state_of(model)) as live:
        x = clips(clip, 2)
        loss = F.cross_entropy(model(x), torch.zeros(2, dtype=torch.long))
        kept = live.bytes
        memory.backward(loss)
    close = 0.01 if name == "stat" else 0.05  # what a kernel of the CPU keeps differs a little from CUDA's
    assert (kept, live.peak) == pytest.approx(
        memory.measure(config, clip, CLASSES, 2, checkpointing=checkpointing), rel=close
    )


REAL_STEP = """
import json, sys
from pathlib import Path
import torch, torch.nn.functional as F
from stat_video.models.base import Clip
from stat_video.models.parts.recompute import recompute_units
from stat_video.models.stat.stat import Config

def status(key):  # of this process, bytes
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024

torch.set_num_threads(1)
def step(model, batch):
    clip = torch.rand(batch, 3, 16, 96, 96)  # kept to the end, as a training loop does
    F.cross_entropy(model(clip), torch.zeros(batch).long()).backward()
for checkpointing in (False, True):
    model = Config(**json.loads(sys.argv[1])).build(Clip(T=16, crop=96), 400).train()
    if checkpointing:
        recompute_units(model)
    step(model, 1)  # gradients, and the libraries' own memory
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begin the high-water mark anew
    step(model, int(sys.argv[2]))
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured through /proc")
def test_peak_is_what_a_real_process_takes():
    """Its largest extent during a step, as it is and with gradient checkpointing, to 5 %."""
    batch = 8
    done = subprocess.run(
        [sys.executable, "-c", REAL_STEP, json.dumps(MIDDLE), str(batch)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        # Freed tensors go back to the system at once.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    for checkpointing, real in zip((False, True), done.stdout.split(), strict=True):
        expected = memory.step_memory(Config(**MIDDLE), CLIP, CLASSES, False, checkpointing)
        assert expected.whole(batch) - expected.state == pytest.approx(int(real), rel=0.05)


class FusedAttention(memory.Kernels):
    """Attention as autocasting calls it, and no other cast of ours."""

    LOW, FULL = (F.scaled_dot_product_attention,), ()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mixed", [False, True])
def test_casts_are_those_of_autocasting_on_cuda(name, mixed):
    """PyTorch's own autocasting as Lightning sets it, on tensors that say they are on CUDA and hold nothing."""
    config, clip = MODELS[name]
    expected, _ = memory.measure(config, clip, CLASSES, 2, mixed)
    with torch.device("meta"):
        model = config.build(clip, CLASSES).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:
                        moved = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        tensors[key] = nn.Parameter(moved) if tensors is module._parameters else moved
        x = torch.empty(2, 3, clip.T, clip.crop, clip.crop, device="cuda")
        before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), torch.is_autocast_cache_enabled()
        with warnings.catch_warnings(action="ignore"):  # there is no CUDA here
            of_lightning = MixedPrecision("bf16-mixed", "cuda").autocast_context_manager()
        torch.set_autocast_cache_enabled(of_lightning._cache_enabled)
        torch.set_autocast_enabled("cuda", mixed)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with memory.Live([*model.parameters(), *model.buffers()]) as live, FusedAttention(mixed):
                live.add(x)
                logits = model(x)
                loss = F.cross_entropy(logits, torch.empty(2, dtype=torch.long, device="cuda"))
                kept = live.bytes
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.set_autocast_cache_enabled(before[2])
            torch.clear_autocast_cache()
    assert loss.dtype == torch.float32
    assert logits.dtype == (torch.bfloat16 if mixed else torch.float32)
    assert kept == pytest.approx(expected, rel=0.01)


class Thrice(VideoModel):
    """One layer of 4 x 4 weights, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(self.head(self.head(clip[:, 0, 0, 0])))


class ThriceConfig(ModelConfig):
    """Of Thrice."""

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        return Thrice()


def test_each_use_of_a_weight_keeps_a_copy_of_its_own():
    """Of two uses 16 numbers of 2 bytes; the first needs none, since nobody asks for the gradients of a clip."""
    config = ThriceConfig(name="thrice"), Clip(T=1, crop=4), 4
    plain, mixed = (memory.step_memory(*config, mixed, False).kept[0] for mixed in (False, True))
    assert mixed - plain == 2 * 16 * 2


@pytest.mark.parametrize(("mixed", "checkpointing"), [pytest.param(False, True, marks=pytest.mark.slow), (True, False)])
def test_a_line_over_batches(mixed, checkpointing):
    """Of the full-size model; of a batch of 1 less exactly, since small tensors are kept (parts/recompute.py)."""
    full = Config(), Clip(), CLASSES
    m = memory.step_memory(*full, mixed, checkpointing)
    assert m.state == 16 * parameters(*full)
    for batch, close in ((1, 0.1), (2, 0.02), (64, 0.015)):
        kept, peak = memory.measure(*full, batch, mixed, checkpointing)
        assert m.kept[0] + batch * m.kept[1] == pytest.approx(kept, rel=close)
        assert m.whole(batch) - m.state == pytest.approx(peak, rel=close)
    fits = m.largest_batch(24 * 2**30)
    assert m.whole(fits) <= memory.USABLE * 24 * 2**30 < m.whole(fits + 1)
    assert m.largest_batch(m.state) == 0


def test_what_is_kept_of_each_weight():
    sgd = [Recipe(optimizer="sgd", momentum=momentum).copies for momentum in (0.9, 0.0)]
    assert [Recipe().copies, *sgd, Recipe(ema=0.9).copies] == [2, 1, 0, 3]
    config, clip = MODELS["written"]
    weights = parameters(config, clip, CLASSES)
    buffers = 2 * 4 * 24 + 8  # of the batch norm: mean, variance, how often
    for copies in (2, 1, 0):
        m = memory.step_memory(config, clip, CLASSES, False, False, copies=copies)
        assert m.state == 4 * (2 + copies) * weights + buffers


def test_what_saves_memory_saves_memory():
    config = Config(**MIDDLE), CLIP, CLASSES
    plain, again = (memory.step_memory(*config, False, on) for on in (False, True))
    assert again.kept[1] < 0.5 * plain.kept[1]  # one tensor a block is kept
    assert again.peak[1] < 0.6 * plain.peak[1]
    half = memory.step_memory(*config, True, False)
    assert 0.5 < half.kept[1] / plain.kept[1] < 0.75  # norms and the residual stream stay in fp32
    narrow = memory.step_memory(Config(**{**MIDDLE, "modules": ["CA"]}), CLIP, CLASSES, False, False)
    assert narrow.kept[1] < plain.kept[1]
