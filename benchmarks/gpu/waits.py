"""Phase 3: where a training step has the CPU wait for the device; each wait with the line of ours that causes it.

On a CPU nothing waits; in its place every reading of a tensor's value is counted, which on CUDA would be a wait.
"""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .measure import clips, device_here, sizes_of, stat_of, training_step
from .report import Report

STEPS = 4
OF_THE_LOOP = 2  # a step: checks that all ranks do together, and Lightning's logging
OURS = str(Path(__file__).parents[2] / "src")
READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}


def run(report: Report) -> None:
    """Count the waits of the model's own step, then of a step of VideoModule in Lightning's loop."""
    device, sizes = device_here(), sizes_of(report.settings.tiny)
    report.doing("model, loss and AdamW")
    T = min(sizes.window)
    model = stat_of(sizes, T).train().to(device)
    step = training_step(model, [clips(sizes, T, sizes.batches[T][0], device)], mixed=device.type == "cuda")
    step()
    with counted(device) as waits:
        for _ in range(STEPS):
            step()
    report.check("model, loss and AdamW: waits in 4 steps", sum(waits.values()), 0)
    for where, times in waits.most_common():
        report.note(f"{times} x {where}")
    report.doing("Lightning's loop")
    try:
        from .lightning_steps import Steps
    except ModuleNotFoundError as error:
        report.note(f"Lightning's loop: skipped: no {error.name}")
        return
    steps = Steps(report.settings, sizes, batch=2 if report.settings.tiny else 16)
    with counted(device) as waits:
        waits.enabled = False
        steps.run(STEPS + 3, lambda done: setattr(waits, "enabled", 2 <= done < 2 + STEPS))  # the ends are not steps
    inside = sum(times for where, times in waits.items() if "training_step" in where)
    report.check("Lightning's loop: waits inside training_step, 4 steps", inside, 0)
    others = (sum(waits.values()) - inside) / STEPS
    report.check("Lightning's loop: other waits, a step", others, OF_THE_LOOP)
    for where, times in waits.most_common():
        report.note(f"Lightning's loop: {times} x {where}")


class Waits(Counter[str]):
    """How often the CPU waited, by the line of ours that caused it, while `enabled`."""

    enabled = True

    def note(self) -> None:
        """Count a wait that the code which calls this causes."""
        if self.enabled:
            stack = traceback.extract_stack()[:-2]
            ours = [f for f in stack if f.filename.startswith(OURS)]
            last = ours[-1] if ours else [f for f in stack if "/torch/" not in f.filename][-1]
            within = " in training_step" if any(f.name == "training_step" for f in ours) else ""
            self[f"{Path(last.filename).name}:{last.lineno} {last.name}{within}"] += 1


@contextmanager
def counted(device: torch.device) -> Iterator[Waits]:
    """Yield what counts the waits inside the block."""
    waits = Waits()
    if device.type != "cuda":
        with Reads(waits):
            yield waits
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning
        warnings.showwarning = lambda message, *about: (
            waits.note() if "called a synchronizing" in str(message) else show(message, *about)
        )
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Reads(TorchDispatchMode):
    """Counts the operators that hand a tensor's value to Python."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__.partition(".")[0] in READS:
            self.waits.note()
        return function(*args, **(kwargs or {}))
