"""Which of several equal ways the parts of the models compute in, as `torch.backends` says it for PyTorch's own.

All ways give the same numbers but for rounding; which is fastest depends on the device (`make check-gpu`). They are set
once in a process, from `trainer.*`, before a model runs.
"""

import os
from dataclasses import dataclass

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run in Python, for tests
TRITON_DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)  # the types of device that they run on


@dataclass
class Backend:
    """The ways that are in use."""

    depthwise: str = "pytorch"  # or triton, on CUDA alone: depthwise 3x3x3 convolutions (depthwise.py)
    window: str = "masked"  # or grouped: how STA leaves out neighbours beyond the clip's ends (stat/window.py)
    recompute: bool = True  # compute norms and activations again in the backward pass, and keep less (recompute.py)


BACKEND = Backend()
