"""`src/prepare.py` as a user types it, and what training makes of what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from running import SMALL, Place, only, read_json, refused, script
from stat_video.commands.prepare import prepare
from stat_video.config import Config, Folders, PrepareConfig
from stat_video.data.config import DataConfig
from stat_video.data.lists import manifest_hash
from stat_video.data.manifest import counts, read_manifest
from stat_video.data.motion import MotionConfig
from stat_video.errors import InputError
from stat_video.files import write_json
from stat_video.runs.run import Run
from stat_video.training import fit as training

WriteVideo = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Eight training and four validation videos of two classes; one of each is broken, one of each is not there."""
    root = tmp_path / "k400"
    for split, count in (("train", 8), ("val", 4)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            write_video(root / split / f"{i}.mp4", size=(64, 80), g="12", crf=str(18 + i))
        (root / split / "broken.mp4").write_text(f"none {split}")
        names = [*(f"{i}.mp4" for i in range(count)), "broken.mp4", "gone.mp4"]
        (root / f"{split}.csv").write_text("".join(f"{split}/{name} {i % 2}\n" for i, name in enumerate(names)))
    (root / "classes.txt").write_text("a\nb\n")
    return root


def words(root: Path) -> tuple[str, ...]:
    return ("data=kinetics400", f"folders.kinetics400={root}")


def test_what_cannot_be_done_is_one_line(root: Path, tmp_path: Path) -> None:
    assert "folders.ssv2=FOLDER" in refused(script("prepare", "do=verify", "data=ssv2"))
    data, out = DataConfig("kinetics400", root=str(root), setting="folders.kinetics400"), str(tmp_path / "copies")
    for told, named in (
        ({}, "do=None: allowed are verify, transcode"),
        ({"do": "transcode", "data": data}, "out=FOLDER"),
        ({"do": "transcode", "data": DataConfig(motion=MotionConfig()), "out": out}, "data=motion: built-in"),
        ({"do": "verify", "data": data, "workers": 0}, "workers=0"),
        ({"do": "verify", "data": data, "T": 0}, "T=0"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(PrepareConfig(**told))  # type: ignore[arg-type]
    assert not (tmp_path / "copies").exists()
    assert not list(root.glob("*manifest*"))


def test_a_run_of_another_state_of_its_data_is_refused(root: Path, tmp_path: Path) -> None:
    """Finished or begun; what was not known before is taken for the same."""
    data = DataConfig("kinetics400", root=str(root), setting="folders.kinetics400", max_absent=0.5)
    config = Config(data=data, folders=Folders(logs=str(tmp_path / "logs")))
    now = f"{manifest_hash(data)}.now"
    run = Run.of(asdict(config), tmp_path / "logs", now)
    for then, refusal in ((now.replace("now", "then"), True), (now, False), (now.partition(".")[0], False)):
        result = {"name": "a", "views": "1x1", "metrics": {}, "config": {}, "manifest": then, "finished": "before"}
        write_json(run.folder / "result.json", result)
        with patch.object(training, "manifest_hash", lambda _: now):
            if refusal:
                with pytest.raises(InputError, match=rf"{run.id}: its data set has changed .* from {then} to {now}"):
                    training.fit(config)
            else:
                assert training.fit(config).content["finished"] == "before"


@pytest.mark.slow
def test_verify_then_train_then_change_a_video(root: Path, place: Place, tmp_path: Path) -> None:
    """A run begun before the data set was verified is the same afterwards; one changed video, and it is refused."""
    small = [w for w in SMALL if "motion" not in w]
    allowed = ("data.max_absent=0.5", "data.max_unreadable=0.5", "data.short_side=48", "recipe.max_steps=1")
    train = ("train", *small, *place.keys_with(tmp_path / "logs"), *words(root), *allowed)
    assert script(*train).returncode == 0
    result = read_json(only("result.json", tmp_path / "logs"))
    assert result["videos"] == {"train": 9, "val": 5}
    assert result["absent"] == {"train": 1, "val": 1}
    assert result["unreadable"]["val"] == [str(root / "val/broken.mp4")]
    assert "." not in result["manifest"]

    done = script("prepare", "do=verify", *words(root))
    assert done.returncode == 2
    assert "train list: 1 of 10 videos are absent, first train/gone.mp4; data.max_absent=0 is" in done.stderr
    done = script("prepare", "do=verify", *words(root), *allowed[:2])
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        assert f"{split}/broken.mp4: unreadable (not a readable video" in done.stdout
    assert "Reading 14 of 14 videos" in done.stdout
    again = script(*train)
    assert "Finished before" in again.stdout, again.stdout + again.stderr

    checkpoint = only("last.ckpt", tmp_path / "logs")
    (checkpoint.parent / "result.json").unlink()  # as if it had been killed before its test
    resumed = script(*train)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming" in resumed.stdout
    verified = read_json(only("result.json", tmp_path / "logs"))["manifest"]
    assert verified.startswith(f"{result['manifest']}.")

    (root / "train/0.mp4").write_bytes((root / "train/1.mp4").read_bytes())
    test = ("evaluate", f"ckpt={checkpoint}", f"folders.kinetics400={root}", "trainer=cpu", "views=1x1")
    assert f"first {root}/train/0.mp4; python src/prepare.py do=verify" in script(*test).stderr
    done = script("prepare", "do=verify", *words(root))
    assert "1 videos are not as the manifest had them before, first train/0.mp4" in done.stdout
    line = refused(script(*train))
    assert f"its data set has changed since, from {verified} to " in line
    assert "fresh=true" in line
    assert read_json(only("result.json", tmp_path / "logs"))["manifest"] == verified
    assert "not as it was in training" not in script(*test).stdout  # the checkpoint is of before it was verified
    fresh = script(*train, "fresh=true")
    assert fresh.returncode == 0, fresh.stderr
    verified = read_json(checkpoint.parent / "result.json")["manifest"]
    (root / "train/2.mp4").write_bytes((root / "train/1.mp4").read_bytes())
    script("prepare", "do=verify", *words(root))
    assert f"The data set is not as it was in training: {verified.partition('.')[0]}." in script(*test).stdout


def test_transcode_then_verify_the_copies(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "copies"
    allowed = ("data.max_absent=0.5", "data.max_unreadable=0.5")
    done = script("prepare", "do=transcode", f"out={out}", *words(root), *allowed, "encoding.preset=fast")
    assert done.returncode == 0, done.stderr
    assert "train/broken.mp4: copied as it is (not a readable video" in done.stdout
    assert "PSNR" in done.stdout
    assert f"Use them with folders.kinetics400={out} data.layout=lists" in done.stdout
    about = json.loads((out / "transcode.json").read_text())
    assert (about["source"], about["preset"]) == (str(root), "fast")
    done = script("prepare", "do=verify", *words(out))
    assert "not as the manifest had them" not in done.stdout
    assert "Reading 14 of 14 videos" in done.stdout


# ------------------------------------------------------------------------- from a folder of odd files to a figure

ODD = {
    "h264.mp4": {"bf": "2"},
    "late.mp4": {"times": range(40, 64)},
    "uneven.mkv": {"times": [i * i // 3 + i for i in range(24)]},
    "mpeg4_b.avi": {"codec": "mpeg4", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "one.mp4": {"count": 1},
    "short.mp4": {"count": 5},
    "turned.mp4": {"rotation": 90},
    "ten_bit.mkv": {"codec": "ffv1", "pixels": "yuv420p10le"},
    "odd.mkv": {"size": (67, 81), "codec": "ffv1", "pixels": "yuv444p"},
}
BROKEN = {"empty.mp4": b"", "text.mp4": b"none", "zeros.avi": bytes(5000)}


def kinetics_like(folder: Path, write_video: WriteVideo) -> tuple[str, ...]:
    """Lists; all odd files and broken ones for training, most for validation; one absent in each."""
    names: dict[str, list[str]] = {"train": [*ODD, *BROKEN], "val": [*list(ODD)[:6], "text.mp4"]}
    for split, files in names.items():
        (folder / split).mkdir(parents=True)
        put(folder / split, files, write_video)
        lines = [f"{split}/{name} {i % 2}\n" for i, name in enumerate([*files, "gone.mp4"])]
        (folder / f"{split}.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("a\nb\n")
    return ("data=kinetics400", f"folders.kinetics400={folder}")


def ssv2_like(folder: Path, write_video: WriteVideo) -> tuple[str, ...]:
    """The official JSON files; the same videos under numbers, and a folder of frames."""
    (folder / "videos").mkdir(parents=True)
    put(folder / "videos", [*ODD, *BROKEN], write_video)
    numbers = {}
    for i, name in enumerate([*ODD, *BROKEN]):
        (folder / "videos" / name).rename(folder / "videos" / f"{i}{Path(name).suffix}")
        numbers[name] = str(i)
    frames = folder / "videos" / "100"
    frames.mkdir()
    for i in range(12):
        Image.new("RGB", (80, 64), (20 * i, 0, 0)).save(frames / f"{i:05d}.jpg")
    templates = ["Holding something", "Dropping something"]
    (folder / "labels.json").write_text(json.dumps({template: str(i) for i, template in enumerate(templates)}))
    for file, names in (
        ("train.json", [*(numbers[name] for name in [*ODD, *BROKEN]), "99"]),
        ("validation.json", ["100", *(numbers[name] for name in list(ODD)[:5]), numbers["text.mp4"], "98"]),
    ):
        rows = [{"id": name, "template": templates[i % 2].replace("s", "[s]", 1)} for i, name in enumerate(names)]
        (folder / file).write_text(json.dumps(rows))
    return ("data=ssv2", "data.layout=ssv2", f"folders.ssv2={folder}")


def put(folder: Path, names: list[str], write_video: WriteVideo) -> None:
    for name in names:
        if name in BROKEN:
            (folder / name).write_bytes(BROKEN[name])
        else:
            write_video(folder / name, **{"size": (64, 80), **ODD[name]})


@pytest.mark.slow
@pytest.mark.parametrize("make", [kinetics_like, ssv2_like])
def test_a_folder_of_odd_and_broken_videos_goes_all_the_way(
    make: Callable[[Path, WriteVideo], tuple[str, ...]], place: Place, tmp_path: Path, write_video: WriteVideo
) -> None:
    """Verify, transcode, two epochs, three protocols: each broken file is named, and the counts add up."""
    data = make(tmp_path / "videos", write_video)
    keys = [*(w for w in SMALL if "motion" not in w), *place.keys_with(tmp_path / "logs"), "data.short_side=48"]
    keys += ["data.max_shared=1", "data.max_absent=0.5", "data.max_unreadable=0.5"]

    done = script("prepare", "do=verify", *data, *keys[-2:])
    assert done.returncode == 0, done.stderr
    rows = read_manifest(tmp_path / "videos" / "manifest.csv")
    train = counts([row for row in rows if row.split == "train"])
    val = counts([row for row in rows if row.split == "val"])
    assert train == {"listed": 14, "ok": 10, "damaged": 0, "unreadable": 3, "absent": 1}
    assert val["listed"] == val["ok"] + val["unreadable"] + val["absent"] == 8
    assert (val["unreadable"], val["absent"]) == (1, 1)
    unreadable = [row for row in rows if row.status == "unreadable"]
    broken = {
        split: sorted(str(tmp_path / "videos" / row.path) for row in unreadable if row.split == split)
        for split in ("train", "val")
    }

    done = script("train", *keys, *data)
    assert done.returncode == 0, done.stderr
    for path in broken["train"] + broken["val"]:
        assert f"WARNING: {path}: " in done.stderr
    result = read_json(only("result.json", tmp_path / "logs"))
    assert result["epochs"] == 2
    assert result["videos"] == {"train": 13, "val": 7}
    assert result["absent"] == {"train": 1, "val": 1}
    assert result["unreadable"] == broken

    checkpoint = only("last.ckpt", tmp_path / "logs")
    for views in ("5x1", "3x3", "1x3"):
        done = script("evaluate", f"ckpt={checkpoint}", f"views={views}", "trainer=cpu", data[-1])
        assert done.returncode == 0, done.stderr
        again = read_json(checkpoint.parent / f"evaluation_{views}.json")
        assert (again["videos"], again["absent"], again["unreadable"]) == (7, {"val": 1}, {"val": broken["val"]})
        logits = torch.load(checkpoint.parent / f"logits_{views}.pt", weights_only=True)["logits"]
        clips, crops = map(int, views.split("x"))
        assert logits.shape == (7, clips * crops, 2)
        assert logits.isnan().flatten(1).all(1).sum() == 1  # the broken one stays in the denominator
        assert not logits.isnan().flatten(1).any(1).sum() > 1

    out = tmp_path / "copies"
    assert script("prepare", "do=transcode", f"out={out}", *data, *keys[-2:]).returncode == 0
    copies = read_manifest(out / "manifest.csv")
    assert counts([row for row in copies if row.split == "train"]) == train
    assert [(row.label, row.status) for row in copies] == [(row.label, row.status) for row in rows]
    folder = data[-1].replace(str(tmp_path / "videos"), str(out))
    done = script("train", *keys, data[0], folder, "data.layout=lists", "name=copies")
    assert done.returncode == 0, done.stderr
    assert read_json(only("result.json", tmp_path / "logs" / "copies"))["videos"] == {"train": 13, "val": 7}
