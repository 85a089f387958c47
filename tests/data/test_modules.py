"""Data sets that are whole, and what is said in one line of those that are not."""

from __future__ import annotations

import filecmp
import gc
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stat_video.data import lists as lists_file
from stat_video.data import modules
from stat_video.data.augment import Augment
from stat_video.data.config import DataConfig
from stat_video.data.dataset import ClipDataset
from stat_video.data.lists import find_root, read_lists
from stat_video.data.loader import joined
from stat_video.data.modules import VideoDataModule
from stat_video.data.motion import MotionConfig
from stat_video.data.sample import Sample
from stat_video.data.sampling import Views
from stat_video.errors import InputError
from stat_video.models.base import Clip

KINETICS = DataConfig("kinetics400", setting="folders.kinetics400")


def make_module(config: DataConfig, **changes: Any) -> VideoDataModule:
    how: dict[str, Any] = {"clip": Clip(T=4, crop=32), "short_side": 32, "normalization": ([config.mean], [config.std])}
    how |= {"views": Views(2, 3), "augment": Augment(), "seed": 0, "batch_size": 5}
    return VideoDataModule(config, **how | changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in the form of Kinetics: 3 classes, 6 training and 4 validation videos of a few bytes."""
    folder = tmp_path / "kinetics"
    (folder / "videos").mkdir(parents=True)
    (folder / "classes.txt").write_text("abseiling\nair drumming\nzumba\n")
    for split, count in (("train", 6), ("val", 4)):
        names = [f"videos/{split} {i}.mp4" for i in range(count)]  # real names hold spaces too
        for name in names:
            (folder / name).write_bytes(b"video")
        (folder / f"{split}.csv").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    return folder


def edit(root: Path, file: str, change: Callable[[list[str]], list[str]]) -> None:
    path = root / file
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def refusal(config: DataConfig, *named: str) -> None:
    """Both ways to the lists refuse in one line that names all of `named`."""
    for look in (lambda: read_lists(find_root(config), config), lambda: make_module(config).check()):
        with pytest.raises(InputError) as caught:
            look()
        message = str(caught.value)
        assert "\n" not in message
        assert all(name in message for name in named), message


# ----------------------------------------------------------------------------------------------- what is read


def test_lists_are_read_with_spaces_in_names(root: Path) -> None:
    lists = read_lists(root, KINETICS)
    assert lists.classes == ["abseiling", "air drumming", "zumba"]
    assert lists.counts == {"train": 6, "val": 4}
    train = [lists.videos["train"][i] for i in range(6)]
    assert [path for path, _ in train] == [str(root / f"videos/train {i}.mp4") for i in range(6)]
    assert [info["label"] for _, info in train] == [0, 1, 2, 0, 1, 2]
    assert all(Path(path).read_bytes() == b"video" for path, _ in train)


def test_blank_lines_and_absolute_paths_are_fine(root: Path) -> None:
    (root / "elsewhere.mp4").write_bytes(b"video")
    edit(root, "train.csv", lambda lines: ["", *lines, "", f"{root}/elsewhere.mp4 1"])
    lists = read_lists(root, KINETICS)
    assert lists.counts["train"] == 7
    assert lists.videos["train"][6][0] == f"{root}/elsewhere.mp4"


def test_validation_may_leave_a_class_out(root: Path) -> None:
    edit(root, "val.csv", lambda lines: [line for line in lines if not line.endswith(" 2")])
    assert read_lists(root, KINETICS).counts["val"] == 3


@pytest.mark.parametrize("keep", [3, 4, 6, 9, 10])
def test_subset_of_the_validation_videos_has_each_class(root: Path, keep: int) -> None:
    """Where labels go round, as in the built-in lists, every third video of the list alone would be of one class."""
    edit(root, "val.csv", lambda lines: [f"{lines[i % 4].rpartition(' ')[0]} {i % 3}" for i in range(12)])
    videos = read_lists(root, KINETICS, keep).videos["val"]
    counts = Counter(videos[i][1]["label"] for i in range(keep))
    assert set(counts) == {0, 1, 2}
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("keep", "kept"), [(None, 12), (1, 1), (3, 3), (5, 5), (7, 7), (12, 12), (50, 12)])
def test_subset_of_the_validation_videos_is_evenly_spread(root: Path, keep: int | None, kept: int) -> None:
    edit(root, "val.csv", lambda lines: [f"{lines[i % 4].rpartition(' ')[0]} {i // 4}" for i in range(12)])
    whole = read_lists(root, KINETICS).videos["val"]
    lists = read_lists(root, KINETICS, keep)
    entries = [whole[i] for i in range(12)]
    positions, at = [], 0
    for video in (lists.videos["val"][i] for i in range(len(lists.videos["val"]))):
        at = entries.index(video, at)  # in the order of the list, none twice
        positions.append(at)
        at += 1
    assert len(positions) == kept == lists.counts["val"]
    gaps = [b - a for a, b in zip(positions, [*positions[1:], 12 + positions[0]], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert lists.counts["train"] == 6


def test_motion_videos_are_generated_and_loaded(motion_folder: Path, motion_config: MotionConfig) -> None:
    config = DataConfig(root=str(motion_folder.parent), hflip=False, motion=motion_config)
    assert find_root(config) == motion_folder
    module = make_module(config, repeats=2)
    module.prepare_data()
    batches = [joined(parts) for parts in module.train_dataloader()]
    assert len(batches) == 9  # 48 clips: the last, incomplete batch of 5 is left out
    assert all(batch["video"].shape == (5, 4, 3, 32, 32) for batch in batches)
    assert all(batch["video"].dtype == torch.uint8 for batch in batches)
    val = [joined(parts) for parts in module.val_dataloader()]
    assert [len(batch["label"]) for batch in val] == [5, 5, 2]
    assert torch.cat([batch["label"] for batch in val]).tolist() == list(range(12))
    test = [joined(parts) for parts in module.test_dataloader()]
    seen = [(i, v) for batch in test for i, v in zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)]
    assert seen == [(i, v) for i in range(12) for v in range(6)]


def test_views_may_be_larger_than_training_clips(motion_folder: Path, motion_config: MotionConfig) -> None:
    """Crop 48 in training, 64 of frames of short side 72 in validation and test."""
    config = DataConfig(root=str(motion_folder.parent), short_side=32, motion=motion_config)
    module = make_module(config, clip=Clip(T=2, crop=48, test_crop=64), short_side=72)
    assert {tuple(joined(parts)["video"].shape) for parts in module.train_dataloader()} == {(5, 2, 3, 48, 48)}
    for loader, sizes in ((module.val_dataloader(), {5, 2}), (module.test_dataloader(), {5, 2})):
        assert {tuple(joined(parts)["video"].shape) for parts in loader} == {(n, 2, 3, 64, 64) for n in sizes}


def test_parts_of_a_batch_become_one_on_the_device(motion_folder: Path, motion_config: MotionConfig) -> None:
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    module = make_module(config, batch_size=20)
    parts = next(iter(module.train_dataloader()))
    assert [len(part["label"]) for part in parts] == [8, 8, 4]
    batch = module.transfer_batch_to_device(parts, torch.device("cpu"), 0)
    assert torch.equal(batch["video"], torch.cat([part["video"] for part in parts]))
    assert batch["index"].tolist() == [i for part in parts for i in part["index"].tolist()]
    assert batch["unreadable"] == [""] * 20


def test_shared_memory_is_that_of_the_larger_crop(
    motion_folder: Path, motion_config: MotionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of 8 clips two workers hold two each, and two are in use."""
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    module = make_module(config, clip=Clip(T=4, crop=32, test_crop=64), short_side=64, batch_size=8, workers=2)
    needed = 6 * 8 * 3 * 4 * 64**2
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with nullcontext() if free == needed else pytest.raises(InputError, match=r"^/dev/shm has 2 MiB free"):
            module.check_shared_memory(1)


def test_normalisation_is_the_arguments(motion_folder: Path, motion_config: MotionConfig) -> None:
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    white = torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8)
    out = make_module(config, normalization=([0.5, 0.0, 0.75], [0.5, 0.25, 1.0])).normalize(white)
    assert torch.allclose(out.flatten(), torch.tensor([1.0, 4.0, 0.25]), atol=1e-6)


def test_lists_are_read_once(root: Path) -> None:
    module = make_module(replace(KINETICS, root=str(root)))
    assert module.check() is module.check()


# -------------------------------------------------------------------------------------------- what is refused


def test_folder_that_is_not_set_names_the_setting() -> None:
    refusal(KINETICS, "folders.kinetics400=", "conf/local.yaml", "train.csv")


def test_missing_folder_names_the_setting(tmp_path: Path) -> None:
    refusal(replace(KINETICS, root=str(tmp_path / "nowhere")), f"folders.kinetics400={tmp_path}/nowhere")


def test_folder_that_is_a_file_names_the_setting(tmp_path: Path, motion_config: MotionConfig) -> None:
    (tmp_path / "file").write_text("mine")
    refusal(replace(KINETICS, root=str(tmp_path / "file")), f"folders.kinetics400={tmp_path}/file")
    refusal(DataConfig(root=str(tmp_path / "file"), motion=motion_config), f"folders.built_in={tmp_path}/file")


@pytest.mark.parametrize("file", ["classes.txt", "train.csv", "val.csv"])
def test_missing_and_empty_lists_are_named(root: Path, file: str) -> None:
    config = replace(KINETICS, root=str(root))
    for content in ("", "\n \n"):
        (root / file).write_text(content)
        refusal(config, str(root / file), "empty")
    (root / file).unlink()
    refusal(config, str(root / file), "folders.kinetics400")


@pytest.mark.parametrize("file", ["classes.txt", "train.csv"])
def test_list_that_is_not_text_is_named(root: Path, file: str) -> None:
    (root / file).write_bytes("café 0\n".encode("latin-1") + b"\xff\xfe\x00")
    refusal(replace(KINETICS, root=str(root)), str(root / file))


@pytest.mark.parametrize(
    "line",
    [
        "videos/train 0.mp4",
        "0",
        *(f"videos/x.mp4 {label}" for label in ("zumba", "1.0", "--1", "²", "-")),
    ],
)
@pytest.mark.parametrize("file", ["train.csv", "val.csv"])
def test_malformed_line_is_named(root: Path, file: str, line: str) -> None:
    edit(root, file, lambda lines: [*lines[:2], line, *lines[2:]])
    refusal(replace(KINETICS, root=str(root)), str(root / file), "line 3", line)


@pytest.mark.parametrize("label", [3, 400, -1])
@pytest.mark.parametrize("file", ["train.csv", "val.csv"])
def test_label_outside_the_class_list_is_named(root: Path, file: str, label: int) -> None:
    edit(root, file, lambda lines: [f"{lines[0].rpartition(' ')[0]} {label}", *lines[1:]])
    refusal(replace(KINETICS, root=str(root)), str(root / file), "line 1", f"label {label}", "0 to 2")


def test_class_without_training_video_is_named(root: Path) -> None:
    edit(root, "train.csv", lambda lines: [line for line in lines if not line.endswith(" 1")])
    refusal(replace(KINETICS, root=str(root)), str(root / "train.csv"), "'air drumming'")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_and_empty_videos_are_counted_and_the_first_is_named(
    root: Path, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, total = replace(KINETICS, root=str(root)), {"train": 6, "val": 4}[split]
    (root / f"videos/{split} 3.mp4").unlink()
    refusal(config, str(root / f"{split}.csv"), f"{root}/videos/{split} 3.mp4", f"1 of {total}", "data.max_absent")
    (root / f"videos/{split} 1.mp4").write_bytes(b"")
    config = replace(config, max_absent=0.25)
    refusal(config, str(root / f"{split}.csv"), f"{root}/videos/{split} 1.mp4", f"1 of {total}", "data.max_unreadable")
    caplog.clear()
    lists = read_lists(root, replace(config, max_unreadable=0.25))
    assert lists.counts[split] == total - 1  # the empty one stays: reading it fails, and that is counted
    assert lists.absent[split] == [f"{root}/videos/{split} 3.mp4"]
    assert [f"1 of {total} videos are {what}" in caplog.text for what in ("missing", "empty or unreadable")] == [
        True,
        True,
    ]


def as_symlink(path: Path, other: Path) -> str:
    other.symlink_to(path)
    return other.name


def as_hard_link(path: Path, other: Path) -> str:
    other.hardlink_to(path)
    return other.name


SPELLINGS: dict[str, Callable[[Path, Path], str]] = {
    "the same path": lambda path, other: f"videos/{path.name}",
    "through .": lambda path, other: f"./videos/{path.name}",
    "through ..": lambda path, other: f"videos/../videos/{path.name}",
    "whole path": lambda path, other: str(path),
    "symbolic link": as_symlink,
    "hard link": as_hard_link,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_validation_videos_that_are_training_videos_are_refused(root: Path, spelling: str) -> None:
    path = SPELLINGS[spelling](root / "videos/train 2.mp4", root / "link.mp4")
    edit(root, "val.csv", lambda lines: [*lines, f"{path} 2"])
    config = replace(KINETICS, root=str(root))
    refusal(config, str(root / "val.csv"), "1 of 5", "link.mp4" if "link" in spelling else "2.mp4", "data.max_shared")
    assert read_lists(root, replace(config, max_shared=0.2)).counts == {"train": 6, "val": 5}


def test_a_copy_of_a_training_video_is_another_file(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification finds it by its content; a run without a manifest warns of it."""
    for i, video in enumerate(sorted((root / "videos").iterdir())):
        with video.open("ab") as file:
            file.write(bytes([i]))  # of one size, and no two alike
    compared = list[Path]()
    compare = filecmp.cmp
    monkeypatch.setattr(filecmp, "cmp", lambda a, b, shallow: compared.append(a) or compare(a, b, shallow))
    assert read_lists(root, replace(KINETICS, root=str(root))).counts["val"] == 4
    assert "copies" not in caplog.text
    assert compared == []  # each video of a side with each of the other would take hours
    shutil.copy(root / "videos/train 2.mp4", root / "copy.mp4")
    edit(root, "val.csv", lambda lines: [*lines, "copy.mp4 2"])
    assert read_lists(root, replace(KINETICS, root=str(root))).counts["val"] == 5
    assert "1 of 5 videos are copies of training videos, first" in caplog.text
    assert "copy.mp4 of" in caplog.text
    assert [path.name for path in compared] == ["copy.mp4"]


def test_equal_inode_numbers_alone_do_not_make_files_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems give them."""
    about = lists_file._about

    def all_alike(paths: Any) -> Any:
        return {
            path: SimpleNamespace(st_dev=1, st_ino=7, st_nlink=1, st_size=n.st_size, st_mode=n.st_mode)
            for path, n in about(paths).items()
        }

    monkeypatch.setattr(lists_file, "_about", all_alike)
    assert read_lists(root, replace(KINETICS, root=str(root))).counts == {"train": 6, "val": 4}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_validation_video_that_is_listed_twice_counts_once(
    root: Path, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(KINETICS, root=str(root))
    before = read_lists(root, config).videos["val"]
    path = SPELLINGS[spelling](root / "videos/val 2.mp4", root / "link.mp4")
    edit(root, "val.csv", lambda lines: [*lines, f"{path} 2"])
    lists = read_lists(root, config)
    assert lists.counts["val"] == 4
    assert [lists.videos["val"][i] for i in range(4)] == [before[i] for i in range(4)]
    assert sum("more than once" in record.message for record in caplog.records) == 1


def test_a_training_video_that_is_listed_twice_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(root, "train.csv", lambda lines: [*lines, lines[1]])
    assert read_lists(root, replace(KINETICS, root=str(root))).counts["train"] == 7
    assert sum("more than once" in record.message for record in caplog.records) == 1


def test_motion_folder_with_files_missing_names_the_setting(tmp_path: Path, motion_config: MotionConfig) -> None:
    (tmp_path / motion_config.folder_name).mkdir()
    refusal(DataConfig(root=str(tmp_path), motion=motion_config), "folders.built_in=", motion_config.folder_name)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("mean", -0.1, "allowed is 0 to 1"),
        ("mean", 45.0, "allowed is 0 to 1"),
        ("std", 0.0, "allowed is more than 0"),
        ("std", -1.0, "allowed is more than 0"),
        ("fold", 4, "must be 1 to 3"),
        ("max_absent", 1.0, "allowed is 0 to below 1"),
        ("max_unreadable", -0.1, "allowed is 0 to below 1"),
        ("short_side", 0, "allowed is 1 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        DataConfig(**{key: value})
    assert str(caught.value) == f"data.{key}={value}: {allowed}"


def test_fewer_training_clips_than_a_batch_are_refused(motion_folder: Path, motion_config: MotionConfig) -> None:
    """Else training would go through its epochs without a single step."""
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    with pytest.raises(InputError, match="24"):
        make_module(config, batch_size=25).train_dataloader()


def test_a_data_worker_outlives_a_sigterm_to_the_whole_job_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM sends it to all processes: the training process needs its workers until it has finished its step."""
    monkeypatch.setattr(modules, "TERM_SECONDS", 2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def work() -> None:
        modules.ignore_signals(0)
        ready.set()
        time.sleep(60)

    worker = context.Process(target=work)
    worker.start()
    assert worker.pid is not None
    assert ready.wait(60)
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid, signum)
    worker.join(1)
    assert worker.is_alive()
    worker.join(30)
    assert not worker.is_alive()


class Garbage:
    """Notes in which process it is collected."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cycle = folder, self

    def __del__(self) -> None:
        (self.folder / str(os.getpid())).touch()


class Collecting(ClipDataset):
    """Collects garbage in the process that reads."""

    def __getitems__(self, requests: Any) -> list[Sample]:
        gc.collect()
        return super().__getitems__(requests)


class NotesPriority(ClipDataset):
    """Notes the niceness of the process that reads."""

    noted = multiprocessing.get_context("fork").Value("i", -100)

    def __getitems__(self, requests: Any) -> list[Sample]:
        self.noted.value = os.getpriority(os.PRIO_PROCESS, 0)
        return super().__getitems__(requests)


def test_data_workers_have_a_lower_priority_than_a_model_on_the_cpu(
    motion_folder: Path, motion_config: MotionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "ClipDataset", NotesPriority)
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    next(iter(make_module(config, batch_size=4, workers=1).train_dataloader()))
    assert NotesPriority.noted.value == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


def test_data_workers_collect_no_garbage_of_the_process_that_trains(
    motion_folder: Path, motion_config: MotionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that frees a decoder of that process hangs: the decoder's threads are not in a fork."""
    monkeypatch.setattr(modules, "ClipDataset", Collecting)
    config = DataConfig(root=str(motion_folder.parent), motion=motion_config)
    loader = make_module(config, batch_size=4, workers=2).train_dataloader()
    gc.collect()
    gc.disable()
    try:
        Garbage(tmp_path)
        assert len(list(loader)) > 1
    finally:
        gc.enable()
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # here it is
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]


@pytest.mark.parametrize(("ranks", "passes"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_shared_memory_is_counted_for_the_ranks_of_a_run(
    ranks: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a trainer, which knows them."""
    told = []
    monkeypatch.setattr(modules, "check_shared_memory", lambda *sizes, mixed: told.append(mixed))
    data = modules.VideoDataModule(
        DataConfig(), clip=Clip(T=4, crop=32), short_side=48, normalization=([0.5], [0.5]), views=Views(1, 1),
        augment=Augment(), seed=0, batch_size=64, step=512, mix=True, workers=1,
    )  # fmt: skip
    data.check_shared_memory(min(ranks, 8), ranks)
    assert told == [passes]
