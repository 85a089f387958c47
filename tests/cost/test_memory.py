"""Memory of a step: against a sum by hand, hooks on real tensors, the memory of a real process, CUDA's autocasting."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from running import ROOT
from stat_video.cost import memory
from stat_video.cost.layers import parameters
from stat_video.model import STAT, STATConfig

# Half of the widths, a stage shorter: enough that the process' own memory is small beside it.
MIDDLE = {"T": 16, "crop": 96, "depths": (1, 1, 2, 1), "widths": (48, 96, 192, 384), "heads": (1, 2, 4, 8), "t_o": 5}


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


def test_activations_are_what_a_real_pass_saves():
    config = STATConfig(**MIDDLE)
    real = saved_by_hooks(STAT(config).train(), torch.rand(2, 3, config.T, config.crop, config.crop))
    assert memory.step_memory(config, False, False).activations(2) == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_meta_device_shows_what_real_tensors_do(checkpointing):
    config = STATConfig(**MIDDLE, gradient_checkpointing=checkpointing)
    model = STAT(config).train()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    clip = torch.rand(2, 3, config.T, config.crop, config.crop)
    with memory.Live([*model.parameters(), *(p.grad for p in model.parameters())]) as live:
        live.add(clip)
        loss = F.cross_entropy(model(clip), torch.zeros(2, dtype=torch.long))
        kept = live.bytes
        memory.backward(loss)
    assert (kept, live.peak) == pytest.approx(memory.measure(config, 2), rel=0.01)


REAL_STEP = """
import json, sys
from pathlib import Path
import torch, torch.nn.functional as F
from stat_video.model import STAT, STATConfig

def status(key):  # of this process, bytes
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024

torch.set_num_threads(1)
def step(model, batch):
    config = model.config
    clip = torch.rand(batch, 3, config.T, config.crop, config.crop)  # kept to the end, as a training loop does
    F.cross_entropy(model(clip), torch.zeros(batch).long()).backward()
for checkpointing in (False, True):
    model = STAT(STATConfig(**json.loads(sys.argv[1]), gradient_checkpointing=checkpointing)).train()
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
        timeout=300,
        # Freed tensors go back to the system at once.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    for checkpointing, real in zip((False, True), done.stdout.split(), strict=True):
        expected = memory.step_memory(STATConfig(**MIDDLE), False, checkpointing)
        assert expected.whole(batch) - expected.state == pytest.approx(int(real), rel=0.05)


class FusedAttention(memory.Kernels):
    """Attention as autocasting calls it, and no other cast of ours."""

    LOW, FULL = (F.scaled_dot_product_attention,), ()


@pytest.mark.parametrize("mixed", [False, True])
def test_casts_are_those_of_autocasting_on_cuda(mixed):
    """PyTorch's own autocasting, on tensors that say they are on CUDA and hold nothing."""
    config = STATConfig(**MIDDLE)
    expected, _ = memory.measure(config, 2, mixed)
    with torch.device("meta"):
        model = STAT(config).train()
    with FakeTensorMode():
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(weight.shape, device="cuda"))
        clip = torch.empty(2, 3, config.T, config.crop, config.crop, device="cuda")
        before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", mixed)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with memory.Live(model.parameters()) as live, FusedAttention(mixed):
                live.add(clip)
                logits = model(clip)
                kept = live.bytes
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.clear_autocast_cache()
    assert logits.dtype == (torch.bfloat16 if mixed else torch.float32)
    assert kept == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("mixed", "checkpointing"), [(False, True), (True, False)])
def test_a_line_over_batches(mixed, checkpointing):
    """Of the full-size model; of a batch of 1 less exactly, since small tensors are kept (model/recompute.py)."""
    m = memory.step_memory(STATConfig(), mixed, checkpointing)
    assert m.state == 16 * parameters(STATConfig())
    for batch, close in ((1, 0.1), (2, 0.015), (64, 0.015)):
        kept, peak = memory.measure(STATConfig(gradient_checkpointing=checkpointing), batch, mixed)
        assert m.activations(batch) == pytest.approx(kept, rel=close)
        assert m.whole(batch) - m.state == pytest.approx(peak, rel=close)
    fits = m.largest_batch(24 * 2**30)
    assert m.whole(fits) <= memory.USABLE * 24 * 2**30 < m.whole(fits + 1)
    assert m.largest_batch(m.state) == 0


def test_what_saves_memory_saves_memory():
    config = STATConfig(**MIDDLE)
    plain, again = (memory.step_memory(config, False, on) for on in (False, True))
    assert again.kept[1] < 0.5 * plain.kept[1]  # one tensor a block is kept
    assert again.peak[1] < 0.6 * plain.peak[1]
    half = memory.step_memory(config, True, False)
    assert 0.5 < half.kept[1] / plain.kept[1] < 0.75  # norms and the residual stream stay in fp32
    narrow = memory.step_memory(STATConfig(**{**MIDDLE, "modules": ("CA",)}), False, False)
    assert narrow.kept[1] < plain.kept[1]
