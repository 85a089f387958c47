"""Each notebook runs from top to bottom on a session's tiny results; none is committed with outputs."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from fake_runs import VIDEOS, fake_run
from running import HANGS, ROOT, only, read_json
from stat_video.compose import rows
from stat_video.config import Config

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(path, monkeypatch, **env):
    """Return the notebook after it has run in its own folder, as one opens it."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    for name, value in {**settings, **env}.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=HANGS, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    """Return all text that its cells printed or ended with, without colours."""
    text = "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs(notebook))
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def markdown(notebook):
    return "\n".join(o.get("data", {}).get("text/markdown", "") for o in outputs(notebook))


def pictures(notebook):
    return [o for o in outputs(notebook) if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert path.stat().st_size < 20_000


def test_they_are_numbered():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_"]


def test_what_sta_sees_of_a_trained_model(trained, place, monkeypatch):
    folders = {"STAT_VIDEO_LOGS": place.folder / "logs", "STAT_VIDEO_DATA": place.folder / "data"}
    notebook = run_notebook(NOTEBOOKS[0], monkeypatch, **folders)
    assert "trained: tiny-" in printed(notebook)
    assert "not trained" not in printed(notebook)
    assert len(pictures(notebook)) == 2


@pytest.mark.slow
def test_what_sta_sees_without_a_checkpoint(tmp_path, monkeypatch):
    notebook = run_notebook(NOTEBOOKS[0], monkeypatch, STAT_VIDEO_LOGS=tmp_path, STAT_VIDEO_DATA=tmp_path)
    assert "not trained" in printed(notebook)
    assert len(pictures(notebook)) == 2


@pytest.mark.slow  # tests/runs/test_identity.py tells the same of an axis
def test_a_new_axis(tmp_path, monkeypatch):
    """The axis shows in the table, in the folder of the run and in its tags."""
    notebook = run_notebook(NOTEBOOKS[2], monkeypatch, STAT_VIDEO_SCRATCH=tmp_path, STAT_VIDEO_ROOT=ROOT)
    text = printed(notebook)
    assert "1 passed" in text
    assert re.search(r"┃ *frame_drop *┃", text)
    assert re.search(r"-stat_drop-frame_drop0\.5-seed0-\w{8} 2 steps .*'frame_drop=0\.5'", text)
    assert re.search(r"-stat_drop-seed0-\w{8} 2 steps ", text)


@pytest.mark.slow  # tests/test_door.py tells the same of such a model
def test_a_model_of_your_own(tmp_path, monkeypatch):
    """It is counted, trained beyond chance, refused, tested, looked at and reported, from two files of its own."""
    notebook = run_notebook(NOTEBOOKS[3], monkeypatch, STAT_VIDEO_SCRATCH=tmp_path, STAT_VIDEO_ROOT=ROOT)
    text = printed(notebook)
    own = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("mine.*")}
    assert own == {"models/mine.py", "conf/model/mine.yaml"}
    assert "body.0" in text  # a layer of the count
    result = read_json(only("result.json", tmp_path))
    assert result["config"]["model"] == {"name": "mine", "width": 16}
    assert result["metrics"]["val/top1_1x1"] > 100 / 12 + 10
    assert "error: t_o: a key of model=stat, not of model=mine" in text
    assert "error: width=0: allowed is 1 or more" in text
    assert "test/top1_3x1" in text
    assert len(pictures(notebook)) == 1
    assert (tmp_path / "logs/report/index.html").is_file()


@pytest.mark.slow  # tests/report tells the same of the tables
def test_tables_and_curves(tmp_path, monkeypatch):
    """On a row of Table 1 beside a torn result, and on a folder without any."""
    (row, *_) = rows("train", Config, ["experiment=ablation_modules", "scale=tiny"], every=True)
    run = fake_run(tmp_path, asdict(row.config), np.arange(VIDEOS) < 130, train_seconds=1.0)
    (tmp_path / "ablation_modules" / "torn").mkdir()
    (tmp_path / "ablation_modules" / "torn" / "result.json").write_text("{")
    notebook = run_notebook(NOTEBOOKS[1], monkeypatch, STAT_VIDEO_LOGS=tmp_path)
    text = printed(notebook)
    assert "1 finished runs of scale tiny" in text
    assert "not readable" in text
    assert run.id in text  # in the table of results
    (shown,) = [line for line in markdown(notebook).splitlines() if line.startswith("| CA |")]
    assert " | 65.00 | " in shown
    assert "experiment=ablation_window t_o=3 scale=tiny" in markdown(notebook)  # missing, with its command
    assert len(pictures(notebook)) == 1

    empty = run_notebook(NOTEBOOKS[1], monkeypatch, STAT_VIDEO_LOGS=tmp_path / "nothing")
    assert "0 finished runs" in printed(empty)


@pytest.mark.slow
def test_tables_and_curves_without_a_run(tmp_path, monkeypatch):
    """A clone in which nothing was run shows the committed results: each row as docs/results-tiny.md has it."""
    (tmp_path / "notebooks").mkdir()
    path = Path(shutil.copy(NOTEBOOKS[1], tmp_path / "notebooks"))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.delenv("STAT_VIDEO_LOGS", raising=False)
    shown = markdown(run_notebook(path, monkeypatch)).splitlines()
    committed = (ROOT / "docs" / "results-tiny.md").read_text().splitlines()
    ours = [line for line in committed if re.search(r"\d+x\d+(\*\*)? \| (\*\*)?[0-9a-f]{7}(\*\*)? \|", line)]
    assert len(ours) >= 20
    assert [line for line in ours if line not in shown] == []
