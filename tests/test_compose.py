"""Words are the interface: every option composes, every number answers to its key, bad input is one line."""

import json
import re
import shutil
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from running import ROOT, SMALL, read_json, refused, script
from stat_video import paper
from stat_video.compose import CONF, Row, model_keys, read, read_local, rows
from stat_video.config import Config, EvaluateConfig, Recipe, from_plain
from stat_video.cost.config import CostConfig
from stat_video.cost.reruns import reruns
from stat_video.data.augment import Augment
from stat_video.errors import InputError
from stat_video.files import write_json
from stat_video.runs.identity import row_id

EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
OF_STAT = ("modules", "window", "stem", "spatial_token", "aggregation")  # its ablation axes are groups
OPTIONS = sorted(f"{p.parent.name}={p.stem}" for p in CONF.glob("*/*.yaml") if p.parent.name != "hparams_search")
TABLES = {table.experiment: table for table in paper.load().tables.values()}


@cache
def config(*words: str) -> Config:
    (row,) = rows("train", Config, words)
    return row.config


def grid(experiment: str, *words: str) -> list[Row]:
    return rows("train", Config, [f"experiment={experiment}", *words], every=True)


def refusal(*words: str, script: str = "train", schema: type = Config) -> str:
    with pytest.raises(InputError) as error:
        rows(script, schema, words)
    assert "\n" not in str(error.value)
    return error.value.line


# ------------------------------------------------------------------------------------------------- options and keys


BOTH_SCALES = pytest.mark.parametrize("scale", ["tiny", pytest.param("paper", marks=pytest.mark.slow)])


@BOTH_SCALES
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_at_both_scales(option: str, scale: str) -> None:
    if (option, scale) == ("stem=conv5_printed", "tiny"):  # 48 pixels do not divide by its stride of 32
        assert "crop=48: multiples of the stem's spatial stride 32 x 32" in refusal(f"scale={scale}", option)
        return
    if (option, scale) in (("data=motion", "paper"), ("data=probe", "paper")):  # whose frames are 48 pixels
        assert "crop=224: at most 48 is allowed" in refusal(f"scale={scale}", option)
        assert config(f"scale={scale}", option, "crop=48").data.name == option.split("=")[1]
        return
    composed = config(f"scale={scale}", option)
    assert composed.scale == (option.split("=")[1] if option.startswith("scale") else scale)
    if option.startswith("model="):
        assert composed.model.name == option.split("=")[1]


@pytest.mark.parametrize(("T", "t_o"), [(16, 3), (24, 3), (32, 5), (64, 7)])
def test_window_follows_the_clip_length_unless_told(T: int, t_o: int) -> None:
    """'we set t_o = 3, 5, 7 when T = 16, 32, 64, respectively'"""
    assert config(f"T={T}").model.t_o == t_o
    assert config(f"T={T}", "t_o=9").model.t_o == 9
    assert config(f"T={T}", "window=t_o_1").model.t_o == 1
    assert config(f"T={T}", "window=t_o_1", "t_o=5").model.t_o == 5


def test_of_a_word_given_twice_the_last_counts() -> None:
    (row,) = rows("train", Config, ["seed=1", "T=16", "seed=2", "seed=1"])
    assert row.config.seed == 1
    assert row.words == ("T=16", "seed=2", "seed=1")


def test_numbers_answer_to_one_word() -> None:
    c = config("T=32", "t_o=7", "l_ta=4", "crop=96", "data.short_side=96")
    assert (c.clip.T, c.model.t_o, c.model.l_ta, c.clip.crop) == (32, 7, 4, 96)
    assert c == config("clip.T=32", "model.t_o=7", "model.l_ta=4", "clip.crop=96", "data.short_side=96")
    model = c.build(12)
    assert (model.n_t, model.aggregation.video_token.shape[-1], model.head.out_features) == (16, 192, 12)


def test_axes_mean_the_same_at_both_scales() -> None:
    for option, key, value in [
        ("modules=ca_la", "modules", ["CA", "LA"]),
        ("stem=conv5", "stem", "conv5"),
        ("spatial_token=avg_pool", "spatial_token", "avg_pool"),
        ("aggregation=l_ta_0", "l_ta", 0),
        ("clip=T64", "T", 64),
    ]:
        both = [config(f"scale={scale}", option) for scale in ("tiny", "paper")]
        assert [getattr(c.clip if key == "T" else c.model, key) for c in both] == [value, value]


@pytest.mark.parametrize(("T", "views"), [(16, "5x1"), (32, "5x1"), (64, "3x3")])
def test_views_of_the_paper(T: int, views: str) -> None:
    assert config("scale=paper", f"T={T}").views == views
    assert config("scale=paper", "data=ssv2", f"T={T}").views == "1x3"
    assert config("scale=paper", f"T={T}", "views=10x3").views == "10x3"


def test_the_recipe_of_the_paper() -> None:
    """MViT's 1e-4 for 16 videos of 2 clips is 1.6e-3 for 512 clips."""
    c = config("scale=paper")
    recipe = c.recipe
    assert recipe.scaled_lr * 32 / recipe.batch_size == pytest.approx(1e-4)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.weight_decay, recipe.repeats) == (200, 30, 0.05, 2)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.clip_grad_norm) == (0.8, 1.0, 0.1, 1.0)
    assert (c.model.stochastic_depth, c.model.head_dropout, c.data.hflip) == (0.2, 0.5, True)
    assert not config("scale=paper", "data=ssv2").data.hflip
    assert not config().data.hflip


@cache
def recipe_of_the_paper(data: str) -> dict[str, Any]:
    return asdict(config("scale=paper", f"data={data}").recipe)


@pytest.mark.parametrize("data", ["kinetics400", pytest.param("ssv2", marks=pytest.mark.slow)])
@BOTH_SCALES
@pytest.mark.parametrize("model", MODELS)
def test_recipe_stat_trains_every_model_by_the_recipe_of_the_paper(model: str, scale: str, data: str) -> None:
    """But for a learning rate of its own at scale=tiny, which no other scale reads."""
    expected = recipe_of_the_paper(data)
    recipe = asdict(config(f"scale={scale}", f"model={model}", f"data={data}", "recipe=stat").recipe)
    assert {**recipe, "tiny_lr": None} == {**expected, "tiny_lr": None}


def test_a_tiny_model_trains_by_the_recipe_of_the_data_set() -> None:
    """All systems alike, but for a learning rate of their own; clips of 32 frames see the probe once more."""
    own = {"lr": 0, "tiny_lr": 0}
    for data in ("motion", "probe"):
        configs = [config(f"model={model}", f"data={data}") for model in MODELS]
        first = asdict(configs[0].recipe) | own
        assert len({c.clip.T for c in configs}) > 1
        for c in configs:
            epochs = 5 if data == "probe" and c.clip.T >= 32 else 4
            assert asdict(c.recipe) | own == first | {"epochs": epochs, "hold_epochs": epochs}


# ---------------------------------------------------------------------------------------- what is published, and not


@pytest.mark.parametrize("model", MODELS)
def test_a_systems_file_is_what_its_authors_published(model: str) -> None:
    """Plain values: none waits for a scale or a data set. What these change is in files that its defaults name."""
    text = (CONF / "model" / f"{model}.yaml").read_text()
    assert set(re.findall(r"\$\{by:\$\{([\w.]+)\}", text)) <= {"model.depth"}  # SlowFast's clips: 32 or 64
    for folder, chosen in (("at", "scale"), ("on", "data")):
        named = f"optional {folder}: ${{{chosen}}}/{model} " in text
        assert named == bool(list((CONF / "model" / folder).glob(f"*/{model}.yaml")))


def test_the_plain_recipe_is_the_default_of_every_key_that_a_recipe_sets() -> None:
    plain = yaml.safe_load((CONF / "recipe" / "plain.yaml").read_text())
    keys = json.loads(json.dumps(asdict(Recipe())))
    of_a_run = {"repeats_share_frames", "tiny_lr", "lr_scale", "max_steps", "val_every", "val_videos"}
    set_by_systems = {
        "norm_clips",
        "decay",
        "precise_bn",
        "color_drop",
    }  # the other keys with a neutral value are in no file
    added = {f.name for f in fields(Recipe) if "neutral" in f.metadata} - set_by_systems
    of_augment = {f.name for f in fields(Augment) if "neutral" in f.metadata} - set_by_systems
    keys["augment"] = {key: value for key, value in keys["augment"].items() if key not in of_augment}
    assert plain == {key: value for key, value in keys.items() if key not in of_a_run | added}


def test_a_recipe_undoes_what_a_systems_file_has_set() -> None:
    """VidTr crops by the short side: by recipe=tsn it trains as TSM."""
    assert config("scale=paper", "model=vidtr", "recipe=tsn").recipe == config("scale=paper", "model=tsm").recipe


def test_files_of_ones_own_are_taken_for_a_scale_and_a_data_set(mine: Path) -> None:
    """Below STAT_VIDEO_OWN as in the tree, after the model's file and before the words."""
    yaml_of_mine = mine / "conf" / "model" / "mine.yaml"
    defaults = "  - _self_\n  - optional on: ${data}/mine\n  - optional at: ${scale}/mine\n"
    yaml_of_mine.write_text(yaml_of_mine.read_text().replace("  - _self_\n", defaults))
    for name, values in (("at/tiny", "model: {width: 5}"), ("on/ssv2", "clip: {T: 8}\nrecipe: {lr: 0.1}")):
        (mine / "conf" / "model" / name).mkdir(parents=True)
        (mine / "conf" / "model" / name / "mine.yaml").write_text(f"# @package _global_\n{values}\n")
    (own,) = rows("train", Config, ["model=mine"])
    assert (own.config.model.width, own.config.clip.crop) == (5, 48)
    (told,) = rows("train", Config, ["model=mine", "width=6", "clip=T32"])
    assert (told.config.model.width, told.config.clip.T) == (6, 32)
    (paper_size,) = rows("train", Config, ["model=mine", "scale=paper", "data=ssv2"])
    assert (paper_size.config.model.width, paper_size.config.clip.T, paper_size.config.recipe.lr) == (8, 8, 0.1)


def test_a_data_set_of_ones_own_has_a_name_of_its_own(mine: Path) -> None:
    """By the name ssv2 a run would stand in Table 7, without what the systems' authors do there."""
    (mine / "conf" / "data").mkdir()
    for name, line in (("half", ""), ("named", "name: half_ssv2\n")):
        (mine / "conf" / "data" / f"{name}.yaml").write_text(f"defaults:\n  - ssv2\n  - _self_\n\n{line}views: 1x1\n")
    assert "data=half: data.name=ssv2 is the name of data=ssv2" in refusal("scale=paper", "data=half")
    (named,) = rows("train", Config, ["scale=paper", "data=named"])
    assert (named.config.data.name, named.config.recipe.epochs) == ("half_ssv2", 200)


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("t_oo=3", ["'t_oo'", "did you mean t_o?", "allowed keys", "groups"]),
        ("+t_oo=3", ["'t_oo'", "did you mean t_o?"]),
        ("widnow=t_o_3", ["'widnow'", "did you mean window?"]),
        ("window=t_o_4", ["window/t_o_4", "allowed in 'window'", "t_o_3, t_o_5"]),
        ("experiment=nothing", ["experiment/nothing", "ablation_window"]),
        ("model=tsn", ["model/tsn", "allowed in 'model'", "stat"]),
        ("model=null", ["model=null"]),
        ("model=at/tiny/tsm", ["model_keys/at/tiny/tsm", "allowed in 'model_keys': blvnet"]),
        ("recipe/on=ssv2/stat", ["recipe/on=ssv2/stat: follows from recipe= and data="]),
        ("trainer=fsdp", ["trainer/fsdp", "allowed in 'trainer'", "ddp"]),
        ("trainer.strategy=fsdp", ["trainer.strategy=fsdp", "must be auto or ddp"]),
        ("model.depht=7", ["depht", "no key of model=stat", "did you mean depths?", "allowed", "widths"]),
        ("+model.depht=7", ["depht", "no key of model=stat", "allowed", "widths"]),
        ("clip.t_o=7", ["clip.t_o", "allowed in clip", "crop"]),
        ("data.motion.train=8", ["data.motion.train", "allowed in data.motion: classes, fps, frames"]),
        ("data.motion.sede=1", ["data.motion.sede", "did you mean seed?"]),
        ("t_o=abc", ["t_o", "abc", "Integer"]),
        ("t_o=4", ["t_o=4", "odd and at least 1"]),
        ("t_o=-3", ["t_o=-3", "odd and at least 1"]),
        ("t_o=0", ["t_o=0", "odd and at least 1"]),
        ("T=15", ["T=15", "multiples of its temporal stride 2"]),
        ("T=0", ["T=0", "1 to 4096"]),
        ("T=null", ["clip.T: must be given, and not null"]),
        ("trainer.more=null", ["trainer.more: must be {KEY: VALUE}, or {} for none"]),
        ("recipe.augment=[]", ["recipe.augment: must be {KEY: VALUE}, or {} for none"]),
        ("recipe.freeze={stem:1}", ["recipe.freeze: must be a list, or [] for none"]),
        ("crop=44", ["crop=44", "multiples of the stem's spatial stride 8 x 8"]),
        ("crop=50", ["crop=50", "at most 48 is allowed", "data.short_side"]),
        ("l_ta=-1", ["l_ta=-1", "0 or more"]),
        ("model.modules=[SA,LA]", ["modules=['SA', 'LA']", "CA alone or with"]),
        ("model.stem=conv2", ["stem=conv2", "conv1, conv3, conv5"]),
        ("model.stem=[1]", ["stem: 1 is not a convolution", "kernel, stride, channels"]),
        ("model.widths=[1,2]", ["widths=[1, 2]", "one whole number"]),
        ("model.heads=[1,1,5,4]", ["heads", "width 96 does not divide into 5 heads"]),
        ("model.spatial_token=mean", ["spatial_token=mean", "class_token, avg_pool"]),
        ("model.head_dropout=1.5", ["head_dropout=1.5", "0 to below 1"]),
        ("views=5x2", ["views=5x2", "1 or 3 crops"]),
        ("seed=-1", ["seed=-1", "0 to 4294967295"]),
        ("recipe.epochs=0", ["recipe.epochs=0", "1 or more"]),
        ("recipe.warmup_epochs=100", ["recipe.warmup_epochs=100", "less than epochs"]),
        ("recipe.augment.erasing=2", ["recipe.augment.erasing=2", "0 to 1"]),
        ("recipe.augment.crop_area=[0.5,2]", ["crop_area=[0.5, 2.0]", "above 0 to 1"]),
        ("recipe.augment.crop_scales=[0.5]", ["crop_area=[0.6, 0.9]", "crop_scales=[0.5]: allowed is one of"]),
        ("logger.mode=loud", ["logger.mode=loud", "offline, online, off"]),
        ("data.motion.train_videos=7", ["train_videos=7", "a multiple of 12"]),
        ("data.probe.cool=0", ["data.probe.cool: data.probe is null", "group option"]),
        ("data.std=0", ["data.std=0", "more than 0"]),
        ("hydra/launcher=joblib", ["hydra/launcher=joblib: allowed are processes, basic, slurm"]),
        ("nonsense", ["nonsense: allowed are KEY=VALUE, -m, --help, --cfg job"]),
        ("=3", ["=3: allowed are KEY=VALUE"]),
        ("T=[", ["T=[: allowed are KEY=VALUE"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(word: str, says: list[str]) -> None:
    line = refusal(word)
    assert [part for part in says if part not in line] == [], line


def test_a_crop_has_to_fit_into_the_resized_frame() -> None:
    line = refusal("model=slowfast", "scale=paper", "crop=288")
    assert line.startswith("recipe.augment.crop_short_side=[256, 320]: crop=288 or more is allowed")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cfg", "job", "t_o=4"], "t_o=4: "),
        (["experiment=ablation_stem,ssv2"], "experiment=ablation_stem,ssv2: several runs need -m"),
        (["seeds=3"], "seeds=3: several runs need -m"),
        (["T=16,32"], "T=16,32: several runs need -m"),
        (["-m", "experiment=ssv2", "experiment=kinetics"], "experiment= is given 2 times; allowed is experiment=ssv2,"),
        (["-m", "seeds=none"], "seeds=none: allowed is a number of seeds"),
        (["folds=5"], "folds=5: several runs need -m"),
        (["data.folds=5"], "data.folds=5: several runs need -m"),
        (["-m", "folds=2,5"], "folds=2,5: must be a number of folds"),
    ],
)
def test_flags_and_sweeps_that_are_none_are_refused(words: list[str], says: str) -> None:
    assert says in refusal(*words)


def test_a_script_takes_its_own_keys_alone() -> None:
    line = refusal("video=x.mp4", script="evaluate", schema=EvaluateConfig)
    assert "unknown key 'video'" in line
    keys = "ckpt, ensemble, folders, layout, max_absent, max_shared, max_unreadable, trainer, views, wait_seconds"
    assert line.endswith(f"allowed keys: {keys}; groups: trainer")
    line = refusal("callbacks=best", script="evaluate", schema=EvaluateConfig)
    assert line == "callbacks: no group of this script; must be one of trainer"
    assert "unknown key 'T'" in refusal("T=16", script="evaluate", schema=EvaluateConfig)  # the checkpoint's
    line = refusal("gpu=H1000", script="cost", schema=CostConfig)
    assert "H1000" in line
    assert "A100-80GB" in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["t_oo=3"], "unknown key 't_oo'"),
        (["scale=paper", "experiment=ablation_window", "t_o=5"], "folders.kinetics400=FOLDER"),
        (["scale=paper", "folders.kinetics400=/nowhere"], "folders.kinetics400=/nowhere: there is no such folder"),
        (["trainer=gpu"], "no CUDA device here"),
        (["init=/nowhere.ckpt"], "/nowhere.ckpt: there is no such checkpoint"),
        (["--info"], "must be one of defaults, defaults-tree, searchpath"),
    ],
)
def test_the_script_refuses_in_one_line(words, says, place):
    small = () if "scale=paper" in words else SMALL
    assert says in refused(script("train", *small, *words, *place.keys))


def test_help_and_config_are_printed_and_nothing_runs(place, tmp_path):
    """The groups with their choices; the YAML of the config, which is the config."""
    done = script("train", "--help", *place.keys_with(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "python src/train.py [KEY=VALUE ...]" in done.stdout
    for line in ("  window: paper, t_o_1, t_o_3, t_o_5, t_o_7, t_o_9", f"  model: {', '.join(MODELS)}"):
        assert line in done.stdout.splitlines()
    assert "python src/evaluate.py" in script("evaluate", "-h").stdout
    words = ["experiment=ablation_window", "t_o=5", *place.keys_with(tmp_path)]
    done = script("train", "--cfg", "job", *words)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == json.loads(json.dumps(asdict(config(*words))))  # as lists, not tuples
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------- keys and groups of other models


def test_a_key_of_another_model_names_its_owner(mine: Path) -> None:
    assert config("model=mine", "pool=max").model.pool == "max"
    assert "pool" in model_keys()
    for words, says in (
        (["model=mine", "t_o=5"], "t_o: a key of model=stat, not of model=mine; allowed: name, pool, width"),
        (["model=mine", "model.t_o=5"], "t_o: a key of model=stat, not of model=mine; allowed: name, pool, width"),
        (["pool=max"], "pool: a key of model=mine, not of model=stat; allowed: depths,"),
        (["+pool=max"], "pool: a key of model=mine, not of model=stat; allowed: depths,"),
        (["model=mine", "pol=max"], "unknown key 'pol' (did you mean pool?)"),
        (["model=mine", "pool=median"], "pool=median: allowed are mean, max"),
    ):
        assert says in refusal(*words)


def test_a_group_of_another_model_names_its_owner(mine: Path) -> None:
    assert config("model=mine", "pooling=max").model.pool == "max"
    assert "pooling: a group of model=mine alone" in refusal("pooling=max")
    for group in OF_STAT:
        choice = next((CONF / group).glob("*.yaml")).stem
        line = refusal("model=mine", f"{group}={choice}")
        # A group with the name of a key is not one of this model, nor is the key.
        assert f"{group}: a group of model=stat alone" in line or f"{group}: a key of model=stat" in line


@pytest.mark.parametrize("model", ["tsm", "mvit", "slowfast"])
def test_words_of_the_paper_are_refused_by_other_systems(model: str) -> None:
    assert f"t_o: a key of model=stat, not of model={model}" in refusal(f"model={model}", "t_o=5")
    assert "modules: a group of model=stat alone" in refusal(f"model={model}", "modules=ca")


def test_a_sweep_over_models_refuses_the_row_that_lacks_the_key(mine: Path) -> None:
    command = read("train", Config, ["-m", "model=stat,mine", "t_o=3,5"])
    assert [row.words for row in command.rows] == [("model=stat", "t_o=3"), ("model=stat", "t_o=5")]
    ((reason, words),) = command.refused.items()
    assert "t_o: a key of model=stat, not of model=mine" in reason
    assert words == [("model=mine", "t_o=3"), ("model=mine", "t_o=5")]
    first = read("train", Config, ["-m", "model=mine,stat", "modules=ca"])  # in whatever order
    assert [row.words for row in first.rows] == [("model=stat", "modules=ca")]
    assert list(first.refused) == ["modules: a group of model=stat alone"]
    with pytest.raises(InputError, match=r"model=mine modules=ca \| modules: a group of model=stat alone"):
        rows("train", Config, ["-m", "model=mine,stat", "modules=ca"])
    values = read("train", Config, ["-m", "data=probe,motion", "data.motion.frames=24"])
    assert [row.words for row in values.rows] == [("data=motion", "data.motion.frames=24")]
    assert "data.motion: " in next(iter(values.refused)) or "data.motion is null" in next(iter(values.refused))


def test_a_model_whose_file_is_broken_stands_in_its_own_way_alone(mine: Path) -> None:
    (mine / "models" / "mine.py").write_text("import nothing_of_that_name\n")
    line = refusal("model=mine")
    assert "model=mine: its file can't be imported (ModuleNotFoundError" in line
    assert config("t_o=5").model.t_o == 5


# ------------------------------------------------------------------------------------------------- rows and sweeps


def test_the_command_lines_that_one_stands_for() -> None:
    assert [row.words for row in rows("train", Config, ["t_o=3"])] == [("t_o=3",)]
    found = read("train", Config, ["-m", "experiment=ablation_token,ablation_aggregation", "seeds=3", "l_ta=0,1"])
    assert found.refused == {}
    tokens, layers = "experiment=ablation_token", "experiment=ablation_aggregation"
    both = ("spatial_token=avg_pool", "spatial_token=class_token")
    seeds = [f"seed={n}" for n in range(3)]
    assert [row.words for row in found.rows] == [
        *((tokens, token, seed, l_ta) for token in both for seed in seeds for l_ta in ("l_ta=0", "l_ta=1")),
        *((layers, seed, l_ta) for seed in seeds for l_ta in ("l_ta=0", "l_ta=1")),
    ]
    assert (found.multirun, found.launcher) == (True, "processes")
    own = ("data=own", "folders.own=/x")
    for key in ("folds", "data.folds"):
        found = read("train", Config, ["-m", *own, f"{key}=2", "seeds=2"])
        assert [(row.config.data.folds, row.config.data.fold, row.config.seed) for row in found.rows] == [
            (2, fold, seed) for fold in (1, 2) for seed in (0, 1)
        ]
    (one,) = rows("train", Config, [*own, "folds=5", "data.fold=3"])
    assert (one.config.data.folds, one.config.data.fold) == (5, 3)
    for expression in ("^[^_]+", r"_(p\d{1,2})[,.]", "^(a|b)$"):
        (one,) = rows("train", Config, [*own, f"data.group={expression}"])
        assert one.config.data.group == expression
    told = read("train", Config, ["-m", "hydra/launcher=slurm", "hydra.launcher.hours=7", "T=16,32"])
    assert (told.launcher, told.settings["hours"], told.settings["cluster"]) == ("slurm", 7, "slurm")
    assert [row.config.clip.T for row in told.rows] == [16, 32]
    assert [row.words for row in rows("train", Config, ["model.depths=[1,1,2,2]"])] == [("model.depths=[1,1,2,2]",)]


@pytest.mark.parametrize(
    ("number", "experiment", "runs"),
    [pytest.param(6, "kinetics", 22 + 3, marks=pytest.mark.slow), (7, "ssv2", 10 + 1 + 3)],
)
def test_systems_adds_the_rows_of_other_systems(number: int, experiment: str, runs: int) -> None:
    """Every row of Tables 6 and 7, each by its own words, once."""
    found = read("train", Config, ["-m", f"experiment={experiment}", "systems=all", "scale=tiny"])
    assert found.refused == {}
    assert len(found.rows) == runs
    assert [row.words[1] for row in found.rows[:3]] == ["clip=T16", "clip=T32", "clip=T64"]
    again = [config for one in reruns(paper.load().tables[number], "tiny") for config in one.configs]
    assert {row_id(asdict(row.config)) for row in found.rows} == {row_id(asdict(config)) for config in again}


def test_systems_takes_some_beside_the_rows_of_other_experiments() -> None:
    words = ["-m", "experiment=ablation_token,ssv2", "systems=msnet,stat", "seeds=2"]
    assert [row.words for row in read("train", Config, words).rows] == [
        *(
            ("experiment=ablation_token", f"spatial_token={token}", f"seed={seed}")
            for token in ("avg_pool", "class_token")
            for seed in (0, 1)
        ),
        *(("experiment=ssv2", f"clip=T{T}", f"seed={seed}") for T in (16, 32, 64) for seed in (0, 1)),
        *(
            ("experiment=ssv2", "model=msnet", *T, "init=null", "new_classifier=false", f"seed={seed}")
            for T in ((), ("T=8",))
            for seed in (0, 1)
        ),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "experiment=ssv2", "systems=tea"], "systems=tea: tea: allowed are all, or of stat,blvnet,tsm,smallbig"),
        (["-m", "experiment=ssv2", "systems="], "systems=: no name: allowed are all, or of stat,blvnet"),
        (["-m", "systems=all"], "systems=all: needs one of experiment=kinetics, experiment=ssv2"),
        (["-m", "experiment=ablation_stem", "systems=all"], "systems=all: needs one of experiment=kinetics, exp"),
        (["-m", "experiment=ssv2", "systems=tsm", "model=tea"], "model=tea: not allowed beside systems=tsm"),
        (["experiment=ssv2", "systems=all"], "systems=all: several runs need -m"),
    ],
)
def test_systems_that_are_none_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        read("train", Config, words)


def test_an_override_narrows_a_table() -> None:
    window = "experiment=ablation_window"
    assert [row.words for row in grid("ablation_window", "t_o=5")] == [(window, "t_o=5")]
    assert [row.words for row in grid("ablation_window")] == [(window, f"t_o={t_o}") for t_o in (3, 5, 7, 9)]
    assert [row.words for row in rows("train", Config, [window])] == [(window,)]  # one run, of its defaults
    assert [row.words for row in rows("train", Config, ["-m", window])] == [r.words for r in grid("ablation_window")]
    (row, *_) = grid("kinetics", "seed=1")
    assert row.command == "python src/train.py experiment=kinetics clip=T16 seed=1"
    again = rows("train", Config, row.command.split()[2:])
    assert [r.config for r in again] == [row.config]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_say_what_they_rerun(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert any("Table" in line for line in head)
    assert any(f"python src/train.py -m experiment={name}" in line for line in head)
    assert any("Cost" in line for line in head)
    assert config(f"experiment={name}").name == name
    assert yaml.safe_load(text)["hydra"]["sweeper"]["params"]


def test_the_window_experiment_sweeps_table_2() -> None:
    text = (CONF / "experiment" / "ablation_window.yaml").read_text()
    assert yaml.safe_load(text)["hydra"]["sweeper"]["params"] == {"t_o": "3,5,7,9"}
    assert config("experiment=ablation_window").clip.T == 32


def test_an_experiment_a_table() -> None:
    assert sorted(TABLES) == EXPERIMENTS
    assert len(TABLES) == 7


@BOTH_SCALES
@pytest.mark.parametrize("experiment", TABLES)
def test_rows_are_those_that_the_paper_prints(experiment: str, scale: str) -> None:
    """Axes and views of each row stand in conf/paper.yaml, which is checked against the paper's text."""
    printed = [row for row in TABLES[experiment].rows if row.axes]
    found = grid(experiment, f"scale={scale}")
    assert len(found) == len(printed) > 1
    for ours, theirs in zip(found, printed, strict=True):
        c = ours.config
        keys = {**vars(c.clip), **vars(c.model)}
        assert {axis: keys[axis] for axis in theirs.axes} == dict(theirs.axes)
        assert c.scale == scale
        assert int(theirs.frames) == c.clip.T
        if scale == "paper" or experiment in ("kinetics", "ssv2"):
            assert c.views == f"{theirs.clips}x{theirs.crops}"
        if scale == "paper":
            assert c.data.name == TABLES[experiment].dataset


def test_rows_of_one_table_differ_in_its_axis_alone() -> None:
    for experiment, axis in (
        ("ablation_modules", "modules"),
        ("ablation_stem", "stem"),
        ("ablation_token", "spatial_token"),
    ):
        found = [asdict(row.config) for row in grid(experiment)]
        values = [str(row["model"].pop(axis)) for row in found]
        assert len(set(values)) == len(found)
        assert all(row == found[0] for row in found)


def test_an_experiment_runs_with_another_model(mine: Path) -> None:
    """Its data and clip, but not the axis of a model that lacks it."""
    row = config("experiment=ablation_window", "model=mine")
    assert (row.name, row.model.name, row.clip.T, row.data.name) == ("ablation_window", "mine", 32, "probe")
    command = read("train", Config, ["-m", "experiment=kinetics", "model=mine"])
    assert [row.config.clip.T for row in command.rows] == [16, 32, 64]
    command = read("train", Config, ["-m", "experiment=ablation_window", "model=mine"])
    assert command.rows == []
    assert all("t_o: a key of model=stat, not of model=mine" in reason for reason in command.refused)


def test_a_config_in_plain_containers_is_the_same_run(tmp_path: Path) -> None:
    """As JSON keeps it, the id too."""
    for row in (grid("ssv2")[0], grid("ablation_stem", "scale=paper")[2]):
        write_json(tmp_path / "config.json", asdict(row.config))
        plain = read_json(tmp_path / "config.json")
        assert from_plain(plain) == row.config
        assert row_id(plain) == row_id(asdict(row.config)) == row_id(asdict(from_plain(plain)))


def test_a_sweep_names_the_rows_that_failed(place):
    done = script("train", "-m", "t_o=2,4", *place.keys)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "t_o=2" in lines[0]
    assert "t_o=4" in lines[1]


@pytest.mark.slow
def test_what_stops_every_row_of_a_sweep_is_said_once(place):
    line = refused(script("train", "-m", "scale=paper", "experiment=ablation_window", "t_o=3,5", *place.keys))
    assert "folders.kinetics400=FOLDER" in line
    assert "t_o=3" in line
    assert "t_o=5" in line


# ---------------------------------------------------------------------------------------------------- conf/local.yaml


def test_local_yaml_sets_scale_and_folders_once(tmp_path):
    local = shutil.copy(ROOT / "conf" / "local.example.yaml", tmp_path / "local.yaml")
    line = refused(script("train", STAT_VIDEO_LOCAL=str(local)))
    assert "folders.kinetics400=/path/to/kinetics400: there is no such folder" in line
    line = refused(script("train", "scale=tiny", "t_o=2", STAT_VIDEO_LOCAL=str(local)))  # the command line goes first
    assert "t_o=2" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 3", "allowed keys are scale, folders"),
        ("scale: huge", "'huge' is not one of tiny, paper"),
        ("folders: {k400: /x}", "'k400' is not one of logs, built_in, egogestar, hmdb51, kinetics400,"),
    ],
)
def test_local_yaml_is_checked(text, says, tmp_path, monkeypatch):
    (tmp_path / "local.yaml").write_text(text)
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(tmp_path / "local.yaml"))
    with pytest.raises(InputError, match=says):
        read_local()
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(tmp_path / "none.yaml"))
    assert read_local() == {}


@pytest.mark.parametrize("word", ["t_o=9", "model.t_o=9"])
def test_a_swept_key_that_is_given_in_full_is_not_swept(word: str) -> None:
    found = rows("train", Config, ["experiment=ablation_window", word], every=True)
    assert [row.config.model.t_o for row in found] == [9]
