"""What vendors print of their GPUs, and the share of it that a training reaches: `conf/gpus.yaml`."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import yaml

from ..errors import InputError
from ..paths import CONF

GPUS = CONF / "gpus.yaml"
KINDS = ("bf16", "fp16", "fp32")


@dataclass(frozen=True)
class GPU:
    """One kind of GPU; peak rates in TFLOP/s, dense."""

    name: str
    bf16: float | None
    fp16: float
    fp32: float
    memory: float  # GiB
    share: float  # of the peak that a training step reaches: an estimate
    source: str

    def kind(self, precision: str) -> str:
        """Which of KINDS a value of trainer.precision computes in; InputError where the GPU has none such.

        'auto' is what a run would take on it: bf16, on a GPU without it fp16.
        """
        if precision == "auto":
            return "fp16" if self.bf16 is None else "bf16"
        kind = {"bf16": "bf16", "16": "fp16", "32": "fp32"}.get(precision.split("-")[0])
        if kind is None:
            raise InputError(f"trainer.precision={precision}: costs are known for auto, 32-true, 16-mixed, bf16-mixed")
        if getattr(self, kind) is None:
            raise InputError(f"trainer.precision={precision}: a {self.name} has no {kind}; 16-mixed is allowed")
        return kind

    def rate(self, precision: str) -> float:
        """Peak, additions and multiplications a second."""
        return 1e12 * float(getattr(self, self.kind(precision)))

    @property
    def bytes(self) -> float:
        """Of its memory."""
        return self.memory * 2**30


def find_gpu(name: str, path: Path = GPUS) -> GPU:
    """The GPU of that name; InputError names those there are."""
    known = _read(path)
    if name not in known:
        raise InputError(f"gpu={name}: allowed are {', '.join(known)} (conf/gpus.yaml; add a line for another)")
    return known[name]


@cache
def _read(path: Path) -> dict[str, GPU]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        gpus = {name: GPU(name, **values) for name, values in content.items()}
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        allowed = ", ".join(f.name for f in fields(GPU) if f.name != "name")
        raise InputError(f"{path}: a line a GPU with {allowed} is allowed: {' '.join(str(error).split())}") from None
    for gpu in gpus.values():
        numbers = (gpu.fp16, gpu.fp32, gpu.memory, *([] if gpu.bf16 is None else [gpu.bf16]))
        if not all(isinstance(n, int | float) and n > 0 for n in numbers):
            raise InputError(f"{path}: {gpu.name}: rates and memory are numbers above 0")
        if not (isinstance(gpu.share, int | float) and 0 < gpu.share <= 1):
            raise InputError(f"{path}: {gpu.name}: share={gpu.share}: above 0 to 1 is allowed")
    return gpus
