"""Phase 0: which machine this is, and the rates that later figures are seen against."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from .measure import Work, device_here, in_turns
from .report import Report

LOADER_BYTES = 2 * 64 * 16 * 3 * 224 * 224  # /dev/shm of a data worker: two batches of 64 clips of 16 frames


def run(report: Report) -> None:
    """Record the machine; check that the data workers have the shared memory that they need."""
    device, tiny = device_here(), report.settings.tiny
    machine = about(device)
    report.found(machine=machine)
    if device.type == "cuda":
        shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
        needed = LOADER_BYTES * machine["cores"]
        report.check("/dev/shm for a data worker a core, GiB", shm / 2**30, needed / 2**30, at_least=True, kind="floor")
    rates(report, device, tiny)


def about(device: torch.device) -> dict[str, Any]:
    """Return what is recorded of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine: dict[str, Any] = {
        "device": device.type,
        "gpu": None,
        "gpus": 0,
        "memory_gib": None,
        "cores": cores,
        "ram_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
    }
    if Path("/dev/shm").is_dir():
        machine["shm_gib"] = round(shutil.disk_usage("/dev/shm").total / 2**30, 2)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": properties.name,
            "gpus": torch.cuda.device_count(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "driver": driver(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else None,
        }
    return machine


def driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def rates(report: Report, device: torch.device, tiny: bool) -> None:
    """Measure the device's own rates: copy, matrix product, transfer from pinned memory."""
    report.doing("rates")
    n, size = (256, 2**20) if tiny else (8192, 2**31)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    here = torch.empty(size // 4, dtype=torch.uint8).random_()
    pinned = here.pin_memory() if device.type == "cuda" else here
    works: dict[str, Work] = {
        f"matrix product {n}, bf16": lambda: a @ b,
        "copy on the device": lambda: target.copy_(source),
        "transfer to the device": lambda: target[: len(pinned)].copy_(pinned, non_blocking=True),
    }
    # Additions and multiplications; bytes that are read and written; bytes that are sent.
    done = dict(zip(works, (2 * n**3, 2 * size, len(pinned)), strict=True))
    units = {"matrix product": ("TFLOP/s", 1e12), "copy": ("TB/s", 1e12), "transfer": ("GB/s", 1e9)}
    for name, times in in_turns(works, 10, 3, device, report).items():
        unit, scale = next(u for begins, u in units.items() if name.startswith(begins))
        report.figure(name, [done[name] / (ms / 1e3) / scale for ms in times.device], unit)
    report.found(matmul_flops=1e12 * report.result["figures"][f"matrix product {n}, bf16"]["median"])
