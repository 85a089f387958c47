"""What runs differ in: one key, several, the model, the data; the folder's name says the same."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stat_video import compose
from stat_video.config import Config
from stat_video.runs.differing import differing, in_words
from stat_video.runs.run import Run


def configs(*words: str) -> list[dict[str, Any]]:
    return [asdict(row.config) for row in compose.rows("train", Config, ["-m", *words])]


def labels(rows: list[dict[str, Any]], logs: Path) -> list[str]:
    """Of the runs' folders: what stands between the clip's length and the seed."""
    names = [Run.of(row, logs, None).folder.name for row in rows]
    return [
        name.partition(f"-T{row['clip']['T']}-")[2].partition("-seed")[0] for name, row in zip(names, rows, strict=True)
    ]


def test_one_key(tmp_path: Path) -> None:
    rows = configs("experiment=ablation_window")
    varied, same = differing(rows)
    assert varied == {"t_o": ["3", "5", "7", "9"]}
    assert in_words(same) == "model stat, data probe, T 32, seed 0"
    assert labels(rows, tmp_path) == ["stat", "stat-t_o5", "stat-t_o7", "stat-t_o9"]  # 3 is the model's default
    assert len({Run.of(row, tmp_path, None).folder.name for row in rows}) == 4


def test_a_list_of_words_is_one_value(tmp_path: Path) -> None:
    rows = configs("modules=ca,ca_sa_la", "stem=conv1")
    varied, same = differing(rows)
    assert varied == {"modules": ["CA", "CA+SA+LA"]}
    assert same == {"model": "stat", "data": "motion", "T": "16", "seed": "0"}  # they have no label in common
    assert labels(rows, tmp_path) == ["stat-CA-conv1", "stat-conv1"]


def test_several_keys_the_models_first_and_the_seed_last() -> None:
    varied, same = differing(configs("seed=0,1", "recipe.lr=0.1", "T=16,32", "window=t_o_3,t_o_5"))
    assert list(varied) == ["t_o", "T", "seed"]
    assert varied["seed"] == ["0"] * 4 + ["1"] * 4
    assert list(zip(varied["T"], varied["t_o"], strict=True)) == 2 * [
        ("16", "3"),
        ("16", "5"),
        ("32", "3"),
        ("32", "5"),
    ]
    assert same == {"model": "stat", "data": "motion"}


def test_keys_of_one_name_are_told_apart() -> None:
    varied, _ = differing(configs("data.motion.seed=0,1", "recipe.lr=0.1,0.2"))
    assert varied == {"data.motion.seed": ["0", "0", "1", "1"], "lr": ["0.1", "0.2", "0.1", "0.2"]}


def test_what_defines_no_run_is_left_out() -> None:
    varied, _ = differing(configs("name=a,b", "trainer.workers=0,1", "logger=off,offline"))
    assert varied == {}


def test_one_run_differs_in_nothing() -> None:
    varied, same = differing(configs("t_o=5"))
    assert varied == {}
    assert same == {"model": "stat-t_o5", "data": "motion", "T": "16", "seed": "0"}


def test_sizes_are_named_where_nothing_else_tells_runs_of_one_model_apart() -> None:
    words = ("experiment=kinetics", "systems=i3d_nl,slowfast,tsm", "scale=paper")
    varied, _ = differing(configs(*words))
    assert varied["model"] == ["slowfast", "slowfast", "i3d_nl-depth50", "i3d_nl-depth101", "tsm"]
    assert varied["T"] == ["32", "64", "128", "128", "16"]


def test_models_stand_under_one_name_and_bring_their_own(tmp_path: Path, mine: Path) -> None:
    """A model's keys and its recipe follow from it; of one model the same keys are named."""
    rows = configs("model=stat,mine", "scale=paper", "recipe=own")
    varied, same = differing(rows)
    assert varied == {"model": ["stat", "mine"]}
    assert same == {"data": "kinetics400", "T": "16", "seed": "0"}
    assert labels(rows, tmp_path) == ["stat", "mine"]
    varied, _ = differing(configs("model=stat,mine", "seed=0,1", "recipe.epochs=3"))
    assert varied == {"model": ["stat", "stat", "mine", "mine"], "seed": ["0", "1", "0", "1"]}
    varied, _ = differing(configs("model=stat,mine", "scale=paper", "recipe.lr=0.1,0.2"))
    assert varied["lr"] == ["0.1", "0.2", "0.1", "0.2"]  # it does not follow from the model
    varied, _ = differing([*configs("model=mine", "pool=max"), *configs("t_o=5")])
    assert varied == {"model": ["mine-max", "stat-t_o5"]}


def test_data_sets_bring_their_own() -> None:
    varied, same = differing(configs("data=motion,probe"))
    assert varied == {"data": ["motion", "probe"]}
    assert "data" not in same


def test_an_axis_of_the_user(tmp_path: Path, mine: Path) -> None:
    """It stands in no list."""
    rows = configs("model=mine", "pool=mean,max")
    varied, same = differing(rows)
    assert varied == {"pool": ["mean", "max"]}
    assert same["model"] == "mine"
    assert labels(rows, tmp_path) == ["mine", "mine-max"]
    assert all(row["model"]["width"] == 4 for row in rows)  # a size, and in no label


def test_runs_of_a_model_that_is_gone_still_have_a_name(tmp_path: Path) -> None:
    (plain,) = configs("t_o=5")
    plain["model"] = {"name": "gone", "t_o": 5}
    varied, same = differing([plain])
    assert same["model"] == "gone"
    assert labels([plain], tmp_path) == ["gone"]
    varied, _ = differing([plain, *configs("t_o=5")])
    assert varied["model"] == ["gone", "stat-t_o5"]
