"""Words on a command line: paths are taken as they are typed, and no word is accepted and ignored."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stat_video.compose import CONF, read, rows
from stat_video.config import (
    Config,
    DashboardConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PrepareConfig,
    ReportConfig,
    from_plain,
)
from stat_video.cost.config import CostConfig
from stat_video.errors import InputError

SCHEMAS = {
    "train": Config,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
    "dashboard": DashboardConfig,
    "cost": CostConfig,
}
# Names of HMDB51's own, of languages and of checkpoints, and what the grammars of Hydra and OmegaConf give a meaning.
NAMES = (
    "#20_Rhythm_clap_u_nm_np1_fr_goo_1.mp4", "é", "動画", "epoch=3-step=10.ckpt", "a,b", "a(b", "(a)", "[a]", "{a:b}",
    "a;b", "it's", '"quoted".mp4', "'a'b'", "a!b", "a~b", "a$b", "a${b}", "a\\${b}", "a${oc.env:HOME}", "a b", " a ",
    "a\\", "\\'", "\\\\'", "a%sb", "a:b", "a@b", "-m", "+a", "1", "1e3", "true", "nULL", "a&b", "a|b", "*", "a?b",
    "range(1,3)", "interval(0,1)", "glob(*)", "a\tb", "a\nb",
)  # fmt: skip
SPECIAL = re.compile(r"""null|~.*|\$\{[^{}]*\}.*|choice\(.*\)|\?\?\?|(['"]).*\1""", re.DOTALL)
PATHS = {
    "train": ["init", *(f"data.{key}" for key in ("root", "classes", "train", "val", "videos", "manifest"))],
    "evaluate": ["ckpt"],
    "predict": ["ckpt", "video", "picture", "out"],
    "export": ["ckpt", "out"],
    "prepare": ["out", "folders.own"],
    "report": ["out", "keep"],
    "dashboard": ["folders.logs"],
    "cost": ["measured", "folders.hmdb51"],
}
NEEDED = {"prepare": ["do=verify"]}


def config_of(script: str, *words: str) -> Any:
    (row,) = rows(script, SCHEMAS[script], [*NEEDED.get(script, []), *words])
    return row.config


def value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def swept(*words: str) -> list[tuple[str, ...]]:
    command = read("train", Config, ["-m", *words])
    assert command.refused == {}
    return [row.words for row in command.rows]


def refusal(script: str, *words: str) -> str:
    with pytest.raises(InputError) as error:
        rows(script, SCHEMAS[script], [*NEEDED.get(script, []), *words])
    assert "\n" not in str(error.value)
    return error.value.line


# ------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(("script", "key"), [(script, key) for script, keys in PATHS.items() for key in keys])
def test_a_path_is_taken_as_it_is_typed(script: str, key: str) -> None:
    name = ' #é=動画, [x] {y:1} ${z} (it\'s) "q" \\ & ; ! %s '
    assert value(config_of(script, f"{key}={name}"), key) == name


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_path_and_comes_back_out_of_a_file(name: str) -> None:
    config = config_of("predict", f"ckpt={name}")
    assert config.ckpt == name
    assert from_plain(json.loads(json.dumps(asdict(config))), PredictConfig) == config  # as frozen configs are kept


@settings(derandomize=True, deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("\\'\"${}()[],=:;#é a~./") | st.characters(exclude_characters="\0"), min_size=1))
def test_any_text_is_a_path(name: str) -> None:
    if not SPECIAL.fullmatch(name):
        config = config_of("predict", f"ckpt={name}")
        assert config.ckpt == name
        assert from_plain(json.loads(json.dumps(asdict(config))), PredictConfig) == config


def test_a_path_goes_where_the_config_refers_to_it(tmp_path: Path) -> None:
    assert config_of("train", "data=own", f"folders.own={tmp_path}/${{a}},b").data.root == f"{tmp_path}/${{a}},b"


def test_the_beginnings_of_a_path_that_mean_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    for typed, taken in (
        ("~/a, b", "/home/me/a, b"),
        ("~", "/home/me"),
        ("./~/a", "./~/a"),
        ("~no_user_of_this_name/a", str(tmp_path / "~no_user_of_this_name/a")),
        ("${oc.env:HOME}/a,${b}", "/home/me/a,${b}"),
        ("./${oc.env:HOME}", "./${oc.env:HOME}"),
        ("null", None),
        ("./null", "./null"),
        ('"a, b"', "a, b"),
        ("'a=b'", "a=b"),
        ("./'a=b'", "./'a=b'"),
    ):
        assert config_of("predict", f"ckpt={typed}").ckpt == taken
    (tmp_path / "'a=b'").touch()  # what is there is meant
    assert config_of("predict", "ckpt='a=b'").ckpt == "'a=b'"
    assert "ckpt=: must be a path" in refusal("predict", "ckpt=")


def test_paths_of_local_yaml_are_as_typed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(tmp_path / "local.yaml"))
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({"folders": {"own": "/a,${b}=é", "ssv2": "~/ssv2"}}))
    config = config_of("train", "data=own")
    assert (config.data.root, config.folders.ssv2) == ("/a,${b}=é", "/home/me/ssv2")


def test_a_path_is_not_swept_over_by_a_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma belongs to the name; choice(...) sweeps, and so do the parameters of an experiment."""
    monkeypatch.chdir(tmp_path)
    (row,) = read("train", Config, ["-m", "init=a,b"]).rows
    assert row.config.init == "a,b"
    command = read("train", Config, ["-m", "init=choice(a,'b,c é')"])
    assert [row.config.init for row in command.rows] == ["a", "b,c é"]
    assert [row.config.init for row in read("train", Config, ["-m", "hydra.sweeper.params.init=a,b"]).rows] == [*"ab"]
    for name in "ab":
        Path(name).touch()
    assert "init=choice(a,b)" in refusal("train", "-m", "init=a,b")  # both are there, and their name together is not
    Path("a,b").touch()
    assert [row.config.init for row in read("train", Config, ["-m", "init=a,b"]).rows] == ["a,b"]


def test_a_row_with_a_path_has_a_command_to_paste() -> None:
    (row,) = rows("train", Config, ["init=it's (a), b", "T=32"])
    assert row.command == """python src/train.py 'init=it'"'"'s (a), b' T=32"""


# ----------------------------------------------------------------------------------------------- words without effect


@pytest.mark.parametrize(
    ("word", "key", "values"),
    [
        ("hydra.sweeper.params.t_o=5,7", "t_o", ("5", "7")),
        ('hydra.sweeper.params.t_o="5,7"', "t_o", ("5", "7")),
        ("++hydra.sweeper.params.t_o=5", "t_o", ("5",)),
        ('hydra.sweeper.params={t_o:"5,7"}', "t_o", ("5", "7")),
        ('hydra.sweeper.params.t_o="range(3,8,2)"', "t_o", ("3", "5", "7")),
    ],
)
def test_the_parameters_of_a_sweep_are_overridden(word: str, key: str, values: tuple[str, ...]) -> None:
    window = "experiment=ablation_window"
    assert swept(window, word) == [(window, f"{key}={v}") for v in values]
    assert swept(word) == [(f"{key}={v}",) for v in values]  # of no experiment


def test_parameters_of_a_sweep_are_added() -> None:
    window = "experiment=ablation_window"
    both = [(window, f"t_o={t_o}", f"seed={seed}") for t_o in (3, 5, 7, 9) for seed in (1, 2)]
    for word in ("+hydra.sweeper.params.seed=1,2", "hydra.sweeper.params={seed:'1,2'}"):
        assert swept(window, word) == both
    found = read("train", Config, ["-m", "experiment=ssv2", "systems=tsm", "hydra.sweeper.params.seed=1,2"])
    assert [row.config.seed for row in found.rows] == [1, 2]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("hydra.run.dir=/x", "folders.logs"),
        ("hydra.sweep.dir=/x", "folders.logs"),
        ("hydra.sweep.subdir=x", "folders.logs"),
        ("hydra.output_subdir=x", "config.json"),
        ("hydra.job.name=x", "name="),
        ("hydra.job.chdir=true", "a run works in the folder"),
        ("+hydra.job.env_set.A=1", "shell"),
        ("hydra.verbose=true", "STAT_VIDEO_TRACE=1"),
        ("hydra.searchpath=[/x]", "STAT_VIDEO_OWN"),
        ("hydra.mode=MULTIRUN", "-m"),
        ("hydra/job_logging=none", "epochs.csv"),
        ("hydra/hydra_logging=none", "STAT_VIDEO_TRACE=1"),
        ("hydra/help=default", "--help"),
        ("hydra.help.header=x", "--help"),
        ("hydra.sweeper.max_batch_size=2", "hydra.launcher"),
        ("hydra.callbacks.x=1", "callbacks=NAME"),
        ("hydra.launcher._target_=x", "hydra.launcher"),
        ("hydra=x", "hydra.launcher"),
        ("++hydra.anything.at.all=1", "hydra.launcher"),
        ("hydra/launcher@x=slurm", "hydra.launcher"),
    ],
)
@pytest.mark.parametrize("several", [(), ("-m",)])
def test_what_hydra_knows_and_does_nothing_here_is_refused(word: str, instead: str, several: tuple[str, ...]) -> None:
    line = refusal("train", *several, word)
    assert line.startswith(f"{word}: ")
    assert instead in line.removeprefix(word)


@pytest.mark.parametrize(
    "words",
    [
        ["hydra.launcher.side_by_side=2"],
        ["hydra/launcher=slurm"],
        ["hydra.sweeper.params.t_o=5,7"],
        ["-m", "hydra/launcher=slurm,basic"],
        ["-m", "hydra/launcher=slurm", "hydra.launcher.hours=1,2"],
        ["-m", "hydra.launcher.side_by_sid=2"],
        ["-m", "hydra.sweeper.params=null"],
        ["-m", "hydra.sweeper.params={"],
        ["-m", "hydra.sweeper.params.=3"],
        ["-m", "hydra.sweeper.params.t_oo=3,5"],
        ["~seed"],
        ["~experiment"],
        ["~data"],
        ["~t_o=3"],
        ["~hydra.sweeper.params.t_o"],
        ["-m", "seeds=2", "seed=5"],
        ["-m", "seed=5", "seeds=2"],
        ["-m", "seeds=2", "seeds=3"],
        ["-m", "t_o=3,5", "t_o=7"],
        ["-m", "t_o=7", "model.t_o=3,5"],
        ["-m", "t_o=9", "hydra.sweeper.params.t_o=3,5"],
        ["-m", "t_o=3,3"],
        ["-m", "experiment=ssv2,ssv2"],
        ["-m", "experiment=ssv2", "systems=tsm", "systems=mvit"],
        ["-m", "seed=glob(*)"],
        ["-m", "recipe.lr=interval(0.1,1)"],
        ["-m", "seed=range(1,4,0)"],
        ["-m", "seed=range(0,1000000000)"],
        ["-m", "seeds=1000000000"],
        ["data@model=probe"],
        ["+data@data=probe"],
        ["data=motion", "data@data=probe"],
        ["+trainer@recipe=cpu"],
        [""],
        [" "],
        ["seed=99999999999"],
        ["seed=-1"],
        ["seed=1.5"],
        ["recipe.lr=inf"],
        ["recipe.lr_scale={stem:nan}"],
        ["recipe.lr_scale={stem:x}"],
        ["trainer.clips_per_second=0"],
        ["trainer.workers=-1"],
        ["name="],
        ["name=a/b"],
        ["name=.."],
    ],
)
def test_words_that_would_be_ignored_or_fail_later_are_refused(words: list[str]) -> None:
    """In a line that has the word, or its key, in it."""
    line = refusal("train", *words)
    key = re.sub("^[~+]+", "", words[-1].partition("=")[0].removesuffix("."))
    assert key.partition("@")[0].rpartition(".")[2] in line


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=choice(1,2)", [1, 2]),
        ("seed=range(1,4)", [1, 2, 3]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("seed=sort(3,1,2,reverse=true)", [3, 2, 1]),
        ("seed=tag(a,choice(1,2))", [1, 2]),
    ],
)
def test_hydras_own_sweeps(word: str, values: list[int]) -> None:
    assert [row.config.seed for row in read("train", Config, ["-m", word]).rows] == values


def test_experiments_are_swept_over_each_with_its_own_axis() -> None:
    for word in ("experiment=choice(ablation_token,ablation_window)", "experiment=glob([*_token,*_window])"):
        found = read("train", Config, ["-m", word])
        assert found.refused == {}
        assert [row.words[1].partition("=")[0] for row in found.rows] == ["spatial_token"] * 2 + ["t_o"] * 4


def test_a_shuffle_and_a_glob_sweep() -> None:
    assert {row.config.seed for row in read("train", Config, ["-m", "seed=shuffle(1,2,3)"]).rows} == {1, 2, 3}
    found = read("train", Config, ["-m", "model=glob(t*,exclude=td*)"]).rows
    assert [row.config.model.name for row in found] == ["tea", "timesformer", "tsm"]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
@pytest.mark.parametrize("word", ["recipe.lr_scale={%s:0.1}", "recipe.lr_scale.%s=0.1"])
@pytest.mark.parametrize("name", ["stem", "blocks.0"])
def test_keys_of_the_users_own(prefix: str, word: str, name: str) -> None:
    assert config_of("train", prefix + word % name).recipe.lr_scale == {name: 0.1}


def test_other_options_of_slurm() -> None:
    for word in ("hydra.launcher.more={reservation:x}", "hydra.launcher.more.reservation=x"):
        command = read("train", Config, ["-m", "hydra/launcher=slurm", word, "T=16,32"])
        assert command.settings["more"] == {"reservation": "x"}
        assert [row.words for row in command.rows] == [("T=16",), ("T=32",)]


def test_the_scale_of_this_machine_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(tmp_path / "local.yaml"))
    (tmp_path / "local.yaml").write_text("scale: paper\n")
    assert config_of("train").scale == "paper"
    assert config_of("prepare", "data=own").data.short_side == 256
    assert config_of("train", "scale=tiny").scale == "tiny"


def test_the_configs_of_a_sweep_are_printed_each() -> None:
    text = read("train", Config, ["-m", "--cfg", "job", "experiment=ablation_window"]).text
    assert [one["model"]["t_o"] for one in yaml.safe_load_all(str(text))] == [3, 5, 7, 9]


@pytest.mark.parametrize("data", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
@pytest.mark.parametrize("do", ["verify", "transcode"])
def test_every_data_set_is_prepared(do: str, data: str) -> None:
    assert config_of("prepare", f"do={do}", f"data={data}").data.name == data


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff")
    config = config_of("predict", f"ckpt={name}")
    assert os.fsencode(config.ckpt) == b"a\xff"
    assert config_of("predict", f"ckpt={json.loads(json.dumps(name))}") == config
