"""Files from elsewhere are read as data: nothing in them runs, and nothing is written where they say."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from stat_video import models
from stat_video.config import Config, EvaluateConfig, Folders
from stat_video.data.built_in import encode
from stat_video.data.config import DataConfig
from stat_video.data.encoding import Encoding
from stat_video.data.motion import MotionConfig
from stat_video.data.transcode import transcode
from stat_video.errors import InputError, printable
from stat_video.launch.script import OneLine, path_of
from stat_video.models.base import Clip
from stat_video.progress import say, show_table
from stat_video.runs.results import read_results
from stat_video.terminal import prediction_table
from stat_video.training.rebuild import rebuild
from stat_video.training.testing import evaluate

TINY = {"widths": [24, 48, 96, 192], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 4]}


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """The content of a checkpoint whose model is untrained."""
    config = Config(clip=Clip(crop=48), model=models.find("stat")(**TINY))
    weights = config.build(2).state_dict()
    return {
        "stat_video": {"config": asdict(config), "classes": ["a", "b"], "format": 1},
        "state_dict": {f"model.{key}": value for key, value in weights.items()},
    }


def changed(content: dict[str, Any], *keys: str, to: Any) -> dict[str, Any]:
    """A copy with another value at a path of keys in the config."""
    config = json.loads(json.dumps(content["stat_video"]["config"]))
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return {**content, "stat_video": {**content["stat_video"], "config": config}}


def saved(content: dict[str, Any], folder: Path) -> Path:
    torch.save(content, folder / "some.ckpt")
    return folder / "some.ckpt"


def test_ours_is_rebuilt(ours: dict[str, Any], tmp_path: Path) -> None:
    model, config, classes = rebuild(saved(ours, tmp_path))
    assert (model.clip.crop, config.clip.crop, classes) == (48, 48, ["a", "b"])


def test_a_checkpoint_that_was_packed_again_is_refused(ours: dict[str, Any], tmp_path: Path) -> None:
    """torch maps the parts of a file as they lie there: packed ones would be read as weights."""
    path, packed = saved(ours, tmp_path), tmp_path / "packed.ckpt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as again:
        for part in whole.infolist():
            again.writestr(part.filename, whole.read(part))
    with pytest.raises(InputError, match=r"packed\.ckpt: damaged or truncated \(.* is compressed") as caught:
        rebuild(packed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_no_figure(ours: dict[str, Any], tmp_path: Path, value: float) -> None:
    weights = {key: tensor.clone() for key, tensor in ours["state_dict"].items()}
    name = next(key for key, tensor in weights.items() if tensor.dim() == 2)
    weights[name][0, 0] = value
    with pytest.raises(InputError, match=r"weights that are not finite: "):
        rebuild(saved({**ours, "state_dict": weights}, tmp_path))


@pytest.mark.parametrize("value", ["${oc.env:HOME}/x", "${seed}", "\\${a}", "${project:conf}", "${"])
def test_no_text_of_a_config_is_interpreted(ours: dict[str, Any], tmp_path: Path, value: str) -> None:
    """A folder may have such a name."""
    _, config, _ = rebuild(saved(changed(ours, "data", "root", to=value), tmp_path))
    assert config.data.root == value


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("classes", 3, "not a list of names"),
        ("classes", [["a"], "b"], "not a list of names"),
        ("classes", ["a", torch.ones(1)], "not a list of names"),
        ("config", None, "config is a NoneType"),
        ("state_dict", None, "state_dict is not a mapping"),
        ("state_dict", [1], "state_dict is not a mapping"),
        ("state_dict", {1: torch.ones(1)}, "state_dict is not a mapping"),
        ("state_dict", {"model.a": 1}, "a is a int"),
        ("state_dict", {"model.a": torch.eye(2).to_sparse()}, "without plain values"),
        ("state_dict", {"model.a": torch.ones(2, device="meta")}, "without plain values"),
        ("state_dict", {"model.a": torch.ones(1).expand(10**12)}, "more than the file holds"),
    ],
)
def test_a_hostile_part_is_named_in_one_line(
    ours: dict[str, Any], tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    content = {**ours, key: value}
    if key != "state_dict":
        content = {**ours, "stat_video": {**ours["stat_video"], key: value}}
    path = saved(content, tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        rebuild(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("clip", "T"), 10**9, r"clip\.T=1000000000: allowed is 1 to"),
        (("model", "depths"), [10**9, 1, 1, 1], r"config\.model\.depths=.* is absurd"),
        (("model", "widths"), [8192, 8192, 8192, 8192], "its config is of a model of .* bytes, its weights are"),
    ],
)
def test_an_absurd_size_is_refused_before_it_takes_memory(
    ours: dict[str, Any], tmp_path: Path, keys: tuple[str, ...], value: Any, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        rebuild(saved(changed(ours, *keys, to=value), tmp_path))


def test_a_test_does_not_generate_millions_of_videos(ours: dict[str, Any], tmp_path: Path) -> None:
    content = changed(ours, "data", "motion", to=asdict(MotionConfig(train_videos=960_000)))
    content["stat_video"]["classes"] = list(MotionConfig.CLASSES)
    folders = Folders(built_in=str(tmp_path / "videos"))
    weights, classifier = dict(content["state_dict"]), rebuild(saved(ours, tmp_path))[0].classifier
    for name in [name for name in weights if name.startswith(f"model.{classifier}.")]:
        weights[name] = weights[name][:1].repeat(len(MotionConfig.CLASSES), *[1] * (weights[name].dim() - 1))
    with pytest.raises(InputError, match=r"960,480 built-in videos .* src/prepare.py do=verify data=motion"):
        evaluate(saved({**content, "state_dict": weights}, tmp_path), EvaluateConfig(folders=folders))
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("unknown",), 1),
        (("seed",), "many"),
        (("model", "depths"), "os"),
        (("data", "motion"), {"classes": 3}),
        (("model", "name"), "os"),
        (("model", "name"), "../stat"),
        (("model", "name"), "stat.stat"),
        (("model", "name"), "count"),  # a module beside the models
        (("model", "name"), None),
        (("model", "depth"), 50),  # of another model
        (("model",), "stat"),
        (("clip",), {"t_o": 3}),
        (("model", "_target_"), "os.mkdir"),
        (("_target_",), "os.mkdir"),
        (("model", "stem"), {"_target_": "os.mkdir", "path": "ran"}),
        (("recipe", "augment"), {"_recursive_": True}),
        (("data", "classes"), torch.ones(2)),
        (("seed",), 1j),
    ],
)
def test_a_config_of_other_keys_and_values_is_one_line_and_runs_nothing(
    ours: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...], value: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(changed(ours, *keys, to=value), tmp_path)
    with pytest.raises(InputError) as caught:
        rebuild(path)
    assert str(caught.value).startswith((f"{path}: its config is of another version: ", f"{path}: model="))
    assert "\n" not in caught.value.line
    assert [p.name for p in tmp_path.iterdir()] == ["some.ckpt"]


@pytest.mark.parametrize("setting", ["folders.__class__", "folders.nowhere", "__class__", "folders"])
def test_the_setting_that_a_checkpoint_names_is_one_of_the_folders(
    ours: dict[str, Any], tmp_path: Path, setting: str
) -> None:
    path = saved(changed(ours, "data", "setting", to=setting), tmp_path)
    with pytest.raises(InputError, match=r"allowed are folders\.logs"):
        evaluate(path, EvaluateConfig())


# ------------------------------------------------------------------------------------------- lists and their paths


def test_copies_of_videos_outside_the_folder_leave_them_alone(tmp_path: Path) -> None:
    """SlowFast's lists name videos by their whole path; they are read there and written nowhere but below `out`."""
    video = encode(np.zeros((8, 48, 64, 3), np.uint8), 8)
    root, outside, out = tmp_path / "root", tmp_path / "outside", tmp_path / "out"
    for folder in (root, outside):
        folder.mkdir()
    for path in (root / "in.mp4", outside / "whole.mp4", outside / "up.mp4"):
        path.write_bytes(video)
    (root / "classes.txt").write_text("a\n")
    listed = f"in.mp4 0\n{outside / 'whole.mp4'} 0\n../outside/up.mp4 0\n"
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text(listed)
    before = hashes(tmp_path)
    config = DataConfig("kinetics400", root=str(root), setting="folders.kinetics400")
    copies = transcode(config, out, Encoding(short_side=16), 1)
    assert {path: digest for path, digest in hashes(tmp_path).items() if "out" not in path.parts} == before
    assert all((out / c.path).resolve().is_relative_to(out) and (out / c.path).is_file() for c in copies)
    assert {line.split()[0] for line in (out / "val.csv").read_text().splitlines()} == {c.path for c in copies}


def hashes(folder: Path) -> dict[Path, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------------------------------- results and the terminal


def result(**changes: Any) -> str:
    plain: dict[str, Any] = {"name": "x", "scale": "tiny", "seed": 1, "finished": "now"}
    return json.dumps({**plain, "id": "12345678", "metrics": {}, "config": {"views": "5x1"}, **changes})


@pytest.mark.parametrize(
    "text",
    [
        result(id="../../../../tmp/x"),
        result(config={"views": "../../x"}),
        result(config={}),
        result(config="x"),
        result(id=None, config=[]),
        result(seed="many"),
        result(seed=True),
        result(metrics={"test/top1_5x1": "best"}),
        result(gmacs=[1]),
        result(finished=None),
        '{"a": ' * 5000,
    ],
)
def test_a_result_that_names_other_files_is_kept_out_and_named(tmp_path: Path, text: str) -> None:
    for name, content in (("good", result()), ("bad", text)):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "result.json").write_text(content)
    found = read_results(tmp_path)
    assert [result.folder.name for result in found.results] == ["good"]
    assert [file.parent.name for file, _ in found.broken] == ["bad"]


def test_names_in_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Console(markup=False, width=80).print(prediction_table([("[/bold]pushing [red]something", 0.5)]))
    assert "[/bold]pushing [red]something" in capsys.readouterr().out


def test_control_characters_never_reach_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Escape codes in the name of a file or class, which could recolour, retitle or type into a terminal."""
    name = "a\x1b[31m\x07b\x9b2J"
    say(name)
    show_table(prediction_table([(name, 0.5)]))
    said = InputError(f"{tmp_path / name}: no such video").line
    record = logging.LogRecord("stat_video", logging.WARNING, "", 0, f"{name} is odd", None, None)
    for text in (*capsys.readouterr(), said, OneLine("%(message)s").format(record)):
        assert not set(text) & {"\x1b", "\x07", "\x9b"}
    assert "a\\x1b[31m\\x07b\\x9b2J" in said
    assert printable("Zürich – 東京 é") == "Zürich – 東京 é"


def test_a_name_that_is_too_long_is_no_file() -> None:
    with pytest.raises(InputError, match="there is no such file"):
        path_of("video", "x" * 5000)
