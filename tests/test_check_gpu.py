"""`make check-gpu` on a CPU: it comes to its end, what it writes is whole, and it finds faults that are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from running import ROOT
from stat_video.cost.gpus import GPUS, find_gpu

PHASES = ("machine", "right", "kernels", "waits", "speed", "loading", "runs", "ranks")


def check_gpu(out: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/check_gpu.py"), "--out", str(out), *words],
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
    assert {"commit", "dirty", "versions"} <= found["code"].keys()
    assert found["phases"].keys() == phases
    for number, phase in found["phases"].items():
        assert phase.keys() == {"name", "state", "seconds", "figures", "checks", "notes", "found"}
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
        (SHIFT, "1", "P_CA by pytorch, float32"),
        (NAN, "1", "attention by flash"),
        (ITEM, "3", "model, loss and AdamW: waits"),
        (ITEM_IN_THE_STEP, "3", "Lightning's loop: waits inside training_step"),
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


CRASH = "import gpu.machine, os, signal\ngpu.machine.rates = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)\n"
HANG = "import gpu.machine, time\ngpu.machine.rates = lambda *_: time.sleep(600)\n"


@pytest.mark.parametrize(
    ("fault", "said"), [(CRASH, "ended by SIGSEGV"), (HANG, "hung: stopped after")], ids=["a crash", "a hang"]
)
def test_a_phase_that_does_not_end_costs_that_phase(fault: str, said: str, tmp_path: Path) -> None:
    """What it had found is kept, the next phase runs, and what it was doing is named."""
    file = tmp_path / "fault.py"
    file.write_text(fault)
    short = (
        "import check_gpu, sys\ncheck_gpu.GRACE = 10.0\ncheck_gpu.PHASES = {0: ('machine', 5), 2: ('kernels', 60)}\n"
    )
    short += f"sys.argv = ['check_gpu.py', '--out', {str(tmp_path)!r}, '--only', '0,2', '--with', {str(file)!r}]\n"
    command = [sys.executable, "-c", f"{short}sys.exit(check_gpu.main())"]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'benchmarks'}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    found = result(tmp_path)
    check_schema(found, {"0", "2"})
    assert found["phases"]["0"]["state"] == "wrong"
    assert found["phases"]["0"]["notes"][0].startswith(said)
    assert found["phases"]["0"]["found"]["machine"]["device"] == "cpu"
    assert found["phases"]["2"]["state"] == "right"


MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_with_torch_and_torchvision_alone(tmp_path: Path) -> None:
    """Phases 0 to 4 need no more (1 and 4 take longest here and are left to `models`); 5 to 7 say what is missing."""
    names = {"lightning", "hydra", "omegaconf", "av", "wandb", "pytorchvideo", "rich", "yaml", "scipy", "torchmetrics"}
    (tmp_path / "sitecustomize.py").write_text(MISSING.format(names=names))
    done = check_gpu(tmp_path, "--only", "0,2,3,5,6,7", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    found = result(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    states = {number: phase["state"] for number, phase in found["phases"].items()}
    assert states == {"0": "right", "2": "right", "3": "right", "5": "skipped", "6": "skipped", "7": "skipped"}
    for number in "567":
        assert found["phases"][number]["notes"][0].startswith("skipped: no ")
    assert "skipped: no" in (tmp_path / "check_gpu.md").read_text()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package benchmarks/gpu."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu.advice
    import gpu.kernels
    import gpu.report

    return gpu


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
    keys = yaml.safe_load(snippet)["trainer"]
    assert keys["batch_per_device"] == "${at_T:${clip.T},{16:64,32:32,64:16}}"
    assert (keys["compile"], keys["recompute"], keys["workers"]) == (True, False, 12)
    assert "python src/cost.py clip=T32 gpu=H200-141GB share=0.26" in snippet


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
