"""What a real offline run logs to W&B, and the dashboard: its panels name only that, its numbers are the paper's."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import yaml

from running import HANGS, ROOT, SMALL, only, read_json, refused, script
from stat_video import paper
from stat_video.config import DashboardConfig, Folders
from stat_video.cost.reruns import reruns
from stat_video.errors import InputError
from stat_video.models.count import gmacs
from stat_video.report import boards as library
from stat_video.runs.identity import row_id
from stat_video.training.checkpoint import read_checkpoint

SYSTEMS = ["model", "T", "gflops"]  # what sets rows of Tables 6 and 7 apart
NO_ACCOUNT = {"WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": "/nowhere"}


def inspect(run: Path, *words: str) -> str:
    """W&B's own reading of an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *words, str(only("*.wandb", run))]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS).stdout


@pytest.fixture(scope="module")
def run(place):
    """Folder of a tiny run that logged offline, its checkpoint included."""
    words = [
        *SMALL,
        *place.keys,
        "name=ablation_window",
        "modules=ca_sa",
        "logger=offline",
        "logger.artifact=true",
    ]
    done = script("train", *words, HOME=str(place.folder), NETRC="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stderr, done.stderr  # no warning
    return only("result.json", place.folder / "logs").parent


@pytest.fixture(scope="module")
def logged(run):
    return json.loads(inspect(run, "--summary"))


@pytest.fixture(scope="module")
def records(run):
    return [json.loads(line) for line in inspect(run).splitlines()]


@pytest.fixture(scope="module", params=["tiny", "paper"])
def boards(request):
    return [library.board(table, request.param) for table in paper.load().tables.values()]


def write(boards, folder, **words):
    paths = library.write(boards, DashboardConfig(dry_run=True, folders=Folders(logs=str(folder)), **words))
    return {path.name: read_json(path) for path in paths}


def test_a_run_can_be_found_by_its_axes(run, logged, records):
    result = read_json(run / "result.json")
    assert logged["run_id"] == result["id"]
    assert logged["tags"] == ["tiny", "motion", "stat", "T4", "CA+SA"]
    assert {
        "model": "stat-CA+SA",
        "modules": "CA+SA",
        "T": 4,
        "t_o": 3,
        "l_ta": 1,
        "stem": "conv3",
        "spatial_token": "class_token",
        "seed": 0,
        "scale": "tiny",
        "data": "motion",
        "id": result["id"],
        "table": 2,
    }.items() <= logged["config"].items()
    recipe = {key: value for key, value in result["config"]["recipe"].items() if value != {}}  # W&B drops what is empty
    assert logged["config"]["config"]["recipe"] == recipe
    assert logged["config"]["batch"] == result["batch"]
    begun = next(r["run"] for r in records if r["type"] == "run")
    assert begun["run_group"] == "ablation_window"
    assert begun["job_type"] == "train"


def test_the_cost_of_a_run_is_its_models(logged, run):
    weights = read_checkpoint(run / "last.ckpt").weights.values()
    assert logged["config"]["parameters"] == sum(w.numel() for w in weights)
    assert logged["config"]["gflops"] == pytest.approx(read_json(run / "result.json")["gmacs"], abs=1e-4)


def test_the_summary_is_the_result_file(run, logged):
    metrics = read_json(run / "result.json")["metrics"]
    assert {k: logged["summary"][k] for k in metrics} == metrics


def test_accuracy_by_class_adds_up_to_the_accuracy(run, logged):
    table = read_json(only("*.table.json", run))
    assert logged["summary"]["test/classes"]["nrows"] == len(table["data"]) == 12
    assert table["columns"] == ["class", "videos", "test/top1_5x1"]
    videos = sum(row[1] for row in table["data"])
    mean = sum(row[1] * row[2] for row in table["data"]) / videos
    assert videos == 12
    assert mean == pytest.approx(read_json(run / "result.json")["metrics"]["test/top1_5x1"], abs=1e-3)


def test_pictures_and_the_checkpoint_are_there(run, logged, records):
    pictures = logged["summary"]["pictures"]
    assert pictures["count"] == 3
    assert len({caption.split(";")[0] for caption in pictures["captions"]}) == 3  # of different videos
    assert len(list(run.rglob("pictures_*.png"))) == 3
    artifacts = [r["artifact"] for r in records if r["type"] == "artifact"]
    (model,) = [a for a in artifacts if a["type"] == "model"]
    (file,) = model["manifest"]["contents"]
    assert Path(file["local_path"]) == run / "last.ckpt"


def panels_of(content):
    """Each panel, wherever it stands in a workspace or report."""
    if isinstance(content, dict):
        if "viewType" in content:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from panels_of(part)


def filter_keys(content):
    """(section, name) of each key that a run set is filtered or grouped by."""
    if isinstance(content, dict):
        if {"section", "name"} <= content.keys() and content["section"] in ("config", "run", "summary"):
            yield content["section"], content["name"].removesuffix(".value")
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from filter_keys(part)


def named_by(panel):
    """What a panel names: {'history': keys, 'summary': keys, 'config': keys}."""
    config, kind = panel["config"], panel["viewType"]
    names = {"history": set(), "summary": set(), "config": set()}
    if kind == "Bar Chart":
        names["summary"] |= set(config["metrics"])
    elif kind == "Run History Line Plot":
        names["history"] |= {config["xAxis"], *config["metrics"]}
    elif kind == "Scatter Plot":
        for axis in (config["xAxis"], config["yAxis"]):
            section, name = axis.split(":", 1)
            names[section].add(name.removesuffix(".value"))
    elif kind == "Media Browser":
        names["summary"] |= set(config["mediaKeys"])
    else:
        assert kind == "Markdown Panel"
    if "groupBy" in config:
        names["config"].add(config["groupBy"].removesuffix(".value"))
    return names


def test_panels_name_only_what_a_run_logs(boards, logged, records, tmp_path):
    """But for the number of views, which is the row's own."""
    rows = [set(r["history"]["item"]) for r in records if r["type"] == "history"]
    there = {"history": set().union(*rows), "summary": set(logged["summary"]), "config": set(logged["config"])}
    files = write(boards, tmp_path)
    assert len(files) == 14
    for name, content in files.items():
        panels = list(panels_of(content))
        assert {p["viewType"] for p in panels} >= {"Bar Chart", "Run History Line Plot", "Scatter Plot"}, name
        for panel in panels:
            for section, keys in named_by(panel).items():
                of_this_run = {re.sub(r"^(test/top1)_\d+x\d+$", r"\1_5x1", key) for key in keys}
                assert of_this_run <= there[section], (name, panel["viewType"])
            if panel["viewType"] == "Run History Line Plot":  # W&B draws what was logged in one row
                metric, x = panel["config"]["metrics"][0], panel["config"]["xAxis"]
                assert any({metric, x} <= row for row in rows), metric
        for section, key in filter_keys(content):
            assert key in {"config": there["config"], "run": {"group", "createdAt"}}[section], (name, key)


def test_views_are_those_of_the_paper_at_its_scale(boards):
    for board in boards:
        views = {f"{row.clips}x{row.crops}" for row in board.table.rows if row.axes or row.run}
        if board.scale == "paper":
            assert set(board.views) == views
        assert board.metrics == [f"test/top1_{v}" for v in board.views]


def test_each_table_is_compared_by_its_own_axis(boards):
    axes = {b.table.number: b.axes for b in boards}
    ablations = {1: "modules", 2: "t_o", 3: "spatial_token", 4: "l_ta", 5: "stem"}
    assert axes == {**{n: [axis] for n, axis in ablations.items()}, 6: SYSTEMS, 7: SYSTEMS}


def test_each_row_between_systems_is_a_group_of_its_own(boards):
    """Two depths of one model have the same label: grouped by that alone, their accuracies would be averaged."""
    for board in boards[5:]:
        rows = {
            row_id(asdict(config)): config for again in reruns(board.table, board.scale) for config in again.configs
        }
        same = Counter((c.model.label, c.clip.T) for c in rows.values())
        alike = [c for c in rows.values() if same[c.model.label, c.clip.T] > 1]
        assert bool(alike) == (board.table.number == 6)  # I3D-NL on ResNet-50 and 101
        assert len({round(gmacs(c.model, c.clip, 400), 4) for c in alike}) == len(alike)  # as wandb_logger writes it


def test_rows_of_other_systems_are_in_the_run_sets(boards):
    assert {b.table.number: len(b.rows) for b in boards} == {1: 4, 2: 4, 3: 2, 4: 4, 5: 3, 6: 3 + 22, 7: 3 + 10 + 1}


def test_a_row_of_several_tables_is_in_the_run_set_of_each(boards, tmp_path):
    """Tables 1, 3, 4 and 5 share the default row, which is run once, in the group of one of them."""
    shared = set.intersection(*(set(b.rows) for b in boards if b.table.number in (1, 3, 4, 5)))
    assert len(shared) == 1
    for name, content in write(boards, tmp_path).items():
        text = json.dumps(content)
        board = next(b for b in boards if f"table_{b.table.number}_" in name)
        assert f'"value": "{board.table.experiment}"' in text
        assert f'"value": "{board.scale}"' in text
        assert all(row in text for row in board.rows)


def test_published_numbers_are_those_of_the_file(boards):
    content = yaml.safe_load((ROOT / "conf" / "paper.yaml").read_text())["tables"]
    for board in boards:
        cells = [line.split(" | ")[1:] for line in library.printed(board).splitlines() if line.startswith("| ")][1:]
        figures = [[None if c.strip(" |") == "" else float(c.strip(" |")) for c in row] for row in cells]
        expected = [[row.get(m) for m in ("gflops", "top1", "top5")] for row in content[board.table.number]["rows"]]
        assert figures == expected
        assert ("say nothing" in library.printed(board)) == (board.scale == "tiny")


@pytest.mark.parametrize("boards", ["tiny"], indirect=True)
def test_a_dry_run_needs_no_account_and_gives_the_same_files(boards, place, tmp_path):
    done = script("dashboard", "dry_run=true", f"folders.logs={tmp_path}", f"scales=[{boards[0].scale}]", **NO_ACCOUNT)
    assert done.returncode == 0, done.stderr
    files = {path.name: read_json(path) for path in (tmp_path / "dashboard").iterdir()}
    assert [Path(line).name for line in done.stdout.splitlines()] == list(write(boards, tmp_path / "again"))
    assert files == write(boards, tmp_path / "again")


def test_no_account_is_one_line(tmp_path):
    line = refused(script("dashboard", f"folders.logs={tmp_path}", HOME=str(tmp_path), **NO_ACCOUNT))
    assert "API key" in line
    assert "dry_run=true" in line
    assert "scales=['huge']" in refused(script("dashboard", "scales=[huge]", "dry_run=true"))


def test_what_was_saved_before_is_replaced(boards, tmp_path, monkeypatch):
    """Against a stand-in for the server: each thing is made once, and then written over."""
    server = {}

    def make(kind):
        monkeypatch.setattr(kind, "save", lambda self: server.setdefault(f"address {id(self)}", self))
        monkeypatch.setattr(kind, "url", property(lambda self: f"address {id(self)}"))
        monkeypatch.setattr(kind, "from_url", classmethod(lambda cls, url: server[url]))

    make(ws.Workspace)
    make(wr.Report)
    config = DashboardConfig(entity="team", folders=Folders(logs=str(tmp_path)))
    first = library.save(boards[:2], config)
    server[first[0]].blocks = []
    assert library.save(boards[:2], config) == first
    assert len(server) == 4
    assert server[first[0]].blocks
    del server[first[0]]
    with pytest.raises(InputError, match=r"^W&B: .*dry_run=true"):
        library.save(boards[:2], config)
