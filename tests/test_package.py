"""The package as somebody installs it, away from this clone, and its interface."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import stat_video
from running import ROOT, SMALL, Place, only, skip_without_library
from stat_video import models
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.runs.result import Key
from stat_video.training.rebuild import rebuild


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is unpacked into, as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(only("*.whl", folder)) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "STAT_VIDEO_LOCAL"}
    environment = {**clean, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_the_wheel_trains_in_a_sweep_and_evaluates_elsewhere(installed: Path, tmp_path: Path) -> None:
    """Each row is a process of its own, which starts from the package."""
    words = ["-m", "stat_video", "train", "-m", "modules=ca,ca_sa", *SMALL, "recipe.epochs=1", "views=1x1"]
    done = run(installed, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "stat-video report" in done.stdout
    assert len(list((tmp_path / "logs").rglob("result.json"))) == 2
    ckpt = next((tmp_path / "logs").rglob("last.ckpt"))
    done = run(installed, tmp_path, "-m", "stat_video", "evaluate", f"ckpt={ckpt}", "views=1x1", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert "test/top1_1x1" in done.stdout
    assert str(ROOT) not in ckpt.with_name("result.json").read_text()


def test_the_wheel_has_what_the_clone_has(installed: Path) -> None:
    for folder, there in ((ROOT / "conf", installed / "stat_video" / "conf"), (ROOT / "src" / "stat_video",) * 2):
        files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert files - {Path("local.yaml")} <= {p.relative_to(there) for p in there.rglob("*")}
    assert (installed / "stat_video" / "py.typed").exists()
    assert not (installed / "stat_video" / "conf" / "local.yaml").exists()


def test_a_command_that_there_is_not(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "stat_video", "trainn")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: trainn: must be one of cost, ")
    said = run(installed, tmp_path, "-m", "stat_video", "train", "--help").stdout
    assert "stat-video train" in said
    assert "src/train.py" not in said


def test_import_takes_a_fraction_of_that_of_torch(installed: Path, tmp_path: Path) -> None:
    code = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
    ours, torchs = (float(run(installed, tmp_path, "-c", code.format(m)).stdout) for m in ("stat_video", "torch"))
    assert ours < 0.5 * torchs


# --------------------------------------------------------------------------------------------------- docs/api.md


def test_the_lines_of_the_page_run(trained: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, on small runs: the words of the page's training are replaced, and so are the names of videos."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    video = next((place.folder / "data").rglob("*.mp4"))
    code = "\n".join(blocks).replace('"scale=tiny", "experiment=ablation_window", "t_o=5"', "*SMALL")
    code = re.sub(r'"(video|a|b)\.mp4"', repr(str(video)), code).replace('"views=3x3"', "*TEST")
    code = code.replace('"SLOWFAST_8x8_R50.pkl"', "FILE").replace('"model=slowfast", "data=kinetics400"', "*WORDS")
    built_in = f"folders.built_in={place.folder / 'data'}"
    words = ["model=stat", *(w for w in SMALL if not w.startswith("recipe")), "trainer=cpu", *place.keys]
    names = {"SMALL": [*SMALL, *place.keys, "name=trained"], "TEST": ["views=3x3", "trainer=cpu", built_in]}
    names |= {"FILE": trained / "last.ckpt", "WORDS": words}
    exec(compile(code, "docs/api.md", "exec"), names)
    result, loaded = names["run"], names["loaded"]
    assert result.folder == trained  # found, not run again
    assert result.metrics[Key("test", "top1", result.views)] == result.top1
    assert names["again"].views.crops == 3
    assert loaded.features(video).shape == (rebuild(result.checkpoint)[0].get_submodule("head").in_features,)
    assert [top[0] for top in loaded.predict(video)] == [name for name, _ in names["found"].top]
    assert names["found"].reason == ""


@pytest.mark.parametrize("name", models.names())
def test_each_model_is_built_as_it_is_published(name: str) -> None:
    skip_without_library(name)
    (row,) = rows("train", Config, [f"model={name}", "scale=paper"])
    with torch.device("meta"):
        ours, theirs = stat_video.create_model(name, num_classes=7), row.config.build(7)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_weights_of_a_checkpoint_go_in(trained: Path) -> None:
    loaded = stat_video.load(trained / "last.ckpt")
    keys = {k: v for k, v in vars(loaded.config.model).items() if k != "name"}
    clip = loaded.config.clip
    model = stat_video.create_model(
        "stat", T=clip.T, crop=clip.crop, num_classes=len(loaded.classes), weights=trained / "last.ckpt", **keys
    )
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.model.parameters(), strict=True))
    with pytest.raises(stat_video.InputError, match="new_classifier=true"):
        stat_video.create_model("stat", T=clip.T, crop=clip.crop, num_classes=5, weights=trained / "last.ckpt", **keys)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stat_video.create_model("tsmm"), "model=tsmm: "),
        (lambda: stat_video.create_model("tsm", dept=18), "dept: no key of model=tsm; must be one of depth, "),
        (lambda: stat_video.create_model("tsm", depth=19), "depth=19: "),
        (lambda: stat_video.create_model("tsm", weights="/nowhere"), "/nowhere: "),
        (lambda: stat_video.load("/nowhere"), "/nowhere: "),
        (lambda: stat_video.train("-m", "T=8"), "-m: "),
        (lambda: stat_video.train("plan=true"), "plan=true: "),
        (lambda: stat_video.train("t_oo=3"), "unknown key 't_oo'"),
        (lambda: stat_video.evaluate("/nowhere", "viws=1x1"), "unknown key 'viws'"),
        (lambda: stat_video.Result.read(Path("/nowhere")), "/nowhere: "),
    ],
)
def test_bad_input_is_one_line(call, says: str) -> None:
    with pytest.raises(stat_video.InputError) as caught:
        call()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_keys_are_written_and_read_back() -> None:
    for text in ("test/top1_5x1_far", "val/loss_1x1", "test/top5_30x3_a_b"):
        assert str(Key.parse(text)) == text
    for text in ("top1", "test/top1", "train/loss_epoch"):
        with pytest.raises(ValueError, match=f"{text}: must be"):
            Key.parse(text)
