"""The hardware of this machine, the part of it that a run takes, and how a run computes on it."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch

from . import slurm_job, together
from .config import Config, TrainerKeys
from .errors import InputError
from .models.count import Uncounted
from .models.deterministic import nondeterministic
from .models.memory import USABLE, StepMemory, step_memory
from .models.parts.backend import choose_kernels
from .progress import say

CPU_CLIPS = 16  # of a pass if trainer.batch_per_device=auto
# On CUDA: 64, 32 and 16 clips of 16, 32 and 64 frames. Such a pass takes a GPU long enough that launching its kernels
# is hidden: 36 ms of a CPU core, against 85 ms of an H100 (estimated from counted operations). More gains nothing then,
# and the loader's batches grow: 154 MB of pixels each.
MOST_FRAMES = 1024


def rank_zero() -> bool:
    """Return whether this is the first process of a run: it alone prints and writes files.

    The launcher's own variable says so, in the order in which Lightning looks for launchers.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names: tuple[str, ...] = ("RANK",)
    elif slurm_job.in_job() and "SLURM_PROCID" in os.environ:
        names = ("SLURM_PROCID",)
    else:
        names = ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")
    return not any(int(os.environ.get(name) or 0) for name in names)


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


def cores_of_task() -> int | None:
    """Return how many cores SLURM promises a task, None if this is not one of several tasks."""
    told = os.environ.get("SLURM_CPUS_PER_TASK") if int(os.environ.get("SLURM_NTASKS", 1)) > 1 else None
    return int(told) if told else None


def cores_of_device(config: TrainerKeys, side_by_side: int = 1) -> int:
    """Return how many of the node's cores each device has; ``side_by_side`` runs share the node.

    A SLURM task has cores of its own, no more than it may use.
    """
    if promised := cores_of_task():
        return min(promised, cores())
    cuda = torch.cuda.device_count() if config.accelerator != "cpu" else 0
    return max(1, cores() // max(cuda, side_by_side, devices(config)))


def data_workers(config: TrainerKeys, side_by_side: int = 1) -> int:
    """Return the number of data loading processes of a device: trainer.workers, else one for each of its cores.

    None is kept for the training process: where it waits for data it needs no core, and elsewhere the workers wait.
    Prints a line if SLURM promises a task more cores than it may use.
    """
    if config.workers is not None:
        return config.workers
    if (promised := cores_of_task()) and promised > cores() and rank_zero():
        say(
            f"SLURM promises {promised} cores a task, and this one may use {cores()}: srun of 22.05 to 23.02 has to be "
            f"told them again, srun --cpus-per-task={promised}"
        )
    return cores_of_device(config, side_by_side)


def on_cuda(config: TrainerKeys) -> bool:
    """Return whether a run uses CUDA: devices are here, and trainer.accelerator allows them."""
    return torch.cuda.is_available() and config.accelerator in ("auto", "cuda", "gpu")


def precision_of(config: TrainerKeys) -> str:
    """Return trainer.precision; if that is auto, bf16-mixed on CUDA and 32-true elsewhere."""
    return ("bf16-mixed" if on_cuda(config) else "32-true") if config.precision == "auto" else config.precision


def in_16_bits(config: TrainerKeys) -> bool:
    """Return whether a run computes in 16 bits."""
    return "16" in precision_of(config)


def lightning_arguments(config: TrainerKeys) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that choose the hardware; InputError if it is not there."""
    if config.accelerator in ("cuda", "gpu") and not on_cuda(config):
        raise InputError(
            f"trainer.accelerator={config.accelerator}: no CUDA device here; trainer=cpu or trainer=auto is allowed"
        )
    if config.precision == "16-mixed" and not on_cuda(config):  # Lightning would compute in bf16 without a word
        raise InputError("trainer.precision=16-mixed: no CUDA device here; bf16-mixed and 32-true are allowed on a CPU")
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": _ddp(config) if world_size(config) > 1 else config.strategy,
        "precision": precision_of(config),
        "deterministic": config.deterministic,
        "benchmark": not config.deterministic,  # cuDNN tries its convolutions and takes the fastest
        "use_distributed_sampler": False,  # our samplers neither pad nor repeat
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }


def check_deterministic(config: Config, num_classes: int) -> None:
    """Raise InputError if trainer.deterministic=true asks CUDA for what it can't compute deterministically."""
    if not (config.trainer.deterministic and on_cuda(config.trainer)):
        return
    if found := nondeterministic(config.model, config.clip, num_classes):
        raise InputError(
            f"trainer.deterministic=true: PyTorch has no deterministic CUDA kernel for {', '.join(found)}, which "
            f"model={config.model.name} trains with; trainer.deterministic=false and trainer=cpu are allowed"
        )


def _ddp(config: TrainerKeys) -> Any:
    """Return the strategy of a run on several devices, whose ranks don't wait for one another without end."""
    from lightning.pytorch.strategies import DDPStrategy  # takes seconds, which scripts without training need not wait

    class Ddp(DDPStrategy):
        def setup_distributed(self) -> None:
            super().setup_distributed()
            together.join(
                self.global_rank, self.world_size, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]),
                config.timeout_minutes, serves=False, children=lambda: getattr(self.launcher, "procs", ()),
            )  # fmt: skip

    # A minute more than ranks may be silent: the line that names a lost rank comes before the errors of collectives.
    return Ddp(timeout=timedelta(minutes=config.timeout_minutes + 1))


@dataclass(frozen=True)
class Pass:
    """How a device computes a pass, of which a step has one or more."""

    clips: int
    recompute: bool  # `BACKEND.recompute`
    needs: StepMemory | None = None  # by which that was chosen; None: all of it was told, or is that of a CPU


def device_memory(config: TrainerKeys) -> int | None:
    """Return the bytes of the smallest CUDA device that is visible; None if a run computes on the CPU."""
    if not on_cuda(config):
        return None
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def choose_pass(config: Config, num_classes: int, memory: float | None, mixed: bool) -> Pass:
    """Return how a device of so many bytes, None for the CPU, computes a training step in mixed precision or fp32.

    `trainer.batch_per_device=auto` is `recipe.norm_clips`, or fewer if those do not fit; else what fits, MOST_FRAMES at
    most, 0 clips if not one fits; on the CPU 16. `trainer.recompute=auto` keeps everything where the clips, or one if
    their number is auto, fit without recomputing; on the CPU it recomputes. Validation and test take as many clips at
    once, and less memory.
    """
    trainer, asked, again = config.trainer, config.trainer.batch_per_device, config.trainer.recompute
    told, of_norm = asked != "auto", config.recipe.norm_clips
    if memory is None:
        return Pass(asked if told else of_norm or CPU_CLIPS, bool(again))  # of 'auto' true
    if "auto" not in (asked, again):
        return Pass(asked, bool(again))
    most = asked if told else of_norm or max(1, MOST_FRAMES // config.clip.T)
    share = max(1, config.recipe.batch_size // world_size(trainer))
    least = min(most, share) if told or of_norm else 1
    for recompute in (False, True) if again == "auto" else (bool(again),):
        copies, checkpointing = config.recipe.copies, trainer.gradient_checkpointing
        needs = step_memory(config.model, config.clip, num_classes, mixed, checkpointing, recompute, copies)
        if (fit := needs.largest_batch(memory)) >= least:
            break
    clips = min(fit, most) if asked == "auto" else asked  # a number stands, even if too large by our count
    return Pass(clips, recompute, needs)


def choose_pass_here(config: Config, num_classes: int) -> Pass:
    """Return how the devices of this machine compute a training step; InputError if not one clip fits into them."""
    memory = device_memory(config.trainer)
    try:
        found = choose_pass(config, num_classes, memory, in_16_bits(config.trainer))
    except Uncounted as error:
        raise InputError(
            f"{error}; trainer.batch_per_device=N and trainer.recompute=true are needed with it"
        ) from error
    if not found.clips and memory and found.needs:
        raise InputError(
            f"trainer.batch_per_device=auto: a step of one clip takes {found.needs.whole(1) / 2**30:.1f} GiB, a device "
            f"has {memory / 2**30:.1f}, {USABLE:.0%} of it usable; trainer.gradient_checkpointing=true takes less, "
            f"and trainer.batch_per_device=1 tries it"
        )
    return found


def choose_backends(config: TrainerKeys) -> dict[str, Any]:
    """Set the ways in which this process computes a forward pass, of several equal ones; return them, for results.

    Raises InputError if a way can't be had here.
    """
    cuda = on_cuda(config)
    if config.attention != "auto":
        _check_attention(config)
    if config.depthwise == "triton" and not (cuda and find_spec("triton")):
        lacks = "triton is not installed" if cuda else "no CUDA device here"
        raise InputError(f"trainer.depthwise=triton: {lacks}; pytorch is allowed")
    return choose_kernels(
        "cuda" if cuda else "cpu",
        attention=config.attention,
        window=config.window,
        depthwise=config.depthwise,
        in_16_bits=in_16_bits(config),
    )


def _check_attention(config: TrainerKeys) -> None:
    """Raise InputError if the kernel that trainer.attention names can't run."""
    if not on_cuda(config):
        raise InputError(f"trainer.attention={config.attention}: no CUDA device here; auto is allowed")
    if config.attention in ("cudnn", "flash") and not in_16_bits(config):
        raise InputError(
            f"trainer.attention={config.attention}: computes in 16 bits alone, not in {precision_of(config)}; "
            f"auto, efficient and math are allowed"
        )
