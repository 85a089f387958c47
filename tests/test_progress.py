"""Long loops show themselves: a bar on a terminal, a plain line a minute elsewhere, and nothing of them is lost."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from running import ROOT
from stat_video import progress
from stat_video.config import Config, TrainerKeys
from stat_video.data.config import DataConfig
from stat_video.data.motion import MotionConfig
from stat_video.progress import Meter, memory, shown
from stat_video.runs.results import epoch_figures
from stat_video.training import callbacks, fit, profiling
from stat_video.training.callbacks import EpochLog, StepLines, WaitingForData


class Clock:
    """Time that passes when told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(profiling, "time", clock)
    return clock


def taking(seconds: float, times: int, clock: Clock) -> Iterator[int]:
    for i in range(times):
        clock.now += seconds
        yield i


def test_off_a_terminal_a_line_a_minute(clock: Clock) -> None:
    """240 things of 1.5 s are six minutes, the last of which ends with them."""
    out = io.StringIO()
    console = Console(file=out, width=30)  # lines are not broken
    assert list(shown(taking(1.5, 240, clock), "verify", 240, console)) == list(range(240))
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"verify: 40 of 240, 0\.667 a second, 0:05:00 left, \d+\.\d GB", lines[0])
    assert lines[-1].startswith("verify: 240 of 240, 0.667 a second, 0:00:00 left")
    assert "\x1b" not in out.getvalue()


def test_what_was_done_before_is_not_in_the_rate(clock: Clock) -> None:
    meter = Meter("x", 100, done=50)
    clock.now += 10
    assert meter.line(60).startswith("x: 60 of 100, 1 a second, 0:00:40 left")
    assert "unknown time left" in Meter("x", 100).line(0)


def test_on_a_terminal_a_bar_with_rate_and_time_left() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)

    def slowly() -> Iterator[int]:
        for i in range(30):
            time.sleep(0.02)  # the bar looks ten times a second
            yield i

    assert list(shown(slowly(), "verify", 30, console)) == list(range(30))
    assert "30/30" in out.getvalue()
    assert "a second" in out.getvalue()
    assert re.search(r"\d:\d\d", out.getvalue())


def test_memory_grows_by_what_is_held() -> None:
    before = float(memory().split()[0])
    held = torch.ones(2**27)  # half a GB
    assert float(memory().split()[0]) >= before
    del held


def trainer(**changes: Any) -> Any:
    how = {"current_epoch": 0, "max_epochs": 2, "num_training_batches": 10, "callback_metrics": {}, "loggers": []}
    how |= {"global_step": 1, "is_global_zero": True, "num_val_batches": [4], "num_test_batches": [8], "callbacks": []}
    how["check_val_every_n_epoch"] = 1
    how["optimizers"] = [SimpleNamespace(param_groups=[{"lr": 0.1}])]
    return SimpleNamespace(**{**how, **changes})


def step(log: EpochLog, clock: Clock, wait: float, compute: float) -> None:
    log.clock.start("[_TrainingEpochLoop].train_dataloader_next")
    clock.now += wait
    log.clock.stop("[_TrainingEpochLoop].train_dataloader_next")
    log.clock.start("[_EvaluationLoop].val_next")
    clock.now += compute
    log.clock.stop("[_EvaluationLoop].val_next")
    log.on_train_batch_end()
    clock.now += 100  # saving, validation: no part of a step


def test_share_of_waiting_for_the_loader(clock: Clock, tmp_path: Any) -> None:
    """Of the epoch in its row, of all epochs in the result, the first part of a resumed epoch included."""
    log = EpochLog(tmp_path / "epochs.csv")
    for wait in (1.0, 2.0):
        step(log, clock, wait, 3.0)
    assert callbacks.share_of_waiting(trainer(callbacks=[log])) == "33 %"
    resumed = EpochLog(tmp_path / "epochs.csv")
    resumed.load_state_dict(log.state_dict())
    resumed.on_train_start(trainer(), None)  # type: ignore[arg-type]
    step(resumed, clock, 0.0, 3.0)
    resumed.on_train_epoch_end(trainer(), None)  # type: ignore[arg-type]
    assert resumed.rows[0]["train/data_wait"] == "0.25"
    assert float(resumed.rows[0]["seconds"]) == pytest.approx(312)
    step(resumed, clock, 8.0, 0.0)
    assert resumed.data_wait == pytest.approx(11 / 20)


def test_an_epoch_without_validation_has_no_figures_of_one(tmp_path: Any) -> None:
    """Lightning keeps those of the last validation among its metrics."""
    said: list[str] = []
    log = EpochLog(tmp_path / "epochs.csv", said.append)
    figures = {"val/top1_1x1": torch.tensor(50.0), "train/loss_epoch": torch.tensor(1.0)}
    log.on_train_start(trainer(), None)  # type: ignore[arg-type]
    for epoch in range(4):
        log.on_train_epoch_end(trainer(current_epoch=epoch, check_val_every_n_epoch=2, callback_metrics=figures), None)  # type: ignore[arg-type]
    assert ["val/top1_1x1" in line for line in said] == [False, True, False, True]
    assert [bool(row.get("val/top1_1x1")) for row in log.rows] == [False, True, False, True]
    assert all(row["train/loss_epoch"] == "1" for row in log.rows)
    assert epoch_figures(tmp_path, "val/top1_1x1") == [(1, 50.0), (1, 50.0)]


def test_a_line_a_minute_of_training_validation_and_test(clock: Clock, tmp_path: Any) -> None:
    said: list[str] = []
    lines, module, t = StepLines(said.append), Any, trainer(callbacks=[EpochLog(tmp_path / "epochs.csv")])
    for index in range(10):
        lines.on_train_batch_start(t, module, None, index)
        clock.now += 31
        lines.on_train_batch_end(t, module, None, None, index)
    assert len(said) == 5
    assert said[0].startswith("epoch 1/2, batches: 2 of 10, 0.0323 a second, 0:04:08 left, ")
    for kind, total in (("validation", 4), ("test", 8)):
        said.clear()
        getattr(lines, f"on_{kind}_start")(t, module)
        for index in range(total):
            clock.now += 61
            getattr(lines, f"on_{kind}_batch_end")(t, module, None, None, index)
        assert len(said) == total
        assert said[-1].startswith(f"{kind}, batches: {total} of {total}")


@pytest.mark.parametrize(
    ("before", "steps", "wait", "compute", "said"),
    [
        (0.0, 59, 1.0, 3.0, 0),  # too few steps
        (0.0, 60, 1.0, 3.0, 1),
        (0.0, 500, 0.05, 0.05, 0),  # under a minute
        (0.0, 610, 0.05, 0.05, 1),
        (60.0, 500, 0.3, 3.0, 0),  # workers that take a minute to start are no wait for data
        (0.0, 500, 0.4, 3.0, 1),
    ],
)
def test_a_run_that_waits_for_data_says_so_once(
    clock: Clock,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
    before: float,
    steps: int,
    wait: float,
    compute: float,
    said: int,
) -> None:
    log = EpochLog(tmp_path / "epochs.csv", waiting=WaitingForData("trainer.workers=8"))
    step(log, clock, before, compute)
    for i in range(1, steps):
        step(log, clock, wait, compute)
        if i == steps // 2:
            log.on_train_epoch_end(trainer(), None)  # type: ignore[arg-type]
    assert len(caplog.messages) == said
    if said:
        share = 100 * wait / (wait + compute)
        assert caplog.messages[0].startswith(f"{share:.0f} % of the time")
        assert caplog.messages[0].endswith("trainer.workers=8")
    step(log, clock, 1000.0, 0.0)
    assert len(caplog.messages) == 1


def test_what_helps_a_run_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "cores_of_device", lambda keys: 8)
    monkeypatch.setattr(fit, "on_cuda", lambda keys: True)
    config = Config(data=DataConfig(name="kinetics400"), trainer=TrainerKeys(workers=2))
    config.recipe.augment.randaugment_ops = 4
    for words in ("trainer.workers=8", "do=transcode", "recipe.augment.device=true"):
        assert words in fit.feeding(config)
    config.trainer.workers = 8
    assert "trainer.workers" not in fit.feeding(config)
    config.data.motion = MotionConfig()
    assert "transcode" not in fit.feeding(config)
    monkeypatch.setattr(fit, "on_cuda", lambda keys: False)
    assert "device=true" not in fit.feeding(config)


def test_the_bar_counts_epochs_as_the_log_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1, and without the logger's version."""
    bar = callbacks.Bar()
    bar._trainer = trainer(training=False, max_epochs=4)
    assert bar._get_train_description(1).strip() == "Epoch 2/4"
    monkeypatch.setattr(callbacks.RichProgressBar, "get_metrics", lambda *_: {"v_num": "aba2", "val/top1": 3.0})
    assert bar.get_metrics(bar._trainer, None).keys() == {"val/top1", "memory"}  # type: ignore[arg-type]


@pytest.mark.parametrize("in_notebook", [False, True])
def test_a_cell_of_a_notebook_gets_lines_though_it_has_a_terminal(
    in_notebook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "IN_NOTEBOOK", in_notebook)
    (first,), is_bar = fit.progress_callbacks()
    assert isinstance(first, StepLines if in_notebook else callbacks.Bar)
    assert is_bar != in_notebook
    screen = io.StringIO()
    list(shown(range(3), "verify", 3, Console(file=screen, force_terminal=True)))
    assert bool(screen.getvalue()) != in_notebook


def test_a_kernel_tells_what_it_starts_that_it_is_one() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", "from stat_video import progress; print(progress.IN_NOTEBOOK)"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **more},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for more in ({}, {"JPY_PARENT_PID": "1"})
    ]
    assert found[1] == "True"
    assert found[0] == str("JPY_PARENT_PID" in os.environ)
