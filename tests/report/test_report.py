"""The report says what the results say: against figures worked out here by other means."""

import csv
import html
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from zlib import crc32

import numpy as np
import pytest
import torch
from scipy import stats

from fake_runs import HOSTILE, VIDEOS, fake_run
from running import HANGS, script
from stat_video import compose, paper
from stat_video.config import Config, ReportConfig, from_plain
from stat_video.cost import kept, reruns
from stat_video.cost.kept import KeptRows, keeping
from stat_video.errors import InputError
from stat_video.report import compare, figures, tables
from stat_video.report.collect import clips_until, collect
from stat_video.report.compare import FAILS, HOLDS, MISSING, OPEN, UNLIKE, Difference, clips_apart, difference, judge
from stat_video.report.formats import markdown, tex
from stat_video.report.keep import keep
from stat_video.report.tables import runs_of
from stat_video.report.write import write
from stat_video.runs.identity import row_id

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def written(fake, tmp_path_factory):
    """Folder of a written report."""
    out = tmp_path_factory.mktemp("report")
    write(fake.collection, out)
    fake.kept.save()  # what it counted
    return out


def row(fake, ref, scale="tiny"):
    return fake.collection.rows[scale, ref]


def table_row(text, table, label):
    """Cells of a row in the Markdown of a table, by column."""
    part = text[text.index(f"## Table {table}.") :]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line[:1] == "|"]
    (found,) = [cells for cells in lines[2:8] if cells[0].replace("\\", "") == label]
    return dict(zip(lines[0], found, strict=True))


@pytest.mark.slow
def test_a_report_of_kept_rows_is_the_same_and_composes_and_counts_nothing(fake, tmp_path, monkeypatch):
    """Composition and count stand-ins, which are quick: the kept plain configs checked anew, a hash for a count."""
    calls = Counter()

    def composed(script, schema, words, every=False):
        calls["rows"] += 1
        name = " ".join([*words, *["every"] * every])
        return [compose.Row(tuple(w), from_plain(plain)) for w, plain in fake.kept._rows.values[name]]

    def counted(*arguments):
        calls["gmacs"] += 1
        return crc32(repr(arguments).encode()) / 1e7

    def report(name, kept):
        monkeypatch.setattr(reruns, "_found", {})
        calls.clear()
        files, _ = write(collect(fake.logs, ["tiny", "paper"], kept), tmp_path / name)
        return {file.relative_to(tmp_path / name): file.read_bytes() for file in files}

    monkeypatch.setattr(compose, "rows", composed)
    monkeypatch.setattr(kept, "gmacs", counted)
    expected = report("anew", KeptRows(tmp_path / "none"))
    assert calls["rows"] > 70
    assert calls["gmacs"] > 90
    first = dict(calls)
    for n, again in enumerate((first, {})):
        with keeping(tmp_path) as rows:
            assert report(str(n), rows) == expected
        assert calls == again


@pytest.mark.slow
def test_kept_runs_make_the_same_report(fake, tmp_path):
    """Tables, pairs, curves and ensembles, from files a tenth as large; what is kept again is the same."""
    runs = runs_of(fake.collection.tables["tiny"])
    folders = keep(runs, tmp_path / "kept")
    assert len(folders) == len({folder.name for folder in folders}) == len(runs) > 5
    assert not list(tmp_path.rglob("*.ckpt"))
    first = {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*") if file.is_file()}
    again = collect(tmp_path / "kept", ["tiny"], fake.kept)
    for one, two in zip(fake.collection.tables["tiny"], again.tables["tiny"], strict=True):
        rows = [replace(row, stale=()) for row in one]  # runs on other videos fill no row, and are not kept
        for make in (figures.by_row, figures.learning_curves):
            with figures.style():
                assert make(rows).svg() == make(two).svg()
        for table in (tables.main_table, tables.row_runs):
            assert markdown(table(rows)) == markdown(table(two))
        pairs = [tables.pair_table(compare.pairs([row for row in table if row.runs])) for table in (rows, two)]
        assert markdown(pairs[0]) == markdown(pairs[1])
    keep(runs_of(again.tables["tiny"]), tmp_path / "kept")
    assert {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*") if file.is_file()} == first


def test_scores_of_one_view_are_kept_to_the_bit(fake, tmp_path):
    """A run that was kept before is kept again; softmax and log of its scores would move their last bits."""
    run = row(fake, "1/CA").runs[0]
    folder = tmp_path / "logs" / run.folder.name
    shutil.copytree(run.folder, folder)
    content = torch.load(folder / run.logits_file.name, weights_only=True)
    content["logits"] = torch.randn(len(content["labels"]), 1, 50, generator=torch.Generator().manual_seed(0))
    torch.save(content, folder / run.logits_file.name)
    (there,) = keep([replace(run, folder=folder)], tmp_path / "kept")
    assert torch.equal(torch.load(there / run.logits_file.name, weights_only=True)["logits"], content["logits"])


def test_mean_and_spread_over_seeds(fake, written):
    accuracies = [100 * fake.correct["modules=ca", seed].mean() for seed in (0, 1)]
    text = (written / "tables-tiny.md").read_text()
    cells = table_row(text, 1, "CA")
    assert cells["top-1"] == f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f}"
    assert (cells["n"], cells["top-1 printed"], cells["views"], cells["commit"]) == ("2", "77.3", "5x1", "0123456")
    one = table_row(text, 1, "CA + SA + LA")
    assert one["top-1"] == f"{100 * fake.correct['modules=ca_sa_la', 0].mean():.2f}"
    assert one["n"] == "1"
    assert "difference" not in cells  # another model and data than the printed figure's
    assert "top-5" not in cells  # of four classes
    assert cells["top-5 printed"] == "92.9"


@pytest.mark.parametrize(("top1", "fills"), [(79, False), (80, True)])
def test_a_late_run_that_did_not_wait_fills_no_row(top1, fills, fake, tmp_path):
    """The tiny recipe holds the rate of a run on the probe that is below 80 % when it would fall; this run had none."""
    config = asdict(row(fake, "1/CA").config)
    unheld = {**config, "recipe": {**config["recipe"], "hold_until": None}}
    run = fake_run(tmp_path, unheld, np.ones(20, bool), epochs=4)
    (run.folder / "epochs.csv").write_text(f"epoch,step,val/top1_1x1\n0,1,50\n1,2,60\n2,3,{top1}\n3,4,95\n")
    collection = collect(tmp_path, ["tiny"], fake.kept)
    assert [r.id for r in collection.rows["tiny", "1/CA"].runs] == [run.id] * fills
    assert [r.id for r in collection.others] == [run.id] * (not fills)


def test_a_row_of_two_tables_is_one_run(fake):
    shared = [row(fake, ref).runs for ref in ("1/CA+SA+LA", "3/class_token", "4/l_ta=1", "5/conv3")]
    assert {run.id for runs in shared for run in runs} == {shared[0][0].id}


def test_a_run_from_other_weights_fills_its_row(fake):
    (run,) = row(fake, "7/STAT-16").runs
    assert run.config["init"].endswith("/0a1b2c3d")
    assert not row(fake, "7/STAT-32").runs


def test_an_ensemble_averages_the_scores_of_its_runs(fake, written):
    """Of each seed that both have: mean softmax over the views of both, top-1 and top-5 of that."""
    r = row(fake, "7/MSNet-16+8")
    (ensemble,) = r.runs
    assert (ensemble.seed, len(ensemble.trainings), len(r.commands)) == (0, 2, 2)
    scores = 0
    for run in ensemble.trainings:
        saved = torch.load(run.folder / f"logits_{r.views}.pt", weights_only=True)
        powers = np.exp(saved["logits"].double().numpy())
        scores = scores + (powers / powers.sum(-1, keepdims=True)).mean(1)
    top1 = 100 * (scores.argmax(-1) == saved["labels"].numpy()).mean()
    assert r.values(r.metrics[0]) == [pytest.approx(top1, abs=1e-4)]
    assert top1 != 100 * fake.correct["msnet", 0].mean()  # not that of the first alone
    clips, crops = map(int, r.views.split("x"))
    assert r.gflops == pytest.approx(clips * crops * 2 * 0.125)  # of two runs
    assert isinstance(difference(r, row(fake, "7/STAT-16")), Difference)
    (member, *_) = ensemble.trainings
    figures = member.content["metrics"] | {f"test/top1_{r.views}_near": 50.0}
    grouped = replace(r, runs=[replace(member, content={**member.content, "metrics": figures})])
    table = tables.main_table([r, grouped, row(fake, "7/STM-16"), row(fake, "7/STAT-16")])
    near = table.columns.index("top-1 near")
    assert [cells[near] for cells in table.rows] == ["", "50.00", "missing", ""]  # what was run is not missing
    text = (written / "tables-tiny.md").read_text()
    assert f"{top1:.2f}" in next(line for line in text.splitlines() if line.startswith("| MSNet") and "16+8" in line)
    for run in ensemble.trainings:
        assert run.folder.name in text  # each stands in the list of runs


def test_other_systems_that_were_run_stand_beside_the_print(fake, written):
    r = row(fake, "7/MViT-16")
    assert len(r.runs) == 1
    top1 = f"{100 * fake.correct['mvit', 0].mean():.2f}"
    text = (written / "tables-tiny.md").read_text()
    part = text[text.index("## Table 7.") : text.index("Pair by pair", text.index("## Table 7."))]
    (line,) = [line for line in part.splitlines() if "MViT" in line and "16×1×3" in line]
    assert top1 in line
    assert "64.7" in line
    assert line.count("**") == 0  # the paper's own are set off
    (pair,) = [
        ln for ln in text.splitlines() if ln.startswith("| ") and "MViT-16" in ln and "STAT-16" in ln and "told" in ln
    ]
    assert " told apart" in pair
    (part,) = [p for p in write(fake.collection, written.parent / "again")[1] if p.scale == "tiny"]
    assert part.filled == "7 of 23 rows of the paper's model and 2 of 32 of other systems filled"


def test_words_that_do_not_compose_are_said(fake):
    broken = replace(row(fake, "7/TSM-16"), configs=(), commands=(), why_not="model=tsm: there is none")
    table = tables.main_table([broken, row(fake, "7/STAT-16")])
    assert any("TSM-16: printed only" in note and "model=tsm: there is none" in note for note in table.notes)
    assert table.commands == []


def dots(axes, marker):
    """Where marks of a kind stand, (top-1, row), in the order in which they were drawn."""
    return [
        (x, y)
        for line in axes.lines
        if line.get_marker() == marker and line.get_markersize() > 4
        for x, y in zip(*line.get_data(), strict=True)
    ]


def test_a_picture_has_a_dot_a_row_on_an_axis_that_fits(fake):
    """Ours and printed on one axis at the paper scale, each on its own at the tiny one."""
    rows = [row(fake, f"2/t_o={t}", "paper") for t in (3, 5, 7, 9)]
    picture = figures.by_row(rows)
    assert len(picture.panels) == 1
    assert dots(picture.axes, "D") == [(79.9, 0), (80.4, 1), (80.4, 2), (80.2, 3)]
    low, high = picture.axes.get_xlim()
    assert 79 < low < 79.9
    assert 80.4 < high < 81
    tiny = figures.by_row([row(fake, ref) for ref in ("1/CA", "1/CA+SA", "1/CA+LA", "1/CA+SA+LA")])
    ours, printed = tiny.panels
    assert [y for _, y in dots(ours, "o")] == [0, 1, 3]  # CA + LA is missing
    assert dots(ours, "o")[0][0] == pytest.approx(mean(100 * fake.correct["modules=ca", s].mean() for s in (0, 1)))
    assert dots(printed, "D") == [(77.3, 0), (77.8, 1), (78.3, 2), (78.6, 3)]
    assert not dots(ours, "D")
    assert [label.get_text() for label in ours.get_yticklabels()] == ["CA", "CA + SA", "CA + LA", "CA + SA + LA"]


def test_the_name_of_an_axis_fits_the_picture(fake):
    """Table 3 has the longest, and the fewest rows. A third is left for a browser's own, wider letters."""
    with figures.style():
        picture = figures.by_row([row(fake, ref) for ref in ("3/avg_pool", "3/class_token")])
        picture.figure.canvas.draw()
        label = picture.axes.yaxis.label.get_window_extent()
    assert picture.axes.get_ylabel().replace("\n", " ") == "Global spatial embedding"
    assert label.height < picture.figure.bbox.height * 2 / 3


def test_the_interval_of_a_row_is_that_of_its_seeds_and_videos(fake):
    """One seed: Student's t over the videos, as scipy gives it. Two: as wide as docs/intervals.md says, so wider."""
    right = 100.0 * fake.correct["modules=ca_sa_la", 0]
    found = compare.accuracy_of(row(fake, "1/CA+SA+LA"))
    low, high = stats.t.interval(0.95, len(right) - 1, right.mean(), stats.sem(right))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    two = row(fake, "1/CA")
    wide, one = compare.accuracy_of(two), compare.accuracy_of(replace(two, runs=two.runs[:1]))
    assert wide.high - wide.low > one.high - one.low
    assert compare.accuracy_of(row(fake, "1/CA+LA")) is None


def test_each_run_stands_with_its_difference_to_the_baseline(fake):
    """The baseline is the model with nothing changed."""
    table = tables.row_runs([row(fake, ref) for ref in ("1/CA", "1/CA+SA", "1/CA+SA+LA")])
    assert [(cells[0], cells[1], cells[-1]) for cells in table.rows] == [
        ("CA", "0", "modules=CA"),
        ("CA", "1", "modules=CA"),
        ("CA + SA", "0", "modules=CA+SA"),
        ("CA + SA", "1", "modules=CA+SA"),
        ("CA + SA + LA", "0", "the baseline"),
    ]
    (other, _) = tables.row_runs([row(fake, "7/MViT-16"), row(fake, "7/STAT-16")]).rows
    assert other[-1].startswith("model=mvit")
    (first,) = row(fake, "7/STAT-16").runs
    config = {**first.config, "seed": 1, "init": "trained_on=motion/ffffffff"}  # another seed's first weights
    second = replace(first, content={**first.content, "seed": 1, "config": config})
    table = tables.row_runs([replace(row(fake, "7/STAT-16"), runs=[first, second])])
    assert [cells[-1] for cells in table.rows] == ["the baseline", "the baseline"]


def test_clips_until_a_top1_are_those_of_the_epoch_log(fake, tmp_path):
    """Epochs of 100 and 200 steps with 30 and 40 %: 40 % after 200 steps of the recipe's batch."""
    run = row(fake, "1/CA").runs[0]
    clips = run.config["recipe"]["batch_size"]
    assert clips_until(run, 30) == (100 * clips, 0)
    assert clips_until(run, 30.5) == (200 * clips, 100 * clips)
    assert clips_until(run, 41) is None
    soon = [tables.main_table([row(fake, "1/CA")])]
    assert not any(cell.startswith(f"{200 * clips:,}") for cell in soon[0].rows[0])
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    (folder / "epochs.csv").write_text("epoch,step,val/top1_1x1\n0,5,\n1,10,91\n")
    late = replace(row(fake, "1/CA"), runs=[replace(run, folder=folder), run])
    table = tables.main_table([late])
    assert table.rows[0][table.columns.index("clips to 90 %")] == f"{10 * clips:,}, 1 of 2 seeds"


def test_how_soon_rows_are_beside_each_other(fake, tmp_path):
    """Student's interval over the three seeds' differences, wider by the epochs in which it came; one seed, none."""
    (run, _), soon = row(fake, "1/CA").runs, {"a": (1, 3, 2), "b": (2, 2, 4)}  # the epoch of each seed, of ten steps
    rows = []
    for name, epochs in soon.items():
        runs = []
        for seed, epoch in enumerate(epochs):
            (folder := tmp_path / name / str(seed)).mkdir(parents=True)
            lines = [f"{e},{10 * e + 10},{90 if e + 1 >= epoch else 50}" for e in range(5)]
            (folder / "epochs.csv").write_text("\n".join(["epoch,step,val/top1_1x1", *lines]))
            runs.append(replace(run, folder=folder, content={**run.content, "seed": seed}))
        rows.append(replace(row(fake, "1/CA"), runs=runs))
    epoch = 10 * run.config["recipe"]["batch_size"]
    apart = [epoch * (a - b) for a, b in zip(*soon.values(), strict=True)]
    half = stats.sem(apart) * stats.t.ppf(0.975, 2)
    assert clips_apart(*rows, 90) == pytest.approx(
        (mean(apart), mean(apart) - half - epoch, mean(apart) + half + epoch)
    )
    one = [replace(r, runs=r.runs[:1]) for r in rows]
    assert clips_apart(*one, 90) == (-epoch, -2 * epoch, 0)
    assert clips_apart(*rows, 91) is None
    assert clips_apart(rows[0], replace(rows[1], runs=rows[1].runs[:0]), 90) is None


def test_the_summary_says_what_is_run_and_told_apart(fake, written):
    (part,) = [p for p in write(fake.collection, written.parent / "summary")[1] if p.scale == "tiny"]
    first, second, *_, last = (dict(zip(part.summary.columns, cells, strict=True)) for cells in part.summary.rows)
    assert (first["rows run"], first["seeds"], first["pairs told apart"]) == ("3 of 4", "1 to 2", "1 of 3")
    assert second["rows run"] == "0 of 4"
    assert "1 holds" in first["claims"]  # sa_helps
    assert last["rows run"] == "3 of 13"
    verdict = part.tables[1].pairs.columns.index("")
    of_pairs = [cells[verdict] for cells in part.tables[1].pairs.rows]
    assert sum(not verdict.startswith("not") for verdict in of_pairs) == 1


def test_what_all_tables_share_stands_once(written):
    for name in ("index.html", "tables-tiny.md"):
        text = html.unescape((written / name).read_text())
        for line in (*tables.HOW_TO_READ, tables.TINY):
            assert text.count(" ".join(line.split())) == 1, line


def test_missing_rows_say_what_fills_them(fake, written):
    missing = [
        r for ref in ("1/CA+LA", "2/t_o=7", "6/STAT-64", "7/STAT-32", "6/TSM-16", "7/MViT-32") for r in [row(fake, ref)]
    ]
    missing.append(row(fake, "7/STAT-64", "paper"))
    for r in missing:
        assert not r.runs
        for command, config in zip(r.commands, r.configs, strict=True):
            assert command in (written / f"tables-{r.scale}.md").read_text()
            assert command in html.unescape((written / "index.html").read_text())
            (resolved,) = compose.rows("train", Config, command.removeprefix("python src/train.py ").split())
            assert row_id(asdict(resolved.config)) == row_id(asdict(config))
    assert table_row((written / "tables-tiny.md").read_text(), 1, "CA + LA")["top-1"] == "missing"


def test_another_state_of_the_data_is_not_averaged_in(fake, written):
    r = row(fake, "1/CA")
    assert [run.seed for run in r.runs] == [0, 1]
    (old,) = r.stale
    assert old.seed == 7
    assert (
        f"left out, since they saw another state of the data set: {old.id}" in (written / "tables-tiny.md").read_text()
    )


def test_nothing_that_was_found_is_dropped(fake, written):
    other, half = sorted(fake.collection.others, key=lambda run: run.config["name"] == "ssv2")
    assert other.config["clip"]["crop"] == 56
    assert (half.seed, half.config["model"]["name"]) == (1, "msnet")  # of an ensemble, alone
    (broken,) = fake.collection.broken
    page = html.unescape((written / "index.html").read_text())
    assert other.folder.name in page
    assert half.folder.name in page
    assert str(broken[0]) in page


def test_scales_are_never_mixed(written, fake):
    """All runs are tiny, so nothing of theirs stands at the paper scale."""
    assert not [r for (scale, _), r in fake.collection.rows.items() if scale == "paper" and r.runs]
    with (written / "tables-paper.csv").open() as file:
        assert {line["source"] for line in csv.DictReader(file) if "top" in line["metric"]} == {"paper"}


def test_difference_to_the_printed_figure_at_the_paper_scale_alone(fake):
    """And with a mark where it was tested with other views."""
    run = row(fake, "1/CA").runs[0]
    paper_row = replace(row(fake, "1/CA", "paper"), runs=[run])
    table = tables.main_table([paper_row])
    top1 = 100 * fake.correct["modules=ca", 0].mean()
    assert table.rows[0][table.columns.index("difference")] == f"{top1 - 77.3:+.2f}"
    other_views = replace(paper_row, printed=replace(paper_row.printed, clips=10, crops=3))
    table = tables.main_table([other_views])
    assert table.rows[0][table.columns.index("difference")].endswith(" †")
    assert any(note.startswith("† tested with other views") for note in table.notes)


def test_gflops_are_those_of_the_model(fake):
    assert row(fake, "1/CA").gflops == 0.125  # from the result
    assert row(fake, "7/STAT-16").gflops == 3 * 0.125  # all views
    for ref, printed in (("1/CA", 58.2), ("2/t_o=9", 123.0), ("6/STAT-16", 296), ("7/STAT-32", 361)):
        assert row(fake, ref, "paper").gflops == pytest.approx(printed, rel=0.004)


def hollow(picture):
    """The points that stand for a printed figure among counted ones."""
    return [line for line in picture.axes.lines if line.get_markerfacecolor() == "white"]


def test_figure_1_from_counted_gflops(fake, monkeypatch):
    """1,365 is printed, 3 x 455.06 is counted; of an ensemble of two networks 1,010 and 10 x 100.27."""
    printed, counted = (figures.figure_1(fake.collection, "paper", 7, counted=c) for c in (False, True))
    for picture, mvit, msnet in ((printed, "MViT-64 1365,", "8 1010,"), (counted, "MViT-64 1365.1", "8 1002.69,")):
        said = " ".join(picture.hover.values())
        assert mvit in said
        assert msnet in said
    assert not [x for line in hollow(counted) for x in line.get_xdata()]
    assert not hollow(printed)
    monkeypatch.setattr(figures, "counted_total", lambda ref: None if ref == "7/MSNet-16+8" else 1.0)
    without = hollow(figures.figure_1(fake.collection, "paper", 7, counted=True))
    assert [x for line in without for x in line.get_xdata()] == [1010]
    with pytest.raises(InputError, match="gflops=mine: allowed are printed, counted"):
        ReportConfig(gflops="mine")


def test_figure_1_joins_the_rows_of_one_system_alone(fake):
    """Ours are as many lines as systems that have a run; STAT's holds its rows' figures, in their order."""
    rows = [row(fake, ref) for ref in ("7/STAT-16", "7/MViT-16", "7/MSNet-16+8")]
    picture = figures.figure_1(fake.collection, "tiny", 7)
    drawn = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in picture.axes.containers}
    assert drawn == {
        r.printed.method: [[r.gflops, mean(r.values(r.metrics[0]))]] for r in sorted(rows, key=lambda r: r.name)
    }
    more = [replace(r, runs=rows[0].runs) if r.printed.ours else r for r in fake.collection.tables["tiny"][-1]]
    picture = figures.figure_1(replace(fake.collection, tables={"tiny": [more]}), "tiny", 7)
    (stat,) = [bars.lines[0] for bars in picture.axes.containers if bars.get_label() == "STAT"]
    assert stat.get_xdata().tolist() == [r.gflops for r in more if r.printed.ours]
    assert len(picture.axes.containers) == len(rows)


def test_pairs_use_the_same_videos_and_the_seeds_of_both(fake):
    d = difference(row(fake, "1/CA+SA"), row(fake, "1/CA"))
    expected = [100 * (fake.correct["modules=ca_sa", s].mean() - fake.correct["modules=ca", s].mean()) for s in (0, 1)]
    assert d.mean == pytest.approx(mean(expected))
    assert (d.videos, d.seeds) == (VIDEOS, 2)
    assert d.told_apart
    d = difference(row(fake, "1/CA+SA+LA"), row(fake, "1/CA+SA"))
    assert d.seeds == 1
    assert d.mean == pytest.approx(
        100 * (fake.correct["modules=ca_sa_la", 0].mean() - fake.correct["modules=ca_sa", 0].mean())
    )


def test_between_systems_the_parameters_are_said(fake):
    """Of an ensemble those of all its members; an ablation's rows, which are one model, don't have the column."""
    table = tables.main_table([row(fake, f"7/{name}") for name in ("MViT-16", "MSNet-16+8", "STM-16", "STAT-16")])
    assert [cells[table.columns.index("M parameters")] for cells in table.rows] == ["1.25", "2.50", "", "1.25"]
    assert "M parameters" not in tables.main_table([row(fake, "1/CA")]).columns


def test_each_pair_has_a_row_of_the_papers_own(fake):
    """Other systems are not compared with each other; what can't be compared is said beneath, by its reason."""
    names = ("7/STAT-16", "7/MViT-16", "7/TSM-16", "7/STAT-32")
    stat, mvit, tsm, longer = (row(fake, name) for name in names)
    of_three = compare.pairs([stat, mvit, replace(tsm, configs=mvit.configs, runs=mvit.runs)])
    assert [(a.name, b.name) for a, b, _ in of_three] == [(stat.name, mvit.name), (stat.name, tsm.name)]
    (d, same), alone = (d for _, _, d in of_three), difference(stat, mvit)
    assert d == same == replace(alone, p=min(1, 2 * alone.p))
    table = tables.pair_table(compare.pairs([stat, replace(longer, runs=[])]))
    assert table.rows == []
    assert table.notes == ["Not compared, STAT-32 is not run: STAT-16 and STAT-32."]
    assert "Not compared" in markdown(table)


def test_what_cannot_be_paired_says_why(fake):
    ca, sa = row(fake, "1/CA"), row(fake, "1/CA+SA")
    assert difference(ca, row(fake, "1/CA+LA")) == "CA + LA is not run"
    assert difference(replace(ca, runs=ca.runs[:1]), replace(sa, runs=sa.runs[1:])) == "no seed in common"
    other_views = replace(sa, configs=[replace(sa.config, views="3x3")])
    assert difference(ca, other_views) == "unlike protocols, 5x1 and 3x3"
    other_system = replace(other_views, printed=replace(sa.printed, method="another"))
    assert difference(ca, other_system).mean == pytest.approx(difference(ca, sa).mean)  # each with its own views
    shorter = replace(sa, runs=[replace_ranks(run) for run in sa.runs])
    assert difference(ca, shorter) == "tested on other videos"


def replace_ranks(run):
    """The same run, had it been tested on fewer videos."""
    ranks, labels = run.ranks
    copy = replace(run)
    copy.__dict__["ranks"] = (ranks[:-1], labels[:-1])
    return copy


def claim(id):
    return next(c for c in paper.load().claims if c.id == id)


def test_claims_at_the_tiny_scale(fake):
    rows = fake.collection.rows
    assert judge(claim("la_helps"), "tiny", rows).verdict == MISSING
    assert "1/CA+LA" in judge(claim("la_helps"), "tiny", rows).why
    assert judge(claim("sa_helps"), "tiny", rows).verdict == HOLDS
    assert judge(replace(claim("sa_helps"), rows=("1/CA", "1/CA+SA")), "tiny", rows).verdict == FAILS
    assert judge(replace(claim("sa_helps"), rows=("1/CA+SA+LA", "1/CA+SA")), "tiny", rows).verdict == OPEN
    assert judge(claim("half_of_mvit"), "tiny", rows).verdict == UNLIKE
    assert judge(claim("best_on_kinetics"), "tiny", rows).verdict == MISSING  # each of its rows could be run
    assert judge(claim("ssv2_mvit_16"), "tiny", rows).verdict == HOLDS  # both were run
    assert judge(claim("ssv2_mvit_32"), "tiny", rows).verdict == MISSING
    assert "7/MViT-32" in judge(claim("ssv2_mvit_32"), "tiny", rows).why


def test_a_verdict_of_one_seed_says_so(fake):
    rows = dict(fake.collection.rows)
    both = judge(claim("sa_helps"), "tiny", rows)
    assert (both.verdict, both.said) == (HOLDS, HOLDS)
    ca = rows["tiny", "1/CA"]
    rows["tiny", "1/CA"] = replace(ca, runs=ca.runs[:1])
    alone = judge(claim("sa_helps"), "tiny", rows)
    assert alone.said == f"{alone.verdict} for one seed"
    cells = tables.claim_table([both, alone]).rows
    assert [cell[2] for cell in cells] == [both.said, alone.said]


def test_a_quote_of_the_paper_stands_once_above_its_checks(fake, written):
    """On the page; and no check is lost by it."""
    page = html.unescape((written / "index.html").read_text())
    claims = page[page.index('id="claims"') : page.index('id="own"')]
    checks = tables.claim_table(tables.verdicts(fake.collection, "tiny")).rows
    parts = claims.count("<table>")
    for quote in {check[0] for check in checks}:
        assert claims.count(f"<p>{quote}</p>") == parts, quote
    assert claims.count("<tr") == parts * (1 + len({check[0] for check in checks}) + len(checks))
    for _, asked, *_ in checks:
        assert f">{asked}</td>" in claims


def test_a_claim_to_be_the_best_is_asked_of_rows_with_unlike_views(fake):
    """Systems have their own, as in the paper: STAT-64 with 3x3 stands beside MViT-16 with 5x1."""
    best = claim("best_on_kinetics")
    run = row(fake, "7/MViT-16")
    rows = {("tiny", ref): replace(row(fake, ref), runs=run.runs, configs=run.configs) for ref in best.rows}
    first = rows["tiny", best.rows[0]]
    rows["tiny", best.rows[0]] = replace(first, configs=[replace(first.config, views="3x3")])
    judged = judge(best, "tiny", rows)
    assert (judged.verdict, judged.why.count(": +0.00 [")) == (OPEN, len(best.rows) - 1)
    (cells,) = tables.claim_table([judged]).rows
    assert cells[1] == "top-1: STAT-64, no other system is above it in Table 6"


def test_the_summary_counts_every_claim(fake):
    judged = [replace(v, one_seed=v.verdict == HOLDS) for v in tables.verdicts(fake.collection, "tiny")]
    assert any(v.one_seed for v in judged)
    cells = tables.summary(fake.collection.tables["tiny"], dict.fromkeys(range(1, 8), ()), judged).rows
    counted = {cell[0]: sum(int(part.split()[0]) for part in cell[5].split(", ") if part) for cell in cells}
    asked = Counter(f"Table {c.rows[0].partition('/')[0]}" for c in paper.load().claims)
    assert counted == {f"Table {n}": asked[f"Table {n}"] for n in range(1, 8)}


def test_a_claim_of_top_5_says_nothing_of_four_classes(fake):
    of_top5 = claim("class_token_top5")
    probe = judge(replace(of_top5, rows=("1/CA+SA", "1/CA")), "tiny", fake.collection.rows)
    assert (probe.verdict, probe.why) == (UNLIKE, "probe has no more than five classes: top-5 says nothing")
    motion = judge(replace(of_top5, rows=("6/STAT-16", "6/MViT-16")), "tiny", fake.collection.rows)  # of twelve
    assert motion.verdict != UNLIKE


def test_at_the_paper_scale_another_system_stands_with_our_run_of_it_else_with_the_print(fake):
    rows = dict(fake.collection.rows)
    run, other = (rows["tiny", ref].runs for ref in ("7/STAT-16", "7/MViT-16"))
    rows["paper", "7/STAT-16"] = replace(rows["paper", "7/STAT-16"], runs=run)
    ours = 100 * fake.correct["ssv2", 0].mean()
    printed = judge(claim("ssv2_mvit_16"), "paper", rows)
    assert "7/STAT-16 - 7/MViT-16 (printed): " in printed.why
    assert f"{ours - 64.7:+.2f}" in printed.why
    rows["paper", "7/MViT-16"] = replace(rows["paper", "7/MViT-16"], runs=other)
    both = judge(claim("ssv2_mvit_16"), "paper", rows)
    assert "printed" not in both.why
    assert f"{ours - 100 * fake.correct['mvit', 0].mean():+.2f}" in both.why
    assert both.verdict == HOLDS


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.1, 0.1, HOLDS), (-0.2, 0.1, OPEN), (0.2, 0.3, FAILS), (-0.5, -0.2, FAILS), (-1, 1, OPEN)],
)
def test_closeness_asks_that_the_interval_lies_within(low, high, verdict):
    assert compare._verdict(claim("window_flattens"), [Difference((low + high) / 2, low, high, 0.5, 400, 1)]) == verdict


def test_costs_are_judged_without_runs_at_the_paper_scale(fake):
    """The paper itself prints 0.53 where it says 50 %."""
    rows = fake.collection.rows
    assert "6/MViT-64 4095.0 (printed)" in judge(claim("half_of_mvit"), "paper", rows).why
    assert judge(claim("half_of_mvit"), "paper", rows).verdict == FAILS
    assert judge(claim("x3d_half"), "paper", rows).verdict == HOLDS
    assert judge(claim("tdn_sixfold"), "paper", rows).verdict == HOLDS
    assert judge(claim("sa_helps"), "paper", rows).verdict == MISSING


def test_the_csv_has_every_metric_of_every_run(fake, written):
    with (written / "tables-tiny.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["run"]]
    for r in (r for (scale, _), r in fake.collection.rows.items() if scale == "tiny"):
        mine = [line for line in lines if (line["table"], line["row"]) == (str(r.table.number), r.printed.id)]
        expected = {(run.id, m, str(v)) for run in r.runs for m, v in run.content["metrics"].items()}
        assert {(line["run"], line["metric"], line["value"]) for line in mine} == expected


def test_the_same_results_give_the_same_files(fake, written, tmp_path):
    write(collect(fake.logs, ["tiny"], fake.kept), tmp_path)  # the other scale's come from the same code
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file() and p.name != "index.html")
    assert len(files) > 15
    assert [p for p in files if (tmp_path / p).read_bytes() != (written / p).read_bytes()] == []


def test_what_results_say_is_escaped(written):
    page = (written / "index.html").read_text()
    assert html.escape(HOSTILE[:7])[:4] in page
    assert "<script" not in page
    assert tex("50% of t_o & <x>") == r"50\% of t\_o \& \textless{}x\textgreater{}"
    latex = (written / "tables-tiny.tex").read_text()
    body = latex[latex.index(r"\begin{document}") :]
    assert not re.search(r"(?<!\\)[%#]", body.replace(r"\%", "").replace(r"\#", ""))


class Page(HTMLParser):
    """The elements of a page, and attributes that run code."""

    def __init__(self):
        super().__init__()
        self.tags = set()
        self.attributes = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, value in attributes if name.startswith("on") or "javascript:" in str(value)}


def test_a_report_on_hostile_results_shows_them_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = '"><img src=x onerror=alert(1)><script>alert(2)<\\script>{{ 7*7 }}'
    spoil = {
        "modules=ca": lambda file: file.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR."),
        "modules=ca_sa": lambda file: file.write_bytes(file.read_bytes()[:100]),
        "modules=ca_la": lambda file: torch.save({"logits": [1, 2], "labels": "a"}, file),
    }
    logs, rng = tmp_path / "logs", np.random.default_rng(0)
    composed = compose.rows("train", Config, ["experiment=ablation_modules", "scale=tiny"], every=True)
    rows = {row.words[1]: asdict(row.config) for row in composed}
    for words, config in rows.items():
        run = fake_run(logs, config, rng.random(40) < 0.5, commit=bad, name=bad, finished=bad)
        if words in spoil:
            spoil[words](run.folder / f"logits_{config['views']}.pt")
    odd = {**rows["modules=ca"], "clip": {**rows["modules=ca"]["clip"], "crop": 56}}
    fake_run(logs, odd, rng.random(40) < 0.5, commit=bad, name=bad, metrics={f"test/top1_5x1_{bad}": 1.0})
    folder = logs / "x" / bad.replace("/", "")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"a": ')
    write(collect(logs, ["tiny"]), tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert {"table", "svg"} <= page.tags
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "form"}
    assert page.attributes == set()
    assert "&lt;img src=x" in text  # it is there, as text
    assert "{{ 7*7 }}" in text
    assert not (tmp_path / "ran").exists()


def test_ids_in_the_page_are_unique_and_refer_to_something(written):
    page = (written / "index.html").read_text()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_a_folder_without_results_and_a_scale_that_is_none(tmp_path):
    write(collect(tmp_path, ["tiny"]), tmp_path / "report")
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
    done = script("report", f"folders.logs={tmp_path}")
    assert done.returncode == 2
    assert "no finished run there; scales=[tiny] shows what there is to run" in done.stderr
    done = script("report", "scales=[huge]")
    assert done.returncode == 2
    assert "tiny, paper" in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window_or_comes_from_elsewhere(written, tmp_path, width):
    page = (written / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.replace('"http://www.w3.org', ""))
    probe = "<script>document.title = [document.documentElement.scrollWidth, innerWidth].join()</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    scroll, inner = re.search(r"<title>(\d+),(\d+)</title>", done.stdout).groups()
    assert abs(int(inner) - width) < 150  # headless windows have a least width
    assert int(scroll) <= int(inner)
