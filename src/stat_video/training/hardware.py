"""What this machine has, and what a trainer takes of it."""

import os
from typing import Any

import torch

from ..config import Trainer
from ..errors import InputError

MOST_WORKERS = 16  # data loading processes of a device, where nobody says how many


def rank_zero() -> bool:
    """Whether this is the process of a run that speaks and writes; the others belong to it."""
    return not any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def cores() -> int:
    """CPU cores that this process may use: those of a SLURM job or a container, not all of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(config: Trainer) -> int:
    """Devices, so processes, of a node that a run takes; 'auto' on the CPU is one."""
    cuda = torch.cuda.device_count() if config.accelerator != "cpu" else 0
    if config.devices in ("auto", -1, "-1"):
        return max(cuda, 1)
    if isinstance(config.devices, str):
        return len([d for d in config.devices.split(",") if d]) if "," in config.devices else int(config.devices)
    return config.devices if isinstance(config.devices, int) else len(config.devices)


def data_workers(config: Trainer, side_by_side: int = 1) -> int:
    """Data loading processes of a device: as told, else the cores of this node shared out, at most MOST_WORKERS.

    ``side_by_side`` runs share the node. A task of SLURM has its own cores already.
    """
    if config.workers is not None:
        return config.workers
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and (bound := os.environ.get("SLURM_CPUS_PER_TASK")):
        return min(MOST_WORKERS, int(bound))
    cuda = torch.cuda.device_count() if config.accelerator != "cpu" else 0
    return min(MOST_WORKERS, max(1, cores() // max(cuda, side_by_side, devices(config))))


def on_cuda(config: Trainer) -> bool:
    """Whether a run takes CUDA devices: they are here, and wanted."""
    return torch.cuda.is_available() and config.accelerator in ("auto", "cuda", "gpu")


def precision_of(config: Trainer) -> str:
    """As told, else bf16-mixed on CUDA and fp32 elsewhere."""
    return ("bf16-mixed" if on_cuda(config) else "32-true") if config.precision == "auto" else config.precision


def lightning_arguments(config: Trainer) -> dict[str, Any]:
    """Arguments of Lightning's Trainer that say which hardware; InputError where it is not there."""
    if config.accelerator in ("cuda", "gpu") and not on_cuda(config):
        raise InputError(
            f"trainer.accelerator={config.accelerator}: no CUDA device here; trainer=cpu or trainer=auto is allowed"
        )
    strategy: Any = config.strategy
    precision = precision_of(config)
    if strategy == "fsdp":
        from .sharding import make_strategy  # here, since scripts that train nothing need not load Lightning

        strategy, precision = make_strategy(devices(config) * config.num_nodes, precision)
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": strategy,
        "precision": precision,
        "deterministic": config.deterministic,
        "use_distributed_sampler": False,  # ours neither pads nor repeats
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
