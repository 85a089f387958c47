"""What goes wrong with W&B is a warning, said once; the run, and the rest of what it logs, are not touched."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb

from stat_video.config import Config, Logger
from stat_video.model import STAT, STATConfig
from stat_video.runs.run import Run
from stat_video.training import wandb_logger
from stat_video.training.wandb_logger import RunLogger, class_accuracy, log_result, make_logger

RESULT = {"name": "a", "scale": "tiny", "seed": 0, "commit": None, "metrics": {"test/top1_5x1": 50.0}}


class Working:
    """A W&B run that keeps what it is told."""

    def __init__(self):
        self.summary, self.logged, self.artifacts = {}, {}, []

    def log(self, values):
        self.logged |= values

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)


class Broken(Working):
    """A W&B run whose disk is full."""

    def log(self, *_):
        raise OSError("no space left\non the disk")

    finish = log_artifact = log


def finished_run(folder, classes=3):
    """Run, StatModule and result as they are at the end of a run, as far as W&B is told of them."""
    logits = torch.randn(7, 5, classes, generator=torch.Generator().manual_seed(0))
    torch.save({"logits": logits, "labels": torch.arange(7) % 2, "views": "5x1"}, folder / "logits_5x1.pt")
    (folder / "last.ckpt").write_bytes(b"weights")
    module = SimpleNamespace(views="5x1", classes=[f"class {c}" for c in range(classes)])
    return Run(folder, "12345678"), module, {**RESULT, "config": {"logger": {"artifact": False}}}


def test_errors_are_said_once(caplog):
    logger = RunLogger(experiment=Broken())
    for _ in range(3):
        logger.log_metrics({"train/loss_step": 1.0}, 1)
    logger.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: logging failed (no space left); the run goes on"
    ]


def test_what_fails_leaves_the_rest(tmp_path, caplog):
    """Without a data module there are no pictures."""
    logger = RunLogger(experiment=Working())
    run, module, result = finished_run(tmp_path)
    log_result(logger, {**result, "config": {"logger": {"artifact": True}}}, module, None, run)
    assert logger.experiment.summary == RESULT["metrics"]
    assert [row[:2] for row in logger.experiment.logged["test/classes"].data] == [["class 0", 4], ["class 1", 3]]
    (artifact,) = logger.experiment.artifacts
    assert (artifact.name, artifact.type) == ("stat-12345678", "model")
    assert list(artifact.manifest.entries) == ["last.ckpt"]
    (record,) = caplog.records
    assert "attention pictures failed" in record.getMessage()


def test_all_failing_does_not_raise(tmp_path, caplog):
    run, module, result = finished_run(tmp_path)
    log_result(RunLogger(experiment=Broken()), result, module, None, run)
    assert len(caplog.records) == 1


def test_the_checkpoint_is_logged_only_when_asked(tmp_path):
    logger = RunLogger(experiment=Working())
    run, module, result = finished_run(tmp_path)
    log_result(logger, result, module, None, run)
    assert logger.experiment.artifacts == []


def test_off_is_off(tmp_path, caplog):
    run, module, result = finished_run(tmp_path)
    assert make_logger(Config(logger=Logger(mode="off")), {}, run, None) is None
    log_result(None, result, module, None, run)
    assert not caplog.records


@pytest.mark.parametrize(("mode", "lines"), [("offline", ["off"]), ("online", ["going on offline", "off"])])
def test_a_start_that_fails_turns_it_off(mode, lines, tmp_path, caplog, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("no route\nto the host")

    monkeypatch.setattr(wandb, "init", init)
    model = STAT(STATConfig(crop=48, widths=(24, 48, 96, 192), depths=(1, 1, 1, 1), heads=(1, 1, 2, 4)))
    config = Config(logger=Logger(mode=mode))
    plain = {"data": {}, "seed": 0, "init": None}
    assert make_logger(config, plain, Run(Path(tmp_path), "12345678"), model) is None
    assert [record.getMessage().split("; ")[1] for record in caplog.records] == lines
    assert all("(no route)" in record.getMessage() for record in caplog.records)


def test_class_accuracy_counts_whole_videos():
    """Against a count by hand: the mean of the views' probabilities decides; a class without videos is left out."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(40, 3, 5, generator=generator), torch.randint(0, 4, (40,), generator=generator)
    expected = []
    for c in range(4):
        mine = [i for i in range(40) if labels[i] == c]
        right = sum(int(sum(logits[i, v].softmax(0) for v in range(3)).argmax()) == c for i in mine)
        expected.append((c, len(mine), pytest.approx(100 * right / len(mine), abs=1e-4)))
    assert class_accuracy(logits, labels) == expected
    assert 0 < sum(accuracy for _, _, accuracy in class_accuracy(logits, labels)) < 400


@pytest.fixture
def forever():
    """A call that gives no answer."""
    answer = threading.Event()
    yield lambda **_: answer.wait()
    answer.set()


def test_a_start_that_hangs_is_left_to_itself(tmp_path, caplog, monkeypatch, forever):
    monkeypatch.setattr(wandb, "init", forever)
    monkeypatch.setattr(wandb, "teardown", forever)
    monkeypatch.setattr(wandb_logger, "START_TIMEOUT", 0.2)
    model = STAT(STATConfig(crop=48, widths=(24, 48, 96, 192), depths=(1, 1, 1, 1), heads=(1, 1, 2, 4)))
    plain = {"data": {}, "seed": 0, "init": None}
    assert make_logger(Config(logger=Logger(mode="online")), plain, Run(tmp_path, "12345678"), model) is None
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "W&B online failed (no answer within 0.2 s); going on offline",
        "W&B offline failed (no answer within 0.2 s); off",
    ]


def test_an_end_that_hangs_is_left_to_itself(caplog, monkeypatch, forever):
    monkeypatch.setattr(wandb_logger, "END_TIMEOUT", 0.2)
    RunLogger(experiment=SimpleNamespace(finish=forever)).finish()
    assert "finishing failed (no answer within 0.2 s); the run goes on" in caplog.text
