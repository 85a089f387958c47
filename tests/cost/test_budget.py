"""GPU hours, data rates and batches against sums done by hand; keys that are refused; what the script prints."""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from running import ROOT, script
from stat_video import compose
from stat_video.config import Config, Folders, Recipe, TrainerKeys
from stat_video.cost.budget import (
    CROP_MS,
    PUBLISHED,
    RANDAUGMENT_MS,
    READ_MS,
    Estimate,
    clip_ms,
    grid_table,
    how_fast,
    sizes,
)
from stat_video.cost.config import CostConfig, Hardware
from stat_video.cost.gpus import GPUS, find_gpu
from stat_video.data.config import DataConfig
from stat_video.data.motion import MotionConfig
from stat_video.errors import InputError
from stat_video.files import write_json
from stat_video.models.base import Clip
from stat_video.models.count import gmacs, step_gmacs
from stat_video.models.stat.stat import Config as Stat

FULL = Stat(), Clip(), 400


def kinetics(**keys) -> Config:
    """The paper's training on Kinetics-400, which is not there."""
    return Config(scale="paper", model=Stat(), data=DataConfig(name="kinetics400"), recipe=Recipe(repeats=2), **keys)


def test_hours_by_hand():
    e = Estimate(kinetics(), Hardware(gpu="A100-80GB", share=0.5))
    assert e.clips == 240_000 * 200 * 2
    flops = 2 * 3 * gmacs(*FULL) * 1e9  # forward, and twice that backward
    assert e.clips_per_second == pytest.approx(312e12 * 0.5 / flops)
    assert e.gpu_hours == pytest.approx(96e6 * flops / 156e12 / 3600)
    assert e.gpu_hours == pytest.approx(60.56, abs=0.01)
    fp32 = kinetics()
    fp32.trainer.precision = "32-true"
    assert Estimate(fp32, Hardware(share=0.5)).gpu_hours == pytest.approx(e.gpu_hours * 312 / 19.5)


def test_checkpointing_costs_a_forward_pass_of_the_blocks():
    stem, whole = 27 * 8 * (3 * 64 * 112**2 + 64 * 96 * 56**2 + 96 * 192 * 28**2), gmacs(*FULL)
    ends = 9 * 12 * 768**2 + 2 * 9 * 9 * 768 + 400 * 768  # aggregation and head
    assert step_gmacs(*FULL) == pytest.approx(3 * whole)
    assert step_gmacs(*FULL, recomputed=True) == pytest.approx(4 * whole - (stem + ends) / 1e9)
    config = kinetics(trainer=TrainerKeys(gradient_checkpointing=True))
    assert Estimate(config, Hardware()).gpu_hours > Estimate(kinetics(), Hardware()).gpu_hours


def test_a_training_crop_makes_a_step_and_a_tests_crop_a_view():
    stat = Estimate(kinetics(), Hardware())
    larger = Estimate(
        Config(model=stat.config.model, clip=Clip(crop=192), data=stat.config.data, recipe=stat.config.recipe),
        Hardware(),
    )
    assert larger.step_gmacs < stat.step_gmacs
    (tsm,) = compose.rows("cost", CostConfig, ["model=tsm", "clip.test_crop=256"])
    e = Estimate(tsm.config, tsm.config)
    assert e.step_gmacs / e.gmacs == pytest.approx(3 * (224 / 256) ** 2, rel=0.01)


def test_a_measured_speed_goes_before_an_assumed_one():
    config = kinetics()
    config.trainer.clips_per_second, config.trainer.devices, config.trainer.num_nodes = 800.0, 4, 2
    e = Estimate(config, Hardware(share=0.01))
    assert (e.measured, e.clips_per_second) == (True, 100)
    assert e.gpu_hours == pytest.approx(96e6 / 100 / 3600)


def check_gpu(file: Path, **changed: Any) -> str:
    """A file as `make check-gpu` writes it."""
    content = {
        "schema": 1,
        "machine": {"device": "cuda", "gpu": "NVIDIA H200"},
        "sizes": "full",
        "advice": {"gpu": "H200-141GB", "share": {"16": 0.2, "32": 0.3}, "clips_per_second": {"16": 580.0}},
    }
    write_json(file, {**content, **changed})
    return str(file)


@pytest.mark.parametrize(
    ("gpu", "T", "precision", "keys", "expected", "said"),
    [
        ("H200-141GB", 16, "auto", {}, 0.2, "share=0.2 (measured at T = 16: "),
        ("H200-141GB", 32, "bf16-mixed", {}, 0.3, "share=0.3 (measured at T = 32: "),
        ("H200-141GB", 64, "auto", {}, 0.14, "share=0.14 (estimated in conf/gpus.yaml, not measured)"),
        ("H100-80GB", 16, "auto", {}, 0.14, "share=0.14 (estimated in conf/gpus.yaml, not measured)"),
        ("A100-80GB", 16, "auto", {}, 0.25, "share=0.25 (estimated in conf/gpus.yaml, not measured)"),
        ("H200-141GB", 16, "16-mixed", {}, 0.14, "share=0.14 (estimated"),
        ("H200-141GB", 16, "auto", {"share": 0.5}, 0.5, "share=0.5 (as told)"),
    ],
)
def test_a_share_is_told_or_measured_or_estimated(gpu, T, precision, keys, expected, said, tmp_path):
    check_gpu(tmp_path / "gpu" / "check_gpu.json")  # where it is looked for
    config = kinetics(clip=Clip(T=T), folders=Folders(logs=str(tmp_path)), trainer=TrainerKeys(precision=precision))
    e = Estimate(config, Hardware(gpu=gpu, **keys))
    assert e.share[0] == expected
    assert f"speed assumed: {said}" in how_fast(e)
    peak = {"A100-80GB": 312e12}.get(gpu, 989e12)
    assert e.clips_per_second == pytest.approx(expected * peak / (6e9 * gmacs(Stat(), Clip(T=T), 400)))


@pytest.mark.parametrize(
    "changed",
    [
        {"schema": 2},
        {"sizes": "tiny"},
        {"machine": {"device": "cpu", "gpu": None}},
        {"advice": {}},
        {"advice": {"gpu": None, "share": {"16": 0.2}}},
        {"advice": {"gpu": "A100-80GB", "share": {"16": 0.2}}},
        {"advice": {"gpu": "H200-141GB", "share": {"32": 0.2}}},
        {"advice": {"gpu": "H200-141GB", "share": {"16": "much"}}},
        {"advice": {"gpu": "H200-141GB", "share": {"16": 1.2}}},
        {"advice": {"gpu": "H200-141GB", "share": [0.2]}},
        {"machine": None},
    ],
)
def test_what_is_no_measurement_of_this_gpu_is_left_aside_and_refused_if_named(changed, tmp_path):
    file = check_gpu(tmp_path / "gpu" / "check_gpu.json", **changed)
    config = kinetics(folders=Folders(logs=str(tmp_path)))
    assert Estimate(config, Hardware(gpu="H200-141GB")).share[0] == 0.14
    with pytest.raises(InputError, match=re.escape(f"measured={file}: ")) as error:
        _ = Estimate(config, Hardware(gpu="H200-141GB", measured=file)).share
    assert "\n" not in error.value.line


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"measured=.*none\.json: No such file"):
        _ = Estimate(kinetics(), Hardware(measured=str(tmp_path / "none.json"))).share
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "check_gpu.json").write_text("{")
    assert Estimate(kinetics(folders=Folders(logs=str(tmp_path))), Hardware()).share[0] == 0.25
    named = check_gpu(tmp_path / "elsewhere.json")
    assert Estimate(kinetics(), Hardware(gpu="H200-141GB", measured=named)).share[0] == 0.2


def test_a_grid_says_where_each_share_comes_from(tmp_path):
    check_gpu(tmp_path / "gpu" / "check_gpu.json")
    small = {"depths": [1, 1, 1, 1], "widths": [8, 16, 32, 64], "heads": [1, 1, 2, 4]}
    rows = [
        Estimate(
            Config(model=Stat(**small), clip=Clip(T=T, crop=64), folders=Folders(logs=str(tmp_path))),
            Hardware(gpu="H200-141GB"),
        )
        for T in (16, 64)
    ]
    caption = str(grid_table(rows).caption)
    assert "share=0.2 (measured at T = 16: " in caption
    assert "share=0.14 (estimated in conf/gpus.yaml, not measured)" in caption


def test_data_rates_by_hand():
    e = Estimate(kinetics(clip=Clip(T=32)), Hardware(clip_ms=50, video_mb=0.5))
    assert e.to_gpu(10) == 10 * 32 * 224 * 224 * 3 / 1e6
    assert e.from_disk(10) == 5
    assert e.cores(100) == 5
    unknown = Estimate(kinetics(clip=Clip(T=32)), Hardware())
    assert unknown.from_disk(10) is None
    assert unknown.cores(1000) == pytest.approx(READ_MS[32] / 2 + 2 * CROP_MS)


def test_time_of_a_clip_by_hand():
    read, crop, operators = READ_MS[16], CROP_MS, RANDAUGMENT_MS
    recipe = Recipe(repeats=2)
    assert [clip_ms(T, recipe) for T in (8, 16)] == pytest.approx([read / 2 + crop / 2, read / 2 + crop])
    assert clip_ms(24, recipe) == pytest.approx((READ_MS[16] + READ_MS[32]) / 4 + 1.5 * crop)
    recipe.repeats_share_frames = False  # twice as many frames, read at once
    assert clip_ms(16, recipe) == pytest.approx(READ_MS[32] / 2 + crop)
    recipe.repeats, recipe.augment.randaugment_ops = 1, 4
    assert clip_ms(16, recipe) == pytest.approx(read + crop + operators)


def test_time_of_a_clip_is_as_measured():
    """Within a quarter of what `make bench-data` wrote last."""
    fed = json.loads((ROOT / "benchmarks/results/data.json").read_text())["fed"]["ms"]["originals"]
    for T in READ_MS:
        ms = {part: median(values) for part, values in fed[str(T)].items()}
        assert 2 * ms["read"] == pytest.approx(READ_MS[T], rel=0.25)
    ms = {part: median(values) for part, values in fed["16"].items()}
    assert (ms["crop"], ms["RandAugment"]) == pytest.approx((CROP_MS, RANDAUGMENT_MS), rel=0.25)


def test_clips_are_those_of_the_data_set_that_is_there():
    assert sizes(DataConfig(name="ssv2")) == (*PUBLISHED["ssv2"], True)
    assert sizes(DataConfig(name="mine")) == (400, None, True)
    assert Estimate(Config(model=Stat(), data=DataConfig(name="mine")), Hardware()).gpu_hours is None
    built_in = DataConfig(name="motion", motion=MotionConfig(train_videos=120))
    assert sizes(built_in) == (12, 120, False)
    config = Config(model=Stat(), data=built_in, recipe=Recipe(epochs=40, repeats=2, batch_size=16))
    assert Estimate(config, Hardware()).clips == 120 * 40 * 2
    config.recipe.max_steps = 7
    assert Estimate(config, Hardware()).clips == 7 * 16


def test_gpus_are_read_from_their_file(tmp_path):
    a100 = find_gpu("A100-80GB")
    assert (a100.kind("auto"), a100.kind("16-mixed"), a100.kind("32-true")) == ("bf16", "fp16", "fp32")
    assert a100.bytes == 80 * 1024**3
    v100 = find_gpu("V100-32GB")
    assert (v100.kind("auto"), v100.rate("auto")) == ("fp16", 125e12)
    with pytest.raises(InputError, match="a V100-32GB has no bf16"):
        v100.kind("bf16-mixed")
    with pytest.raises(InputError, match="64-true: costs are known for auto"):
        v100.kind("64-true")
    whole = "X: {bf16: 1, fp16: 1, fp32: 1, memory: 1, share: 0.5, source: me}"
    wrong = whole.replace("fp16: 1", "fp16: 0"), whole.replace("0.5", "1.5"), whole.replace("0.5", "much")
    (tmp_path / "gpus.yaml").write_text(whole)
    assert find_gpu("X", tmp_path / "gpus.yaml").share == 0.5
    for i, broken in enumerate(("X: {fp16: 1}", "- X", *wrong)):
        file = tmp_path / f"gpus{i}.yaml"
        file.write_text(broken)
        with pytest.raises(InputError, match=rf"gpus{i}\.yaml"):
            find_gpu("X", file)
    assert all(f"\n{name}: " in GPUS.read_text() for name in ("V100-16GB", "A100-40GB", "H100-80GB", "RTX-4090"))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"gpu": "A100"}, "gpu=A100: allowed are V100-16GB, "),
        ({"share": 1.5}, "share=1.5: allowed is above 0 to 1"),
        ({"gpus": [0]}, "gpus=.0.: allowed is 1 or more"),
        ({"gpus": []}, "gpus=..: a list of numbers from 1 on"),
        ({"clip_ms": -1}, "clip_ms=-1: allowed is 0 or more"),
        ({"table": 3}, "table=3: allowed are 6, 7"),
        ({"gpu": "V100-16GB", "trainer": TrainerKeys(precision="bf16-mixed")}, "a V100-16GB has no bf16"),
    ],
)
def test_values_are_refused_in_one_line(keys, said):
    with pytest.raises(InputError, match=said):
        CostConfig(**keys)


def test_keys_of_cost_are_no_keys_of_a_run():
    words = ["experiment=ablation_token"]
    (row, *_) = compose.rows("cost", CostConfig, [*words, "share=0.3"], every=True)
    assert row.config.share == 0.3
    for name, schema, word in (("train", Config, "share=0.3"), ("cost", CostConfig, "shar=0.3")):
        with pytest.raises(InputError, match=f"unknown key '{word.partition('=')[0]}'"):
            compose.rows(name, schema, [*words, word])


def test_an_experiment_is_a_table_with_its_sum():
    done = script("cost", "experiment=ablation_token", "scale=tiny", "gpus=[8]")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    hours, total = [float(rows[name][-3]) for name in ("avg_pool", "class_token")], float(rows["all"][1])
    assert total == pytest.approx(sum(hours), abs=0.002)


def test_one_row_shows_memory_and_time():
    done = script("cost", "experiment=ablation_window", "t_o=5", "gpus=[8]", "gpu=H100-80GB")
    assert done.returncode == 0, done.stderr
    assert "119.88" in done.stdout  # by layer
    assert "Memory of a training step" in done.stdout
    assert "Training on H100-80GB" in done.stdout
    assert "240,000 videos (as published) x 200 epochs x 2 a batch" in done.stdout


def test_another_models_cost():
    done = script("cost", "model=slowfast", "scale=tiny", "gpus=[1]")
    assert done.returncode == 0, done.stderr
    assert "Memory of a training step" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["all"])
    assert float(line.split()[-1]) == pytest.approx(0.68, abs=0.03)  # 0.70 M with 400 classes
