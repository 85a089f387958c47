"""Hydra's flags work as it documents them, or are refused with what says the same here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from running import ROOT
from stat_video import paths
from stat_video.compose import read, rows
from stat_video.config import Config, EvaluateConfig
from stat_video.errors import InputError


def text(*words: str) -> str:
    found = read("train", Config, words).text
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cfg"], "--cfg: must be one of job, hydra, all"),
        (["--cfg", "jobs"], "--cfg jobs: must be one of job, hydra, all"),
        (["--cfg", "job", "--info", "defaults"], "--info: is not allowed beside --cfg"),
        (["--info"], "--info: must be one of defaults, defaults-tree, searchpath"),
        (["-i", "plugins"], "-i plugins: must be one of"),
        (["--resolve"], "--resolve: is of --cfg"),
        (["-p", "recipe"], "--package: is of --cfg"),
        (["--cfg", "job", "-p"], "-p: needs a key"),
        (["--cfg", "job", "-p", "recip"], "--package recip: there is none"),
        (["--config-name", "x"], "experiment=NAME"),
        (["-cn=x"], "experiment=NAME"),
        (["--config-path", "x"], "--config-dir DIR"),
        (["--config-dir"], "--config-dir: needs a folder"),
        (["--experimental-rerun", "x"], "overrides.yaml"),
        (["--shell-completion"], "--help"),
        (["-m", "--run"], "--run"),
        (["--frobnicate"], "--frobnicate: allowed are KEY=VALUE, -m, --help"),
        (["-mm"], "-mm: allowed are"),
        (["--multirun=true"], "--multirun=true: allowed are"),
    ],
)
def test_other_flags_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(InputError) as error:
        read("train", Config, words)
    assert says in error.value.line


def test_a_config_is_shown_whole_or_in_parts() -> None:
    job = yaml.safe_load(text("T=8", "--cfg", "job"))
    assert job["clip"]["T"] == 8
    assert "hydra" not in job
    part = text("T=8", "-c", "job", "--package", "clip")
    assert part.startswith("# @package clip\n")
    assert yaml.safe_load(part) == job["clip"]
    assert text("T=8", "--cfg=job", "-p=clip.T", "--resolve") == "8\n"
    whole = yaml.safe_load(text("T=8", "--cfg", "all"))
    assert {key: value for key, value in whole.items() if key != "hydra"} == job
    hydra = yaml.safe_load(text("T=8", "-c", "hydra", "--resolve"))["hydra"]
    assert hydra["runtime"]["choices"]["model"] == "stat"
    assert "help" not in hydra


def test_a_sweep_is_shown_as_a_document_for_each_row() -> None:
    documents = list(yaml.safe_load_all(text("-m", "T=8,16", "--cfg", "job")))
    assert [one["clip"]["T"] for one in documents] == [8, 16]


def test_the_files_of_a_composition_are_listed() -> None:
    table = text("--info", "defaults", "t_o=5", "experiment=ablation_window")
    files = [line.split(" | ")[0].strip() for line in table.splitlines()[1:]]
    assert files.index("model/stat") < files.index("experiment/ablation_window")
    assert "experiment: ablation_window" in text("-i", "defaults-tree", "experiment=ablation_window")
    assert str(paths.CONF) in text("--info", "searchpath")


def test_the_version_is_that_of_the_package_and_of_hydra() -> None:
    import hydra

    import stat_video

    assert text("--version") == f"stat-video {stat_video.__version__}, Hydra {hydra.__version__}"
    assert "--config-dir" in text("--hydra-help")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\nclip: {T: 8}\n")
    monkeypatch.setenv(paths.CONFIG_DIR, str(tmp_path))
    return tmp_path


def test_an_experiment_of_ones_own_folder(own: Path) -> None:
    (row,) = rows("train", Config, ["experiment=mine"])
    assert (row.config.name, row.config.clip.T) == ("mine", 8)
    assert "mine" in text("--help")


def test_a_file_that_ours_would_hide_is_refused(own: Path) -> None:
    (own / "experiment" / "kinetics.yaml").write_text("name: x\n")
    with pytest.raises(InputError, match=r"kinetics.yaml: the name is taken by .*conf/experiment/kinetics.yaml"):
        rows("train", Config, ["T=8"])


def test_the_flag_and_a_data_set_with_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    content = "name: mine\nsetting: folders.mine\nroot: ${folders.mine}\nscale: paper\nmotion: null\n"
    (tmp_path / "data" / "mine.yaml").write_text(content)

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "STAT_VIDEO_LOCAL": "/nowhere"}
        command = [sys.executable, str(ROOT / "src" / "train.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = ran("--config-dir", str(tmp_path), "data=mine", "folders.mine=/x", "--cfg", "job", "-p", "data.root")
    assert (done.stdout, done.stderr) == ("/x\n\n", "")
    done = ran("-cd", str(tmp_path / "nowhere"), "T=8")
    assert done.stderr == f"error: --config-dir {tmp_path}/nowhere: there is no such folder\n"


# ------------------------------------------------------------------------------------- one-word keys, scale by data set


def config(*words: str) -> Config:
    (row,) = rows("train", Config, words)
    return row.config


def test_recipe_and_trainer_have_one_word_keys() -> None:
    found = config("lr=0.1", "epochs=3", "batch_size=8", "workers=1", "lr_scale.stem=0.1", "+lr_scale.head=2")
    assert (found.recipe.lr, found.recipe.epochs, found.recipe.batch_size) == (0.1, 3, 8)
    assert found.recipe.lr_scale == {"stem": 0.1, "head": 2}
    assert found.trainer.workers == 1
    assert config("lr_scale={stem:0.1}") == config("recipe.lr_scale={stem:0.1}") == config("recipe.lr_scale.stem=0.1")
    (row,) = rows("evaluate", EvaluateConfig, ["workers=2"])
    assert row.config.trainer.workers == 2


def test_a_group_without_a_choice_and_a_list_where_one_is_asked_for() -> None:
    """Hydra takes no null for a group, and of a list the last one in silence."""
    assert config("debug=null", "callbacks=null", "loggers=null") == config()
    assert config("debug=two_steps", "debug=null") == config()
    assert list(config("callbacks=[best,lr_monitor]", "logger=offline").callbacks) == ["best", "lr_monitor"]
    for word in ("window=[t_o_1,t_o_3]", "debug=[two_steps,overfit]", "model=null", "logger=null", "window=[]"):
        with pytest.raises(InputError, match=f"^{re.escape(word)}: must be one of "):
            config(word)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("ckpt_path=x", "the same command resumes"),
        ("train=false", "src/evaluate.py ckpt=FILE"),
        ("limit_train_batches=2", "did you mean trainer.limit_train_batches"),
        ("logger=wandb", "logger=offline or online is W&B"),
        ("callbacks=model_checkpoint", "each run saves last.ckpt"),
        ("~model", "nothing is deleted here"),
    ],
)
def test_a_word_of_other_projects_gets_what_does_it_here(word: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        config(word)


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("learning_rate=1", "recipe.lr"),
        ("model.lr=1", "recipe.lr"),
        ("data.batch_size=1", "recipe.batch_size"),
        ("num_workers=1", "trainer.workers"),
        ("erasing=1", "recipe.augment.erasing"),
        ("optimizer.lr=1", "recipe.optimizer"),
    ],
)
def test_a_key_of_another_framework_gets_ours(word: str, guess: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {guess}"):
        config(word)


PUBLIC = ("kinetics400", "kinetics600", "kinetics700", "ssv2", "ucf101", "hmdb51")


@pytest.mark.parametrize("data", PUBLIC)
def test_a_public_data_set_brings_its_scale(data: str) -> None:
    command = read("train", Config, [f"data={data}"])
    (row,) = command.rows
    assert (row.config.scale, row.config.clip.crop) == ("paper", 224)
    assert row.words == ("scale=paper", f"data={data}")
    assert command.notes == [f"scale=paper, as data={data} has it; scale=tiny chooses the other"]


def test_the_scale_that_is_said_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("train", Config, ["data=own", "folders.own=/x"]).rows[0].config.scale == "tiny"
    said = read("train", Config, ["data=kinetics400", "scale=tiny"])
    assert (said.rows[0].config.scale, said.notes) == ("tiny", [])
    several = read("train", Config, ["-m", "data=motion,ucf101"])
    assert [row.config.scale for row in several.rows] == ["tiny", "paper"]
    (tmp_path / "local.yaml").write_text("scale: tiny\n")
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(tmp_path / "local.yaml"))
    of_machine = read("train", Config, ["data=ssv2"])
    assert of_machine.rows[0].config.scale == "tiny"
    assert of_machine.notes == [f"scale=tiny, as {tmp_path}/local.yaml has it; data=ssv2 is for scale=paper"]


@pytest.mark.parametrize(
    ("content", "scale"),
    [
        ("defaults:\n  - override /data: ssv2\n", "paper"),
        ("defaults:\n  - override /data: ssv2\n  - override /scale: tiny\n", "tiny"),
        ("defaults:\n  - override /data: ssv2\nscale: tiny\n", "tiny"),
        ("defaults:\n  - override /data: probe\n", "tiny"),
    ],
)
def test_the_scale_of_an_experiment_of_ones_own(own: Path, content: str, scale: str) -> None:
    (own / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}")
    assert config("experiment=mine").scale == scale
