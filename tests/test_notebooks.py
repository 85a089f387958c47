"""Each notebook runs from top to bottom on a session's tiny results; none is committed with outputs."""

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from fake_runs import VIDEOS, fake_run
from running import ROOT
from stat_video import grid

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(path, monkeypatch, **env):
    """The notebook after it has run in its own folder, as one opens it."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    for name, value in {**settings, **env}.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    """All text that its cells printed or ended with."""
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs(notebook))


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


def test_there_are_three():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_"]


def test_what_sta_sees_of_a_trained_model(trained, place, monkeypatch):
    folders = {"STAT_VIDEO_LOGS": place.folder / "logs", "STAT_VIDEO_DATA": place.folder / "data"}
    notebook = run_notebook(NOTEBOOKS[0], monkeypatch, **folders)
    assert "trained: tiny-" in printed(notebook)
    assert "not trained" not in printed(notebook)
    assert len(pictures(notebook)) == 2


def test_what_sta_sees_without_a_checkpoint(tmp_path, monkeypatch):
    notebook = run_notebook(NOTEBOOKS[0], monkeypatch, STAT_VIDEO_LOGS=tmp_path, STAT_VIDEO_DATA=tmp_path)
    assert "not trained" in printed(notebook)
    assert len(pictures(notebook)) == 2


def test_a_new_axis(tmp_path, monkeypatch):
    notebook = run_notebook(NOTEBOOKS[-1], monkeypatch, STAT_VIDEO_SCRATCH=tmp_path, STAT_VIDEO_ROOT=ROOT)
    assert "1 passed" in printed(notebook)
    assert "2.0 2 steps" in printed(notebook)
    assert "4.0 2 steps" in printed(notebook)


def test_tables_and_curves(tmp_path, monkeypatch):
    """On a row of Table 1 beside a torn result, and on a folder without any."""
    (row, *_) = grid.rows("ablation_modules", ["scale=tiny"])
    run = fake_run(tmp_path, row.config, np.arange(VIDEOS) < 130, train_seconds=1.0)
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
