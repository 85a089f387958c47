"""The hardware of this machine, and the part of it that a run takes."""

import os
import re
from typing import Any

import torch

from .config import TrainerKeys
from .errors import InputError

MOST_WORKERS = 16  # data loading processes of a device if trainer.workers is not given


def rank_zero() -> bool:
    """Return whether this is the first process of a run: it alone prints and writes files."""
    return not any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def cores() -> int:
    """Return how many CPU cores this process may use: those of its SLURM job or container, not of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(config: TrainerKeys) -> int:
    """Return how many devices, so processes, a run takes of each node; 'auto' is one on the CPU."""
    told = config.devices
    if told in ("auto", -1, "-1"):
        return max(torch.cuda.device_count() if config.accelerator != "cpu" else 0, 1)
    if isinstance(told, str) and "," in told:
        told = [device.strip() for device in told.split(",") if device.strip()]
    if isinstance(told, list | tuple) and told and all(re.fullmatch("[0-9]+", str(device)) for device in told):
        return len(told)
    if re.fullmatch("[1-9][0-9]*", str(told)):
        return int(told)
    raise InputError(
        f"trainer.devices={config.devices}: allowed are auto, a number of 1 or more, or devices as in '0,2'"
    )


def world_size(config: TrainerKeys) -> int:
    """Return the number of processes of a run on all its nodes, one for each device."""
    return devices(config) * config.num_nodes


def data_workers(config: TrainerKeys, side_by_side: int = 1) -> int:
    """Return the number of data loading processes of a device: trainer.workers, else its share of the node's cores.

    At most MOST_WORKERS. ``side_by_side`` runs share the node. A SLURM task already has cores of its own.
    """
    if config.workers is not None:
        return config.workers
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and (bound := os.environ.get("SLURM_CPUS_PER_TASK")):
        return min(MOST_WORKERS, int(bound))
    cuda = torch.cuda.device_count() if config.accelerator != "cpu" else 0
    return min(MOST_WORKERS, max(1, cores() // max(cuda, side_by_side, devices(config))))


def on_cuda(config: TrainerKeys) -> bool:
    """Return whether a run uses CUDA: devices are here, and trainer.accelerator allows them."""
    return torch.cuda.is_available() and config.accelerator in ("auto", "cuda", "gpu")


def precision_of(config: TrainerKeys) -> str:
    """Return trainer.precision; if that is auto, bf16-mixed on CUDA and 32-true elsewhere."""
    return ("bf16-mixed" if on_cuda(config) else "32-true") if config.precision == "auto" else config.precision


def lightning_arguments(config: TrainerKeys) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that choose the hardware; InputError if it is not there."""
    if config.accelerator in ("cuda", "gpu") and not on_cuda(config):
        raise InputError(
            f"trainer.accelerator={config.accelerator}: no CUDA device here; trainer=cpu or trainer=auto is allowed"
        )
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
        "precision": precision_of(config),
        "deterministic": config.deterministic,
        "benchmark": not config.deterministic,  # cuDNN tries its convolutions and takes the fastest
        "use_distributed_sampler": False,  # our samplers neither pad nor repeat
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
