"""data=own: which folders are read, and how groups and folds divide them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from stat_video.data.config import DataConfig
from stat_video.data.lists import Lists, find_root, manifest_hash, read_lists
from stat_video.errors import InputError


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Lists]:
    """Write empty videos and read them as data=own does."""

    def of(videos: Sequence[str] = (), root: str = ".", **keys: Any) -> Lists:
        for name in videos:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"video")
        folder = tmp_path / root
        return read_lists(folder, DataConfig("own", str(folder), "folders.own", "own", **keys))

    return of


def names(found: Lists, root: Path) -> dict[str, set[str]]:
    return {
        split: {str(Path(path).relative_to(root)) for path, _ in (videos[i] for i in range(found.counts[split]))}
        for split, videos in found.videos.items()
    }


def grid(folders: str, *parts: Sequence[object]) -> list[str]:
    """Return 'wave/x/1.mp4' and so on, for '{}/{}/{}' and the values of each."""
    found = [""]
    for values in parts:
        found = [f"{before}|{value}" for before in found for value in values]
    return [folders.format(*values.split("|")[1:]) + ".mp4" for values in found]


CLASSES = ("jump", "wave")


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_a_folder_with_train_and_val_is_read_as_the_split(
    val: str, read: Callable[..., Lists], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    videos = grid("{}/{}/{}", ("train", val, "old"), CLASSES, range(3))
    found = read(videos)
    assert found.classes == list(CLASSES)
    assert names(found, tmp_path) == {
        "train": {name for name in videos if name.startswith("train")},
        "val": {name for name in videos if name.startswith(val)},
    }
    assert not found.groups
    assert f"train/ and {val}/ are taken as the split, as data.layout=folders does; old/ left out" in caplog.text
    as_folders = DataConfig("own", str(tmp_path), "folders.own", "folders")
    assert manifest_hash(as_folders) == manifest_hash(DataConfig("own", str(tmp_path), "folders.own", "own"))


def test_classes_may_be_called_train_and_test(read: Callable[..., Lists]) -> None:
    assert read(grid("{}/{}", ("bus", "test", "train"), range(3))).classes == ["bus", "test", "train"]
    assert read(grid("named/{}/{}", ("test", "train"), range(3)), "named").classes == ["test", "train"]


@pytest.mark.parametrize(
    ("videos", "keys", "said"),
    [
        (["1.mp4", "2.mp4"], {}, "no class folder in it, but 2 videos, first 1.mp4; must be CLASS/VIDEO"),
        (grid("videos/{}/{}", CLASSES, "12"), {}, "1 class, videos/; 2 or more are needed; if jump/ and wave/ are the"),
        (grid("wave/{}", "123"), {}, "1 class, wave/; 2 or more are needed; folders.own names"),
        (grid("my/{}/{}/{}/{}", "ab", CLASSES, "xy", "12"), {"root": "my"}, "a/jump: contains folders (x/) and no"),
        (["jump/1/1.jpg", "jump/2/1.jpg", "wave/1/1.jpg"], {"root": "jump"}, "1/ and 2/ contain no video, but 1/1.jpg"),
        (grid("{}/{}/{}", ("trian", "val"), CLASSES, "12"), {}, "must be train/ and val/, or named by data.layout=fol"),
        (grid("{}/{}/{}", ("Test", "Train"), CLASSES, "12"), {}, "Test/ and Train/ look like a split"),
        (grid("{}/{}/{}", ("train", "val"), CLASSES, "12"), {"folds": 2}, "data.folds=2: "),
        (["jump/1.mp4", *grid("wave/{}", "12")], {}, "class 'jump' has 1 video (1 such classes); 2 or more videos are"),
        (["jump/1.mp4", "jump/1.webm", *grid("wave/{}", "12")], {}, "class 'jump' has 1 video"),
        (grid("{}/x/{}", CLASSES, "12"), {}, "class 'jump' has 2 videos of one group (2 such classes); 2 or more gro"),
        (grid("{}/{}", CLASSES, "12"), {"group": "^[a-z]"}, "data.group=^[a-z]: does not match 1.mp4; must match"),
        (grid("{}/{}", CLASSES, "12"), {"group": "^(a)?"}, "does not match 1.mp4"),
        (grid("{}/{}", CLASSES, "12"), {"folds": 5}, "data.folds=5: must be 4 or fewer, as many as there are groups"),
    ],
)
def test_a_folder_of_another_form_is_named_in_one_line(
    videos: list[str], keys: dict[str, Any], said: str, read: Callable[..., Lists]
) -> None:
    with pytest.raises(InputError) as caught:
        read(videos, **keys)
    assert said in caught.value.line
    assert "\n" not in caught.value.line
    if "layout" not in said and not ({"folds", "group"} & keys.keys()) and "has" not in said:
        assert "folders.own names the folder" in caught.value.line  # the key that helps


@pytest.mark.parametrize("keys", [{"group": "("}, {"folds": 0}, {"folds": 2, "fold": 3}, {"fold": 2}])
def test_keys_that_cannot_be(keys: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"must be|allowed is"):
        DataConfig("own", ".", "folders.own", "own", **keys)


@pytest.mark.parametrize("keys", [{"group": "x"}, {"folds": 2}])
def test_a_layout_with_a_split_has_no_groups_or_folds(keys: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is of data\.layout=own"):
        DataConfig("own", ".", "folders.own", "folders", **keys)


def test_a_misspelt_folder_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "gestures").mkdir()
    with pytest.raises(InputError, match=r"there is no such folder; did you mean .*gestures\?"):
        find_root(DataConfig("own", str(tmp_path / "gestrues"), "folders.own", "own"))


def test_videos_beside_the_class_folders_are_counted(
    read: Callable[..., Lists], caplog: pytest.LogCaptureFixture
) -> None:
    read(["loose.mp4", *grid("{}/{}", CLASSES, "12")])
    assert "1 videos in no class folder are left out, first loose.mp4" in caplog.text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [2, 3, 20])
def test_each_class_has_a_video_on_both_sides(number: int, seed: int, read: Callable[..., Lists]) -> None:
    found = read(grid("{}/{}", CLASSES, range(number)), seed=seed)
    for split, videos in found.videos.items():
        counts = Counter(videos[i][1]["label"] for i in range(found.counts[split]))
        held_out = max(1, number // 5)
        assert counts == dict.fromkeys((0, 1), held_out if split == "val" else number - held_out)


PLACES = range(20)


def recorded(seed: int) -> list[str]:
    """Three classes at twenty places, each with 0 to 3 videos of each."""
    random = Random(seed)
    return [
        f"{name}/p{place:02}_{i}.mp4"
        for name in ("caret", "circle", "star")
        for place in PLACES
        for i in range(random.randint(0, 3))
    ]


def place_of(name: str) -> str:
    return Path(name).name[:3]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("group", ["^p[0-9]+", "^(p[0-9]+)_"])
def test_groups_stay_on_one_side_and_hold_the_share_out(
    group: str, seed: int, read: Callable[..., Lists], tmp_path: Path
) -> None:
    videos = recorded(seed)
    found = read(videos, group=group, seed=seed)
    sides = names(found, tmp_path)
    assert sides["train"] | sides["val"] == set(videos)
    assert not {place_of(n) for n in sides["train"]} & {place_of(n) for n in sides["val"]}
    assert set(found.groups.values()) == {place_of(name) for name in videos}
    for label in ("caret", "circle", "star"):
        of_class = [name for name in videos if name.startswith(label)]
        assert 0.1 < sum(name in sides["val"] for name in of_class) / len(of_class) < 0.3
    assert names(read(group=group, seed=seed), tmp_path) == sides
    assert names(read(group=group, seed=seed + 10), tmp_path) != sides


def test_a_third_folder_level_is_the_group_over_all_classes(
    read: Callable[..., Lists], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    videos = grid("{}/{}/{}", CLASSES, [f"p{n}" for n in range(5)], range(2))
    found = read(videos)
    sides = names(found, tmp_path)
    assert sides["train"] | sides["val"] == set(videos)
    (held_out,) = {Path(name).parent.name for name in sides["val"]}
    assert sides["val"] == {name for name in videos if f"/{held_out}/" in name}
    assert "5 groups by the third folder level; the videos of a group stay on one side of the split" in caplog.text
    # The expression goes before, and is of the path below the class folder.
    assert set(read(group="^p.").groups.values()) == {f"p{n}" for n in range(5)}
    assert set(read(group="[01].mp4$").groups.values()) == {"0.mp4", "1.mp4"}


def test_few_groups_leave_each_class_a_training_and_a_validation_video(read: Callable[..., Lists]) -> None:
    for seed in range(8):
        found = read(grid("{}/{}/{}", CLASSES, "ab", range(3)), seed=seed)
        assert found.counts == {"train": 6, "val": 6}


@pytest.mark.parametrize("group", [None, "^p[0-9]+"])
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_hold_each_video_out_once_and_are_stratified(
    folds: int, group: str | None, read: Callable[..., Lists], tmp_path: Path
) -> None:
    videos = recorded(0)
    held_out, states = list[set[str]](), set[str | None]()
    for fold in range(1, folds + 1):
        sides = names(read(videos, folds=folds, fold=fold, group=group), tmp_path)
        assert sides["train"] == set(videos) - sides["val"]
        held_out.append(sides["val"])
        config = DataConfig("own", str(tmp_path), "folders.own", "own", folds=folds, fold=fold, group=group)
        states.add(manifest_hash(config))
    assert sum(map(len, held_out)) == len(videos) == len(set.union(*held_out))
    assert len(states) == folds  # so that each fold has an id
    if group:
        places = [{place_of(name) for name in fold} for fold in held_out]
        assert sum(map(len, places)) == len(set.union(*places))
    for label in ("caret", "circle", "star"):
        counts = [sum(name.startswith(label) for name in fold) for fold in held_out]
        assert max(counts) - min(counts) <= (2 if group else 1), counts


def test_folds_are_as_even_as_those_of_scikit_learn(read: Callable[..., Lists], tmp_path: Path) -> None:
    """The mean over the classes of the standard deviation, over the folds, of a class's share in a fold."""
    selection = pytest.importorskip("sklearn.model_selection")

    def unevenness(folds: list[set[str]], videos: list[str]) -> float:
        labels = sorted({name.partition("/")[0] for name in videos})
        counts = np.array([[sum(n.startswith(label) for n in fold) for label in labels] for fold in folds])
        return float((counts / counts.sum(0)).std(0).mean())

    ours, theirs = 0.0, 0.0
    for seed in range(10):
        videos = [f"{seed}/{name}" for name in recorded(seed)]
        plain = [name.partition("/")[2] for name in videos]
        folds = [
            names(read(videos, str(seed), folds=5, fold=n, group="^p.."), tmp_path / str(seed))["val"]
            for n in range(1, 6)
        ]
        ours += unevenness(folds, plain)
        split = selection.StratifiedGroupKFold(5).split(
            plain, [name.partition("/")[0] for name in plain], [place_of(name) for name in plain]
        )
        theirs += unevenness([{plain[i] for i in test} for _, test in split], plain)
    assert ours < 1.1 * theirs


def test_folders_of_pictures_are_videos_and_no_groups(read: Callable[..., Lists], tmp_path: Path) -> None:
    for name in CLASSES:
        for i in range(3):
            (tmp_path / name / f"v{i}").mkdir(parents=True)
            (tmp_path / name / f"v{i}" / "1.jpg").write_bytes(b"picture")
    found = read()
    assert found.counts == {"train": 4, "val": 2}
    assert not found.groups


def test_an_archive_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "videos.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"videos.zip: must be a folder, and is a file"):
        find_root(DataConfig(root=str(tmp_path / "videos.zip"), setting="folders.own", layout="own"))
