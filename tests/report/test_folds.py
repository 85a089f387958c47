"""Runs of `data.folds` in the report: one test of all videos, or said what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_runs import fake_run
from stat_video.config import Config
from stat_video.data.built_in import encode
from stat_video.data.config import DataConfig
from stat_video.data.lists import manifest_hash, read_lists
from stat_video.files import write_json
from stat_video.models import stat
from stat_video.report import compare, own_tables
from stat_video.report.collect import Collection, found_runs
from stat_video.report.intervals import half_width, of_groups
from stat_video.report.own import Experiment, experiments
from stat_video.report.videos import Videos
from stat_video.report.write import write
from stat_video.runs.identity import hash_of, row_id
from stat_video.runs.run import Run

FOLDS = 3
Make = Callable[..., Run]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes at seven places, one video of each class at each and a second one at the first three."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("circle", "star"):
        for place in range(7):
            for i in range(2 if place < 3 else 1):
                file = root / name / f"p{place}" / f"{i}.mp4"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encode(np.full((4, 16, 16, 3), 30 * place, np.uint8), 8))
    return root


def data_of(root: Path, fold: int) -> DataConfig:
    return DataConfig("own", str(root), "folders.own", "own", folds=FOLDS, fold=fold)


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    """Write a finished run of a fold, which is right at even places."""

    def of(fold: int, seed: int = 0, groups: bool = True, **keys: Any) -> Run:
        data = data_of(root, fold)
        found = read_lists(root, data)
        videos = [found.videos["val"][i] for i in range(found.counts["val"])]
        labels = torch.tensor([info["label"] for _, info in videos])
        right = torch.tensor([int(Path(path).parent.name[1:]) % 2 == 0 for path, _ in videos])
        config = asdict(Config(name="mine", views="1x1", model=stat.Config(), data=data, seed=seed, **keys))
        run = fake_run(tmp_path / "logs", config, right.numpy(), manifest=str(manifest_hash(data)), videos=found.counts)
        logits = 5 * torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()[:, None]
        content: dict[str, Any] = {"logits": logits, "labels": labels, "views": "1x1"}
        if groups:
            content["groups"] = torch.tensor([int(hash_of(found.groups[path]), 16) for path, _ in videos])
        torch.save(content, run.folder / "logits_1x1.pt")
        return run

    return of


def read(logs: Path) -> tuple[Experiment, Collection]:
    runs, broken = found_runs(logs)
    collection = Collection({"tiny": []}, runs, runs, broken)
    (found,) = experiments(collection)
    return found, collection


def right_and_places(root: Path) -> tuple[np.ndarray, list[str]]:
    places = sorted(path.parent.name for path in root.rglob("*.mp4"))
    return np.array([100.0 * (int(place[1:]) % 2 == 0) for place in places]), places


def test_all_folds_are_one_test_of_each_video_with_an_interval_over_groups(
    make: Make, root: Path, tmp_path: Path
) -> None:
    for fold in range(1, FOLDS + 1):
        run = make(fold)
        assert f"-fold{fold}of{FOLDS}-seed0-" in run.folder.name
    experiment, collection = read(tmp_path / "logs")
    (row,) = experiment.rows
    right, places = right_and_places(root)
    assert len(row.runs) == 1
    assert row.values_of("top1") == [pytest.approx(right.mean())]
    found = compare.accuracy_of(row)
    assert found is not None
    assert found.videos == len(right)
    # The bootstrap of whole places, with Student's t of seven of them.
    random = np.random.default_rng(0)
    of_place = [right[[p == place for p in places]] for place in sorted(set(places))]
    drawn = [np.concatenate([of_place[i] for i in random.integers(0, 7, 7)]).mean() for _ in range(4000)]
    spread = 2.447 * np.sqrt(7 / 6) * np.std(drawn)  # sqrt: of the variance of a sample
    assert (found.high - found.low) / 2 == pytest.approx(spread, rel=0.1)
    assert (found.high - found.low) / 2 > half_width(right[None])
    table = own_tables.own_table(experiment)
    assert any("of the test videos of all its folds together" in note for note in table.notes)
    assert len(own_tables.own_runs(experiment).rows) == FOLDS
    tested = Videos().tested(row.runs[0], [])
    assert sorted(map(str, tested)) == sorted(map(str, root.rglob("*.mp4")))
    write(collection, tmp_path / "out")
    assert "p1/" in "".join(path.read_text() for path in (tmp_path / "out").glob("*.md"))


def test_missing_folds_are_said_and_give_no_figure(make: Make, tmp_path: Path) -> None:
    make(1)
    make(3)
    experiment, collection = read(tmp_path / "logs")
    (row,) = experiment.rows
    assert row.top1 is None
    assert compare.accuracy_of(row) is None
    table = own_tables.own_table(experiment)
    assert "2 of 3 folds" in table.rows[0]
    assert "stat, seed 0: 2 of 3 folds, without 2; no figure." in table.notes
    assert not any(note.startswith("No interval") for note in table.notes)
    assert len(own_tables.own_runs(experiment).rows) == 2
    write(collection, tmp_path / "out")


def test_a_seed_without_all_folds_stays_out_of_the_mean(make: Make, root: Path, tmp_path: Path) -> None:
    for fold in range(1, FOLDS + 1):
        make(fold)
    make(1, seed=1)
    make(2, seed=2)
    experiment, _ = read(tmp_path / "logs")
    (row,) = experiment.rows
    assert row.values_of("top1") == [pytest.approx(right_and_places(root)[0].mean())]
    table = own_tables.own_table(experiment)
    assert table.rows[0][table.columns.index("n")] == "1"
    said = [note for note in table.notes if "no figure" in note]
    assert said == [
        "stat, seed 1: 1 of 3 folds, without 2, 3; no figure.",
        "stat, seed 2: 1 of 3 folds, without 1, 3; no figure.",
    ]
    assert len(own_tables.own_runs(experiment).rows) == 5


def test_a_row_with_all_folds_beside_one_without(make: Make, tmp_path: Path) -> None:
    for fold in range(1, FOLDS + 1):
        make(fold, groups=False)
    make(2, groups=False, init="x.ckpt")
    experiment, collection = read(tmp_path / "logs")
    assert sorted(len(row.values_of("top1")) for row in experiment.rows) == [0, 1]
    write(collection, tmp_path / "out")


def test_folds_of_other_states_of_the_videos_are_not_pooled(make: Make, tmp_path: Path) -> None:
    runs = [make(fold) for fold in range(1, FOLDS + 1)]
    file = runs[0].folder / "result.json"
    result = json.loads(file.read_text())
    write_json(file, {**result, "videos": {"train": 1, "val": 2}})
    (row,) = read(tmp_path / "logs")[0].rows
    assert row.runs[0].lacking == "3 folds, which were run on different states of the data set"


def test_folds_without_logits_are_said(make: Make, tmp_path: Path) -> None:
    runs = [make(fold) for fold in range(1, FOLDS + 1)]
    (runs[1].folder / "logits_1x1.pt").unlink()
    (row,) = read(tmp_path / "logs")[0].rows
    assert row.runs[0].lacking == "2 of 3 folds, without the logits of 2"


def test_folds_have_ids_of_their_own_and_are_one_row(make: Make) -> None:
    runs = [make(fold) for fold in range(1, FOLDS + 1)]
    assert len({run.id for run in runs}) == FOLDS
    assert len({row_id(json.loads((run.folder / "result.json").read_text())["config"]) for run in runs}) == 1


def test_groups_of_one_video_each_change_no_interval() -> None:
    points = np.random.default_rng(0).random((3, 20))
    assert half_width(of_groups(points, np.arange(20))) == pytest.approx(half_width(points))


def test_an_interval_over_groups_has_the_variance_of_their_sums() -> None:
    """Against the cluster-robust (CR1) variance of a mean, written out."""
    random = np.random.default_rng(0)
    points, groups = random.random((1, 40)), random.integers(0, 8, 40)
    off = points[0] - points.mean()
    variance = 8 / 7 * sum(off[groups == g].sum() ** 2 for g in range(8)) / 40**2
    found = of_groups(points, groups)
    assert found.mean() == pytest.approx(points.mean())
    assert half_width(found) == pytest.approx(2.3646 * np.sqrt(variance), rel=1e-4)
