"""Runs a task in several processes, as torchrun or Lightning would start the ranks of a group."""

import contextlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch

from stat_video.errors import InputError

# Each rank is forked from a server that has loaded the libraries (that saves five seconds a start) and has run nothing:
# a fork of the tests' own process has whatever an earlier test left in it. Autograd, for one, refuses to run in the
# fork of a process in which it has started threads.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lightning", "hydra", "torchmetrics", "torchvision.transforms.v2", "torch._dynamo"])


def _work(task: bytes, rank: int, ranks: int, port: int, outcomes: Any) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        cloudpickle.loads(task)(rank)
    except InputError as error:
        outcomes.put((rank, error.line))
    except BaseException as error:
        traceback.print_exc()
        outcomes.put((rank, repr(error)))
    else:
        outcomes.put((rank, None))
    finally:
        with contextlib.suppress(AssertionError, ValueError):
            torch.distributed.destroy_process_group()


def on_ranks(task: Callable[[int], Any], ranks: int, seconds: float = 600) -> list[Any]:
    """Run task(rank) in so many processes; return what each raised, or None.

    ``seconds``: limit for what hangs, not for what is slow on a busy machine.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    outcomes = SERVER.SimpleQueue()
    pickled = cloudpickle.dumps(task)
    processes = [SERVER.Process(target=_work, args=(pickled, rank, ranks, port, outcomes)) for rank in range(ranks)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(seconds)
            assert process.exitcode is not None
        return [outcome for _, outcome in sorted((outcomes.get() for _ in processes), key=lambda pair: pair[0])]
    finally:
        for process in processes:
            process.kill()
