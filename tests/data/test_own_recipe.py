"""data=own: what a training takes from the videos themselves, and what it says at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from running import refused, script
from stat_video import compose
from stat_video.config import Config
from stat_video.cost.plan import plan
from stat_video.data import pixels
from stat_video.data.directions import of_direction
from stat_video.data.lists import read_listing
from stat_video.errors import InputError
from stat_video.runs.run import Run
from stat_video.runs.settled import settled
from stat_video.training.fit import identify
from stat_video.training.outcome import say_chance
from stat_video.training.own import check_callbacks

GESTURES = ["caret", "circle", "delete", "down", "left", "right", "square", "star", "tick", "up"]  # of EgoGestAR


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """Four videos of each of two classes that name directions, of another brightness each by its width."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("go left", "go right"):
        (folder / name).mkdir()
        for i in range(4):
            write_video(folder / name / f"{i}.mp4", size=(60, 80 + 8 * i))
    return folder


def config_of(folder: Path, *words: str) -> Config:
    said = ["data=own", f"folders.own={folder}", f"folders.logs={folder.parent / 'logs'}", "init=null", *words]
    (row,) = compose.rows("train", Config, said)
    return row.config


@pytest.fixture(scope="module")
def asked(own: Path) -> Config:
    return config_of(own)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_length_follows_from_steps(asked: Config) -> None:
    """Six videos are one step of four, an epoch. The last epoch has a validation; a plan counts the videos of each."""
    recipe = settled(asked).recipe
    assert (recipe.epochs, recipe.val_every, recipe.least_steps) == (1600, 40, 0)
    assert plan(asked).clips == 1600 * 6
    assert settled(settled(asked)) == settled(asked)


def test_a_checkpoint_names_its_folder_whole(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tested from any folder."""
    monkeypatch.chdir(own.parent)
    asked = config_of(own, f"folders.own={own.name}")
    assert asked.data.root == own.name
    assert identify(asked)[1]["data"]["root"] == str(own)


@pytest.mark.parametrize(
    ("videos", "epochs", "every"), [(8, 1600, 40), (30, 270, 6), (170, 48, 1), (212, 39, 1), (10000, 1, 1)]
)
def test_the_length_holds_for_small_and_large_folders(
    asked: Config, tmp_path: Path, videos: int, epochs: int, every: int
) -> None:
    folder = tmp_path / "videos"
    for name in ("jump", "wave"):
        (folder / name).mkdir(parents=True)
        for i in range(videos // 2):
            (folder / name / f"{i}.mp4").touch()
    data = replace(asked.data, root=str(folder), mean=0.4, std=0.2)
    recipe = settled(replace(asked, data=data)).recipe
    assert (recipe.epochs, recipe.val_every) == (epochs, every)
    training = videos - 2 * max(1, round(videos / 2 * 0.2))
    assert recipe.epochs * (training // 4) >= 1600
    assert recipe.epochs % recipe.val_every == 0


def test_epochs_by_hand_hold(own: Path) -> None:
    config = config_of(own, "recipe.epochs=3")
    assert settled(config).recipe.epochs == 3
    assert settled(config_of(own, "epochs=1")).recipe.epochs == 1
    assert settled(config_of(own, "recipe.max_steps=2")).recipe.epochs == 2  # of one step


def test_what_asks_for_the_epochs_is_checked_once_they_are_known(own: Path) -> None:
    """A warm-up, least epochs and rare validations do not fit into one epoch, but into 1600."""
    words = ("recipe.warmup_epochs=2", "recipe.val_every=2", "callbacks=early_stopping", "trainer.more.min_epochs=9")
    config = config_of(own, *words)
    check_callbacks(config)
    assert settled(config).recipe.epochs == 1600
    with pytest.raises(InputError, match=r"recipe.warmup_epochs=2.*less than epochs=2"):
        config_of(own, *words, "recipe.epochs=2")


def test_the_same_numbers_by_hand_are_the_same_run(own: Path, asked: Config) -> None:
    config, _, run, _ = identify(asked)
    data = config.data
    numbers = (f"data.mean={data.mean}", f"data.std={data.std}", "data.hflip=false")
    by_hand = config_of(own, *numbers, "recipe.epochs=1600", "recipe.val_every=40")
    assert by_hand.data.mean is not None
    assert identify(by_hand)[2] == run == plan(asked).run
    other = identify(config_of(own, *numbers, "recipe.epochs=1599", "recipe.val_every=40"))[2]
    assert other.id != run.id


def test_pixels_are_those_of_a_slow_loop(own: Path, asked: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames of each training video, all pixels alike; kept until a video is another."""
    data = settled(asked).data
    found = []
    names = [name for name, _ in read_listing(own, asked.data).entries["train"]]
    assert len(names) == 6
    for name in names:
        with av.open(str(own / name)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        found += [frames[int(len(frames) * share)].ravel() for share in (1 / 6, 1 / 2, 5 / 6)]
    whole = np.concatenate(found) / 255
    assert data.mean == pytest.approx(whole.mean(), abs=2e-3)
    assert data.std == pytest.approx(whole.std(), abs=2e-3)

    def fails(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(pixels, "_measure", fails)
    assert settled(asked).data == data
    video = own / names[0]
    stamp = video.stat()
    try:
        os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
        with pytest.raises(AssertionError, match="measured again"):
            settled(asked)
    finally:
        os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (GESTURES, ["left", "right"]),
        (["wave", "jump", "run upstairs", "copyright"], []),
        (["Pushing something from left to right", "turnLeft", "tourner à droite", "Pushing"], [0, 1, 2]),
        (["rotate clockwise", "nach links", "West", "stand"], [0, 1, 2]),
        (["swipe_l", "swipe_r", "tap_l"], [0, 1]),
        (["plan L", "grade R"], []),
    ],
)
def test_which_classes_name_directions(classes: list[str], found: list[Any]) -> None:
    assert of_direction(classes) == [classes[i] if isinstance(i, int) else i for i in found]


def test_flips_follow_from_the_classes_unless_said(own: Path, asked: Config, tmp_path: Path) -> None:
    assert settled(asked).data.hflip is False
    assert settled(replace(asked, data=replace(asked.data, hflip=True))).data.hflip is True
    for name in ("jump", "wave"):
        shutil.copytree(own / "go left", tmp_path / "other" / name)
    other = replace(asked.data, root=str(tmp_path / "other"), max_shared=1.0, mean=0.4, std=0.2)
    assert settled(replace(asked, data=other)).data.hflip is True


@pytest.mark.parametrize("number", [2, 6, 60, 300])
def test_a_run_at_chance_is_one_that_guessing_equals(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Against SciPy's one-sided test, of balanced classes and of one that has half of the videos."""
    for labels in (torch.arange(number) % 10, (torch.arange(number) % 2) * (torch.arange(number) % 9)):
        chance = max(1 / 10, float(labels.bincount().max()) / number)
        for right in range(number + 1):
            say_chance(100 * right / number, labels, 10, None)
            said = "may be chance" in capsys.readouterr().out
            assert said == (binomtest(right, number, chance, alternative="greater").pvalue > 0.05), right


def test_what_to_try_at_chance(capsys: pytest.CaptureFixture[str]) -> None:
    say_chance(10.0, torch.arange(60) % 10, 10, None)
    line = capsys.readouterr().out
    assert "10.0 % of 60 videos, may be chance, which is 10.0 %" in line
    assert "recipe.epochs" in line
    assert "init=" in line
    say_chance(10.0, torch.arange(60) % 10, 10, "some.ckpt")
    assert "init=" not in capsys.readouterr().out


def test_the_folders_of_own_runs_say_what_they_differ_in(own: Path, asked: Config, tmp_path: Path) -> None:
    plain = asdict(settled(asked))
    name = Run.of(plain, tmp_path, "x").folder.name
    assert name.startswith("tiny-own-T16-crop48-stat-epochs1600-seed0-")
    init = {**plain, "init": "/logs/a run/last.ckpt@sha256:0123456789abcdef"}
    assert "-epochs1600-init_last_012345-seed0-" in Run.of(init, tmp_path, "x").folder.name
    assert (
        "-init_shipped_motion-"
        in Run.of({**plain, "init": "shipped:motion@sha256:0123456789abcdef"}, tmp_path, "x").folder.name
    )
    motion = {**plain, "data": {**plain["data"], "name": "motion"}}
    assert Run.of(motion, tmp_path, "x").folder.name.startswith("tiny-motion-T16-stat-seed0-")
    ssv2 = {**motion, "init": "trained_on=kinetics400/0a1b2c3d"}
    assert Run.of(ssv2, tmp_path, "x").folder.name.startswith("tiny-motion-T16-stat-seed0-")


def test_verify_measures_what_a_run_normalizes_by(own: Path, tmp_path: Path, cache: Path) -> None:
    logs = f"folders.logs={tmp_path / 'logs'}"
    manifest = f"data.manifest={tmp_path / 'manifest.csv'}"
    words = ("data=own", f"folders.own={own}", logs, manifest)
    done = script("prepare", "do=verify", *words[:2], manifest, XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    (said,) = [row for row in done.stdout.splitlines() if "measured on 6 training videos" in row]
    assert said.startswith("data.mean=0.")
    assert list((cache / "stat-video").glob("pixels-*.json"))
    done = script("train", *words, "debug=two_steps", "views=1x1", "init=null", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "data.hflip=false: classes name directions (go left, go right)" in done.stdout


def test_wrong_lengths_are_refused(own: Path) -> None:
    done = script("train", "data=own", f"folders.own={own}", "recipe.least_steps=-1")
    assert "recipe.least_steps=-1" in refused(done)
    with pytest.raises(InputError, match=r"recipe.epochs=0: must be 1 or more, or 0 with recipe.least_steps"):
        config_of(own, "recipe.least_steps=0")
    with pytest.raises(InputError, match=r"recipe.least_steps=9: needs recipe.epochs=0"):
        config_of(own, "recipe.least_steps=9", "epochs=3")
