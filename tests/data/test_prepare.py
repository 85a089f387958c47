"""`src/prepare.py` as a user types it, and what training makes of what it wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console

from running import SMALL, Place, only, read_json, refused, script
from stat_video.config import Config, Folders
from stat_video.data.config import DataConfig
from stat_video.data.lists import manifest_hash
from stat_video.data.motion import MotionConfig
from stat_video.errors import InputError
from stat_video.prepare import PrepareConfig, prepare
from stat_video.runs.files import write_json
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
            prepare(PrepareConfig(**told), Console())  # type: ignore[arg-type]
    assert not (tmp_path / "copies").exists()
    assert not list(root.glob("*manifest*"))


def test_a_run_of_another_state_of_its_data_is_refused(root: Path, tmp_path: Path) -> None:
    """Finished or begun; what was not known before is taken for the same."""
    data = DataConfig("kinetics400", root=str(root), setting="folders.kinetics400", max_absent=0.5)
    config = Config(data=data, folders=Folders(logs=str(tmp_path / "logs")))
    now = f"{manifest_hash(data)}.now"
    run = Run.of(asdict(config), tmp_path / "logs", now)
    for then, refusal in ((now.replace("now", "then"), True), (now, False), (now.partition(".")[0], False)):
        write_json(run.folder / "result.json", {"manifest": then, "finished": "before"})
        with patch.object(training, "manifest_hash", lambda _: now):
            if refusal:
                with pytest.raises(InputError, match=rf"{run.id}: its data set has changed .* from {then} to {now}"):
                    training.fit(config, Console())
            else:
                assert training.fit(config, Console(file=io.StringIO()))["finished"] == "before"


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
    done = script("prepare", "do=transcode", f"out={out}", *words(root), "encoding.preset=fast")
    assert done.returncode == 0, done.stderr
    assert "train/broken.mp4: copied as it is (not a readable video" in done.stdout
    assert "PSNR" in done.stdout
    assert f"Use them with folders.kinetics400={out} data.layout=lists" in done.stdout
    about = json.loads((out / "transcode.json").read_text())
    assert (about["source"], about["preset"]) == (str(root), "fast")
    done = script("prepare", "do=verify", *words(out))
    assert "not as the manifest had them" not in done.stdout
    assert "Reading 14 of 14 videos" in done.stdout
