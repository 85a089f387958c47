"""Unreadable videos end a run that has too many; a disk that is gone is waited for, and costs no figure."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from on_ranks import on_ranks
from running import SMALL, Place, only, read_json
from same_runs import differences
from stat_video import compose
from stat_video.config import Config, EvaluateConfig
from stat_video.data import loader, storage
from stat_video.data.sampling import Views
from stat_video.errors import InputError
from stat_video.metrics.scores import ranks
from stat_video.training.fit import fit
from stat_video.training.metrics import MultiViewAccuracy
from stat_video.training.module import VideoModule
from stat_video.training.testing import evaluate
from stat_video.training.unreadable import UnreadableVideos

ONE: Any = SimpleNamespace(world_size=1)
TWO: Any = SimpleNamespace(world_size=2)
HUNDRED = {"train": 100, "val": 100}
WORDS = (
    *SMALL, "trainer=cpu", "T=4", "crop=32", "views=5x1", "model.depths=[1,1,1,1]", "recipe.mixup=0.8",
)  # fmt: skip
AT = {"training": "training_step", "validation": "validation_step", "test": "test_step"}


def batch(*paths: str) -> Any:
    return {"unreadable": ["", *paths, ""]}


def test_each_video_is_counted_once() -> None:
    found = UnreadableVideos(HUNDRED, 0.02)
    for _ in range(3):  # epochs
        found.on_train_batch_end(ONE, ONE, None, batch("b", "a"), 0)
        found.on_validation_batch_end(ONE, ONE, None, batch("c"), 0)
        found.on_test_batch_end(ONE, ONE, None, batch("c", "c", "d"), 0)
    assert found.result() == {"train": ["a", "b"], "val": ["c", "d"]}


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
def test_more_than_the_share_ends_the_run_in_one_line(stage: str) -> None:
    found = UnreadableVideos({"train": 100, "val": 100}, 0.02)
    note: Any = getattr(found, f"on_{stage}_batch_end")
    note(ONE, ONE, None, batch("b", "a"), 0)
    with pytest.raises(InputError, match=r"3 of 100 .* a; data.max_unreadable=0.02") as caught:
        note(ONE, ONE, None, batch("c"), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
def test_one_of_several_devices_does_not_stop_alone(stage: str) -> None:
    found = UnreadableVideos(HUNDRED, 0.0)
    note: Any = getattr(found, f"on_{stage}_batch_end")
    note(TWO, TWO, None, batch("a"), 0)  # the other would wait for it for ever


def test_a_resumed_run_knows_what_it_met() -> None:
    before, after = UnreadableVideos(HUNDRED, 0.01), UnreadableVideos(HUNDRED, 0.01)
    before.on_train_batch_end(ONE, ONE, None, batch("a"), 0)
    after.load_state_dict(before.state_dict())
    assert after.result()["train"] == ["a"]
    with pytest.raises(InputError, match="2 of 100"):
        after.on_train_batch_end(ONE, ONE, None, batch("b"), 0)


def test_unreadable_videos_are_wrong_and_stay_in_the_denominator() -> None:
    """8 videos of 2 views, all right; then one whole video and one view of another go missing: 6 of 8 remain."""
    views = Views(2, 1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    logits = 9.0 * torch.nn.functional.one_hot(labels, 3)[:, None].repeat(1, 2, 1)
    index, view = torch.arange(8).repeat_interleave(2), torch.arange(2).repeat(8)

    def accuracy() -> dict[str, float]:
        metric = MultiViewAccuracy(views, ["a: x", "a: y", "b: z"])
        metric.update(logits.flatten(0, 1), labels.repeat_interleave(2), index, view)
        return {k: float(v) for k, v in metric.compute().items()}

    assert accuracy() == {"top1": 100, "top5": 100, "top1@a": 100, "top1@b": 100}
    logits[0], logits[5, 1] = math.nan, math.nan
    assert accuracy() == {"top1": 75, "top5": 75, "top1@a": pytest.approx(100 * 5 / 6), "top1@b": 50}
    assert ranks(logits, labels).tolist() == [5, 0, 0, 0, 0, 5, 0, 0]  # wrong in the top 5 of three classes, too
    logits[:] = math.nan
    assert accuracy() == {"top1": 0, "top5": 0, "top1@a": 0, "top1@b": 0}


# ------------------------------------------------------------------------------------------------ whole runs


class Videos:
    """A copy of the built-in videos that can go away, and the logs of a run on it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.root, self.away, self.logs = folder / "data", folder / "away", folder / "logs"
        shutil.copytree(place.folder / "data", self.root)

    def config(self, *words: str) -> Config:
        keys = [*WORDS, f"folders.built_in={self.root}", f"folders.logs={self.logs}"]
        (row,) = compose.rows("train", Config, [*keys, *words])
        return row.config

    def go(self) -> None:
        self.root.rename(self.away)

    def come(self) -> None:
        self.away.rename(self.root)

    @property
    def val(self) -> list[Path]:
        return sorted(self.root.glob("motion-*/val/*.mp4"))  # other tests may have made other videos


def when(method: str, do: Callable[[], Any], count: int = 1) -> None:
    """Do something at the so-many-th call of a step of the model, in this process."""
    original, left = getattr(VideoModule, method), [count]

    def step(*args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            do()
        return original(*args)

    setattr(VideoModule, method, step)


def later(seconds: float, do: Callable[[], Any]) -> None:
    threading.Timer(seconds, do).start()


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The logs of an undisturbed run, on one rank and on two."""
    found = {}
    for number in (1, 2):
        (place.folder / "data").mkdir(exist_ok=True)
        logs = tmp_path_factory.mktemp("undisturbed")
        keys = [*WORDS, f"folders.built_in={place.folder / 'data'}", f"folders.logs={logs}"]
        keys += [f"trainer.devices={number}", "trainer.strategy=ddp"] if number > 1 else []
        (row,) = compose.rows("train", Config, keys)
        config = row.config
        assert on_ranks(lambda rank, config=config: fit(config), number) == [None] * number
        found[number] = logs
    return found


@pytest.fixture
def videos(place: Place, undisturbed: object, tmp_path: Path) -> Videos:
    return Videos(place, tmp_path)


@pytest.mark.parametrize(
    ("stage", "workers"),
    [
        *((stage, 0) for stage in AT),
        *(pytest.param(stage, 2, marks=pytest.mark.slow) for stage in ("training", "test")),
    ],
)
def test_a_disk_that_stays_away_ends_the_run_and_the_same_command_continues(
    stage: str, workers: int, videos: Videos, undisturbed: dict[int, Path]
) -> None:
    config = videos.config("data.wait_seconds=0.5", f"trainer.workers={workers}")

    def disturbed(rank: int) -> None:
        when(AT[stage], videos.go, count=2 if stage == "training" else 1)
        fit(config)

    (line,) = on_ranks(disturbed, 1)
    assert line is not None
    assert "data.wait_seconds=0.5" in line
    assert str(videos.root) in line
    assert not list(videos.logs.rglob("result.json"))
    assert not list(videos.logs.rglob("logits_*"))
    saved = torch.load(only("last.ckpt", videos.logs), weights_only=True)
    # An epoch has six steps. Data workers are ahead of the step in which the disk goes, and may be so by a validation.
    allowed = {"training": range(1, 13), "validation": (5, 6), "test": (12,)}
    assert saved["global_step"] in allowed[stage]
    videos.come()
    assert on_ranks(lambda rank: fit(config), 1) == [None]
    assert differences(undisturbed[1], videos.logs) == []


@pytest.mark.parametrize(
    ("stage", "workers"),
    [("test", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("training", 2), ("validation", 0)))],
)
def test_a_disk_that_comes_back_costs_nothing(
    stage: str, workers: int, videos: Videos, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    config = videos.config("data.wait_seconds=60", f"trainer.workers={workers}")

    def disturbed(rank: int) -> None:
        logging.getLogger("stat_video").addHandler(logging.FileHandler(tmp_path / "said.txt"))
        when(AT[stage], lambda: (videos.go(), later(1, videos.come)))
        fit(config)

    assert on_ranks(disturbed, 1) == [None]
    assert differences(undisturbed[1], videos.logs) == []
    assert (tmp_path / "said.txt").read_text().count("data.wait_seconds") == 1


@pytest.mark.parametrize(
    "stage", ["training", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("validation", "test"))]
)
def test_two_ranks_stop_together_and_continue(stage: str, videos: Videos, undisturbed: dict[int, Path]) -> None:
    """The second rank's videos go away, and the first learns of it."""
    config = videos.config("data.wait_seconds=0.5", "trainer.devices=2", "trainer.strategy=ddp")

    def disturbed(rank: int) -> None:
        logging.getLogger("stat_video").addHandler(logging.FileHandler(videos.logs.with_name(f"said_{rank}.txt")))
        if rank == 1:
            when(AT[stage], lambda: setattr(loader.Attempts, "__getitems__", nothing_there))
        fit(config)

    def nothing_there(self: Any, requests: Any) -> list[loader.Missing]:
        storage.others_reachable = lambda path, paths: False
        return [loader.Missing(requests, "the disk is gone", "a.mp4")]

    started = time.monotonic()
    outcomes = on_ranks(disturbed, 2)
    assert time.monotonic() - started < 100
    assert outcomes[0] is not None
    assert "data.wait_seconds=0.5" in outcomes[0]
    assert outcomes[1] == "SystemExit(2)"
    said = [videos.logs.with_name(f"said_{rank}.txt").read_text().count("data.wait_seconds") for rank in (0, 1)]
    assert said == [1, 0]
    assert not list(videos.logs.rglob("result.json"))
    if stage == "training":  # saved on both ranks together, in the first epoch
        assert 0 < torch.load(only("last.ckpt", videos.logs), weights_only=True)["global_step"] < 5
    assert on_ranks(lambda rank: fit(config), 2) == [None, None]
    assert differences(undisturbed[2], videos.logs) == []


@pytest.mark.parametrize("rank_of_signal", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_ends_the_wait_of_all_ranks(rank_of_signal: int, videos: Videos, undisturbed: dict[int, Path]) -> None:
    """Also if it is sent to the rank that waits for nothing."""
    config = videos.config("data.wait_seconds=600", "trainer.devices=2", "trainer.strategy=ddp")

    def disturbed(rank: int) -> None:
        if rank == 0:
            when(AT["training"], lambda: setattr(loader.Attempts, "__getitems__", nothing_there), count=2)
        if rank == rank_of_signal:
            when(AT["training"], lambda: later(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM)), count=2)
        fit(config)

    def nothing_there(self: Any, requests: Any) -> list[loader.Missing]:
        storage.others_reachable = lambda path, paths: False
        return [loader.Missing(requests, "the disk is gone", "a.mp4")]

    started = time.monotonic()
    assert on_ranks(disturbed, 2) == ["Stopped(143)", "Stopped(143)"]
    assert time.monotonic() - started < 200
    assert torch.load(only("last.ckpt", videos.logs), weights_only=True)["global_step"] == 2
    assert on_ranks(lambda rank: fit(config), 2) == [None, None]
    assert differences(undisturbed[2], videos.logs) == []


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("validation", 1),
        ("test", 2),
        pytest.param("test", 1, marks=pytest.mark.slow),
        pytest.param("validation", 2, marks=pytest.mark.slow),
    ],
)
def test_over_the_limit_there_is_no_result(stage: str, number: int, videos: Videos) -> None:
    words = ["trainer.devices=2", "trainer.strategy=ddp"] if number > 1 else []
    config = videos.config(*words)

    def disturbed(rank: int) -> None:
        if rank == 0:
            when(AT[stage], lambda: [path.write_bytes(b"broken") for path in videos.val])
        fit(config)

    outcomes = on_ranks(disturbed, number)
    assert outcomes[0] is not None
    assert "validation videos cannot be read" in outcomes[0]
    assert "data.max_unreadable=0.01" in outcomes[0]
    assert outcomes[1:] == ["SystemExit(2)"] * (number - 1)
    assert not list(videos.logs.rglob("result.json"))
    assert not list(videos.logs.rglob("logits_*"))


@pytest.mark.slow  # and sensitive to a busy machine
def test_a_single_deleted_video_is_waited_for_shortly_and_counted(videos: Videos) -> None:
    config = videos.config("data.max_unreadable=0.1", "trainer.workers=0")  # a worker might have read it before
    last = videos.val[-1]

    def disturbed(rank: int) -> None:
        loader.ALONE = 0.5
        when(AT["test"], last.unlink)
        fit(config)

    started = time.monotonic()
    assert on_ranks(disturbed, 1) == [None]
    assert time.monotonic() - started < 100
    assert read_json(only("result.json", videos.logs))["unreadable"] == {"train": [], "val": [str(last)]}


@pytest.mark.parametrize("fault", ["gone", "broken"])
def test_an_evaluation_that_lost_its_videos_has_no_result(fault: str, videos: Videos, trained: Path) -> None:
    views = "2x1" if fault == "gone" else "3x1"
    asked = EvaluateConfig(views=views, wait_seconds=0.5)
    asked.folders.built_in, asked.trainer.accelerator, asked.trainer.workers = str(videos.root), "cpu", 0

    def disturbed(rank: int) -> None:
        gone = videos.go if fault == "gone" else lambda: [path.write_bytes(b"broken") for path in videos.val]
        when(AT["test"], gone)
        evaluate(trained / "last.ckpt", asked)

    (line,) = on_ranks(disturbed, 1)
    assert line is not None
    assert ("data.wait_seconds=0.5" if fault == "gone" else "max_unreadable=0.01") in line
    assert not list(trained.glob(f"evaluation_{views}.json"))
    assert not list(trained.glob(f"logits_{views}.pt"))
    if fault == "gone":
        videos.come()
        assert on_ranks(lambda rank: evaluate(trained / "last.ckpt", asked), 1) == [None]
        assert read_json(trained / "evaluation_2x1.json")["unreadable"] == {"val": []}
