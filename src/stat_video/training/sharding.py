"""`trainer=fsdp`: parameters, gradients and optimizer state cut up among the devices (PyTorch's FSDP2), block by block.

What differs from `trainer=ddp`: bf16 casts whole blocks, layer norms with them, where autocast keeps those in fp32;
`recipe.ema` is refused. Checkpoints are the same: whole, plain state dicts in one file.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..config import Trainer
from ..errors import InputError
from .hardware import precision_of
from .module import StatModule

DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16}


def make_strategy(devices: int, precision: str) -> tuple[ModelParallelStrategy, str]:
    """Lightning's strategy and precision; InputError for a precision that is not to be had with it."""
    if precision not in DTYPES:
        raise InputError(
            f"trainer.precision={precision}: with trainer.strategy=fsdp allowed are {', '.join(DTYPES)}, auto"
        )
    strategy = ModelParallelStrategy(
        data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
    )
    return strategy, "32-true"  # the policy of the shards does the casting


class ShardedStatModule(StatModule):
    """A StatModule whose model is cut up when the processes are there."""

    def __init__(self, *arguments: Any, dtype: torch.dtype | None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)

    def configure_model(self) -> None:
        """Lightning calls this in fit and again in the test."""
        if self.device_mesh is None or isinstance(self.model, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=self.policy)
        fully_shard(self.model, mesh=mesh, mp_policy=self.policy)


def make_module(config: Trainer) -> Callable[..., StatModule]:
    """The StatModule that goes with `trainer.strategy`."""
    if config.strategy != "fsdp":
        return StatModule
    return partial(ShardedStatModule, dtype=DTYPES[precision_of(config)])
