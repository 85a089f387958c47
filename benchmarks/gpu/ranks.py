"""Phase 7: several processes: the same step as one, all stop when one is asked to, and how fast they agree.

On several GPUs by NCCL. With one GPU: NCCL with one process, gloo with two on the CPU. This process forks, so it must
not touch CUDA itself.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from stat_video.training.module import VideoModule

from .children import Place, content, forked, largest_difference
from .measure import FULL, TINY_WORDS, clips, error, stat_of, training_step
from .report import Report

GRADIENT = 1e-3  # |difference| / |gradient|, where the convolutions may be TF32's
WEIGHTS = 2e-5  # largest difference of a weight after two epochs; a step moves it by up to 7.5e-5
EFFICIENCY = 0.9
REDUCED = 44_300_000  # numbers of STAT's gradients, 177 MB


def run(report: Report) -> None:
    """Check what ranks do, then measure."""
    cuda = report.result["found"]["device"] == "cuda"
    gpus = int(report.settings.found(0, "machine", {}).get("gpus", 0)) or int(cuda)
    on_gpus = cuda and gpus > 1
    # What WEIGHTS is said for, whatever the recipe of the tiny tables.
    recipe = ["recipe.lr=3.0e-4", "recipe.lr_batch=16", "recipe.betas=[0.9,0.999]", "recipe.schedule=cosine"]
    recipe += ["recipe.warmup_epochs=0.5", "model.pos_std=0.02"]
    exact = ["trainer.deterministic=true", "trainer.precision=32-true", *recipe, *TINY_WORDS]
    place = Place(report.settings.work, 8, 4, "cuda" if on_gpus else "cpu", exact)
    two = ("trainer=ddp" if on_gpus else "trainer=ddp_cpu", "trainer.devices=2", "trainer.workers=0")
    report.note(f"two ranks by {'NCCL' if on_gpus else 'gloo'}")
    one_step(report, place, two)
    stopped(report, place, two)
    if cuda and not report.settings.tiny:
        compiled(report, Place(report.settings.work, 8, 4, "cuda"), ("trainer=ddp", "trainer.devices=1"))
    else:
        report.note("compile + ddp: left out on a CPU")
    reduced(report, "nccl" if cuda else "gloo", max(1, gpus) if cuda else 2)
    if on_gpus and not report.settings.tiny:
        efficiency(report, gpus)
    else:
        report.note("efficiency: needs two GPUs")


def one_step(report: Report, place: Place, two: tuple[str, ...]) -> None:
    """A step of two ranks changes the weights as one process does."""
    report.doing("one step of one and of two ranks")
    words = ("recipe.max_steps=1", "recipe.warmup_epochs=0", "recipe.lr=1e-5", "recipe.lr_batch=4")
    codes = place.fit("one", *words) + place.fit("two", *words, *two, ranks=2)
    report.check(f"one step: exit codes {codes}", None, None, ok=codes == [0, 0, 0])
    if codes == [0, 0, 0]:
        one, both = content(place, "one"), content(place, "two")
        gradient, expected = (
            torch.cat([of["exp_avg"].flatten() for of in c["optimizer"].values()]) for c in (both, one)
        )
        report.check("a step's gradient of two ranks = one's", error(gradient, expected), GRADIENT)


def stopped(report: Report, place: Place, two: tuple[str, ...]) -> None:
    """SIGTERM to the second rank saves and stops both; one process goes on from there as if nothing had been."""
    report.doing("SIGTERM to one of two ranks")

    def trap(rank: int) -> None:
        step, left = VideoModule.training_step, iter(range(4))

        def asked(*args: Any) -> Any:
            if next(left, None) == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*args)

        VideoModule.training_step = asked  # type: ignore[method-assign]

    codes = place.fit("stopped", *two, ranks=2, before=trap)
    saved = place.file("stopped", "last.ckpt") is not None
    asked = 128 + signal.SIGTERM
    name = f"SIGTERM to one rank: both stop (exit codes {codes}) and the state is saved"
    report.check(name, None, None, ok=codes == [asked, asked] and saved)
    if not saved:
        return
    report.doing("going on on one rank")
    codes = place.fit("stopped") + place.fit("whole on one")
    report.check(f"going on: exit codes {codes}", None, None, ok=codes == [0, 0])
    if codes == [0, 0]:
        one, both = content(place, "whole on one"), content(place, "stopped")
        apart = largest_difference(one["weights"], both["weights"])
        report.check("begun on two ranks, ended on one = all on one", apart, WEIGHTS)
        steps = [[row["step"] for row in c["epochs"]] for c in (one, both)]
        report.check(f"begun on two ranks, ended on one: steps {steps[1]}", None, None, ok=steps[0] == steps[1])


def compiled(report: Report, place: Place, ddp: tuple[str, ...]) -> None:
    """A compiled model under DDP comes to its end, near the eager one."""
    if report.left < 30:
        report.note("compile + ddp: left out, no time")
        return
    report.doing("compile + ddp")
    words = ("recipe.max_steps=4", "recipe.lr=1e-5", *ddp, "trainer.strategy=ddp", "trainer.precision=32-true")
    codes = place.fit("compiled", *words, "trainer.compile=true") + place.fit("eager", *words)
    report.check(f"compile + ddp: exit codes {codes}", None, None, ok=codes == [0, 0])
    if codes == [0, 0]:
        weights = [content(place, name)["weights"] for name in ("compiled", "eager")]
        report.check("compile + ddp = eager", largest_difference(*weights), WEIGHTS)


def reduced(report: Report, how: str, ranks: int) -> None:
    """Measure all_reduce of as many bytes as STAT has gradients."""
    if report.left <= 0:
        report.note("all_reduce: left out, no time")
        return
    report.doing(f"all_reduce, {ranks} ranks, {how}")
    file = report.settings.work / "all_reduce.json"
    count = 100_000 if report.settings.tiny else REDUCED

    def measure(rank: int) -> None:
        device = start(rank, ranks, how)
        numbers = torch.randn(count, device=device)
        times = []
        for i in range(25):
            if device.type == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
            torch.distributed.all_reduce(numbers)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i >= 5:
                times.append(time.perf_counter() - begun)
        if rank == 0:
            file.write_text(json.dumps(times))

    if forked(measure, ranks) != [0] * ranks:
        report.check("all_reduce: comes to its end", None, None, ok=False)
        return
    rates = [4e-9 * count / seconds for seconds in json.loads(file.read_text())]
    report.figure(f"all_reduce of {4e-6 * count:.0f} MB, {ranks} ranks, {how}", rates, "GB/s")


def start(rank: int, ranks: int, how: str) -> torch.device:
    """Join the group; return this rank's device."""
    if ranks == 1:
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    torch.distributed.init_process_group(how, rank=rank, world_size=ranks)
    device = torch.device("cuda", rank) if how == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def efficiency(report: Report, gpus: int) -> None:
    """Measure clips a second of STAT's step under DDP on 1, 2 and all GPUs."""
    speeds: dict[int, float] = {}
    T, batch = 16, 16
    for ranks in sorted({1, 2, gpus}):
        if report.left < 10:
            report.note(f"efficiency on {ranks} GPUs: left out, no time")
            return
        report.doing(f"a step on {ranks} GPUs")
        file = Path(report.settings.work / f"steps_{ranks}.json")

        def measure(rank: int, ranks: int = ranks, file: Path = file) -> None:
            device = start(rank, ranks, "nccl")
            model: Any = stat_of(FULL, T).train().to(device)
            if ranks > 1:
                model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
            step = training_step(model, [clips(FULL, T, batch, device) for _ in range(2)])
            for i in range(25):
                if i == 5:
                    torch.cuda.synchronize()
                    begun = time.perf_counter()
                step()
            torch.cuda.synchronize()
            if rank == 0:
                file.write_text(json.dumps(20 * batch * ranks / (time.perf_counter() - begun)))

        if forked(measure, ranks) != [0] * ranks:
            report.check(f"a step on {ranks} GPUs: comes to its end", None, None, ok=False)
            return
        speeds[ranks] = report.figure(f"STAT T={T} on {ranks} GPUs", json.loads(file.read_text()), "clips/s")
        if ranks > 1:
            share = speeds[ranks] / (ranks * speeds[1])
            report.check(f"efficiency on {ranks} GPUs", share, EFFICIENCY, at_least=True, kind="floor")
