"""The kernels in Triton: interpreted on a CPU, traced as torch.compile would on CUDA, and compiled for two GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from stat_video.models.parts import depthwise_triton  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_interpreted_they_are_pytorchs_convolution():
    """In a process of its own, since Triton decides it where a kernel is defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/interpreted_depthwise.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_models_need_no_triton():
    code = "import sys, stat_video.models.stat, stat_video.models.x3d; sys.exit('triton' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": "src"}
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment).returncode == 0


class Hopper:
    """As much of a driver as tracing asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_traced_on_cuda_each_operator_is_a_kernel_that_changes_its_result_alone(dynamic, monkeypatch):
    """A kernel whose accesses Triton's analysis cannot follow would count as changing its inputs."""
    monkeypatch.setattr(triton.runtime.driver, "_active", Hopper())
    graphs = []

    def note(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    backend = aot_autograd(fw_compiler=note)
    with FakeTensorMode():
        qkv = torch.empty(2, 3, 50, 3 * 24, device="cuda", dtype=torch.bfloat16)
        tokens = qkv[:, :, 1:, 24:48].unflatten(2, (7, 7))
        weight, taps = torch.empty(24, 1, 3, 3, 3, device="cuda"), torch.empty(27, 24, device="cuda")
        grad = torch.empty(2, 3, 4, 4, 24, device="cuda", dtype=torch.bfloat16)
        calls = (
            (depthwise_triton.depthwise_conv3d, (tokens.permute(0, 4, 1, 2, 3), weight, 2)),
            (depthwise_triton._gradient_of_x, (grad, taps, 2, 7, 7)),
            (depthwise_triton._gradient_of_taps, (grad, tokens, 2)),
        )
        for call, args in calls:
            torch._dynamo.reset()
            torch.compile(call, backend=backend, fullgraph=True, dynamic=dynamic)(*args)
    assert [code.count("triton_kernel_wrapper_functional(") for code in graphs] == [1, 1, 1]
    changed = [re.findall(r"tensors_to_clone = \[(.*?)\]", code) for code in graphs]
    assert changed == [["'y'"], ["'grad_x'"], ["'sums'"]]
    if not dynamic:  # sizes are written out: those of tokens as they lie, with no copy before the kernel
        strides = ["'sb': 10800", "'st': 3600", "'sh': 504", "'sw': 72"]
        assert all(stride in graphs[0] and stride in graphs[2] for stride in strides)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("name", ["_forward", "_backward_x", "_backward_taps"])
def test_compiled_for_a_gpu_they_read_16_bytes_at_once_and_spill_nothing(name, stride, capability, tmp_path):
    """By the assembler that comes with Triton; so many registers leave room for 4 programs of 128 threads and more."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    kernel = getattr(depthwise_triton, name)
    pointers = {"x": "*bf16", "y": "*bf16", "grad": "*bf16", "grad_x": "*bf16", "taps": "*fp32", "sums": "*fp32"}
    sizes = {"S": stride, "P": depthwise_triton.PLACES, "BC": depthwise_triton.CHANNELS}
    kinds = {arg: "constexpr" if arg in sizes else pointers.get(arg, "i32") for arg in kernel.arg_names}
    whole = [i for i, arg in enumerate(kinds) if arg in pointers or arg in ("C", "sb", "st", "sh", "sw")]
    source = ASTSource(kernel, kinds, sizes, {(i,): [["tt.divisibility", 16]] for i in whole})
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"])

    def tool(*options: str) -> str:
        return subprocess.run([tools / "cuobjdump", *options, binary], capture_output=True, text=True).stdout

    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", tool("--dump-resource-usage")).groups())
    loads = re.findall(r"LDG\.\S+", tool("-sass"))
    assert stack == 0
    assert registers <= 128
    assert loads
    assert all(".128" in load for load in loads)
