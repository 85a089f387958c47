"""Phase 6: real runs of `fit`: killed and resumed, not finite, evaluated; and what Lightning's loop costs a step.

This process forks, so it must not touch CUDA itself.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from stat_video.config import EvaluateConfig
from stat_video.training import saving
from stat_video.training.module import VideoModule
from stat_video.training.testing import evaluate

from .children import Place, content, forked, largest_difference, same
from .measure import FULL, TINY_WORDS
from .report import Report

CURVE = 0.1  # largest difference of an epoch's loss between the device and the CPU
FRAMEWORK = 0.05  # largest share of a step that the loop may add
STEPS = 20  # of the full model in Lightning's loop


def run(report: Report) -> None:
    """Check each kind of run; what there is no time for is named."""
    cuda, tiny = report.result["found"]["device"] == "cuda", report.settings.tiny
    steps, batch = (8, 4) if tiny else (40, 12)
    place = Place(report.settings.work, steps, batch, "cuda" if cuda else "cpu", TINY_WORDS if tiny else ())
    resumed(report, place, steps)
    evaluated(report, place)
    not_finite(report, place)
    if cuda:
        curve(report, place)
        if not tiny:
            framework(report)
    else:
        report.note("loss curve beside the CPU's, framework: left out on a CPU")


def resumed(report: Report, place: Place, steps: int) -> None:
    """A run that is killed after half of its steps and started again leaves what an undisturbed one does."""
    words = ("trainer.deterministic=true", "trainer.save_steps=1")
    report.doing("an undisturbed run")
    whole = place.fit("whole", *words)
    report.doing(f"a run killed at step {steps // 2}")

    def trap(rank: int) -> None:
        end = saving.Saving.on_train_batch_end

        def killing(self: Any, trainer: Any, *args: Any) -> None:
            end(self, trainer, *args)
            if trainer.global_step == steps // 2:
                os.kill(os.getpid(), signal.SIGKILL)

        saving.Saving.on_train_batch_end = killing  # type: ignore[method-assign]

    killed = place.fit("killed", *words, before=trap)
    report.doing("the killed run, resumed")
    again = place.fit("killed", *words)
    codes = whole + killed + again
    report.check(f"exit codes of the three: {codes}", None, None, ok=codes == [0, -signal.SIGKILL, 0])
    one, two = content(place, "whole"), content(place, "killed")
    for key in ("weights", "optimizer", "epochs", "logits", "metrics"):
        ok = key in one and key in two and same(one[key], two[key])
        report.check(f"killed and resumed: {key} equal to the bit", None, None, ok=ok)


def evaluated(report: Report, place: Place) -> None:
    """`evaluate` of the checkpoint gives what the run's own test gave."""
    report.doing("evaluate")
    checkpoint = place.file("whole", "last.ckpt")
    expected = content(place, "whole").get("metrics", {})
    if checkpoint is None:
        report.check("evaluate = test", None, None, ok=False)
        return
    config = place.config("whole")
    asked = EvaluateConfig(trainer=config.trainer, folders=config.folders)
    codes = forked(lambda rank: evaluate(checkpoint, asked))
    file = place.file("whole", "evaluation_*.json")
    found = json.loads(file.read_text())["metrics"] if file else {}
    tests = {key: value for key, value in expected.items() if key.startswith("test/")}
    ok = codes == [0] and bool(tests) and all(found.get(key) == value for key, value in tests.items())
    report.check("evaluate = test", None, None, ok=ok)


def not_finite(report: Report, place: Place) -> None:
    """A loss of NaN ends the run before the step, with exit code 2 and the state kept."""
    report.doing("a loss of NaN")

    def trap(rank: int) -> None:
        step, left = VideoModule.training_step, iter((1.0, 1.0))
        VideoModule.training_step = lambda *args: step(*args) * next(left, float("nan"))  # type: ignore[method-assign]

    codes = place.fit("nan", before=trap)
    state = place.file("nan", "nonfinite.ckpt")
    report.check("NaN: exit code 2 and nonfinite.ckpt", None, None, ok=codes == [2] and state is not None)
    if state is not None:
        weights = torch.load(state, weights_only=True, map_location="cpu")["state_dict"]
        finite = all(bool(w.isfinite().all()) for w in weights.values())
        report.check("NaN: the kept weights are finite", None, None, ok=finite)


def curve(report: Report, place: Place) -> None:
    """The loss of each epoch beside the CPU's, from the same weights and clips; and how far repeated runs part."""
    if report.left <= 0:
        report.note("loss curve: left out, no time")
        return
    report.doing("the loss curve on the CPU")
    place.fit("cpu", "trainer=cpu", "trainer.precision=32-true")
    ours, theirs = content(place, "whole").get("epochs", []), content(place, "cpu").get("epochs", [])
    key = "train/loss_epoch"
    apart = [abs(float(a[key]) - float(b[key])) for a, b in zip(ours, theirs, strict=False)]
    report.check("loss of an epoch, difference to the CPU's fp32", max(apart, default=float("inf")), CURVE)
    report.doing("two runs without deterministic=true")
    for name in ("free", "free again"):
        place.fit(name)
    pair = [content(place, name).get("weights", {}) for name in ("free", "free again")]
    report.figure("largest difference of a weight, two runs without deterministic=true", largest_difference(*pair), "")


def framework(report: Report) -> None:
    """A step of the full model in Lightning's loop beside the same step without it (phase 4)."""
    batch = 16
    known = report.settings.earlier.get("4", {}).get("figures", {}).get(f"T=16, {batch} clips, plain: step")
    if known is None or report.left < 15:
        report.note("framework: left out, " + ("phase 4 has no figure" if known is None else "no time"))
        return
    report.doing("the full model in Lightning's loop")
    file = report.settings.work / "steps.json"

    def steps(rank: int) -> None:
        from .lightning_steps import Steps

        # As phase 4's: no mixing, no erasing, and nothing that is drawn.
        words = ("recipe.mixup=0", "recipe.cutmix=0", "recipe.augment.erasing=0", "recipe.repeats=1")
        file.write_text(json.dumps(Steps(report.settings, FULL, batch, words).run(STEPS + 5)))

    if forked(steps) != [0]:
        report.check("the full model in Lightning's loop: comes to its end", None, None, ok=False)
        return
    times = json.loads(Path(file).read_text())[5:]
    mean = sum(times) / len(times)  # beginnings run ahead of the device, their mean does not
    report.figure("a step in Lightning's loop", mean, "ms")
    report.check("Lightning's loop, share added to a step", mean / known["median"] - 1, FRAMEWORK, kind="floor")
