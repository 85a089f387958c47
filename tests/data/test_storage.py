"""A disk that does not return a video against a video that is broken; and how long each is waited for."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stat_video.data import loader, storage, verify
from stat_video.data.augment import Augment
from stat_video.data.config import DataConfig
from stat_video.data.encoding import Encoding
from stat_video.data.lists import read_lists
from stat_video.data.loader import joined
from stat_video.data.manifest import OK, UNREADABLE
from stat_video.data.modules import VideoDataModule
from stat_video.data.reader import PathHandler
from stat_video.data.sample import Sample
from stat_video.data.sampling import Views
from stat_video.data.storage import DiskGone, Lost, OnAllRanks, is_reachable, others_reachable
from stat_video.data.transcode import transcode
from stat_video.errors import InputError
from stat_video.models.base import Clip

WriteVideo = Callable[..., Path]
ERRORS = ["EIO", "ESTALE", "ENOTCONN", "EACCES", "ETIMEDOUT", "ENODEV", "ENOENT", "EHOSTDOWN"]


def everything(count: int) -> list[int]:
    return list(range(count))


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(params=["files", "folders of frames"])
def root(request: pytest.FixtureRequest, tmp_path: Path, write_video: WriteVideo) -> Path:
    """Two classes of six videos."""
    folder = tmp_path / "set"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for i in range(6):
            if request.param == "files":
                write_video(folder / label / f"{i}.mp4", count=6)
            else:
                pictures(folder / label / str(i), 6)
    return folder


def module(root: Path, seconds: float, workers: int = 0, **keys: Any) -> VideoDataModule:
    config = DataConfig("own", str(root), "folders.own", "own", wait_seconds=seconds, **keys)
    how: dict[str, Any] = {"clip": Clip(T=2, crop=24), "short_side": 24, "normalization": ([0.0], [1.0])}
    data = VideoDataModule(config, views=Views(2, 1), augment=Augment(), seed=0, batch_size=2, workers=workers, **how)
    data.check()
    return data


def read(parts: Any) -> list[Sample]:
    return [joined(batch) for batch in parts]


def same(one: list[Sample], two: list[Sample]) -> bool:
    return all(torch.equal(a["video"], b["video"]) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_disk_that_comes_back_gives_the_same_clips(
    root: Path, split: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    def batches(seconds: float) -> Any:
        return getattr(module(root, seconds, workers), f"{split}_dataloader")()

    expected = read(batches(0))
    found = batches(60)
    root.rename(root.with_name("away"))
    threading.Timer(0.7, lambda: root.with_name("away").rename(root)).start()
    got = read(found)
    assert same(got, expected)
    assert not any(path for batch in got for path in batch["unreadable"])
    assert sum("data.wait_seconds" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("seconds", [0, 0.4])
def test_a_disk_that_stays_away_is_said_after_the_wait(root: Path, seconds: float) -> None:
    batches = iter(module(root, seconds).test_dataloader())
    next(batches)
    root.rename(root.with_name("away"))
    begun = time.monotonic()
    with pytest.raises(DiskGone, match=f"data.wait_seconds={seconds:g}") as caught:
        list(batches)
    assert seconds <= time.monotonic() - begun < 20
    assert str(root) in caught.value.line


def test_an_empty_mount_point_is_a_disk_that_is_gone(root: Path) -> None:
    batches = module(root, 0.3).test_dataloader()
    shutil.rmtree(root)
    for label in "ab":
        (root / label).mkdir(parents=True)
    with pytest.raises(DiskGone):
        list(batches)


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_deleted_video_is_unreadable_after_a_short_wait(
    root: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "ALONE", 0.3)
    data = module(root, 600)
    path = Path(data.check().videos["train" if split == "train" else "val"][0][0])
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    begun = time.monotonic()
    batches = read(getattr(data, f"{split}_dataloader")())
    assert 0.3 <= time.monotonic() - begun < 20
    assert {path for batch in batches for path in batch["unreadable"]} == {"", str(path)}


def test_short_waits_for_single_videos_have_a_limit_together(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ALONE", 0.4)
    data = module(root, 600, held_out=0.5)
    data.waiting.alone_left = 0.5
    for index in (0, 3):
        path = Path(data.check().videos["val"][index][0])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    read(data.test_dataloader())
    assert data.waiting.alone_left == 0


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("at", ["open", "read"])
def test_an_error_of_the_disk_is_not_one_of_the_video(
    root: Path, name: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In opening a file, or in the middle of it."""
    path = next(path for path in sorted((root / "a").iterdir()))
    original = io.open

    class Failing(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

        def readall(self) -> bytes:
            return self.read()

    def fail(file: Any, mode: str = "r", *more: Any, **how: Any) -> Any:
        if str(file).startswith(str(root)) and "b" in mode:
            if at == "open":
                raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
            return Failing()
        return original(file, mode, *more, **how)

    monkeypatch.setattr(io, "open", fail)
    monkeypatch.setattr(builtins, "open", fail)
    with pytest.raises(Lost) as caught:
        PathHandler().video_from_path(str(path)).frames(everything)
    assert "\n" not in caught.value.line
    if at == "open":
        assert not is_reachable(path)


def test_a_broken_video_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"broken")
    (pictures(tmp_path / "frames") / "1.png").write_bytes(b"broken")
    with pytest.raises(InputError) as caught:
        PathHandler().video_from_path(str(tmp_path / "a.mp4")).frames(everything)
    assert not isinstance(caught.value, Lost)
    assert len(PathHandler().video_from_path(str(tmp_path / "frames")).frames(everything)) == 2


def test_whether_the_disk_or_one_video_is_gone_is_told_by_the_others(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    paths = [str(tmp_path / name) for name in ("a/1", "a/2", "a/3", "b/1")]
    (tmp_path / "a/1").unlink()
    assert others_reachable(tmp_path / "a/1", paths)
    shutil.rmtree(tmp_path / "a")  # a disk of its own: what lies elsewhere says nothing of it
    assert not others_reachable(tmp_path / "a/1", paths)
    os.mkfifo(tmp_path / "pipe")  # no look at it blocks
    assert is_reachable(tmp_path / "pipe")
    assert not others_reachable(tmp_path / "a/1", [str(tmp_path / "a/1")])


@pytest.mark.slow
def test_many_unreadable_videos_end_all_ranks_not_one_data_worker(root: Path) -> None:
    data = module(root, 0, workers=2)
    batches = data.train_dataloader()
    for path in root.rglob("*.*"):
        path.write_bytes(b"broken")
    with pytest.raises(OnAllRanks, match="unreadable, and so are") as caught:
        list(batches)
    assert "\n" not in caught.value.line


@pytest.mark.slow
def test_a_signal_ends_the_wait(root: Path) -> None:
    data = module(root, 600)
    stopped = SystemExit(143)

    def stop() -> None:
        raise stopped

    data.waiting.stop = stop
    begun = time.monotonic()
    data.waiting.stopping = lambda: time.monotonic() - begun > 0.5
    batches = data.test_dataloader()
    root.rename(root.with_name("away"))
    with pytest.raises(SystemExit) as caught:
        list(batches)
    assert caught.value is stopped
    assert time.monotonic() - begun < 30


# ------------------------------------------------------------------------- verification and copies wait, too


def go_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int, do: Callable[[], Any]) -> None:
    original, left = getattr(owner, name), [count]

    def called(*args: Any, **keys: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            do()
        return original(*args, **keys)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("back", [True, False])
def test_verification_takes_no_video_of_a_lost_disk_for_unreadable(
    root: Path, tmp_path: Path, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig("own", str(root), "folders.own", "own", wait_seconds=60 if back else 0.3)
    config.manifest = str(tmp_path / "manifest.csv")
    away = root.with_name("away")

    def go() -> None:
        root.rename(away)
        if back:
            threading.Timer(0.7, lambda: away.rename(root)).start()

    go_at(monkeypatch, verify, "_digest", 4, go)
    with redirect_stdout(io.StringIO()):
        if not back:
            with pytest.raises(DiskGone, match=r"data\.wait_seconds=0\.3"):
                verify.verify(config, 1)
            assert not (tmp_path / "manifest.csv").exists()
            away.rename(root)
        rows = verify.verify(config, 1)
    assert {row.status for row in rows} == {OK}
    assert read_lists(root, config).counts == {"train": 10, "val": 2}


def test_verification_calls_a_single_lost_video_unreadable(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ALONE", 0.2)
    config = DataConfig("own", str(root), "folders.own", "own", manifest=str(tmp_path / "manifest.csv"))
    gone = sorted((root / "b").iterdir())[-1]
    go_at(monkeypatch, verify, "_digest", 1, lambda: gone.rename(tmp_path / "elsewhere"))
    with redirect_stdout(io.StringIO()):
        rows = verify.verify(config, 1)
    assert [row.path for row in rows if row.status == UNREADABLE] == [f"b/{gone.name}"]


def test_copies_are_not_made_of_a_lost_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stat_video.data import transcode as transcode_file

    config = DataConfig("own", str(root), "folders.own", "own", wait_seconds=0.3)
    away = root.with_name("away")
    go_at(monkeypatch, transcode_file, "encode", 4, lambda: root.rename(away))
    with redirect_stdout(io.StringIO()):
        with pytest.raises(DiskGone, match=r"data\.wait_seconds=0\.3"):
            transcode(config, tmp_path / "out", Encoding(short_side=24), 1)
        assert all(path.stat().st_size for path in (tmp_path / "out").rglob("*.mp4"))
        away.rename(root)
        copies = transcode(config, tmp_path / "out", Encoding(short_side=24), 1)
    assert {copy.state for copy in copies} == {transcode_file.TRANSCODED}
    assert len(copies) == 12
    frames = PathHandler().video_from_path(str(tmp_path / "out" / copies[0].path)).frames(everything)
    assert np.asarray(frames).shape[0] == 6
