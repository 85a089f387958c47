"""The place of this process among those of a run, as the launcher around it tells by environment variables."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from .. import together
from ..errors import InputError, in_a_line
from ..hardware import world_size
from ..slurm_job import in_job
from .frozen import PARENT

RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
COUNTS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "MASTER_PORT")
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class Launched:
    """The place that torchrun or srun gave this process."""

    by: str
    rank: int
    world_size: int
    address: str
    port: int
    serves: bool  # whether this process has the server of the ranks' store


def check_variables() -> None:
    """Raise InputError if the variables of a launcher are not numbers, or are left over from another run."""
    for name in RANKS + COUNTS:
        value = os.environ.get(name)
        if value is not None and not value.isdecimal():
            raise InputError(f"environment variable {name}={value}: must be a number; unset {name}")
    if "TORCHELASTIC_RUN_ID" in os.environ or (in_job() and "SLURM_PROCID" in os.environ) or PARENT in os.environ:
        return
    by_hand = "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ  # Lightning's variables, set on each node
    left = [name for name in ("LOCAL_RANK", "NODE_RANK") if name in os.environ and not by_hand]
    left += [name for name in RANKS if name not in ("LOCAL_RANK", "NODE_RANK") and os.environ.get(name, "0") != "0"]
    _refuse([name for name in left if os.environ[name] != "0" or name == "LOCAL_RANK"])


def check_place(config: Any) -> None:
    """Raise InputError if the variables that place this process do not fit its config."""
    trainer = getattr(config, "trainer", None)
    if PARENT in os.environ or launched_by() is not None:
        return
    ranks = 1 if trainer is None else world_size(trainer)
    nodes = 1 if trainer is None else trainer.num_nodes
    placed = {name: int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK")}
    if placed["NODE_RANK"] >= nodes or placed["LOCAL_RANK"] >= ranks // nodes:
        _refuse([name for name, value in placed.items() if value])


def _refuse(left: list[str]) -> None:
    if left:
        told = ", ".join(f"{name}={os.environ[name]}" for name in left)
        raise InputError(
            f"environment variable {told}: says that this is one process of several, but neither torchrun nor srun has "
            f"started it; unset {' '.join(left)}"
        )


def launched_by() -> str | None:
    """Return which launcher has started this process as one of several: torchrun or srun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
    if in_job() and "SLURM_PROCID" in os.environ and int(os.environ["SLURM_NTASKS"]) > 1:
        return "srun"
    return None


def launched() -> Launched | None:
    """Return the place that torchrun or srun gave this process; None if it is alone, or starts the others itself."""
    by = launched_by()
    if by is None:
        return None
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    try:
        place = TorchElasticEnvironment() if by == "torchrun" else SLURMEnvironment()
        rank, served = place.global_rank(), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return Launched(
            by, rank, place.world_size(), place.main_address, place.main_port, rank == 0 and not served
        )  # fmt: skip
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"started by {by}: {in_a_line(error)}") from None


def keep_together(config: Any) -> None:
    """Join the other ranks that torchrun or srun has started, so that none waits for one that has ended.

    Raises InputError if their number is not that of the config, or this host has no address for the others.
    """
    trainer = getattr(config, "trainer", None)
    if trainer is None:
        return
    place = launched()
    if place is not None:
        together.join(
            place.rank, place.world_size, place.address, place.port, trainer.timeout_minutes, serves=place.serves
        )
        if place.world_size != world_size(trainer):
            raise InputError(
                f"{place.by} has started {place.world_size} processes; trainer.devices={trainer.devices} and "
                f"trainer.num_nodes={trainer.num_nodes} are {world_size(trainer)}"
            )
    if trainer.num_nodes > 1:
        check_address(place.address if place else os.environ.get("MASTER_ADDR", ""))


def check_address(first: str) -> None:
    """Raise InputError if this host's name leads to itself alone, by which gloo would tell the others where it is.

    ``first`` is the first node's address. A loopback address there means that all nodes are this machine.
    """
    if is_loopback(first) or any(os.environ.get(name) for name in INTERFACES[:1]):
        return
    name = socket.gethostname()
    if not is_loopback(name):
        return
    cards = [card for _, card in socket.if_nameindex() if card != "lo"]
    raise InputError(
        f"this host's name {name} resolves to {_address(name)}, where other hosts can't reach it: export "
        f"GLOO_SOCKET_IFNAME=CARD, the network card between the hosts (here are {', '.join(cards) or 'none'}), and "
        f"NCCL_SOCKET_IFNAME=CARD, or give the name its address in /etc/hosts"
    )


def _address(name: str) -> str | None:
    try:
        return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
    except OSError:
        return None


def is_loopback(name: str) -> bool:
    """Return whether a host's name or address is this machine's loopback."""
    address = _address(name) if name else None
    return address is not None and (address.startswith("127.") or address == "::1")
