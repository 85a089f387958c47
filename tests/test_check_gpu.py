"""`make check-gpu` on a CPU: it comes to its end, what it writes is whole, and it finds faults that are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from running import ROOT
from stat_video import compose, hardware
from stat_video.config import Config, TrainerKeys
from stat_video.cost.gpus import GPUS, find_gpu
from stat_video.models.parts.backend import BACKEND

PHASES = ("machine", "right", "kernels", "waits", "speed", "loading", "runs", "ranks")


def check_gpu(out: Path, *words: str, minutes: int = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """With so much time that a busy machine does not bring a phase to its limit."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/check_gpu.py"), "--out", str(out), "--minutes", str(minutes), *words],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **env},
    )


def result(out: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found: dict[str, Any] = json.loads((out / "check_gpu.json").read_text(), parse_constant=refuse)
    return found


def check_schema(found: dict[str, Any], phases: set[str]) -> None:
    """What docs/gpu.md says of the file."""
    assert found.keys() == {"schema", "code", "phases", "machine", "sizes", "verdict", "advice", "finished"}
    assert found["verdict"] in ("right", "below a floor", "wrong")
    assert {"commit", "dirty", "digest", "versions"} <= found["code"].keys()
    assert found["phases"].keys() == phases
    for number, phase in found["phases"].items():
        assert phase.keys() == {"name", "state", "seconds", "figures", "checks", "notes", "found", "at", "earlier"}
        assert phase["name"] == PHASES[int(number)]
        assert phase["state"] in ("right", "below a floor", "wrong", "skipped")
        for figure in phase["figures"].values():
            assert figure.keys() == {"median", "least", "most", "n", "unit"}
            assert figure["least"] <= figure["median"] <= figure["most"]
        for check in phase["checks"]:
            assert check.keys() == {"name", "value", "limit", "ok", "kind"}
            assert check["kind"] in ("right", "floor", "option")


def failed(found: dict[str, Any]) -> list[str]:
    return [check["name"] for phase in found["phases"].values() for check in phase["checks"] if not check["ok"]]


@pytest.mark.slow
def test_all_phases(tmp_path: Path) -> None:
    """Every phase runs, and nothing is wrong; no speed is judged on a CPU, and nothing advised."""
    done = check_gpu(tmp_path)
    found = result(tmp_path)
    assert done.returncode == 0, (failed(found), done.stdout, done.stderr)
    check_schema(found, set("01234567"))
    states = {phase["name"]: phase["state"] for phase in found["phases"].values()}
    assert states == dict.fromkeys(PHASES, "right"), found["phases"]
    assert failed(found) == []
    assert (found["sizes"], found["advice"], found["verdict"]) == ("tiny", {}, "right")
    assert not any(check["kind"] == "floor" for phase in found["phases"].values() for check in phase["checks"])
    assert all(phase["checks"] for number, phase in found["phases"].items() if number in "12367")
    page = (tmp_path / "check_gpu.md").read_text()
    assert page.startswith("# check-gpu: right\n")
    assert "Tiny sizes" in page
    assert all(f"## {number}. {name}: right" in page for number, name in enumerate(PHASES))
    assert "STAT beside torchvision's MViT-B" in page
    assert yaml.safe_load((tmp_path / "local.yaml").read_text()) is None  # a comment
    assert not (tmp_path / "work").exists()


# What takes long in phase 1 beside what is to find the fault, and phase 3's part that needs Lightning.
LESS = """
import gpu.right
gpu.right.whole_model = gpu.right.equal_ways = lambda *_: None
"""
NO_LOOP = """
import sys
sys.modules["gpu.lightning_steps"] = None
"""
SHIFT = """
from stat_video.models.stat import attention
right = attention.depthwise_conv3d
attention.depthwise_conv3d = lambda x, weight, stride: right(x, weight.roll(1, -1), stride)
"""
NAN = """
import torch.nn.functional as F
right = F.scaled_dot_product_attention
def broken(q, k, *args, **kwargs):
    out = right(q, k, *args, **kwargs)
    if q.shape[-2] == 1:
        out = out * float("nan")
    return out
F.scaled_dot_product_attention = broken
"""
ITEM = """
from stat_video.models.stat import STAT
right = STAT.forward
def waiting(self, clip):
    logits = right(self, clip)
    assert logits.sum().item() is not None
    return logits
STAT.forward = waiting
"""
ITEM_IN_THE_STEP = """
from stat_video.training.module import VideoModule
right = VideoModule.training_step
def training_step(self, batch, index):
    loss = right(self, batch, index)
    loss.item()
    return loss
training_step.__code__ = training_step.__code__.replace(co_filename=right.__code__.co_filename)
VideoModule.training_step = training_step
"""


@pytest.mark.parametrize(
    ("fault", "phase", "found_by"),
    [
        (LESS + SHIFT, "1", "P_CA by pytorch, float32"),
        pytest.param(LESS + NAN, "1", "attention by flash", marks=pytest.mark.slow),
        (NO_LOOP + ITEM, "3", "model, loss and AdamW: waits"),
        pytest.param(ITEM_IN_THE_STEP, "3", "Lightning's loop: waits inside training_step", marks=pytest.mark.slow),
    ],
    ids=["a wrong shift in P_CA", "NaN at one query", "a wait in the model", "a wait in the step"],
)
def test_a_planted_fault_is_found(fault: str, phase: str, found_by: str, tmp_path: Path) -> None:
    file = tmp_path / "fault.py"
    file.write_text(fault)
    done = check_gpu(tmp_path, "--only", phase, "--with", str(file))
    found = result(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert (found["verdict"], found["phases"][phase]["state"]) == ("wrong", "wrong")
    assert any(name.startswith(found_by) for name in failed(found)), failed(found)
    page = (tmp_path / "check_gpu.md").read_text()
    assert page.startswith("# check-gpu: wrong\n")
    assert found_by in page.partition("## Failures")[2].partition("\n## ")[0]


CRASH = """
import sys
import gpu.kernels, gpu.machine, os, signal
gpu.machine.rates = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)
gpu.kernels.one_pass = lambda *_: {}
"""
HANG = CRASH.replace("os.kill(os.getpid(), signal.SIGSEGV)", "signal.pause()")


@pytest.mark.parametrize(
    ("fault", "said"),
    [(CRASH, "ended by SIGSEGV"), pytest.param(HANG, "hung: stopped after", marks=pytest.mark.slow)],
    ids=["a crash", "a hang"],
)
def test_a_phase_that_does_not_end_costs_that_phase(fault: str, said: str, tmp_path: Path) -> None:
    """What it had found is kept, what it was doing is named, and the next phase runs."""
    file = tmp_path / "fault.py"
    file.write_text(fault)
    done = check_gpu(tmp_path, "--only", "0,2", "--with", str(file), minutes=3)
    assert done.returncode == 1, done.stdout + done.stderr
    found = result(tmp_path)
    check_schema(found, {"0", "2"})
    assert found["phases"]["0"]["state"] == "wrong"
    assert found["phases"]["0"]["notes"][0].startswith(said)
    assert found["phases"]["0"]["found"]["machine"]["device"] == "cpu"
    assert found["phases"]["2"]["state"] == "right"


COMPILES = """
import gpu.measure
right = gpu.measure.compile_parts
def counting(model, **how):
    parts = right(model, **how)
    print("compiled parts:", len(parts))
    return parts
gpu.measure.compile_parts = counting
import gpu.speed
def ways(self, T, *_):
    self.best[str(T)] = {"batch": 1, "clips_per_second": 0.0}
    return gpu.measure.plain_way(self.device)
gpu.speed.Speed.ways = ways
gpu.speed.Speed.beside_mvit = gpu.speed.parts = gpu.speed.augmentation = lambda *_: None
"""


@pytest.mark.slow
def test_what_compiles_on_a_gpu_compiles_here(tmp_path: Path) -> None:
    """Phase 4 goes through compile_parts, as trainer.compile does, and holds its gradients against the eager ones."""
    file = tmp_path / "only_compiled.py"
    file.write_text(COMPILES)
    done = check_gpu(tmp_path, "--only", "4", "--with", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    log, names = (tmp_path / "phase_4.log").read_text(), [c["name"] for c in result(tmp_path)["phases"]["4"]["checks"]]
    assert log.count("compiled parts: ") == len(names) == 2
    assert all("compiled by block = eager" in name for name in names)


NOTHING = """
import importlib, sys
name = sys.argv[sys.argv.index("--phase") + 1]
module = importlib.import_module({"0": "gpu.machine", "1": "gpu.right", "2": "gpu.kernels"}[name])
module.run = lambda report: report.note(f"saw {sorted(report.settings.earlier)}") or report.check("done", 0, 0)
"""


@pytest.mark.slow
def test_phases_of_an_earlier_call_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not asked for again, if they are of this code and device; they count in the verdict."""
    file = tmp_path / "nothing.py"
    file.write_text(NOTHING)
    assert check_gpu(tmp_path, "--only", "0,1", "--with", str(file)).returncode == 0
    check_gpu(tmp_path, "--only", "2", "--with", str(file))
    found = result(tmp_path)
    check_schema(found, set("012"))
    assert {number: phase["earlier"] for number, phase in found["phases"].items()} == {"0": True, "1": True, "2": False}
    assert found["phases"]["2"]["notes"][0] == "saw ['0', '1']"
    assert "Measured by an earlier call" in (tmp_path / "check_gpu.md").read_text()

    for change in (
        {"code": {**found["code"], "digest": "another"}},
        {"machine": {"gpu": "NVIDIA H200"}},
        {"schema": 1},
    ):
        (tmp_path / "check_gpu.json").write_text(json.dumps({**found, **change}))
        check_gpu(tmp_path, "--only", "2", "--with", str(file))
        assert result(tmp_path)["phases"].keys() == {"2"}

    found["phases"]["1"]["state"] = "wrong"
    (tmp_path / "check_gpu.json").write_text(json.dumps(found))
    assert check_gpu(tmp_path, "--only", "2", "--with", str(file)).returncode == 1


# A library that is not there, as on an image with torch and torchvision alone.
MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
LIBRARIES = {"lightning", "hydra", "omegaconf", "av", "wandb", "pytorchvideo", "rich", "yaml", "scipy", "torchmetrics"}


def test_without_a_library_its_phases_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(MISSING.format(names=LIBRARIES))
    done = check_gpu(tmp_path, "--only", "0,5,6", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    found = result(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    states = {number: phase["state"] for number, phase in found["phases"].items()}
    assert states == {"0": "right", "5": "skipped", "6": "skipped"}
    for number in "56":
        assert found["phases"][number]["notes"][0].startswith("skipped: no ")
    assert "skipped: no" in (tmp_path / "check_gpu.md").read_text()


@pytest.mark.slow
def test_phases_0_to_4_need_torch_and_torchvision_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(MISSING.format(names=LIBRARIES))
    done = check_gpu(tmp_path, "--only", "0,1,2,3,4", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {phase["state"] for phase in result(tmp_path)["phases"].values()} == {"right"}
    assert "Lightning's loop: skipped: no " in (tmp_path / "check_gpu.md").read_text()


def test_the_modules_of_phases_0_to_4_import_torch_and_torchvision_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(MISSING.format(names=LIBRARIES | {"numpy"}))
    modules = ", ".join(f"gpu.{name}" for name in PHASES[:5])
    paths = f"{tmp_path}:{ROOT / 'src'}:{ROOT / 'benchmarks'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import {modules}"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package benchmarks/gpu."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu.advice
    import gpu.kernels
    import gpu.report

    return gpu


def kernels() -> dict[str, Any]:
    """What is set in this process of how to compute."""
    names = ("cudnn", "mem_efficient", "flash", "math")
    enabled = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in names}
    return {**enabled, **vars(BACKEND), "search": torch.backends.cudnn.benchmark}


@pytest.fixture
def as_before() -> Iterator[None]:
    before, onednn = kernels(), torch.backends.mkldnn.enabled
    yield
    for name in ("cudnn", "mem_efficient", "flash", "math"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(before[name])
    vars(BACKEND).update({name: before[name] for name in vars(BACKEND)})
    torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled = before["search"], onednn


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("memory", [24, 40, 80, 141])
@pytest.mark.parametrize("T", [16, 32, 64])
def test_the_plain_way_is_that_of_training(gpu: Any, T: int, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, what is recomputed, and the most clips of a pass, by what `fit` calls for the paper's STAT."""
    from gpu import measure

    (row,) = compose.rows("train", Config, [f"clip=T{T}", "scale=paper", "trainer=gpu", "recipe.batch_size=1024"])
    cuda, of_memory = torch.device("cuda"), SimpleNamespace(total_memory=memory * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: of_memory)
    hardware.choose_backends(row.config.trainer)
    at_once = hardware.choose_pass_here(row.config, measure.FULL.classes)
    BACKEND.recompute = at_once.recompute
    torch.backends.cudnn.benchmark = hardware.lightning_arguments(row.config.trainer)["benchmark"]
    expected = kernels()
    measure.Way("math", "grouped", "triton", True, False, False).choose(cuda)
    assert kernels() != expected
    with measure.plain_way(cuda).chosen(cuda):
        assert kernels() == expected
    assert kernels() != expected
    measure.plain_way(cuda).choose(cuda)
    assert kernels() == expected
    assert not kernels()["cudnn"]
    assert measure.batches_here(measure.FULL, T, cuda)[-1] == at_once.clips


@pytest.mark.parametrize(
    ("name", "memory", "line"),
    [
        ("NVIDIA H200", 139.8, "H200-141GB"),
        ("NVIDIA H100 80GB HBM3", 79.1, "H100-80GB"),
        ("NVIDIA H100 PCIe", 79.1, None),
        ("NVIDIA A100-SXM4-80GB", 79.3, "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-40GB"),
        ("NVIDIA L40S", 44.5, "L40S"),
        ("NVIDIA A40", 44.4, "A40"),
        ("NVIDIA GeForce RTX 4090", 23.5, "RTX-4090"),
        ("NVIDIA B200", 178.0, None),
        (None, None, None),
    ],
)
def test_a_gpu_has_its_line_of_the_data_sheets(
    gpu: Any, name: str | None, memory: float | None, line: str | None
) -> None:
    found, peak = gpu.advice.line_of(name, memory)
    assert found == line
    assert peak == (find_gpu(line).bf16 if line else 0)
    assert GPUS.is_file()


WAYS = {"attention": "auto", "window": "grouped", "depthwise": "triton", "compile": True, "recompute": False}


def of_a_gpu(gpu: Any, **states: str) -> dict[str, Any]:
    """The advice of a machine with one H200 whose phases ended so."""
    best = {
        T: {"batch": batch, "clips_per_second": speed, "flops_per_second": share * 989e12, "ways": WAYS}
        for T, batch, speed, share in (("16", 64, 740.0, 0.25), ("32", 32, 370.0, 0.26), ("64", 16, 180.0, 0.27))
    }
    phases = {str(n): {"state": states.get(f"phase_{n}", "right"), "found": {}} for n in (1, 4, 5)}
    phases["4"]["found"] = {"best": best}
    phases["5"]["found"] = {"workers": 12}
    found: dict[str, Any] = gpu.advice.advice({"gpu": "NVIDIA H200", "memory_gib": 139.8}, phases)
    return found


def test_advice(gpu: Any) -> None:
    found = of_a_gpu(gpu)
    assert found == {
        "gpu": "H200-141GB",
        "share": {"16": 0.25, "32": 0.26, "64": 0.27},
        "clips_per_second": {"16": 740.0, "32": 370.0, "64": 180.0},
        "trainer": {"batch_per_device": {"16": 64, "32": 32, "64": 16}, **WAYS, "workers": 12},
    }
    snippet = gpu.advice.snippet(found)
    assert yaml.safe_load(snippet)["trainer"].keys() == {*found["trainer"], "clips_per_second"}
    assert "python src/cost.py clip=T32 gpu=H200-141GB share=0.26" in snippet


@pytest.mark.parametrize(
    ("words", "clips", "workers"),
    [
        (["scale=paper", "trainer=auto"], 64, 12),
        (["scale=paper", "clip=T64", "trainer=auto"], 16, 12),
        (["scale=paper", "trainer=auto", "trainer.workers=3"], 64, 3),
        (["scale=paper", "trainer=auto", "debug=two_steps"], 64, 0),
    ],
    ids=["T=16", "T=64", "the command line goes before it", "debug goes before it"],
)
def test_the_advice_is_taken(
    gpu: Any, words: list[str], clips: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As conf/local.yaml; for keys that this version has."""
    found = of_a_gpu(gpu)
    known = {f.name for f in fields(TrainerKeys)}
    found["trainer"] = {key: value for key, value in found["trainer"].items() if key in known}
    local = tmp_path / "local.yaml"
    local.write_text(gpu.advice.snippet(found))
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(local))
    (row,) = compose.rows("train", Config, words)
    trainer = row.config.trainer
    assert (trainer.batch_per_device, trainer.workers, trainer.compile) == (clips, workers, True)
    (row,) = compose.rows("train", Config, ["scale=tiny"])  # trainer=cpu
    assert (row.config.trainer.workers, row.config.trainer.compile) == (1, False)


@pytest.mark.parametrize("phase", [1, 4])
def test_no_advice_where_something_is_wrong(gpu: Any, phase: int) -> None:
    assert of_a_gpu(gpu, **{f"phase_{phase}": "wrong"}) == {}
    assert of_a_gpu(gpu, **{f"phase_{phase}": "below a floor"}) != {}


def test_the_device_is_idle_where_no_kernel_runs(gpu: Any) -> None:
    assert gpu.kernels.idle_share([(0, 10), (5, 20), (30, 40)]) == pytest.approx(0.25)
    assert gpu.kernels.idle_share([(0, 30), (5, 10), (10, 40)]) == 0


def test_kernels_have_their_kinds(gpu: Any) -> None:
    kind = gpu.kernels.kind_of
    assert kind("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64") == "matrix product"
    assert kind("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT") == "matrix product"
    assert kind("sm80_xmma_fprop_implicit_gemm_bf16f32_nhwckrsc_nhwc") == "convolution"
    assert kind("void at::native::conv_depthwise3d_cuda_kernel<float>") == "depthwise convolution"
    assert kind("fmha_cutlassF_bf16_aligned_64x128_rf_sm80") == "attention"
    assert kind("cudnn_generated_fort_native_sdpa_sm90_knob_7") == "attention"
    assert kind("void at::native::vectorized_layer_norm_kernel<float>") == "layer norm"
    assert kind("void at::native::CatArrayBatchedCopy<float>") == "concatenation"
    assert kind("void multi_tensor_apply_kernel<FusedAdamMathFunctor>") == "optimizer"
    assert kind("void at::native::reduce_kernel") == "other"


def test_attention_is_checked_at_every_shape_of_the_tables(gpu: Any) -> None:
    """At full size, numbers of keys and queries as counted by hand."""
    from gpu import measure, right

    lengths, queries, width = right.layouts(measure.FULL)
    assert sorted(lengths) == [89, 97, 129, 145, 161, 177, 193, 302, 310, 408, 424, 506, 522, 604]
    assert (queries, width) == ([785, 197, 50, 1], 96)


def test_the_full_model_in_lightnings_loop_can_be_built(gpu: Any, tmp_path: Path) -> None:
    """What phases 3 and 6 build on CUDA alone."""
    from gpu.lightning_steps import Steps
    from gpu.measure import FULL
    from gpu.report import Settings

    steps = Steps(Settings(3, "waits", tmp_path, 60), FULL, 2)
    assert steps.batches[0]["video"].shape == (2, 16, 3, 224, 224)
    assert steps.config.recipe.mixup > 0
