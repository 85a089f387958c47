"""Killed, resumed, and the same: runs that meet faults end with the weights and figures of an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults import EVENTS, Job, run
from on_ranks import on_ranks
from running import SMALL, Place, only
from same_runs import content, differences
from stat_video import compose
from stat_video.config import Config
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.fit import fit
from stat_video.training.module import VideoModule

KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
# Everything that draws random numbers, accumulation and averaged weights: whatever a checkpoint could forget.
ALL_ON = (
    *SMALL,
    "recipe.mixup=0.8",
    "recipe.cutmix=1.0",
    "recipe.augment.erasing=0.5",
    "recipe.ema=0.9",
    "model.head_dropout=0.3",
    "model.stochastic_depth=0.2",
    "trainer.batch_per_device=4",
    "trainer.save_steps=1",
)


def assert_same(one: Path, two: Path) -> None:
    assert differences(one, two) == []
    for logs in (one, two):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(only("last.ckpt", logs)) == []
        assert len(list(logs.rglob("last*.ckpt"))) == 1  # those kept while it ran are gone
        assert not list(logs.rglob("*.new"))


class Starts:
    """Jobs of one program, and what they printed."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.jobs: list[Job] = []

    def add(self, name: str, words: tuple[str, ...], **fault: Any) -> int:
        """One start in the logs folder `name`; its number."""
        number = len(self.jobs)
        words = (*words, *self.place.keys_with(self.folder / name))
        self.jobs.append(Job(words, str(self.folder / f"{number}.txt"), **fault))
        return number

    def said(self, number: int) -> str:
        return Path(self.jobs[number].out).read_text()

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def starts(place: Place, tmp_path: Path) -> Starts:
    return Starts(place, tmp_path)


@pytest.fixture(scope="module")
def faults(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Starts:
    """An undisturbed run, and one that is killed with half of its fourth checkpoint written, meets NaN in the second
    pass of a step, is killed in the first step of an epoch, and asked to stop in a validation; the same words go on."""
    starts = Starts(place, tmp_path_factory.mktemp("faults"))
    starts.add("undisturbed", ALL_ON)
    starts.add("disturbed", ALL_ON, at="writing", count=4, signal=KILL)
    starts.add("disturbed", ALL_ON, at="nan", count=2)
    starts.add("disturbed", ALL_ON, at="step", count=7, signal=KILL)
    starts.add("disturbed", ALL_ON, at="validating", count=2, signal=TERM)
    starts.add("disturbed", ALL_ON)
    codes = run(starts.jobs)
    assert codes == [0, -KILL, 2, -KILL, 143, 0], starts.said(codes.index(1) if 1 in codes else -1)
    return starts


def test_a_disturbed_run_ends_as_an_undisturbed_one(faults: Starts) -> None:
    assert_same(faults / "undisturbed", faults / "disturbed")
    assert "SIGTERM: stopped; the same command goes on" in faults.said(4)
    assert "Traceback" not in faults.said(4)
    assert "Training" in faults.said(1)
    assert all("Resuming" in faults.said(n) for n in (2, 3, 4, 5))


def test_nan_stops_with_the_videos_named_and_the_weights_kept(faults: Starts) -> None:
    (line,) = [line for line in faults.said(2).splitlines() if line.startswith("error: ")]
    assert "the loss of step 4 is NaN or infinite" in line
    assert 4 <= line.count(".mp4") < 8  # of the pass and what is mixed into it, not of the step
    state = only("nonfinite.ckpt", faults / "disturbed")
    assert all(value.isfinite().all() for value in read_checkpoint(state).weights.values())
    assert torch.load(state, weights_only=True)["global_step"] == 3


@pytest.mark.slow
def test_faults_at_random_points(starts: Starts) -> None:
    """At least twenty deaths, at every kind of point; after each few the run is finished and compared."""
    rng = np.random.default_rng(0)
    words = (*ALL_ON, "recipe.epochs=3")
    starts.add("undisturbed", words)
    chains = 8
    for chain in range(chains):
        # Each chain dies at most once in a test, at its end: before that most of what is drawn comes to pass.
        for event in rng.permutation([e for e in EVENTS if e != "testing"])[:4]:
            count = int(rng.integers(1, 4 if event in ("step", "optimizer", "between", "writing") else 2))
            signum = int(rng.choice([KILL, TERM]))
            starts.add(f"chain{chain}", words, at=str(event), count=count, signal=signum)
        starts.add(f"chain{chain}", words, at="testing", count=int(rng.integers(1, 4)), signal=int(rng.choice([9, 15])))
        starts.add(f"chain{chain}", words)
    codes = run(starts.jobs)
    met = Counter((job.at, code) for job, code in zip(starts.jobs, codes, strict=True) if job.at and code)
    print("\n".join(f"{at}, exit code {code}: {n}" for (at, code), n in sorted(met.items())))
    assert {code for _, code in met} <= {-KILL, 128 + TERM, -TERM}, met
    assert {at for at, _ in met} == set(EVENTS)
    assert sum(met.values()) >= 20
    for chain in range(chains):
        assert_same(starts / "undisturbed", starts / f"chain{chain}")


@pytest.mark.slow
def test_all_processes_of_a_run_are_asked_to_stop_at_once(starts: Starts) -> None:
    """Wherever they are, also while a data worker hands over a batch."""
    words = (*ALL_ON, "trainer.workers=2")
    numbers = [starts.add(f"at {i}", words, at="group", count=1 + i % 5, signal=TERM) for i in range(10)]
    codes = run(starts.jobs)
    assert codes == [143] * 10, starts.said(next(n for n in numbers if codes[n] != 143))
    assert not any("Traceback" in starts.said(n) for n in numbers)


@pytest.mark.slow
def test_with_data_workers_one_of_which_dies(starts: Starts) -> None:
    """Two workers: one is killed, then the run, then all processes of it are asked to stop at once."""
    words = (*ALL_ON, "trainer.workers=2")
    starts.add("undisturbed", words)
    died = starts.add("disturbed", words, at="worker", count=3, signal=KILL)
    starts.add("disturbed", words, at="between", count=2, signal=KILL)
    asked = starts.add("disturbed", words, at="group", count=5, signal=TERM)
    last = starts.add("disturbed", words)
    codes = run(starts.jobs)
    assert codes == [0, 2, -KILL, 143, 0], starts.said(died)
    assert "Traceback" not in starts.said(asked)
    errors = [line for line in starts.said(died).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "DataLoader worker (pid" in errors[0]
    assert "Traceback" not in starts.said(died)
    assert "Resuming" in starts.said(last)
    assert_same(starts / "undisturbed", starts / "disturbed")


@pytest.mark.slow
def test_other_passes_than_before_take_the_same_steps(starts: Starts) -> None:
    """Begun with two passes of 4 clips a step, ended with one of 8: nothing twice, nothing left out."""
    plain = (*SMALL, "trainer.save_steps=1")
    starts.add("undisturbed", plain)
    starts.add("disturbed", (*plain, "trainer.batch_per_device=4"), at="between", count=5, signal=KILL)
    last = starts.add("disturbed", plain)
    assert run(starts.jobs) == [0, -KILL, 0], starts.said(last)
    a, b = (content(only("result.json", starts / name).parent) for name in ("undisturbed", "disturbed"))
    assert [row["step"] for row in a["epochs"]] == [row["step"] for row in b["epochs"]]
    for key, value in a["weights"].items():
        torch.testing.assert_close(value, b["weights"][key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_saves_and_stops_both(place: Place, tmp_path: Path) -> None:
    """SIGTERM to the second rank alone, inside an epoch; a mean loss of both; then the same words."""

    def start(logs: Path, asked: bool) -> list[Any]:
        words = [*ALL_ON, *place.keys_with(logs), "trainer=ddp_cpu", "trainer.devices=2", "trainer.workers=0"]
        words += ["experiment=kinetics", "clip=T16", "trainer.batch_per_device=2"]
        (row,) = compose.rows("train", Config, words)

        def task(rank: int) -> None:
            if asked and rank == 1:
                left = iter(range(9, -1, -1))
                step = VideoModule.training_step

                def stopping(*args: Any) -> Any:
                    if next(left, None) == 0:
                        os.kill(os.getpid(), signal.SIGTERM)
                    return step(*args)

                VideoModule.training_step = stopping  # type: ignore[method-assign]
            fit(replace(row.config))

        return on_ranks(task, 2)

    assert start(tmp_path / "undisturbed", False) == [None, None]
    assert start(tmp_path / "disturbed", True) == ["Stopped(143)", "Stopped(143)"]
    assert start(tmp_path / "disturbed", False) == [None, None]
    assert_same(tmp_path / "undisturbed", tmp_path / "disturbed")
