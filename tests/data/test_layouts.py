"""The same few videos in each form in which people have them: the same classes, videos and labels."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stat_video.data import layouts
from stat_video.data.config import DataConfig
from stat_video.data.layouts.base import split_number
from stat_video.data.lists import Lists, manifest_hash, read_lists
from stat_video.errors import InputError

CLASSES = ["air drumming", "baking", "zumba"]
TRAIN = [(f"id-{i}_x", i % 3) for i in range(7)]  # YouTube's ids hold '-' and '_'
VAL = [(f"-val{i}", i % 3) for i in range(4)]
SPLITS = {"train": TRAIN, "val": VAL}


def put(path: Path, content: bytes = b"video") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def text(path: Path, lines: list[str]) -> None:
    put(path, "".join(f"{line}\n" for line in lines).encode())


def lists(separator: str) -> Callable[[Path], dict[str, str]]:
    def make(root: Path) -> dict[str, str]:
        text(root / "classes.txt", CLASSES)
        for split, videos in SPLITS.items():
            text(root / f"{split}.csv", [f"{split}/{name}.mp4{separator}{label}" for name, label in videos])
            for name, _ in videos:
                put(root / f"{split}/{name}.mp4")
        return {}

    return make


def mmaction2_frames(root: Path) -> dict[str, str]:
    """Folders of pictures, their number between folder and label."""
    text(root / "classes.txt", CLASSES)
    for split, videos in SPLITS.items():
        text(root / f"{split}.txt", [f"{name} 12 {label}" for name, label in videos])
        for name, _ in videos:
            put(root / "rawframes" / name / "img_00001.jpg")
    return {"videos": "rawframes"}


def folders(root: Path) -> dict[str, str]:
    for split, videos in SPLITS.items():
        for name, label in videos:
            put(root / split / CLASSES[label] / f"{name}.webm")
            put(root / split / CLASSES[label] / "Thumbs.db")
    return {"layout": "folders"}


def kinetics(place: str) -> Callable[[Path], dict[str, str]]:
    def make(root: Path) -> dict[str, str]:
        for split, videos in SPLITS.items():
            with put(root / f"annotations/{split}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
                for i, (name, label) in enumerate(videos):
                    table.writerow([CLASSES[label], name, i, i + 10, split])
                    stem = f"{name}_{i:06d}_{i + 10:06d}"
                    label_folder = CLASSES[label].replace(" ", "_")
                    put(root / place.format(split=split, label=label_folder) / f"{stem}.mp4")
        return {"layout": "kinetics"}

    return make


def ssv2(frames: bool, answers: bool) -> Callable[[Path], dict[str, str]]:
    """Labels are templates, with the brackets of their places in the videos' file only."""

    def make(root: Path) -> dict[str, str]:
        text(root / "labels/labels.json", [json.dumps({name: str(i) for i, name in enumerate(CLASSES)})])
        for split, file in (("train", "train"), ("val", "validation")):
            rows = [{"id": name, "label": "x", "template": f"[{CLASSES[i]}]"} for name, i in SPLITS[split]]
            text(root / f"labels/{file}.json", [json.dumps(rows)])
            for name, _ in SPLITS[split]:
                put(root / "videos" / (f"{name}/000001.jpg" if frames else f"{name}.webm"))
        if not answers:
            return {"layout": "ssv2", "videos": "videos"}
        text(root / "labels/test-answers.csv", [f"{name};{CLASSES[label]}" for name, label in VAL])
        (root / "labels/validation.json").unlink()
        return {"layout": "ssv2", "val": "labels/test-answers.csv"}

    return make


def ucf101(root: Path) -> dict[str, str]:
    lists = root / "ucfTrainTestlist"
    text(lists / "classInd.txt", [f"{i} {name}" for i, name in enumerate(CLASSES, 1)])
    text(lists / "trainlist02.txt", [f"{CLASSES[label]}/{name}.avi {label + 1}" for name, label in TRAIN])
    text(lists / "testlist02.txt", [f"{CLASSES[label]}/{name}.avi" for name, label in VAL])
    for name, label in [*TRAIN, *VAL]:
        put(root / "UCF-101" / CLASSES[label] / f"{name}.avi")
    return {"layout": "ucf101", "videos": "UCF-101", "fold": 2}


def hmdb51(root: Path) -> dict[str, str]:
    for label, name in enumerate(CLASSES):
        lines = [f"{video}.avi {use}" for use, s in ((1, TRAIN), (2, VAL)) for video, of in s if of == label]
        text(root / f"testTrainMulti_7030_splits/{name}_test_split1.txt", [*lines, "unused.avi 0"])
    for video, label in [*TRAIN, *VAL]:
        put(root / CLASSES[label] / f"{video}.avi")
    return {"layout": "hmdb51"}


@dataclass
class Form:
    make: Callable[[Path], dict[str, str]]
    in_order: bool = True  # of the split lists above


FORMS = {
    "spaces": Form(lists(" ")),
    "commas": Form(lists(",")),
    "tabs": Form(lists("\t")),
    "mmaction2 frames": Form(mmaction2_frames),
    "class folders": Form(folders, in_order=False),
    "kinetics, a folder a split and class": Form(kinetics("{split}/{label}")),
    "kinetics, a folder a class": Form(kinetics("k400/{label}")),
    "kinetics, one folder": Form(kinetics("videos")),
    "ssv2 videos": Form(ssv2(frames=False, answers=False)),
    "ssv2 frames": Form(ssv2(frames=True, answers=False)),
    "ssv2 test answers": Form(ssv2(frames=False, answers=True)),
    "ucf101": Form(ucf101),
    "hmdb51": Form(hmdb51, in_order=False),
}


def videos_of(found: Lists, split: str) -> list[tuple[str, int]]:
    """(name as in SPLITS, label) of what was found, each checked to be there."""
    entries = []
    for i in range(found.counts[split]):
        path, info = found.videos[split][i]
        assert Path(path).exists()
        name = Path(path).stem
        known = next(n for n, _ in SPLITS[split] if name == n or name.startswith(f"{n}_0"))
        entries.append((known, info["label"]))
    return entries


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_videos(form: str, tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), **FORMS[form].make(tmp_path))  # type: ignore[arg-type]
    found = read_lists(tmp_path, config)
    assert found.classes == CLASSES
    order = list if FORMS[form].in_order else sorted
    assert {split: order(videos_of(found, split)) for split in SPLITS} == {s: order(v) for s, v in SPLITS.items()}
    assert manifest_hash(config) is not None


@pytest.mark.parametrize("form", [name for name in FORMS if name != "class folders"])  # folders list what is there
def test_a_video_that_is_gone_is_named(form: str, tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), **FORMS[form].make(tmp_path))  # type: ignore[arg-type]
    victim = next(p for p in tmp_path.rglob("id-3_x*"))
    victim.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"1 of 7 videos are missing, first .*id-3_x"):
        read_lists(tmp_path, config)


@pytest.mark.parametrize("layout", layouts.names())
def test_a_folder_without_the_lists_says_what_is_looked_for(layout: str, tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), setting="folders.some", layout=layout)
    config.multi_label = layouts.find(layout).multi_label
    assert manifest_hash(config) is None
    with pytest.raises(InputError) as caught:
        read_lists(tmp_path, config)
    assert "\n" not in caught.value.line
    assert f"folders.some names the folder that should hold {layouts.find(layout).about}" in caught.value.line
    assert "data.layout" in caught.value.line


HEAD = "label,youtube_id,time_start,time_end\n"


@pytest.mark.parametrize(
    ("form", "file", "content", "named"),
    [
        ("spaces", "classes.txt", "a\nb\na\n", "class 'a' stands there twice"),
        ("ssv2 videos", "labels/labels.json", '{"a": 0, "b": "1", "c": 1}', "'b' and 'c' have one number, 1"),
        ("ucf101", "ucfTrainTestlist/classInd.txt", "2 baking\n1 zumba\n", "not numbered 1, 2"),
        ("ucf101", "ucfTrainTestlist/trainlist02.txt", "baking/x.avi 1\n", "class baking has number 2, not 1"),
        ("ssv2 videos", "labels/labels.json", "{", "not JSON"),
        ("ssv2 videos", "labels/labels.json", '{"a": "b"}', "not a mapping of templates to numbers"),
        ("ssv2 videos", "labels/labels.json", '{"a": Infinity}', "not a mapping of templates to numbers"),
        ("ssv2 videos", "labels/labels.json", "[" * 100_000, "not JSON"),
        ("ssv2 videos", "labels/train.json", '[{"id": 1, "template": null}]', "not a list of videos with id"),
        ("ssv2 videos", "labels/train.json", '[{"id": 1, "template": 7}]', "not a list of videos with id"),
        ("kinetics, one folder", "annotations/train.csv", HEAD + "a,b,inf,1\n", "line 2"),
        ("kinetics, one folder", "annotations/train.csv", HEAD + "a,b,1,1e400\n", "line 2"),
        ("kinetics, one folder", "annotations/train.csv", HEAD + "a" * 200_000 + ",b,1,2\n", "not a CSV file"),
        ("spaces", "train.csv", "a.mp4 " + "1" * 5000 + "\n", "outside the class list"),
        ("spaces", "train.csv", "a.mp4 -1\n", "outside the class list"),
        ("spaces", "train.csv", "a.mp4\n", "not 'path label'"),
        ("spaces", "train.csv", "0\n", "not 'path label'"),
        ("spaces", "train.csv", "x" * 5000 + " 0\n" + "".join(f"{i} {i}\n" for i in (0, 1, 2)), "missing"),
        ("ssv2 videos", "labels/train.json", '{"a": 1}', "not a list of videos with id and template"),
        ("ssv2 videos", "labels/train.json", '[{"id": 1, "template": "flying"}]', "'flying'"),
        ("kinetics, one folder", "annotations/train.csv", "a,b\n1,2\n", "no column label"),
        ("kinetics, one folder", "annotations/train.csv", "label,youtube_id,time_start,time_end\na,b,c,1\n", "line 2"),
        ("kinetics, one folder", "annotations/train.csv", "youtube_id,time_start,time_end,label\na,1,2\n", "line 2"),
        ("kinetics, one folder", "annotations/train.csv", "label,time_start,time_end,youtube_id\na,1,2\n", "line 2"),
        ("kinetics, one folder", "annotations/train.csv", HEAD + "\na,b,1\n", "line 3"),
        ("kinetics, one folder", "annotations/val.csv", HEAD + "zumba,b,1,2\n,b,1,2\n", "line 3"),
        ("ucf101", "ucfTrainTestlist/testlist02.txt", "Flying/x.avi\n", "'Flying'"),
        ("hmdb51", "testTrainMulti_7030_splits/zumba_test_split1.txt", "x.avi 3\n", "line 1"),
    ],
)
def test_a_list_of_another_form_is_named(form: str, file: str, content: str, named: str, tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), **FORMS[form].make(tmp_path))  # type: ignore[arg-type]
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError) as caught:
        read_lists(tmp_path, config)
    assert named in caught.value.line
    assert str(tmp_path / file) in caught.value.line


def test_a_path_may_stand_in_quotes(tmp_path: Path) -> None:
    """As CSV writers put it where it holds a comma or a quote."""
    config = DataConfig("some", root=str(tmp_path), **lists(" ")(tmp_path))  # type: ignore[arg-type]
    names = ["id-0, x.mp4", 'id-1 "x".mp4', "id-2_x.mp4"]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([put(tmp_path / n).name, i] for i, n in enumerate(names))
    found = read_lists(tmp_path, config)
    assert [Path(found.videos["train"][i][0]).name for i in range(3)] == names


def test_a_video_with_two_labels_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = DataConfig("some", root=str(tmp_path), **lists(" ")(tmp_path))  # type: ignore[arg-type]
    with (tmp_path / "train.csv").open("a") as file:
        file.write("train/id-3_x.mp4 0\ntrain/id-3_x.mp4 1\ntrain/id-0_x.mp4 0\n")
    read_lists(tmp_path, config)
    assert f"{tmp_path}/train.csv: 1 videos stand there with two labels, first train/id-3_x.mp4" in caplog.text


@pytest.mark.parametrize("name", ["tr{1}.csv", "{fold:02d}.csv", "{.csv", "{}.csv", "a{b"])
def test_braces_in_a_users_path_stand_for_themselves(tmp_path: Path, name: str) -> None:
    config = DataConfig("some", root=str(tmp_path), **lists(" ")(tmp_path))  # type: ignore[arg-type]
    (tmp_path / "train.csv").rename(tmp_path / name)
    assert read_lists(tmp_path, replace(config, train=name)).counts == {"train": 7, "val": 4}


def frames_lists(root: Path, train: str, val: str) -> DataConfig:
    """Folders of 2 to 12 pictures; lines as `train` and `val` say, of name, number of pictures and label."""
    text(root / "classes.txt", [str(i) for i in range(20)])
    for split, form in (("train", train), ("val", val)):
        lines = []
        for label in range(20 if split == "train" else 5):
            name, count = f"{split}{label}", 2 + label % 11
            for i in range(count):
                put(root / name / f"{i}.jpg")
            lines.append(form.format(name=name, count=count, label=label))
        text(root / f"{split}.txt", lines)
    return DataConfig("some", root=str(root))


@pytest.mark.parametrize(
    ("train", "val", "named"),
    [
        ("{name} {count} {label}", "{name} {count}", "val.txt"),
        ("{name} {label}", "{name} {count}", "val.txt"),
        ("{name},{count},{label}", "{name},{count}", "val.txt"),
        ("{name} {count} {label}", "{name} 4", "val.txt"),  # a number that is no count of ours
    ],
)
def test_numbers_of_pictures_are_not_taken_for_labels(tmp_path: Path, train: str, val: str, named: str) -> None:
    config = frames_lists(tmp_path, train, val)
    with pytest.raises(InputError, match="labels are missing") as caught:
        read_lists(tmp_path, config)
    assert str(tmp_path / named) in caught.value.line
    assert "\n" not in caught.value.line


@pytest.mark.parametrize("form", ["{name} {label}", "{name} {count} {label}", "{name},{count},{label}"])
def test_labels_of_folders_of_frames_are_read(tmp_path: Path, form: str) -> None:
    assert read_lists(tmp_path, frames_lists(tmp_path, form, form)).counts == {"train": 20, "val": 5}


def test_one_class_is_refused(tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), **lists(" ")(tmp_path))  # type: ignore[arg-type]
    text(tmp_path / "classes.txt", ["a"])
    for split in SPLITS:
        text(tmp_path / f"{split}.csv", [f"{split}/{name}.mp4 0" for name, _ in SPLITS[split]])
    with pytest.raises(InputError, match=r"classes\.txt: 1 class; 2 or more are needed"):
        read_lists(tmp_path, config)


@pytest.mark.parametrize("name", [" ", "two\nlines", os.fsdecode(b"\xff")])
def test_a_class_that_no_list_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    for folder in ("good", name):
        for video in "ab":
            put(tmp_path / folder / f"{video}.mp4")
    with pytest.raises(InputError, match="allowed are names of one line, in UTF-8") as caught:
        read_lists(tmp_path, DataConfig("own", root=str(tmp_path), layout="own"))
    assert "\n" not in caught.value.line
    caught.value.line.encode()


@pytest.mark.parametrize("layout", ["own", "lists", "hmdb51"])
def test_what_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    hmdb51(tmp_path)
    lists(" ")(tmp_path)

    def forbid(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("iterdir", "read_text", "glob"):
        monkeypatch.setattr(Path, method, forbid)
    with pytest.raises(InputError, match="Permission denied") as caught:
        read_lists(tmp_path, DataConfig("some", root=str(tmp_path), layout=layout))
    assert str(tmp_path) in caught.value.line


def test_a_class_unknown_to_training_is_named(tmp_path: Path) -> None:
    options = folders(tmp_path)
    put(tmp_path / "val/flying/a.mp4")
    with pytest.raises(InputError, match=r"class 'flying', which is not among the 3"):
        read_lists(tmp_path, DataConfig("some", root=str(tmp_path), **options))  # type: ignore[arg-type]


def test_another_list_or_label_is_another_data_set(tmp_path: Path) -> None:
    config = DataConfig("some", root=str(tmp_path), **lists(" ")(tmp_path))  # type: ignore[arg-type]
    before = manifest_hash(config)
    assert manifest_hash(config) == before
    (tmp_path / "val.csv").write_text((tmp_path / "val.csv").read_text().replace(" 0", " 1", 1))
    assert manifest_hash(config) != before


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("a.mp4 3", ("a.mp4", "3")),
        ("a b.mp4,3", ("a b.mp4", "3")),
        ("a.mp4\t3", ("a.mp4", "3")),
        ("a.mp4 , 3", ("a.mp4", "3")),
        ("a,b,3", ("a,b", "3")),
        ("a, 3", ("a", "3")),
        ("a -3", ("a", "-3")),
        ("a-3", ("a-3", "")),
        ("a3", ("a3", "")),
        ("12 34", ("12", "34")),
        ("12", ("12", "")),
        ("a -", ("a -", "")),
    ],
)
def test_a_line_is_split_at_its_number(line: str, parts: tuple[str, str]) -> None:
    assert split_number(line) == parts


def test_a_line_of_any_length_is_split_at_once() -> None:
    begin = time.process_time()
    for line in (" " * 10**6 + "x", "a" + " ," * 10**6 + "1", "1 " * 10**6, "-" * 10**6 + "1"):
        split_number(line)
    assert time.process_time() - begin < 2


def test_class_folders_take_what_is_a_video_and_name_the_rest(
    tmp_path: Path, write_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    real = write_video(tmp_path / "real.mp4", count=4).read_bytes()
    taken = ["a.wmv", "b.GIF", "c.3gp", "d.ogv", "e.m2ts", "f.MTS", "g.mp4"]  # by their endings
    for split in SPLITS:
        for name in taken:
            put(tmp_path / split / "some" / name)
        put(tmp_path / split / "some" / "h.odd", real)  # by what is in it
        for name in ("i.odd", "j.txt", "k.mp3", "l.jpg", "Thumbs.db", ".hidden.mp4"):
            put(tmp_path / split / "some" / name)
        (tmp_path / split / "some" / "@eaDir").mkdir()
        os.mkfifo(tmp_path / split / "some" / "pipe")
        put(tmp_path / split / "zebra" / "a.mp4")
    config = DataConfig("some", root=str(tmp_path), layout="folders")
    found = read_lists(tmp_path, config)
    names = [Path(found.videos["train"][i][0]).name for i in range(found.counts["train"])]
    assert names == [*taken, "h.odd", "a.mp4"]
    said = [record.getMessage() for record in caplog.records]
    assert any(f"{tmp_path}: 12 files are no videos and left out, first " in line for line in said), said


def test_links_to_folders_are_followed_and_none_for_ever(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "k400", tmp_path / "another disk"
    options = kinetics("videos")(root)
    (root / "videos").rename(elsewhere)
    (root / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    found = read_lists(root, DataConfig("some", root=str(root), **options))  # type: ignore[arg-type]
    assert found.counts == {"train": 7, "val": 4}


def own(root: Path, counts: Sequence[int]) -> Callable[..., dict[str, list[str]]]:
    """Class folders without a split; returns what reads the names of each split's videos."""
    for label, count in enumerate(counts):
        for i in range(count):
            put(root / CLASSES[label] / f"{i}.mp4")

    def read(**keys: Any) -> dict[str, list[str]]:
        found = read_lists(root, DataConfig("own", root=str(root), layout="own", **keys))
        assert found.classes == CLASSES[: len(counts)]
        names = {s: [found.videos[s][i] for i in range(found.counts[s])] for s in SPLITS}
        for path, info in [video for videos in names.values() for video in videos]:
            assert Path(path).parent.name == CLASSES[info["label"]]
        return {s: [str(Path(path).relative_to(root)) for path, _ in videos] for s, videos in names.items()}

    return read


def test_own_videos_are_held_out_by_class(tmp_path: Path) -> None:
    read = own(tmp_path, [10, 5, 2])
    found = read()
    assert sorted(found["train"] + found["val"]) == sorted(
        str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.mp4")
    )
    assert Counter(name.partition("/")[0] for name in found["val"]) == {CLASSES[0]: 2, CLASSES[1]: 1, CLASSES[2]: 1}
    assert read() == found
    assert read(seed=1) != found
    assert len(read(held_out=0.5)["val"]) == 5 + 2 + 1
    config = DataConfig("own", root=str(tmp_path), layout="own")
    assert manifest_hash(config) != manifest_hash(replace(config, seed=1))


def test_an_own_video_that_comes_later_moves_few_others(tmp_path: Path) -> None:
    read = own(tmp_path, [30, 2])
    before = set(read()["val"])
    put(tmp_path / CLASSES[0] / "later.mp4")
    assert len(before ^ set(read()["val"])) <= 2


def test_a_folder_without_class_folders_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"no class folder in it"):
        read_lists(tmp_path, DataConfig("own", root=str(tmp_path), layout="own"))


@pytest.mark.parametrize("endings", [[".mp4", ".webm"], [".avi", ".MOV"], [".mp4", ""], [".mkv", ".mp4", ".webm"]])
@pytest.mark.parametrize("seed", range(3))
def test_files_of_one_recording_are_on_one_side_of_the_split(
    tmp_path: Path, endings: list[str], seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """'' is a folder of frames. Videos without such a twin are drawn as if there were none."""
    read = own(tmp_path, [10, 10])
    for label in CLASSES[:2]:
        for i in range(10):
            (tmp_path / label / f"{i}.mp4").unlink()
            for ending in endings:
                put(
                    tmp_path / label / f"v.{i}{ending}" / "1.jpg"
                    if ending == ""
                    else tmp_path / label / f"v.{i}{ending}"
                )
    found = read(seed=seed)

    def recordings(split: str) -> set[tuple[str, str]]:
        return {(name.partition("/")[0], re.findall("v.([0-9])", name)[0]) for name in found[split]}

    assert not recordings("train") & recordings("val")
    assert Counter(label for label, _ in recordings("val")) == dict.fromkeys(CLASSES[:2], 2)
    assert len(found["val"]) == 4 * len(endings)
    assert sum("in the ending alone" in record.message for record in caplog.records) == 1


def test_a_split_without_twins_stays_what_it_was(tmp_path: Path) -> None:
    """Ids of finished runs follow from what is held out: the smallest hashes of seed, class and name."""
    for label in "ab":
        for i in range(12):
            put(tmp_path / label / f"clip.{i}.mp4")
    drawn = sorted((tmp_path / "b").iterdir(), key=lambda v: hashlib.sha256(f"0/b/{v.name}".encode()).digest())
    lists_of = read_lists(tmp_path, DataConfig("own", root=str(tmp_path), layout="own"))
    held_out = [Path(lists_of.videos["val"][i][0]) for i in range(lists_of.counts["val"])]
    assert sorted(p for p in held_out if p.parent.name == "b") == sorted(drawn[:2])


def test_a_disk_that_fails_while_the_videos_are_looked_for_is_not_one_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig("some", root=str(tmp_path), max_absent=0.9, **lists(" ")(tmp_path))  # type: ignore[arg-type]
    exists = Path.exists

    def fail(path: Path) -> bool:
        if path.suffix == ".mp4":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", fail)
    with pytest.raises(InputError, match="Input/output error"):
        read_lists(tmp_path, config)
