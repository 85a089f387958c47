"""Batches that are loaded in parts against those that are loaded whole, and the shared memory that they need."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader

from stat_video.data import loader
from stat_video.data.augment import Augment
from stat_video.data.dataset import ClipDataset, TrainSampler, ViewRequest, ViewSampler
from stat_video.data.loader import BatchLoader, check_shared_memory, joined, part_of, prefetched
from stat_video.data.sampling import Views
from stat_video.data.transforms import TrainTransform, ViewTransform
from stat_video.errors import InputError
from stat_video.models.base import Clip

Usage = namedtuple("Usage", "total used free")
MIB = 2**20
FULL = 3 * 16 * 224**2  # bytes of a clip


@pytest.fixture(scope="module")
def data(motion_folder: Path) -> ClipDataset:
    paths = LabeledVideoPaths.from_path(str(motion_folder / "train.csv"))
    paths.path_prefix = str(motion_folder)
    train, view = TrainTransform(24, Augment(), hflip=False), ViewTransform(28, 24)
    return ClipDataset(paths, Clip(T=2, crop=24), train=train, view=view, views=Views(2, 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch", "drop_last"), [(20, True), (20, False), (8, True), (5, False), (48, True)])
def test_parts_make_the_batches_that_would_be_loaded_whole(
    data: ClipDataset, batch: int, drop_last: bool, workers: int
) -> None:
    """48 clips, so batches of 20 and 5 leave some over."""
    sampler = TrainSampler(len(data), seed=0, repeats=2)
    whole = DataLoader(data, batch, sampler=sampler, drop_last=drop_last)
    parts = BatchLoader(data, sampler, batch, drop_last=drop_last, repeats=2, workers=workers)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(parts)
        assert len(batches) == len(parts) == len(whole)
        assert all(len(part["label"]) <= 8 for made_of in batches for part in made_of)
        for made_of, expected in zip(batches, whole, strict=True):
            found = joined(made_of)
            assert found["unreadable"] == expected["unreadable"]
            for key in ("video", "label", "index", "view"):
                assert torch.equal(found[key], expected[key])  # type: ignore[literal-required]


def test_every_view_comes_once(data: ClipDataset) -> None:
    parts = BatchLoader(data, ViewSampler(len(data), Views(2, 1)), 11, drop_last=False, workers=2)
    batches = [joined(made_of) for made_of in parts]
    assert [len(batch["label"]) for batch in batches] == [11, 11, 11, 11, 4]
    seen = [ViewRequest(i, v) for b in batches for i, v in zip(b["index"].tolist(), b["view"].tolist(), strict=True)]
    assert seen == list(ViewSampler(len(data), Views(2, 1)))


def test_parts_hold_whole_repeats_and_enough_is_made_ahead() -> None:
    assert [part_of(64, repeats) for repeats in (1, 2, 3, 5, 16)] == [8, 8, 6, 5, 16]
    assert [part_of(batch, 2) for batch in (2, 7, 8, 10)] == [2, 7, 8, 8]
    for parts in range(1, 17):
        for workers in (1, 2, 16, 64):
            assert workers * prefetched(parts, workers) >= 2 * parts  # two batches
            assert prefetched(parts, workers) >= 2  # no worker waits for the next request


@pytest.mark.parametrize(
    ("mib", "workers", "processes", "fits"),
    [
        (64, 16, 1, False),  # a container as it comes
        (64, 0, 8, True),  # nothing is handed over
        (881, 16, 1, False),  # 16 workers x 2 parts and 2 batches of 8 parts: 48 parts of 18.375 MiB
        (882, 16, 1, True),
        (7055, 16, 8, False),
        (7057, 16, 8, True),
        (588, 1, 1, True),  # one worker makes two batches ahead: 32 parts
        (587, 1, 1, False),
    ],
)
def test_too_little_shared_memory_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, mib: int, workers: int, processes: int, fits: bool
) -> None:
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: Usage(2**40, 0, mib * MIB + MIB // 10))
    arguments: dict[str, Any] = {"batch_size": 64, "repeats": 2, "workers": workers, "processes": processes}
    if fits:
        check_shared_memory(FULL, **arguments)
        return
    with pytest.raises(InputError) as caught:
        check_shared_memory(FULL, **arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert all(
        word in line for word in ("trainer.workers", "trainer.batch_per_device", "--shm-size", f"{mib:,} MiB free")
    )


def test_a_machine_without_shared_memory_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "SHARED", tmp_path / "none")
    check_shared_memory(2**40, 64, 2, workers=16, processes=8)
