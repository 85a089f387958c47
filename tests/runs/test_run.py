"""A run is what defines it: shared by tables, found again, held against other processes; its first weights."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from running import HANGS, PROBE, ROOT, SMALL, only, read_json, refused, script
from stat_video import compose
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.files import write_json
from stat_video.runs.identity import row_id
from stat_video.runs.results import read_results, validations
from stat_video.runs.run import Busy, Run
from stat_video.runs.source import find_source


def grid(experiment: str, *words: str) -> list[Config]:
    return [row.config for row in compose.rows("train", Config, [f"experiment={experiment}", *words], every=True)]


def test_a_row_of_several_tables_is_one_run(tmp_path: Path) -> None:
    """CA+SA+LA, T = 16, t_o = 3, one layer, class token, three convolutions: in Tables 1, 3, 4, 5."""
    names = ("ablation_modules", "ablation_token", "ablation_aggregation", "ablation_stem")
    plain = [[asdict(config) for config in grid(name)] for name in names]
    found = [[row_id(config) for config in configs] for configs in plain]
    shared = set(found[0]).intersection(*found[1:])
    assert len(shared) == 1
    assert len({id for ids in found for id in ids}) == 4 + 1 + 3 + 2
    config = next(config for config in plain[0] if row_id(config) in shared)
    first = Run.of(config, tmp_path, "data")
    first.folder.mkdir(parents=True)
    assert Run.of({**config, "name": names[1]}, tmp_path, "data") == first
    assert Run.of(config, tmp_path, "other data").id != first.id
    assert Run.of({**config, "seed": 1}, tmp_path, "data").id != first.id
    assert row_id({**config, "seed": 1, "logger": None}) == row_id(config)


def _stat() -> Any:
    from stat_video import models

    return models.find("stat")()


def test_first_weights_of_every_seed_are_of_one_row() -> None:
    config = asdict(Config(model=_stat()))
    one, two = ({**config, "seed": n, "init": f"trained_on=motion/{n}{n}{n}"} for n in (1, 2))
    assert row_id(one) == row_id(two)
    assert row_id(one) == row_id({**config, "init": "trained_on=motion"})
    assert row_id(one) != row_id({**config, "init": "some.ckpt"})


def test_a_folder_says_what_the_run_is(tmp_path: Path) -> None:
    (config,) = grid("ablation_modules", "modules=ca_sa", "t_o=5", "seed=2")
    run = Run.of(asdict(config), tmp_path, "x")
    assert run.folder == tmp_path / "ablation_modules" / f"tiny-probe-T16-stat-CA+SA-t_o5-seed2-{run.id}"
    odd = asdict(replace(config, model=replace(config.model, name="stat")))
    odd["model"]["stem"] = "../../x y"  # whatever a result of elsewhere holds
    assert Run.of(odd, tmp_path, "x").folder.parent == tmp_path / "ablation_modules"


def test_a_run_is_held_against_other_processes_and_let_go_by_death(tmp_path: Path) -> None:
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
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=f"being run by process {holder.pid} on "), run.alone():
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.alone():
        pass


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
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


# --------------------------------------------------------------------------------------------- the first weights


def begun(config: Config, logs: Path) -> Run:
    run = Run.of(asdict(config), logs, None)
    write_json(run.folder / "config.json", asdict(config))
    return run


def finished(config: Config, logs: Path) -> Run:
    run = begun(config, logs)
    known = dict.fromkeys(("name", "scale", "finished"), "x")
    write_json(run.folder / "result.json", {**known, "id": run.id, "seed": 0, "metrics": {}, "config": asdict(config)})
    return run


@pytest.mark.parametrize(
    "content", [b"step,val/top1_1x1\nmany,50\n", b"step,val/top1_1x1\n1,\xff\n", b"step,val/top1_1x1\n1,x\n"]
)
def test_validations_that_cannot_be_read_are_named(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "epochs.csv").write_bytes(content)
    assert validations(tmp_path) == []
    assert [str(tmp_path) in line and "can't be read" in line for line in caplog.messages] == [True]


def test_first_weights_that_another_process_is_training_are_waited_for(tmp_path: Path) -> None:
    first, then = (grid(name, "clip=T16")[0] for name in ("kinetics", "ssv2"))
    run = begun(first, tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        find_source(then, tmp_path)
    with run.alone(), pytest.raises(Busy, match=run.id):
        find_source(then, tmp_path)
    finished(first, tmp_path)
    assert find_source(then, tmp_path) == run


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, seed=1),
        lambda c: replace(c, scale="paper"),
        lambda c: replace(c, clip=replace(c.clip, T=32)),
        lambda c: replace(c, clip=replace(c.clip, crop=40)),
        lambda c: replace(c, model=replace(c.model, t_o=5)),
        lambda c: replace(c, model=replace(c.model, modules=["CA"])),
        lambda c: replace(c, init="some.ckpt"),
        lambda c: replace(c, data=replace(c.data, name="other")),
    ],
)
def test_first_weights_are_of_the_same_model_clip_scale_and_seed(
    tmp_path: Path, change: Callable[[Config], Config]
) -> None:
    """A run of another one is no source, and is named by what is looked for."""
    first, then = (grid(name, "clip=T16")[0] for name in ("kinetics", "ssv2"))
    finished(change(first), tmp_path)
    with pytest.raises(InputError, match=r"no finished run with this model on data=motion, scale=tiny, T=16, seed=0"):
        find_source(then, tmp_path)


def test_dropout_may_be_another_in_the_run_of_the_first_weights(tmp_path: Path) -> None:
    """MViT drops more on Something-Something than on Kinetics; of two runs the one with the same goes before."""
    words = ("model=mvit", "scale=paper", "trainer=cpu")
    first, then = (
        compose.rows("train", Config, [f"experiment={name}", *words])[0].config for name in ("kinetics", "ssv2")
    )
    assert first.model.stochastic_depth != then.model.stochastic_depth
    source = finished(first, tmp_path)
    assert find_source(then, tmp_path) == source
    same = finished(replace(first, model=then.model), tmp_path)
    assert find_source(then, tmp_path) == same
    with pytest.raises(InputError, match="no finished run"):
        find_source(replace(then, model=replace(then.model, width=192)), tmp_path)


def test_first_weights_that_two_runs_have_are_chosen_by_the_user(tmp_path: Path) -> None:
    first, then = (grid(name, "clip=T16")[0] for name in ("kinetics", "ssv2"))
    runs = [finished(config, tmp_path) for config in (first, replace(first, recipe=replace(first.recipe, epochs=9)))]
    with pytest.raises(InputError, match="2 runs fit; choose one with init=FILE") as error:
        find_source(then, tmp_path)
    assert all(str(run.checkpoint) in error.value.line for run in runs)


@pytest.mark.parametrize("there", [0, 1])
def test_one_run_under_two_names_is_one_source(tmp_path: Path, there: int) -> None:
    """Kept results, which have no weights, were copied in beside a run that `make train` had named otherwise."""
    first, then = (grid(name, "clip=T16")[0] for name in ("kinetics", "ssv2"))
    run = finished(replace(first, name="default"), tmp_path)
    runs = [run, replace(run, folder=tmp_path / "kinetics" / run.folder.name)]
    shutil.copytree(run.folder, runs[1].folder)
    assert find_source(then, tmp_path).id == runs[0].id
    runs[there].checkpoint.write_bytes(b"weights")
    assert find_source(then, tmp_path) == runs[there]


def test_a_source_that_was_kept_without_its_weights_says_what_to_do(place, tmp_path):
    """As docs/results keeps runs; a row of Table 7 that is run finds its source, and nothing to start from."""
    first = grid("kinetics", "clip=T16")[0]
    run = finished(first, tmp_path)
    assert not run.checkpoint.exists()
    line = refused(script("train", "experiment=ssv2", "clip=T16", *place.keys[:1], f"folders.logs={tmp_path}"))
    assert f"init=trained_on=motion/{run.id}: {run.checkpoint} is not there" in line
    assert "fresh=true trains them again" in line


def test_the_first_weights_come_from_the_run_on_the_other_data_set(place, tmp_path):
    logs = f"folders.logs={tmp_path}"
    line = refused(script("train", "experiment=ssv2", *PROBE, place.keys[0], logs))
    assert "no finished run with this model on data=motion" in line
    assert "python src/train.py experiment=kinetics model=stat T=4 seed=0" in line
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


@pytest.mark.slow
def test_two_sweeps_at_once_run_no_row_twice(place, tmp_path):
    words = ("-m", "experiment=ablation_modules", *PROBE, place.keys[0], f"folders.logs={tmp_path}", "modules=ca,ca_sa")
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words]
    env = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    both = []
    for _ in range(2):
        both.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env))
        time.sleep(1)
    outputs = [process.communicate(timeout=HANGS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(out.count("Training tiny-probe") for out, _ in outputs) == 2
    ids = [read_json(file)["id"] for file in tmp_path.glob("ablation_modules/*/result.json")]
    assert len(set(ids)) == 2
    assert all(all(id in out for id in ids) for out, _ in outputs)
