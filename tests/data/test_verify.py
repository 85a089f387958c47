"""A whole read of a small data set of good, odd and broken videos: what stands in the manifest, and what it is for."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stat_video.data import verify as module
from stat_video.data.config import DataConfig
from stat_video.data.limits import Limits
from stat_video.data.lists import manifest_hash, read_lists
from stat_video.data.manifest import (
    ABSENT,
    DAMAGED,
    OK,
    UNREADABLE,
    VideoRow,
    content_hash,
    counts,
    in_both_splits,
    manifest_path,
    read_manifest,
    write_manifest,
)
from stat_video.data.verify import Journal, verify
from stat_video.errors import InputError
from stat_video.runs.run import Run, same_data

WriteVideo = Callable[..., Path]

CONFIG = DataConfig("kinetics400", setting="folders.kinetics400", max_absent=0.5, max_unreadable=0.5)
EXPECTED = {
    "good.mp4": (OK, 24),
    "b.mkv": (OK, 24),
    "one.mp4": (OK, 1),
    "frames": (OK, 3),
    "cut.mp4": (DAMAGED, None),
    "text.mp4": (UNREADABLE, None),
    "empty.mp4": (UNREADABLE, None),
    "no_picture": (UNREADABLE, None),
    "nowhere.mp4": (ABSENT, None),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Two classes; all of EXPECTED for training, two of them and one more for validation."""
    root = tmp_path_factory.mktemp("data") / "k400"
    (root / "frames").mkdir(parents=True)
    (root / "no_picture").mkdir()
    write_video(root / "good.mp4")
    write_video(root / "b.mkv", bf="2", size=(38, 50), fps=10)
    write_video(root / "one.mp4", count=1)
    write_video(root / "val.mp4", count=20)
    cut = write_video(root / "cut.mp4", count=200, g="10", container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (root / "text.mp4").write_text("none")
    (root / "empty.mp4").touch()
    for i in range(3):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(root / "frames" / f"{i}.jpg")
    (root / "classes.txt").write_text("a\nb\n")
    (root / "train.csv").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(EXPECTED)))
    (root / "val.csv").write_text("val.mp4 0\ngood.mp4 0\ntext.mp4 1\n")
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "k400")


def run(root: Path, workers: int = 2, **changes: object) -> tuple[list[VideoRow], str]:
    with redirect_stdout(io.StringIO()) as said:
        rows = verify(replace(CONFIG, root=str(root), **changes), workers)
    return rows, said.getvalue()


def state(root: Path) -> str:
    known = manifest_hash(replace(CONFIG, root=str(root)))
    assert known is not None
    return known


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------ what is found


def test_each_video_is_found_as_it_is(root: Path) -> None:
    rows, _ = run(root)
    assert [(row.split, row.path) for row in rows[:9]] == [("train", name) for name in EXPECTED]
    for row, (status, frames) in zip(rows, EXPECTED.values(), strict=False):
        assert row.status == status, row
        assert bool(row.reason) == (status in (DAMAGED, UNREADABLE)), row
        assert "\n" not in row.reason
        assert str(root) not in row.reason
        if frames is not None:
            assert row.frames == frames
    good, b, _, frames, cut = rows[:5]
    assert (good.fps, good.height, good.width, good.codec, good.pixels) == (25.0, 48, 64, "h264", "yuv420p")
    assert (b.fps, b.height, b.width, b.label, b.name) == (10.0, 38, 50, 1, "b")
    assert (frames.height, frames.width, frames.codec) == (30, 40, "jpg")
    assert cut.frames is not None
    assert 60 < cut.frames < 200
    assert f"{cut.frames} of 200 frames are there" in cut.reason
    content = (root / "good.mp4").read_bytes()
    assert (good.bytes, good.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert read_manifest(root / "manifest.csv") == rows  # it comes back as it went


def test_what_lies_beside_pictures_is_no_part_of_them(root: Path) -> None:
    before = {row.path: row.sha256 for row in run(root)[0]}
    (root / "frames" / "@eaDir").mkdir()
    rows, _ = run(root)
    assert {row.path: row.status for row in rows}["frames"] == OK
    assert {row.path: row.sha256 for row in rows} == before


def test_a_link_in_the_data_set_is_not_written_through(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("mine")
    (root / ".manifest.csv.begun").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"manifest.csv.begun: could not be written"):
        run(root)
    assert elsewhere.read_text() == "mine"


def test_counts_add_up_and_what_is_wrong_is_listed(root: Path) -> None:
    rows, _ = run(root)
    expected = Counter(status for status, _ in EXPECTED.values())
    assert counts(rows[:9]) == {"listed": 9, **expected}
    classes = {(r["split"], r["class"]): r for r in table(root / "manifest_classes.csv")}
    assert [int(classes["train", "a"][key]) for key in ("expected", "present", "readable")] == [5, 4, 3]
    assert [int(classes["train", "b"][key]) for key in ("expected", "present", "readable")] == [4, 4, 2]
    assert [int(classes["val", "a"][key]) for key in ("expected", "present", "readable")] == [2, 2, 2]
    problems = [(r["split"], r["path"], r["status"]) for r in table(root / "manifest_problems.csv")]
    wrong = [("train", name, status) for name, (status, _) in EXPECTED.items() if status != OK]
    assert problems == [
        *wrong,
        ("val", "text.mp4", UNREADABLE),
        *[("both", name, "same content") for name in ("good.mp4", "text.mp4")],
    ]
    assert in_both_splits(rows) == [("good.mp4", "good.mp4"), ("text.mp4", "text.mp4")]


def test_training_goes_by_the_manifest(root: Path) -> None:
    """Unreadable videos are known before they are met; one that has changed or has come since is noticed."""
    config = replace(CONFIG, root=str(root), max_shared=0.9)
    run(root)
    assert read_lists(root, config).counts == {"train": 8, "val": 3}
    with pytest.raises(InputError, match=r"3 of 9 videos are empty or unreadable.*text.mp4.*data.max_unreadable=0.3"):
        read_lists(root, replace(config, max_unreadable=0.3))
    (root / "nowhere.mp4").write_bytes((root / "good.mp4").read_bytes())
    with pytest.raises(
        InputError, match=r"1 videos are not as .*manifest.csv has them, first .*nowhere.mp4.*do=verify"
    ):
        read_lists(root, config)
    (root / "nowhere.mp4").unlink()
    (root / "one.mp4").write_bytes((root / "good.mp4").read_bytes())
    with pytest.raises(InputError, match=r"1 videos are not as .*one.mp4"):
        read_lists(root, config)
    run(root)
    read_lists(root, config)


# --------------------------------------------------------------------------------------- killed and begun again


def test_a_killed_verification_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect, read = module.inspect, Counter[str]()

    def until_killed(folder: Path, row: VideoRow, limits: Limits, **how: bool) -> VideoRow:
        if len(read) == 4:
            raise KeyboardInterrupt
        read[row.path] += 1
        return inspect(folder, row, limits, **how)

    monkeypatch.setattr(module, "inspect", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, workers=1)
    assert not (root / "manifest.csv").exists()
    before = set(read)

    def count(folder: Path, row: VideoRow, limits: Limits, **how: bool) -> VideoRow:
        read[row.path] += 1
        return inspect(folder, row, limits, **how)

    (journal,) = root.glob(".manifest.csv.begun")
    journal.write_bytes(journal.read_bytes() + b'[[3, 4], {"path": "b.m')  # the line that the kill tore
    (root / "good.mp4").write_bytes((root / "val.mp4").read_bytes())  # one that was read has changed
    monkeypatch.setattr(module, "inspect", count)
    rows, said = run(root, workers=1)
    assert "Reading 6 of 9 videos" in said
    assert {name: n for name, n in read.items() if name in before} == {n: 1 + (n == "good.mp4") for n in before}
    assert set(read) == {*EXPECTED, "val.mp4"} - {"nowhere.mp4"}
    assert not list(root.glob(".*"))
    monkeypatch.undo()
    whole = (root / "manifest.csv").read_bytes()
    assert run(root, workers=3)[0] == rows
    assert (root / "manifest.csv").read_bytes() == whole  # whatever the order in which they were read


def test_journal_of_other_lists_gives_content_and_nothing_else(root: Path) -> None:
    rows, _ = run(root)
    journal = Journal(root / ".manifest.csv.begun")
    for row in rows:
        if row.status != ABSENT:
            about = (root / row.path).stat()
            journal.add([about.st_size, about.st_mtime_ns], replace(row, label=1 - row.label, split="val", name="old"))
    again, said = run(root)
    assert again == rows
    assert "Reading 0 of 9 videos" in said


def test_only_what_the_command_says_is_written(root: Path) -> None:
    def content() -> dict[str, tuple[bytes, int]]:
        files = [f for f in root.rglob("*") if f.is_file() and not f.name.startswith("manifest")]
        return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}

    before = content()
    run(root)
    assert content() == before


# --------------------------------------------------------------------------------------- which state a run is of


def test_verifying_makes_no_other_run_of_it_and_a_change_is_noticed(root: Path) -> None:
    unverified = state(root)
    _, said = run(root)
    assert "not as the manifest had them" not in said
    verified = state(root)
    assert verified.startswith(f"{unverified}.")
    assert same_data(unverified, verified)
    assert run(root)[1].count("not as the manifest") == 0
    assert state(root) == verified
    (root / "one.mp4").write_bytes((root / "good.mp4").read_bytes())
    (root / "nowhere.mp4").write_bytes((root / "good.mp4").read_bytes())
    assert "2 videos are not as the manifest had them before, first nowhere.mp4" in run(root)[1]
    assert not same_data(verified, state(root))
    assert same_data(unverified, state(root))
    (root / "val.csv").write_text("val.mp4 1\n")
    assert not same_data(unverified, state(root))


def test_the_run_is_found_again_after_verifying() -> None:
    config = {"name": "x", "scale": "tiny", "seed": 0, "clip": {"T": 16}, "data": {"name": "k"}, "model": {"name": "m"}}
    folders = {Run.of(config, Path("logs"), known).folder for known in ("aaaa", "aaaa.bbbb", "aaaa.cccc")}
    assert len(folders) == 1
    assert Run.of(config, Path("logs"), "dddd.bbbb").folder not in folders


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a.x", "a.x", True),
        ("a.x", "a.y", False),
        ("a", "a.x", True),
        ("a", "b", False),
        ("a.x", "b.x", False),
        (None, "a.x", True),
        ("motion-1234", "motion-1234", True),
        ("motion-1234", "motion-5678", False),
    ],
)
def test_same_data(one: str | None, other: str | None, same: bool) -> None:
    assert same_data(one, other) == same_data(other, one) == same


def test_hash_is_of_content_not_of_what_a_decoder_says_of_it() -> None:
    row = VideoRow("train", "a.mp4", 0, "a", OK, frames=3, sha256="12")
    assert content_hash([row]) == content_hash([replace(row, status=DAMAGED, reason="another FFmpeg", frames=2)])
    for change in ({"sha256": "13"}, {"path": "b.mp4"}, {"label": 1}, {"split": "val"}):
        assert content_hash([row]) != content_hash([replace(row, **change)])


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("content", ["split,path\ntrain,a\n", "none", "split,path,label,name,status\nt,a,x,n,ok\n"])
def test_another_file_in_the_manifests_place_is_named(root: Path, content: str) -> None:
    (root / "manifest.csv").write_text(content)
    with pytest.raises(InputError, match=r"manifest.csv: not a manifest") as caught:
        run(root)
    assert "\n" not in str(caught.value)
    assert (root / "manifest.csv").read_text() == content


def test_manifest_elsewhere_and_of_another_fold(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine" / "m.csv"
    run(root, manifest=str(elsewhere))
    assert not list(root.glob("manifest*"))
    assert sorted(f.name for f in elsewhere.parent.iterdir()) == ["m.csv", "m_classes.csv", "m_problems.csv"]
    assert manifest_path(root, replace(CONFIG, fold=2)) == root / "manifest_2.csv"


def test_a_manifest_that_cannot_be_written_is_one_line(root: Path) -> None:
    with pytest.raises(InputError, match=r"/dev/null/.m.csv.*data.manifest=FILE"):
        run(root, manifest="/dev/null/m.csv")


def test_no_rows_is_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "manifest.csv") == []
    write_manifest(tmp_path / "manifest.csv", [])
    assert read_manifest(tmp_path / "manifest.csv") == []
