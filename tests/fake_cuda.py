"""CUDA without a GPU: tensors that know their shape, type and device `cuda:0`, and hold no numbers.

`FakeCuda` is a FakeTensorMode for CUDA alone. What the host draws or loads are real tensors on the CPU, so code that
needs their values runs. In the place of CUDA's kernels stand PyTorch's own rules for shapes, types and devices, which
refuse operands on different devices. A number of the device that the host reads is 0, and noted with the line that
read it.

PyTorch has to be a build for CUDA. Its C++ asks the driver how many devices there are, which a library answers that
`preload` compiles; it returns the environment in which a process that uses `FakeCuda` is to be started.
"""

import ctypes
import os
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.cuda.amp.common
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
LIBRARY = "FAKE_CUDA_LIBRARY"  # the variable that names the compiled library
COUNT = 120  # devices that autograd is shown: no fewer than PyTorch's guard for fake devices has
DEVICES = """
static int count = 0;
extern "C" void set_devices(int n) { count = n; }
extern "C" signed char _ZN3c104cuda12device_countEv() { return count; }
extern "C" signed char _ZN3c104cuda28device_count_ensure_non_zeroEv() { return count; }
"""
DRIVER = """
extern "C" int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { *flags = 0; *active = 0; return 0; }
"""
OURS = f"{os.sep}stat_video{os.sep}"


def lacking() -> str | None:
    """Return why there can be no fake CUDA here, None if there can."""
    if not torch.backends.cuda.is_built():
        return "PyTorch is not built for CUDA"
    if torch.cuda.is_available():
        return "real CUDA devices are here"
    return None if shutil.which("g++") else "no g++, which compiles what stands in for the driver"


def preload(folder: Path) -> dict[str, str]:
    """Compile what stands in for the driver; return the variables of a process that uses it."""
    (driver := folder / "driver").mkdir(parents=True)
    devices = folder / "devices.so"
    for library, source, name in ((devices, DEVICES, devices.name), (driver / "libcuda.so.1", DRIVER, "libcuda.so.1")):
        command = ["g++", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(library), "-x", "c++", "-"]
        subprocess.run(command, input=source, text=True, check=True)
    return {"LD_PRELOAD": str(devices), "LD_LIBRARY_PATH": str(driver), LIBRARY: str(devices)}


class FakeCuda(FakeTensorMode):
    """Tensors of CUDA are fake inside, those of the CPU real; `reads` are the host's readings of CUDA's numbers."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.reads: list[str] = []
        self.library = ctypes.CDLL(os.environ[LIBRARY])
        self.shown = 0

    def __deepcopy__(self, memo: Any) -> "FakeCuda":
        return self  # a copy of a fake tensor asks for it

    @contextmanager
    def devices(self, count: int) -> Iterator[None]:
        """Show PyTorch's C++ so many devices."""
        before, self.shown = self.shown, count
        self.library.set_devices(count)
        try:
            yield
        finally:
            self.shown = before
            self.library.set_devices(before)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fakes = any(isinstance(x, FakeTensor) for x in leaves)
        on_cuda = fakes or any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves)
        meta = any(isinstance(x, Tensor) and x.is_meta and not isinstance(x, FakeTensor) for x in leaves)
        if meta or not on_cuda:
            return function(*args, **kwargs)
        name = function.__name__.partition(".")[0]
        if fakes and name in ("_local_scalar_dense", "is_nonzero", "equal"):
            self._note(name)
            return False if name != "_local_scalar_dense" else 0.0 if args[0].is_floating_point() else 0
        if fakes and name == "_to_copy" and kwargs.get("device", DEVICE).type == "cpu":
            if not kwargs.get("non_blocking"):
                self._note("copy to the host")
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if fakes and name == "_fused_sgd_":  # in place, and without a rule for fake tensors
            assert all(x.device.type == "cuda" for x in leaves if isinstance(x, Tensor))
            return None
        if not fakes and name in ("to", "_to_copy"):
            with self:
                return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=DEVICE)
        with self.devices(0):  # C++ that sees devices would ask them
            return super().__torch_dispatch__(function, types, args, kwargs)

    def _note(self, name: str) -> None:
        ours = [f for f in traceback.extract_stack() if OURS in f.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "PyTorch or Lightning"
        self.reads.append(f"{name} in {where}")


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Let CUDA be fake inside: for PyTorch's Python, autograd and Lightning it is there."""
    mode = FakeCuda()
    engine = torch.autograd.graph.Variable._execution_engine  # type: ignore[attr-defined]

    class Engine:
        def run_backward(self, *args: Any, **kwargs: Any) -> Any:
            with mode.devices(COUNT):
                return engine.run_backward(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

    stubs: dict[tuple[Any, str], Any] = {
        (torch.autograd.graph.Variable, "_execution_engine"): Engine(),
        (torch.cuda.amp.common, "amp_definitely_not_available"): lambda: False,
        (torch.cuda, "_lazy_init"): lambda: None,
        (torch.cuda, "is_available"): lambda: False,  # else PyTorch's rules for fake tensors ask the device
        (torch.cuda, "device_count"): lambda: 0,
        (torch.cuda, "manual_seed"): lambda seed: None,
        (torch.cuda, "is_bf16_supported"): lambda *_, **__: True,
        (torch.cuda, "current_stream"): lambda *_: Stream(),
        (Tensor, "pin_memory"): lambda self, *_: self,
    }
    before = {place: getattr(*place) for place in stubs}
    for (owner, name), stub in stubs.items():
        setattr(owner, name, stub)
    try:
        with mode:
            yield mode
    finally:
        for (owner, name), original in before.items():
            setattr(owner, name, original)


class Stream:
    """A stream that has always done all its work."""

    def record_event(self) -> "Stream":
        """Return an event."""
        return self

    def synchronize(self) -> None:
        """Wait for nothing."""
