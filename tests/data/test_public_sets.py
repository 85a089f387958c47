"""data=egogestar and data=kth: lists of real videos, split by place and by person."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stat_video.compose import read
from stat_video.config import Config
from stat_video.data.config import DataConfig
from stat_video.data.layouts import egogestar
from stat_video.data.lists import read_lists
from stat_video.errors import InputError

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
HEAD = """\
Training:   person11, 12, 13, 14, 15, 16, 17, 18
Validation: person19, 20, 21, 23, 24, 25, 01, 04
Test:       person22, 02, 03, 05, 06, 07, 08, 09, 10

"""


def kth(root: Path) -> None:
    """Write files of the official form: a video is missing, and each action has a folder of its own."""
    lines = []
    for action in ACTIONS:
        for person in range(1, 26):
            for scene in range(1, 5):
                name = f"person{person:02d}_{action}_d{scene}"
                if name == "person13_handclapping_d3":
                    lines.append(f"{name}\t*missing*")
                    continue
                lines.append(f"{name}\t\tframes\t1-95, 96-185, 186-245, 246-360")
                video = root / action / f"{name}_uncomp.avi"
                video.parent.mkdir(exist_ok=True)
                video.write_bytes(b"video")
    (root / "00sequences.txt").write_text(HEAD + "\n".join(lines) + "\n")


def of_kth(root: Path, **keys: Any) -> DataConfig:
    return DataConfig("kth", str(root), "folders.kth", "kth", **keys)


def persons(paths: list[str]) -> set[int]:
    return {int(Path(path).name[6:8]) for path in paths}


def test_kth_has_the_official_split_by_person(tmp_path: Path) -> None:
    kth(tmp_path)
    found = read_lists(tmp_path, of_kth(tmp_path))
    assert found.classes == list(ACTIONS)
    assert found.counts == {"train": 191 + 192, "val": 216}  # files of each part, as other readers count them
    val = [path for path, _ in found.videos["val"]]
    assert persons(val) == {22, 2, 3, 5, 6, 7, 8, 9, 10}
    assert persons([path for path, _ in found.videos["train"]]) == set(range(1, 26)) - persons(val)
    for path, about in found.videos["val"]:
        assert Path(path).parent.name == found.classes[about["label"]]
        assert found.groups[path] == Path(path).name[:8]
    chosen = read_lists(tmp_path, of_kth(tmp_path, train="train", val="validation"))
    assert chosen.counts == {"train": 191, "val": 192}
    assert not persons([path for path, _ in chosen.videos["val"]]) & persons(val)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"val": "tests"}, "data.val=tests: must be one of train, validation, test, train+validation"),
        ({"val": "validation"}, "data.val=validation: must have other persons than data.train, not 1"),
    ],
)
def test_a_wrong_part_of_kth_is_named(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    kth(tmp_path)
    with pytest.raises(InputError, match=re.escape(says)):
        read_lists(tmp_path, of_kth(tmp_path, **keys))


def test_a_file_without_sequences_is_named(tmp_path: Path) -> None:
    (tmp_path / "00sequences.txt").write_text(HEAD)
    with pytest.raises(InputError, match=r"00sequences\.txt: no line 'person01_boxing_d1 frames"):
        read_lists(tmp_path, of_kth(tmp_path))


def test_egogestar_reads_a_clone(tmp_path: Path) -> None:
    config = DataConfig("egogestar", str(tmp_path), "folders.egogestar", "egogestar")
    with pytest.raises(InputError, match=re.escape("varunj/EgoGestAR")):
        read_lists(tmp_path, config)
    rows = [line.split(",") for line in egogestar.LIST.read_text().splitlines()[1:]]
    (tmp_path / "testvideo").mkdir()
    for path, *_ in rows:
        (tmp_path / path).write_bytes(b"video")
    found = read_lists(tmp_path, config)
    assert found.counts == {"train": 157, "val": 60}
    assert set(Counter(about["label"] for _, about in found.videos["val"]).values()) == {6}
    parts = [{found.groups[path] for path, _ in found.videos[split]} for split in ("train", "val")]
    assert not parts[0] & parts[1]
    for path, about in found.videos["train"]:  # the original's names: carret, circlecc, del
        assert Path(path).stem.removeprefix("testvideo_")[:2] == found.classes[about["label"]][:2]
    (tmp_path / rows[0][0]).unlink()
    with pytest.raises(InputError, match=rf"1 of 157 videos are missing, first .*{rows[0][0]}"):
        read_lists(tmp_path, config)


@pytest.mark.parametrize(("data", "hflip"), [("egogestar", False), ("kth", True)])
def test_small_public_sets_are_trained_at_the_tiny_scale(tmp_path: Path, data: str, hflip: bool) -> None:
    config = read("train", Config, [f"data={data}", f"folders.{data}={tmp_path}"]).rows[0].config
    assert (config.scale, config.recipe.least_steps, config.data.hflip) == ("tiny", 1600, hflip)
    assert config.data.root == str(tmp_path)
