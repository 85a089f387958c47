"""Sections of one's own experiments: against figures worked out here by other means, from logits made by hand."""

import csv
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import multiclass_accuracy

from fake_runs import fake_run
from stat_video.config import Config, DashboardConfig, Folders, Recipe
from stat_video.data.built_in import encode
from stat_video.data.config import DataConfig
from stat_video.data.lists import manifest_hash, read_lists, videos_of_test
from stat_video.models import stat
from stat_video.models.base import Clip
from stat_video.report import boards, compare, own_figures, own_tables
from stat_video.report.collect import Collection, found_runs
from stat_video.report.keep import keep
from stat_video.report.mistakes import by_class, mistakes
from stat_video.report.own import MANY, experiments
from stat_video.report.own_parts import own_part
from stat_video.report.videos import Videos, middle_frame
from stat_video.report.write import own_markdown, write
from stat_video.runs.searches import Trial, Trials

CLASSES = ["a $x$ b", "b<i>", "c"]
TRAIN, VAL = 1, 6  # videos of each class
VIEWS = 2


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> DataConfig:
    """Class folders of tiny videos, each of a colour of its own."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(TRAIN + VAL):
            frames = np.full((8, 32, 32, 3), (40 + 80 * label, 30 * i + 20, 128), np.uint8)
            (root / name / f"{i}.mp4").write_bytes(encode(frames, 8))
    return DataConfig(name="own", setting="folders.own", layout="own", root=str(root), held_out=VAL / (TRAIN + VAL))


def made(logs: Path, data: DataConfig, logits: torch.Tensor, labels: torch.Tensor, **keys):
    """A finished run with these logits (videos, VIEWS, classes)."""
    config = asdict(Config(**{"name": "mine", "views": f"{VIEWS}x1", "model": stat.Config(), "data": data, **keys}))
    right = (logits.softmax(-1).mean(1).argmax(1) == labels).numpy()
    run = fake_run(logs, config, right, manifest=manifest_hash(data))
    torch.save({"logits": logits, "labels": labels, "views": config["views"]}, run.folder / f"logits_{VIEWS}x1.pt")
    loss = "\n".join(
        f"{e},{10 * e + 10},{2 - 0.1 * e * (1 + config['seed'])},{30 + 10 * e + config['seed']}" for e in range(3)
    )
    (run.folder / "epochs.csv").write_text(f"epoch,step,train/loss_epoch,val/top1_1x1\n{loss}\n")
    return run


def collection(logs: Path) -> Collection:
    """What `collect` returns of runs that fill no row, without composing the paper's rows."""
    runs, broken = found_runs(logs)
    return Collection({"tiny": []}, runs, runs, broken)


@pytest.fixture(scope="module")
def logs(videos, tmp_path_factory) -> Path:
    """`mine`: three learning rates, the first with three seeds, the last without logits."""
    logs = tmp_path_factory.mktemp("own_logs")
    labels = torch.tensor([label for _, label in listed(videos)])
    generator = torch.Generator().manual_seed(0)
    for lr, seeds in ((0.02, 3), (0.004, 1), (0.1, 1)):
        for seed in range(seeds):
            logits = 2 * torch.randn(len(labels), VIEWS, 3, generator=generator)
            logits[range(len(labels)), :, labels] += 1
            if lr == 0.02:
                logits[4] = float("nan")  # could not be read
            run = made(logs, videos, logits, labels, recipe=Recipe(lr=lr), seed=seed)
            if lr == 0.1:
                (run.folder / f"logits_{VIEWS}x1.pt").unlink()
    return logs


def listed(data: DataConfig):
    """(path, label) of each validation video as training and test list them."""
    found = read_lists(Path(data.root), data).videos["val"]
    return [(Path(found[i][0]), found[i][1]["label"]) for i in range(len(found))]


def scores(run) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities (videos, classes) and labels, by NumPy."""
    saved = torch.load(run.logits_file, weights_only=True)
    powers = np.exp(saved["logits"].double().numpy())
    return (powers / powers.sum(-1, keepdims=True)).mean(1), saved["labels"].numpy()


@pytest.fixture(scope="module")
def mine(logs):
    (found,) = experiments(collection(logs))
    return found


@pytest.fixture(scope="module")
def written(logs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("own_report")
    write(collection(logs), out)
    return out


def test_rows_are_told_by_what_differs_and_seeds_stand_together(mine):
    assert (mine.name, mine.keys, mine.same["data"]) == ("mine", ["lr"], "own")
    assert [(row.name, len(row.runs)) for row in mine.rows] == [("lr=0.004", 1), ("lr=0.02", 3), ("lr=0.1", 1)]
    assert [[run.seed for run in row.runs] for row in mine.rows] == [[0], [0, 1, 2], [0]]


def test_top1_stands_with_its_interval_and_n(mine):
    table = own_tables.own_table(mine)
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    alone, several, without = cells
    answers, labels = scores(mine.rows[0].runs[0])
    right = 100.0 * (answers.argmax(1) == labels)
    low, high = stats.t.interval(0.95, len(right) - 1, right.mean(), stats.sem(right))
    assert (alone["lr"], alone["top-1"], alone["n"]) == ("0.004", f"{right.mean():.2f}", "1")
    assert alone["95 % interval"] == f"{max(low, 0):.2f} to {min(high, 100):.2f}"
    assert several["n"] == "3"
    assert " ± " in several["top-1"]
    assert (without["95 % interval"], without["top-1"] != "") == ("", True)
    assert any("for lack of saved logits of one class a video: lr=0.1" in note for note in table.notes)
    assert "top-5" not in table.columns  # of three classes


def test_curves_are_the_mean_over_seeds_in_a_band(mine):
    """Three seeds whose validations are 30, 40 and 50 %, plus the seed; batches of 512 clips."""
    x, low, mean, high = own_figures.band(mine.rows[1].runs, "val/top1_1x1")
    clips = Recipe().batch_size
    assert (x, low, mean, high) == ([10 * clips, 20 * clips, 30 * clips], [30, 40, 50], [31, 41, 51], [32, 42, 52])
    picture = own_figures.mean_curves(mine, "train/loss_epoch", "training loss")
    assert [line.get_label() for line in picture.axes.lines] == ["lr=0.004", "lr=0.02", "lr=0.1"]
    assert len(picture.axes.collections) == 1  # of the row with several seeds
    assert own_figures.mean_curves(mine, "val/other", "nothing") is None


def test_accuracy_by_class_is_torchmetrics(mine):
    row = mine.rows[0]
    answers, labels = (torch.from_numpy(values) for values in scores(row.runs[0]))
    expected = 100 * multiclass_accuracy(answers, labels, 3, average="none")
    assert by_class(row) == {c: (VAL, pytest.approx(float(expected[c]), abs=1e-4)) for c in range(3)}
    assert by_class(mine.rows[2]) is None


def test_confusions_are_counted_by_hand(mine):
    """A video that could not be read is wrong, and in no cell; the diagonal is the accuracy by class."""
    row = mine.rows[1]
    found = mistakes(row, 100)
    expected = np.zeros((3, 3))
    for run in row.runs:
        answers, labels = scores(run)
        for i in range(len(labels)):
            if not np.isnan(answers[i]).any():
                expected[labels[i], answers[i].argmax()] += 1 / 3
    assert found.confusion == pytest.approx(expected)
    assert found.unread == 3
    assert np.diag(found.shares) == pytest.approx([by_class(row)[c][1] for c in range(3)])
    (a, b, videos, share), *_ = found.confused(20)
    wrong = expected - np.diag(np.diag(expected))
    assert (videos, share) == (pytest.approx(wrong.max()), pytest.approx(100 * wrong.max() / VAL))
    assert wrong[a, b] == pytest.approx(wrong.max())


def test_errors_are_the_surest_of_all_seeds(mine):
    row = mine.rows[1]
    of_seeds = [scores(run)[0] for run in row.runs]
    labels, total = scores(row.runs[0])[1], sum(of_seeds) / 3
    expected = []
    for i, label in enumerate(labels):
        if not np.isnan(total[i]).any() and total[i].argmax() != label:
            wrong = sum(answers[i].argmax() != label for answers in of_seeds)
            expected.append((total[i].max(), i, label, total[i].argmax(), wrong))
    found = mistakes(row, 100).surest
    assert len(found) > 2
    assert [(m.video, m.label, m.taken_for, m.wrong) for m in found] == [e[1:] for e in sorted(expected, reverse=True)]
    assert [m.probability for m in found] == pytest.approx(sorted((e[0] for e in expected), reverse=True), abs=1e-6)
    assert len(mistakes(row, 2).surest) == 2


def test_rows_are_compared_pair_by_pair(mine):
    (a, b, d), *others = compare.pairs_with_best(mine.rows, MANY)
    assert (a.name, b.name) == ("lr=0.004", "lr=0.02")
    right = [scores(row.runs[0])[0].argmax(1) == scores(row.runs[0])[1] for row in (a, b)]
    right[1] &= ~np.isnan(scores(b.runs[0])[0]).any(1)
    assert d.mean == pytest.approx(100 * (right[0].mean() - right[1].mean()))
    assert [why for *_, why in others] == ["no saved logits of one class a video of seed 0"] * 2


def test_many_rows_are_compared_with_the_best_alone(mine, videos, logs, tmp_path):
    """The p of a pair is adjusted for all pairs: never below what Holm gives when all are shown."""
    labels = torch.tensor([label for _, label in listed(videos)])
    generator = torch.Generator().manual_seed(1)
    for i in range(MANY + 2):
        logits = torch.randn(len(labels), VIEWS, 3, generator=generator)
        logits[range(len(labels)), :, labels] += 0.4 * i
        made(tmp_path, videos, logits, labels, recipe=Recipe(lr=0.001234567 * (i + 1)))
    (found,) = experiments(collection(tmp_path))
    top1 = [row.top1 for row in found.rows]
    assert top1 == sorted(top1, reverse=True)
    assert "0.001235" in {row.cells[0] for row in found.rows}  # four digits are enough
    shown = compare.pairs_with_best(found.rows, MANY)
    every = {(a.name, b.name): d for a, b, d in compare.pairs_with_best(found.rows, 100)}
    assert len(shown) == MANY + 1
    assert all(d.p >= every[a.name, b.name].p for a, b, d in shown)
    assert any(d.p < 1 for *_, d in shown)
    curves = own_figures.mean_curves(found, "val/top1_1x1", "top-1")
    assert len(curves.figure.legends[0].texts) == MANY
    assert len(curves.axes.lines) == MANY + 2


def test_pairs_of_two_states_of_the_data_are_not_compared(mine):
    a, b, _ = mine.rows
    (run,) = a.runs
    other = replace(a, runs=[replace(run, content={**run.content, "manifest": "01234567"})])
    assert compare.difference(other, b) == "tested on another state of the data set"


def test_videos_of_a_test_are_in_the_order_of_its_logits(videos, tmp_path):
    """Also a selection, with a link to another video, and when a video is gone since."""
    data = replace(videos, root=str(shutil.copytree(videos.root, tmp_path / "copy")))
    first = listed(data)
    assert videos_of_test(data, [label for _, label in first], None) == [path for path, _ in first]
    some = read_lists(Path(data.root), data, 4).videos["val"]
    labels = [some[i][1]["label"] for i in range(4)]
    assert videos_of_test(data, labels, 4) == [Path(some[i][0]) for i in range(4)]
    assert videos_of_test(data, labels[::-1], 4) is None


def test_a_frame_of_each_error_stands_with_its_classes(mine, videos, written):
    """The colour of each video is its own; classes and files are named, folders of the machine are not."""
    row = mine.rows[1]
    found, paths = mistakes(row, 8), Videos().tested(row.runs[0], mistakes(row, 8).labels.tolist())
    for m in found.surest:
        frame = middle_frame(paths[m.video])
        label, i = CLASSES.index(paths[m.video].parent.name), int(paths[m.video].stem)
        assert np.abs(frame.reshape(-1, 3).mean(0) - (40 + 80 * label, 30 * i + 20, 128)).max() < 12
        assert m.label == label
    table = own_tables.error_table(row, found, CLASSES, paths)
    assert [cells[0] for cells in table.rows] == ["/".join(paths[m.video].parts[-2:]) for m in found.surest]
    assert table.notes == []
    page = (written / "index.html").read_text()
    assert page.count("<image") >= len(found.surest)
    assert [
        path.name for path in written.rglob("*") if path.is_file() and videos.root in path.read_text("latin-1")
    ] == []


def test_what_lacks_videos_or_frames_says_so(mine, logs, videos, tmp_path):
    copy = Path(shutil.copytree(videos.root, tmp_path / "copy"))
    paths = Videos().tested(mine.rows[0].runs[0], labels_of(videos))
    (copy / paths[0].relative_to(videos.root)).write_bytes(b"")  # a broken video, in another place
    assert middle_frame(copy / paths[0].relative_to(videos.root)) is None
    assert middle_frame(copy / "gone.mp4") is None
    picture = own_figures.error_frames(mine, mine.rows[1], mistakes(mine.rows[1], 2), CLASSES, [None, None])
    assert [axes.texts[0].get_text() for axes in picture.figure.axes] == ["missing", "missing"]

    (run, *_) = mine.rows[0].runs
    data = {**run.config["data"], "root": str(tmp_path / "nowhere")}
    moved = replace(run, content={**run.content, "config": {**run.config, "data": data}})
    why = Videos().tested(moved, labels_of(videos))
    assert why == "the data set own is not on this machine"
    table = own_tables.error_table(mine.rows[0], mistakes(mine.rows[0], 8), CLASSES, why)
    assert table.rows[0][0].startswith("video ")
    assert why in table.notes[0]
    assert Videos().classes(moved, 3) == ["class 0", "class 1", "class 2"]
    here = Videos(Folders(own=videos.root))  # where this machine has the data set
    assert here.tested(moved, labels_of(videos)) == paths
    assert here.classes(moved, 3) == CLASSES
    changed = replace(run, content={**run.content, "manifest": "01234567"})
    assert Videos().tested(changed, labels_of(videos)) == "the data set own has changed since the test"


def labels_of(data: DataConfig) -> list[int]:
    return [label for _, label in listed(data)]


def test_a_folder_of_own_runs_has_no_table_of_the_paper(written):
    page = (written / "index.html").read_text()
    assert 'id="own-tiny_mine"' in page
    for word in ("Table 1", "Nothing is run", "Figure 1", "Claims", "printed"):
        assert word not in page, word
    assert not list(written.glob("tables-*"))
    assert {path.name for path in written.glob("experiments.*")} == {f"experiments.{e}" for e in ("md", "tex", "csv")}
    names = {path.stem for path in (written / "figures").glob("*.svg")}
    assert {"own_tiny_mine_top1", "own_tiny_mine_val", "own_tiny_mine_train", "own_tiny_mine_1_confusion"} <= names
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_csv_has_every_figure(mine, written):
    with (written / "experiments.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row in mine.rows:
        of_row = [line for line in lines if line["row"] == row.name]
        runs = {(run.id, metric, str(v)) for run in row.runs for metric, v in run.content["metrics"].items()}
        assert {(line["run"], line["metric"], line["value"]) for line in of_row if line["run"]} == runs
        classes = {line["class"]: float(line["value"]) for line in of_row if line["class"]}
        assert classes == {CLASSES[c]: pytest.approx(v, abs=1e-4) for c, (_, v) in (by_class(row) or {}).items()}


def test_of_many_classes_the_most_confused_stand_in_a_table(videos, tmp_path):
    """Sixty-one classes without names: no matrix, the hardest classes, and the confusions that were made."""
    labels = torch.arange(61).repeat_interleave(2)
    answers = labels.clone()
    answers[10:20] = 0
    logits = 5 * torch.nn.functional.one_hot(answers, 61).float()[:, None].repeat(1, VIEWS, 1)
    made(tmp_path, replace(videos, root=str(tmp_path / "nowhere")), logits, labels)
    part = own_part(*experiments(collection(tmp_path)), Videos())
    (row,) = part.rows
    assert row.matrix is None
    assert row.frames is None
    assert row.confused.rows == [[f"class {c}", "class 0", "2.0", "100.0"] for c in range(5, 10)]
    assert len(part.classes.rows) == own_tables.FEW
    assert [cells[0] for cells in part.classes.rows[:5]] == [f"class {c}" for c in range(5, 10)]
    assert "of 61" in part.classes.notes[0]


def test_rows_of_several_models_and_names_too_long(videos, tmp_path):
    """A model has its label; a row whose name would be too long is numbered, and its values stand in columns."""
    labels = torch.tensor(labels_of(videos))
    logits = torch.randn(len(labels), VIEWS, 3, generator=torch.Generator().manual_seed(0))
    for keys in ({}, {"model": stat.Config(t_o=5)}, {"clip": Clip(T=8), "model": stat.Config(t_o=5)}):
        made(tmp_path, videos, logits, labels, name="axis", **keys)
    others = ({}, {"weight_decay": 0.1}, {"warmup_epochs": 3}, {"min_lr": 0.001}, {"lr": 0.1})
    for recipe in ({"lr": 0.2, **other} for other in others):
        made(tmp_path, videos, logits, labels, name="search", recipe=Recipe(**recipe))
    axis, search = experiments(collection(tmp_path))
    assert axis.keys == ["t_o", "T"]
    assert [row.name for row in axis.rows] == ["t_o=3, T=16", "t_o=5, T=8", "t_o=5, T=16"]
    assert [row.name for row in search.rows] == [f"row {n}" for n in range(1, 6)]
    table = own_tables.own_table(search)
    assert table.columns[:5] == ["row", "lr", "warmup_epochs", "min_lr", "weight_decay"]
    assert "row" not in own_tables.own_table(axis).columns


def test_kept_runs_make_the_same_section_and_name_no_folder(mine, logs, videos, tmp_path):
    keep(mine.runs, tmp_path / "kept")
    (again,) = experiments(collection(tmp_path / "kept"))
    assert own_tables.own_table(again).rows == own_tables.own_table(mine).rows
    assert mistakes(again.rows[1], 8).confusion == pytest.approx(mistakes(mine.rows[1], 8).confusion)
    part = own_part(again, Videos())
    assert all("is not on this machine" in row.errors.notes[0] for row in part.rows)
    (run, *_) = mine.rows[1].runs
    lost = replace(run, content={**run.content, "unreadable": {"train": [], "val": [f"{videos.root}/c/4.mp4"]}})
    (there,) = keep([lost], tmp_path / "again")
    content = (there / "result.json").read_text()
    assert videos.root not in content
    assert json.loads(content)["unreadable"] == {"train": [], "val": ["c/4.mp4"]}


def test_an_experiment_has_boards_by_its_own_axes(logs, videos, tmp_path):
    """One of a key that W&B does not search by has the row for its axis; the paper's are not there."""
    labels = torch.tensor(labels_of(videos))
    for seed in (1, 2):
        data = replace(videos, seed=seed)
        made(tmp_path, data, torch.zeros(len(labels), VIEWS, 3), labels, name="x y")
    (split,) = boards.own_boards(tmp_path, ["tiny"])
    assert split.axes == ["row"]
    (board,) = boards.boards(logs, ["tiny"])
    assert (board.axes, board.views, board.metrics) == (["lr"], ("2x1",), ["test/top1_2x1"])
    assert len(board.rows) == 3
    config = DashboardConfig(dry_run=True, folders=Folders(logs=str(tmp_path)))
    files = boards.write([board, split], config)
    assert [path.name.rpartition("_")[0] for path in files][:2] == ["own_tiny_mine"] * 2
    assert len({path.name for path in files}) == 4
    assert {path.parent for path in files} == {tmp_path / "dashboard"}
    text = files[0].read_text()
    assert '"value": "mine"' in text
    assert all(row in text for row in board.rows)
    assert "Published" not in text
    assert list(boards.own_boards(logs, ["paper"])) == []


def test_a_search_has_a_table_and_a_picture(mine, logs, tmp_path):
    runs = [row.runs[0].folder for row in mine.rows]
    search = Trials(["recipe.lr"], "val/top1_1x1", False)
    for lr, value, run in ((0.004, 40.0, runs[0]), (0.02, 60.0, runs[1]), (0.1, None, None)):
        search.add(Trial((f"lr={lr}",), value, run.name if run else "", "" if run else "it diverged"))
    file = runs[0].parent / "search-0a1b2c3d.csv"
    search.write(file)
    (runs[0].parent / "search-other.csv").write_text("trial,x,val/top1_1x1,best,run,failed\n1,2,3,3,of-no-run,\n")
    try:
        part = own_part(mine, Videos())
        (table,) = part.searches
        assert table.rows == [
            ["1", "0.004", "40", "40", runs[0].name.rpartition("-")[2]],
            ["2", "0.02", "60", "60", runs[1].name.rpartition("-")[2]],
            ["3", "0.1", "", "60", "it diverged"],
        ]
        assert table.marked == [False, True, False]
        (picture,) = [chart for chart in part.charts if "search" in chart.name]
        assert sorted(picture.hover.values())[0] == "trial 1: recipe.lr=0.004, 40"
        assert "best so far" in picture.svg()
        keep(mine.runs, tmp_path)
        assert (tmp_path / "mine" / file.name).read_bytes() == file.read_bytes()
        assert "Search for the highest val/top1_1x1" in own_markdown([part])
    finally:
        for found in runs[0].parent.glob("search-*.csv"):
            found.unlink()
