"""The grid: an experiment reruns its table of the paper, rows shared by tables are one run, no sweep is dropped."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from running import PROBE, ROOT, SMALL, only, read_json, refused, script
from stat_video import grid, published
from stat_video.config import Config, ModelKeys
from stat_video.entry import CONF, sweeps
from stat_video.errors import InputError
from stat_video.runs.files import write_json
from stat_video.runs.results import read_results
from stat_video.runs.run import Busy, Run, row_id
from stat_video.runs.source import find_source

TABLES = {table.experiment: table for table in published.load().tables.values()}


def test_an_experiment_a_table():
    assert [published.load().tables[n].experiment for n in range(1, 8)] == list(grid.EXPERIMENTS)
    assert sorted(grid.EXPERIMENTS) == sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("scale", ["tiny", "paper"])
@pytest.mark.parametrize("experiment", grid.EXPERIMENTS)
def test_rows_are_those_that_the_paper_prints(experiment, scale):
    """Axes and views of each row stand in conf/paper.yaml, which is checked against the paper's text."""
    printed = [row for row in TABLES[experiment].rows if row.axes]
    rows = grid.rows(experiment, [f"scale={scale}"])
    assert len(rows) == len(printed) > 1
    for ours, theirs in zip(rows, printed, strict=True):
        flat = {**ours.config, **ours.config["model"]}
        assert {axis: flat[axis] for axis in theirs.axes} == dict(theirs.axes)
        assert flat["scale"] == scale
        assert flat["T"] == int(theirs.frames)
        if scale == "paper" or experiment in ("kinetics", "ssv2"):
            assert flat["views"] == f"{theirs.clips}x{theirs.crops}"
        if scale == "paper":
            assert flat["data"]["name"] == TABLES[experiment].dataset


def test_rows_of_one_table_differ_in_its_axis_alone():
    for experiment, axis in (
        ("ablation_modules", "modules"),
        ("ablation_stem", "stem"),
        ("ablation_token", "spatial_token"),
    ):
        rows = [dict(row.config, model=dict(row.config["model"])) for row in grid.rows(experiment)]
        values = [str(row["model"].pop(axis)) for row in rows]
        assert len(set(values)) == len(rows)
        assert all(row == rows[0] for row in rows)


def test_a_row_of_several_tables_is_one_run(tmp_path):
    """CA+SA+LA, T = 16, t_o = 3, one layer, class token, three convolutions: in Tables 1, 3, 4, 5."""
    names = ("ablation_modules", "ablation_token", "ablation_aggregation", "ablation_stem")
    found = [[row_id(row.config) for row in grid.rows(name)] for name in names]
    shared = set(found[0]).intersection(*found[1:])
    assert len(shared) == 1
    assert len({id for ids in found for id in ids}) == 4 + 1 + 3 + 2
    config = next(row.config for row in grid.rows(names[0]) if row_id(row.config) in shared)
    first = Run.of(config, tmp_path, "data")
    first.folder.mkdir(parents=True)
    assert Run.of({**config, "name": names[1]}, tmp_path, "data") == first
    assert Run.of(config, tmp_path, "other data").id != first.id
    assert Run.of({**config, "seed": 1}, tmp_path, "data").id != first.id
    assert row_id({**config, "seed": 1, "logger": None}) == row_id(config)


def test_an_override_narrows_a_table():
    assert [row.words for row in grid.rows("ablation_window", ["t_o=5"])] == [()]
    assert [row.words for row in grid.rows("ablation_window")] == [("t_o=3",), ("t_o=5",), ("t_o=7",), ("t_o=9",)]
    (row, *_) = grid.rows("kinetics")
    assert grid.command("kinetics", row, "seed=1") == "python src/train.py experiment=kinetics clip=T16 seed=1"


def test_the_command_lines_that_one_stands_for():
    assert sweeps(["train.py", "t_o=3"]) == [["train.py", "t_o=3"]]
    assert sweeps(["train.py", "-m", "experiment=a,b", "seeds=3"]) == [
        ["train.py", "-m", "experiment=a", "seed=0,1,2"],
        ["train.py", "-m", "experiment=b", "seed=0,1,2"],
    ]
    for words, message in (
        (["experiment=a,b"], "experiment=a,b: several runs need -m"),
        (["seeds=3"], "seeds=3: several runs need -m"),
        (["-m", "experiment=a,b", "experiment=c"], "experiment= is given 2 times; allowed is experiment=a,b,c"),
        (["-m", "seeds=none"], "seeds=none: allowed is a number of seeds"),
    ):
        with pytest.raises(InputError, match=message):
            sweeps(["train.py", *words])


def test_a_run_is_held_against_other_processes_and_let_go_by_death(tmp_path):
    run = Run(tmp_path / "name" / "run-0123abcd", "0123abcd")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from stat_video.runs.run import Run\n"
            f"with Run(Path({str(run.folder)!r}), {run.id!r}).alone(): print('held', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=f"being run by process {holder.pid} on "), run.alone():
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.alone():
        pass


def test_results_that_cannot_be_read_are_named(tmp_path):
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"name": "x"}')):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "result.json").write_text(text)
    found = read_results(tmp_path)
    assert found.results == []
    assert [(file.parent.name, reason.split()[0]) for file, reason in found.broken] == [
        ("a", "Expecting"),
        ("b", "is"),
        ("c", "lacks"),
    ]


def test_two_tables_in_one_sweep_share_a_run_and_survive_a_bad_row(place, tmp_path):
    keys = place.keys_with(tmp_path)
    words = ("-m", "experiment=ablation_token,ablation_aggregation", *PROBE, "hydra/launcher=basic")
    planned = script("train", *words, *keys, "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "6 runs" not in planned.stdout
    assert "2 runs, 2 not done" in planned.stdout
    assert "4 runs, 4 not done" in planned.stdout
    done = script("train", *words, *keys, "l_ta=0,1,-3")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "l_ta=-3" in line
    assert done.stdout.count("Training tiny-probe") == 4  # two tokens with each of the two numbers of layers
    assert done.stdout.count("Finished before") == 2  # of Table 4, both
    assert len(list(tmp_path.glob("ablation_*/*/result.json"))) == 4


def test_two_sweeps_at_once_run_no_row_twice(place, tmp_path):
    words = ("-m", "experiment=ablation_modules", *PROBE, place.keys[0], f"folders.logs={tmp_path}", "modules=ca,ca_sa")
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words]
    env = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    both = []
    for _ in range(2):
        both.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env))
        time.sleep(1)
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(out.count("Training tiny-probe") for out, _ in outputs) == 2
    ids = [read_json(file)["id"] for file in tmp_path.glob("ablation_modules/*/result.json")]
    assert len(set(ids)) == 2
    assert all(all(id in out for id in ids) for out, _ in outputs)


def test_first_weights_that_another_process_is_training_are_waited_for(tmp_path):
    first, then = (grid.rows(name, ["clip=T16"])[0].config for name in ("kinetics", "ssv2"))
    run = Run.of(first, tmp_path, None)
    write_json(run.folder / "config.json", first)
    config = Config(**{key: then[key] for key in ("scale", "T", "crop", "t_o", "l_ta", "seed", "init")})
    config.model = ModelKeys(**then["model"])
    with pytest.raises(InputError, match="no finished run"):
        find_source(config, tmp_path)
    with run.alone(), pytest.raises(Busy, match=run.id):
        find_source(config, tmp_path)


def test_the_first_weights_come_from_the_run_on_the_other_data_set(place, tmp_path):
    logs = f"folders.logs={tmp_path}"
    line = refused(script("train", "experiment=ssv2", *PROBE, place.keys[0], logs))
    assert "no finished run with this model on data=motion" in line
    assert "python src/train.py experiment=kinetics clip=T16 seed=0" in line
    assert script("train", "experiment=kinetics", *SMALL, place.keys[0], logs).returncode == 0
    done = script("train", "experiment=ssv2", *PROBE, place.keys[0], logs)
    assert done.returncode == 0, done.stderr
    assert "init: " in done.stdout
    source = read_json(only("result.json", tmp_path / "kinetics"))["id"]
    result = read_json(only("result.json", tmp_path / "ssv2"))
    assert result["config"]["init"] == f"trained_on=motion/{source}"
    assert result["manifest"].startswith("probe-")
    assert "test/top1_1x3_far" in result["metrics"]


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_as_an_undisturbed_one(place, tmp_path):
    """SIGKILL to the whole process group at random moments; then the same words. To the last digit."""
    words = ("-m", "experiment=ablation_modules", *PROBE, "recipe.epochs=3", place.keys[0])
    done = script("train", *words, f"folders.logs={tmp_path / 'undisturbed'}")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words, f"folders.logs={tmp_path / 'killed'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for finished, delay in enumerate(np.random.default_rng(0).uniform(0, 12, size=3)):
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while len(list(tmp_path.glob("killed/*/*/result.json"))) < finished:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(delay)
        assert process.poll() is None  # it is not done yet
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = script("train", *words, f"folders.logs={tmp_path / 'killed'}")
    assert done.returncode == 0, done.stderr
    assert "Finished before" in done.stdout
    found = [read_results(tmp_path / name).results for name in ("undisturbed", "killed")]
    assert [len(results) for results in found] == [4, 4]
    for (one, expected), (two, result) in zip(*found, strict=True):
        assert one.name == two.name
        assert result["metrics"] == expected["metrics"]
        a, b = (torch.load(folder / "logits_5x1.pt", weights_only=True)["logits"] for folder in (one, two))
        assert torch.equal(a, b)
