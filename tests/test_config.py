"""Configs are the interface: every option composes, every number answers to its key, bad input is one line."""

import shutil

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from running import ROOT, SMALL, refused, script
from stat_video.config import Config
from stat_video.entry import CONF, checked, one_line, read_local, register
from stat_video.errors import InputError

OPTIONS = sorted(f"{p.parent.name}={p.stem}" for p in CONF.glob("*/*.yaml"))
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))


def config(*overrides: str, name: str = "train") -> Config:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose(name, [*overrides]), Config)


@pytest.mark.parametrize("scale", ["tiny", "paper"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_at_both_scales(option, scale):
    if (option, scale) == ("stem=conv5_printed", "tiny"):  # 48 pixels do not divide by its stride of 32
        with pytest.raises(InputError, match="crop=48: multiples of the stem's spatial stride 32 x 32"):
            config(f"scale={scale}", option)
        return
    assert config(f"scale={scale}", option).scale == (option.split("=")[1] if option.startswith("scale") else scale)


@pytest.mark.parametrize(("T", "t_o"), [(16, 3), (24, 3), (32, 5), (64, 7), (128, 7), (8, 3)])
def test_window_follows_the_clip_length_unless_told(T, t_o):
    """'we set t_o = 3, 5, 7 when T = 16, 32, 64, respectively'"""
    assert config(f"T={T}").t_o == t_o
    assert config(f"T={T}", "t_o=9").t_o == 9
    assert config(f"T={T}", "window=t_o_1").t_o == 1
    assert config(f"T={T}", "window=t_o_1", "t_o=5").t_o == 5


def test_numbers_answer_to_one_word():
    c = config("T=32", "t_o=7", "l_ta=4", "crop=96", "data.short_side=96")
    model = c.stat_config(12)
    assert (model.T, model.t_o, model.l_ta, model.crop, model.num_classes) == (32, 7, 4, 96, 12)


def test_axes_mean_the_same_at_both_scales():
    for option, key, value in [
        ("modules=ca_la", "modules", ("CA", "LA")),
        ("stem=conv5", "stem", "conv5"),
        ("spatial_token=avg_pool", "spatial_token", "avg_pool"),
        ("aggregation=l_ta_0", "l_ta", 0),
        ("clip=T64", "T", 64),
    ]:
        models = [config(f"scale={scale}", option).stat_config(10) for scale in ("tiny", "paper")]
        assert [getattr(m, key) for m in models] == [value, value]


@pytest.mark.parametrize(("T", "views"), [(16, "5x1"), (32, "5x1"), (64, "3x3")])
def test_views_of_the_paper(T, views):
    assert config("scale=paper", f"T={T}").views == views
    assert config("scale=paper", "data=ssv2", f"T={T}").views == "1x3"
    assert config("scale=paper", f"T={T}", "views=10x3").views == "10x3"


def test_the_recipe_of_the_paper():
    """MViT's 1e-4 for 16 videos of 2 clips is 1.6e-3 for 512 clips."""
    c = config("scale=paper")
    recipe = c.recipe
    assert recipe.scaled_lr * 32 / recipe.batch_size == pytest.approx(1e-4)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.weight_decay, recipe.repeats) == (200, 30, 0.05, 2)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.clip_grad_norm) == (0.8, 1.0, 0.1, 1.0)
    assert (c.model.stochastic_depth, c.model.head_dropout, c.data.hflip) == (0.2, 0.5, True)
    assert not config("scale=paper", "data=ssv2").data.hflip
    assert not config().data.hflip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_say_what_they_rerun(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert any("Table" in line for line in head)
    assert any(f"python src/train.py -m experiment={name}" in line for line in head)
    assert any("Cost" in line for line in head)
    assert config(f"experiment={name}").name == name
    assert yaml.safe_load(text)["hydra"]["sweeper"]["params"]


def test_the_window_experiment_sweeps_table_2():
    text = (CONF / "experiment" / "ablation_window.yaml").read_text()
    assert yaml.safe_load(text)["hydra"]["sweeper"]["params"] == {"t_o": "3,5,7,9"}
    assert config("experiment=ablation_window").T == 32


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("t_oo=3", ["'t_oo'", "did you mean t_o?", "allowed keys", "groups"]),
        ("+t_oo=3", ["'t_oo'", "did you mean t_o?"]),
        ("widnow=t_o_3", ["'widnow'", "did you mean window?"]),
        ("window=t_o_4", ["window/t_o_4", "allowed in 'window'", "t_o_3, t_o_5"]),
        ("experiment=nothing", ["experiment/nothing", "ablation_window"]),
        ("model.t_o=7", ["model.t_o", "allowed in model"]),
        ("data.motion.sede=1", ["data.motion.sede", "did you mean seed?"]),
        ("t_o=abc", ["t_o", "abc", "Integer"]),
        ("t_o=4", ["t_o=4", "odd and at least 1"]),
        ("t_o=-3", ["t_o=-3", "odd and at least 1"]),
        ("t_o=0", ["t_o=0", "odd and at least 1"]),
        ("T=15", ["T=15", "multiples of its temporal stride 2"]),
        ("T=0", ["T=0", "multiples"]),
        ("crop=50", ["crop=50", "multiples of the stem's spatial stride 8 x 8"]),
        ("l_ta=-1", ["l_ta=-1", "0 or more"]),
        ("model.modules=[SA,LA]", ["modules=['SA', 'LA']", "CA alone or with"]),
        ("model.stem=conv2", ["stem=conv2", "conv1, conv3, conv5"]),
        ("model.stem=[1]", ["stem: 1 is not a convolution", "kernel, stride, channels"]),
        ("model.widths=[1,2]", ["widths=[1, 2]", "one whole number"]),
        ("model.heads=[1,1,5,4]", ["heads", "width 96 does not divide into 5 heads"]),
        ("model.spatial_token=mean", ["spatial_token=mean", "class_token, avg_pool"]),
        ("model.head_dropout=1.5", ["head_dropout=1.5", "0 to below 1"]),
        ("views=5x2", ["views=5x2", "1 or 3 crops"]),
        ("seed=-1", ["seed=-1", "0 or more"]),
        ("recipe.epochs=0", ["recipe.epochs=0", "1 or more"]),
        ("recipe.warmup_epochs=100", ["recipe.warmup_epochs=100", "less than epochs"]),
        ("recipe.augment.erasing=2", ["recipe.augment.erasing=2", "0 to 1"]),
        ("recipe.augment.crop_area=[0.5,2]", ["crop_area=[0.5, 2.0]", "at most 1"]),
        ("logger.mode=loud", ["logger.mode=loud", "offline, online, off"]),
        ("data.motion.train_videos=7", ["train_videos=7", "a multiple of 12"]),
        ("data.probe.cool=0", ["data.probe.cool: data.probe is null", "group option"]),
        ("data.std=0", ["data.std=0", "std above 0"]),
    ],
)
def test_bad_input_is_one_line_that_names_it(override, says):
    with pytest.raises((InputError, HydraException, OmegaConfBaseException, AssertionError)) as error:
        config(override)
    line = one_line(error.value)
    assert "\n" not in line
    assert [part for part in says if part not in line] == [], line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["t_oo=3"], "unknown key 't_oo'"),
        (["t_o=4"], "odd and at least 1"),
        (["scale=paper"], "folders.kinetics400=FOLDER"),
        (["scale=paper", "experiment=ablation_window", "t_o=5"], "folders.kinetics400=FOLDER"),
        (["scale=paper", "folders.kinetics400=/nowhere"], "folders.kinetics400=/nowhere: there is no such folder"),
        (["trainer=gpu"], "no CUDA device here"),
        (["recipe.batch_size=0"], "recipe.batch_size=0: allowed is 1 or more"),
        (["init=/nowhere.ckpt"], "/nowhere.ckpt: there is no such checkpoint"),
    ],
)
def test_the_script_refuses_in_one_line(words, says, place):
    small = () if "scale=paper" in words else SMALL
    assert says in refused(script("train", *small, *words, *place.keys))


def test_a_sweep_names_the_rows_that_failed(place):
    done = script("train", "-m", "t_o=2,4", *place.keys)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "t_o=2" in lines[0]
    assert "t_o=4" in lines[1]


def test_what_stops_every_row_of_a_sweep_is_said_once(place):
    line = refused(script("train", "-m", "scale=paper", "experiment=ablation_window", *place.keys))
    assert "folders.kinetics400=FOLDER" in line
    assert all(f"t_o={t_o}" in line for t_o in (3, 5, 7, 9))


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
        ("folders: {k400: /x}", "'k400' is not one of logs, built_in, kinetics400,"),
    ],
)
def test_local_yaml_is_checked(text, says, tmp_path):
    (tmp_path / "local.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        read_local(tmp_path / "local.yaml")
