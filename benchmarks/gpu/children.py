"""Runs of `fit` in processes forked from this one, which has the libraries loaded and has not touched CUDA."""

import csv
import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer of a process would import, in each child anew

from stat_video.compose import rows
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.training.fit import fit

OF_THE_CLOCK = ("seconds", "train/data_wait")


def forked(task: Callable[[int], Any], ranks: int = 1, seconds: float = 120) -> list[int]:
    """Run task(rank) in so many processes as Lightning would start them; return their exit codes, -s for signal s.

    What raises InputError exits with 2, as the scripts do.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        if ranks > 1:
            place = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update(place)
        try:
            task(rank)
        except InputError as error:
            print(f"error: {error.line}", flush=True)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    processes = [context.Process(target=work, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [int(process.exitcode or 0) for process in processes]


class Place:
    """The folders and the words of a phase's runs: tiny STATs on a few of the built-in motion videos."""

    def __init__(self, work: Path, steps: int, batch: int, device: str, more: Sequence[str] = ()) -> None:
        """``steps``: of a whole run of two epochs, at least. Equal runs on a device are run once, as always."""
        self.work = work / device
        videos = 12 * -(-steps * batch // 2 // 12)
        self.words = [
            "scale=tiny", f"data.motion.train_videos={videos}", "data.motion.val_videos=12", "data.motion.frames=24",
            "recipe.epochs=2", f"recipe.batch_size={batch}", "trainer.workers=0", "logger=off",
            f"folders.built_in={work / 'data'}", *more,
        ]  # fmt: skip
        self.trainer = "trainer=gpu" if device == "cuda" else "trainer=cpu"

    def config(self, name: str, *words: str) -> Config:
        """Return the config of a run whose logs are in a folder of that name."""
        (work := self.work / name).mkdir(parents=True, exist_ok=True)
        (row,) = rows("train", Config, [*self.words, self.trainer, f"folders.logs={work}", *words])
        config: Config = row.config
        return config

    def fit(self, name: str, *words: str, ranks: int = 1, before: Callable[[int], Any] | None = None) -> list[int]:
        """Train and test in processes of their own; return the exit codes. ``before(rank)`` is called in each first."""
        config = self.config(name, *words)

        def task(rank: int) -> None:
            if before is not None:
                before(rank)
            fit(config)

        return forked(task, ranks)

    def file(self, name: str, pattern: str) -> Path | None:
        """Return the first file of a run that matches, None if there is none."""
        return next(iter(sorted((self.work / name).rglob(pattern))), None)


def content(place: Place, name: str) -> dict[str, Any]:
    """Return all that a finished run leaves, without what a clock says; {} if it did not finish."""
    paths = {
        pattern: place.file(name, pattern) for pattern in ("last.ckpt", "epochs.csv", "logits_*.pt", "result.json")
    }
    if None in paths.values():
        return {}
    checkpoint = torch.load(str(paths["last.ckpt"]), weights_only=True, map_location="cpu")
    with Path(str(paths["epochs.csv"])).open() as file:
        lines = [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in csv.DictReader(file)]
    logits = torch.load(str(paths["logits_*.pt"]), weights_only=True, map_location="cpu")
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"][0]["state"],
        "epochs": lines,
        "logits": logits["logits"],
        "metrics": json.loads(Path(str(paths["result.json"])).read_text())["metrics"],
    }


def same(one: Any, two: Any) -> bool:
    """Return whether two results are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


def largest_difference(one: Any, two: Any) -> float:
    """Return the largest difference of two weights of the same names."""
    return max((float((one[name] - two[name]).abs().max()) for name in one if one[name].numel()), default=float("inf"))
