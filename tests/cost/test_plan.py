"""What a plan says of cost: known where something finished or was measured, assumed off the CPU, else unknown."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fake_runs import fake_run
from stat_video import compose
from stat_video.config import Config
from stat_video.cost.budget import Estimate
from stat_video.cost.config import Hardware
from stat_video.cost.plan import plan, plan_table, total_cost, total_of


def config(logs: Path, *words: str) -> Config:
    (row, *_) = compose.rows("train", Config, ["experiment=ablation_token", *words, f"folders.logs={logs}"], every=True)
    return row.config


def test_hours_are_assumed_off_the_cpu_and_marked(tmp_path):
    asked = config(tmp_path, "scale=paper")
    row = plan(asked)
    estimate = Estimate(asked, Hardware())
    assert row.clips == 240_000 * 200 * 2  # the paper's Kinetics-400, which is not there
    assert row.seconds == pytest.approx(3600 * estimate.gpu_hours)
    assert row.assumed.startswith("A100-80GB, speed assumed")
    assert row.step_bytes == estimate.memory(True, False, False).whole(64)  # 1024 frames
    table = plan_table([row])
    assert list(table.columns[-1].cells) == [f"~{estimate.gpu_hours:.2f}"]
    assert "~ on A100-80GB" in table.caption


def test_hours_on_the_cpu_are_known_or_not_given(tmp_path):
    asked = config(tmp_path)
    row = plan(asked)
    assert (row.seconds, row.assumed) == (None, None)
    assert row.step_bytes == Estimate(asked, Hardware()).memory(False, False, True).whole(asked.recipe.batch_size)
    asked.trainer = replace(asked.trainer, clips_per_second=40.0)
    assert plan(asked).seconds == row.clips / 40
    assert "~" not in plan_table([row]).caption


def test_rows_are_told_apart_by_what_they_differ_in(tmp_path):
    runs = [["t_o=5"], ["modules=ca"], ["model=mvit", "T=32"]]
    more = [f"folders.logs={tmp_path}", "recipe.batch_size=16"]
    found = [compose.rows("train", Config, [*words, *more])[0].config for words in runs]
    table = plan_table([plan(config) for config in found])
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["model"] == ["stat-t_o5", "stat-CA", "mvit"]
    assert columns["T"] == ["16", "16", "32"]
    assert "seed 0" in table.caption
    assert len(set(columns["id"])) == len(set(columns["GB a step"])) == 3


def test_runs_that_were_cut_off_in_their_first_epoch_are_no_measure(tmp_path):
    """After debug=two_steps, whose seconds are those of its start."""
    asked = config(tmp_path)
    whole, cut = (
        {"steps": steps, "train_seconds": 100.0, "videos": {"train": 2 * asked.recipe.batch_size, "val": 8}}
        for steps in (2, 1)
    )
    hardware = {"hardware": {"device": "cpu", "devices": 1}}
    for seed, more in enumerate((cut, cut, cut)):
        fake_run(tmp_path, asdict(config(tmp_path, f"seed={seed + 1}")), np.ones(4, bool), **hardware, **more)
    assert plan(asked).seconds is None
    fake_run(tmp_path, asdict(config(tmp_path, "seed=9")), np.ones(4, bool), **hardware, **whole)
    row = plan(asked)
    rate = 100.0 / (2 * asked.recipe.batch_size * 0.125)
    assert row.seconds == pytest.approx(rate * row.gmacs * row.clips)


def test_the_totals_count_a_run_of_several_tables_once(tmp_path):
    asked = config(tmp_path, "scale=paper")
    other = replace(asked, seed=1)
    rows = [asked, replace(asked, name="ablation_stem"), other]
    hours = Estimate(asked, Hardware()).gpu_hours
    said = total_cost([Estimate(row, Hardware()) for row in rows])
    assert said.startswith(f"all: 2 runs in 3 rows, {2 * hours:,.0f} GPU hours; 0 done, 2 not done: {2 * hours:,.0f} ")
    assert f"{2 * hours / 8:.1f} h on 8, " in said
    assert total_of([plan(row) for row in rows]) == (
        f"all: 2 runs in 3 rows, 0 done, 2 not done; device hours left: {2 * hours:.2f}"
    )
    more = {"hardware": {"device": "cuda", "devices": 1}, "train_seconds": 0.0}
    fake_run(tmp_path, asdict(other), np.ones(4, bool), manifest=None, **more)
    said = total_cost([Estimate(row, Hardware()) for row in rows])
    assert f"{2 * hours:,.0f} GPU hours; 1 done, 1 not done: {hours:,.0f} GPU hours" in said
    assert total_of([plan(row) for row in rows]).startswith("all: 2 runs in 3 rows, 1 done, 1 not done; ")
