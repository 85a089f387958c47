"""`trainer=fsdp`: parameters, gradients and optimizer state cut up among the devices (PyTorch's FSDP2), block by block.

What differs from `trainer=ddp`: bf16 casts whole blocks, layer norms with them, where autocast keeps those in fp32;
`recipe.ema` is refused. Checkpoints are the same: whole, plain state dicts in one file.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

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
    strategy = Sharded(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)
    return strategy, "32-true"  # the policy of the shards does the casting


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with the optimizer's state in the checkpoint as without it.

    NOTE: Lightning numbers the state by the order of the model's parameters, not by that of the optimizer's groups as
    PyTorch does, so that a run would go on with moments of other parameters where it goes on without FSDP.
    """

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As `Optimizer.state_dict` has it, whole, on the first rank."""
        state = super().optimizer_state(optimizer)
        if self.global_rank == 0:
            order = [number for group in state["param_groups"] for number in group["params"]]
            state["state"] = {i: state["state"][number] for i, number in enumerate(order) if number in state["state"]}
            numbers = iter(range(len(order)))
            for group in state["param_groups"]:
                group["params"] = [next(numbers) for _ in group["params"]]
        return state

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Weights and optimizer state into the shards; returns the content for the rest of it."""
        content = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True)
        assert self.model is not None
        set_model_state_dict(self.model, content["state_dict"], options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, saved in zip(self.optimizers, content.get("optimizer_states", []), strict=False):
            groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
            order = [name for group in groups for name in group]
            by_name: dict[str, Any] = {
                "state": {order[i]: values for i, values in saved["state"].items()},
                "param_groups": [{**g, "params": n} for g, n in zip(saved["param_groups"], groups, strict=True)],
            }
            set_optimizer_state_dict(self.model, optimizer, by_name, options=options)
        return content


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
