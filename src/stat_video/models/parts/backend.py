"""Which of several equal ways the parts of the models compute in, as `torch.backends` says it for PyTorch's own.

All ways give the same numbers but for rounding; which is fastest depends on the device (`make check-gpu`). They are set
once in a process, from `trainer.*`, before a model runs.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run in Python, for tests
TRITON_DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)  # the types of device that they run on
# For attention=auto. cuDNN's kernel, PyTorch's first choice on Hopper, is left out: it gives NaN gradients with a mask
# (pytorch#196678) and for a single query (cudnn-frontend#1072), and models here have both.
WITHOUT_CUDNN = ("efficient", "flash", "math")
AUTO_WINDOW = {"cuda": "masked", "cpu": "masked"}  # the faster of the two on each


@dataclass
class Backend:
    """The ways that are in use."""

    depthwise: str = "pytorch"  # or triton, on CUDA alone: depthwise 3x3x3 convolutions (depthwise.py)
    window: str = "masked"  # or grouped: how STA leaves out neighbours beyond the clip's ends (stat/window.py)
    recompute: bool = True  # compute norms and activations again in the backward pass, and keep less (recompute.py)


BACKEND = Backend()


def choose_kernels(
    device: str, *, attention: str = "auto", window: str = "auto", depthwise: str = "pytorch", in_16_bits: bool = True
) -> dict[str, Any]:
    """Set the ways in which this process computes on a type of device; return them, for results.

    They are PyTorch's kernels of attention on CUDA and those of `BACKEND`, but for its `recompute`, which depends on
    the device's memory. The CPU has its own kernels of attention, which are left as they are.
    """
    if device == "cuda":
        # Named alone, a kernel shares the work with math, which takes what the other can't: flash takes no mask.
        kernels = WITHOUT_CUDNN if attention == "auto" else (attention, "math")
        torch.backends.cuda.enable_cudnn_sdp("cudnn" in kernels)
        torch.backends.cuda.enable_mem_efficient_sdp("efficient" in kernels)
        torch.backends.cuda.enable_flash_sdp("flash" in kernels)
        torch.backends.cuda.enable_math_sdp("math" in kernels)
    else:
        kernels = ("flash", "math")
        # oneDNN 3.12's bf16 gradients of 3-D convolutions are wrong on some CPUs, up to random memory (docs/log.md).
        torch.backends.mkldnn.enabled = not in_16_bits  # type: ignore[assignment]
    BACKEND.window = AUTO_WINDOW[device] if window == "auto" else window
    BACKEND.depthwise = depthwise
    return {"attention": " or ".join(dict.fromkeys(kernels)), "window": BACKEND.window, "depthwise": BACKEND.depthwise}
