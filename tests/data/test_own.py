"""A user's own videos, as the README says it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from running import only, refused, script
from stat_video.commands.prepare import prepare
from stat_video.compose import read
from stat_video.config import PrepareConfig
from stat_video.data.config import DataConfig
from stat_video.data.lists import find_root, manifest_hash, read_lists
from stat_video.data.modules import VideoDataModule
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.outcome import _videos_of
from stat_video.weights import shipped


def test_own_videos_train_from_scratch_and_from_a_checkpoint(
    trained: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    own = tmp_path / "my videos"
    for name in ("wave", "jump"):
        (own / name).mkdir(parents=True)
        for i in range(4):
            write_video(own / name / f"{i}.mp4", size=(60 + 2 * i, 80))
    words = ["data=own", f"folders.own={own}", f"folders.logs={tmp_path / 'logs'}", "debug=two_steps", "views=1x1"]
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert "6 training and 2 validation videos, 2 classes" in done.stdout
    ckpt = only("last.ckpt", tmp_path / "logs")
    assert script("evaluate", f"ckpt={ckpt}", f"folders.own={own}", "trainer=cpu").returncode == 0
    done = script("train", *words, f"init={trained / 'last.ckpt'}", "new_classifier=true", "name=from_motion")
    assert done.returncode == 0, done.stderr
    assert "head: drawn anew" in done.stdout
    assert "folders.own=FOLDER" in refused(script("train", "data=own"))
    check_the_folder_is_found_again(ckpt, own)


def check_the_folder_is_found_again(ckpt: Path, own: Path) -> None:
    """By the checkpoint alone, while its lists are those of the training; the folder on the command line goes first."""
    words = [f"ckpt={ckpt}", "trainer=cpu", "views=1x1"]
    done = script("evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert f"folders.own is not set: the videos are in {own}, as in training" in done.stdout
    shutil.copy(own / "wave" / "0.mp4", own / "wave" / "more.mp4")
    line = refused(script("evaluate", *words))
    trained_on = read_checkpoint(ckpt).manifest
    now = manifest_hash(DataConfig("own", str(own), "folders.own", "own"))
    assert f"{own}, where the videos were in training, has changed: its lists are {now}, and were {trained_on}" in line
    done = script("evaluate", *words, f"folders.own={own}")
    assert done.returncode == 0, done.stderr
    assert "The data set is not as it was in training" in done.stdout
    own.rename(own.with_name("moved"))
    line = refused(script("evaluate", *words))
    assert f"folders.own is not set, and {own}, where it was in training, is not there" in line
    assert "folders.own=FOLDER" in line


def test_own_videos_are_verified(
    tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for video in ("jump/0.mp4", "jump/1.mp4", "wave/0.mp4", "wave/1.mp4"):
        (tmp_path / video).parent.mkdir(exist_ok=True)
        write_video(tmp_path / video, crf=str(18 + len(list(tmp_path.rglob("*.mp4")))))
    (row,) = read("prepare", PrepareConfig, ["do=verify", "data=own", f"folders.own={tmp_path}"]).rows
    prepare(row.config)
    assert str(tmp_path / "manifest.csv") in capsys.readouterr().out.replace("\n", "")
    found = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    assert sorted(video["path"] for video in found) == ["jump/0.mp4", "jump/1.mp4", "wave/0.mp4", "wave/1.mp4"]
    assert {(video["split"], video["status"]) for video in found} == {("train", "ok"), ("val", "ok")}
    assert read_lists(tmp_path, row.config.data).counts == {"train": 2, "val": 2}  # the manifest is no class


def test_a_class_of_one_video_is_refused_before_anything_is_begun(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    own, logs = tmp_path / "own", tmp_path / "logs"
    for video in ("jump/0.mp4", "wave/0.mp4", "wave/1.mp4"):
        (own / video).parent.mkdir(parents=True, exist_ok=True)
        write_video(own / video)
    done = script("train", "data=own", f"folders.own={own}", f"folders.logs={logs}")
    assert "class 'jump' has 1 video" in refused(done)
    assert "Training" not in done.stdout
    assert not list(logs.glob("*/*"))


def test_saved_logits_name_the_videos_and_number_their_groups(tmp_path: Path) -> None:
    for name in ("jump", "wave"):
        for place in "abc":
            for i in range(2):
                file = tmp_path / name / place / f"{i}.mp4"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"video")
    found = {}
    for fold in (1, 2, 3):
        config = DataConfig("own", str(tmp_path), "folders.own", "own", folds=3, fold=fold)
        about = SimpleNamespace(config=config, check=partial(read_lists, tmp_path, config))
        saved = _videos_of(cast(VideoDataModule, about))
        found |= dict(zip(saved["videos"], saved["groups"].tolist(), strict=True))
    assert sorted(found) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mp4"))
    of_place = {(name.split("/")[1], number) for name, number in found.items()}
    assert len(of_place) == 3 == len(dict(of_place))
    plain = DataConfig("own", str(tmp_path / "jump"), "folders.own", "own")  # its places are classes
    about = SimpleNamespace(config=plain, check=partial(read_lists, tmp_path / "jump", plain))
    assert _videos_of(cast(VideoDataModule, about)).keys() == {"videos"}


def test_shipped_weights_begin_a_run_and_train_on(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    own = tmp_path / "own"
    for name in ("wave", "jump"):
        (own / name).mkdir(parents=True)
        for i in range(4):
            write_video(own / name / f"{i}.mp4", size=(60, 80))
    words = ["data=own", f"folders.own={own}", f"folders.logs={tmp_path / 'logs'}", "debug=two_steps", "views=1x1"]
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert "init=shipped:motion: with a new classifier" in done.stdout
    weights = load_file(shipped.file_of("shipped:motion"))
    trained = torch.load(only("last.ckpt", tmp_path / "logs"), weights_only=True)["state_dict"]
    for name, weight in weights.items():
        if not name.startswith("head."):  # two steps at most two learning rates away from where they began
            torch.testing.assert_close(trained[f"model.{name}"], weight.float(), atol=2e-3, rtol=0)
    assert "from scratch, since shipped:motion is of T=16" in script("train", *words, "T=8", "plan=true").stdout
    line = refused(script("train", *words, "init=shipped:nothing"))
    assert line.endswith("init=shipped:nothing: must be one of shipped:motion")


def test_shipped_weights_say_how_they_were_made() -> None:
    about = shipped.about("motion")
    assert about["metrics"]["test/top1_5x1"] > 95
    assert about["config"]["data"]["root"] is None
    assert (
        sum(tensor.numel() for tensor in load_file(shipped.file_of("shipped:motion")).values()) == about["parameters"]
    )


def test_a_relative_folder_is_meant_from_where_the_command_is_typed(tmp_path: Path, monkeypatch, write_video) -> None:
    for name in ("wave", "jump"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(2):
            write_video(tmp_path / "own" / name / f"{i}.mp4", size=(60, 80))
    monkeypatch.chdir(tmp_path)
    lists = read_lists(find_root(data := DataConfig(root="own", layout="own")), data)
    assert {split: len(paths) for split, paths in lists.absent.items()} == {"train": 0, "val": 0}
    assert all(Path(path).is_file() for path, _ in lists.videos["train"])
