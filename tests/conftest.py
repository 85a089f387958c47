"""Fixtures that several test files share."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import own_model
from running import SMALL, Place, only, script
from stat_video import models, paths

LONGEST = (
    "test_report", "test_scripts", "test_compose", "test_fit", "test_unreadable", "test_golden", "test_every",
    "test_memory", "test_words", "test_identity", "test_doors", "test_run", "test_hardware", "test_door",
    "test_printed", "test_code", "test_package", "test_motion", "test_endurance",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first: the last one to begin should not leave the other cores idle."""
    place = {stem: i for i, stem in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Folders that all files of one process share."""
    place = Place(tmp_path_factory.mktemp("session"))
    (place.folder / "data").mkdir()
    return place


@pytest.fixture(scope="session")
def trained_once(session: Place) -> Path:
    done = script("train", *SMALL, *session.keys, "name=trained")
    assert done.returncode == 0, done.stderr
    return only("result.json", session.folder / "logs" / "trained").parent


@pytest.fixture(scope="module")
def place(session: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Folders of a test file: its own logs, and the built-in videos that all share."""
    place = Place(tmp_path_factory.mktemp("file"))
    (place.folder / "data").symlink_to(session.folder / "data")
    return place


@pytest.fixture(scope="module")
def trained(trained_once: Path, place: Place) -> Path:
    """Folder of a finished tiny run named `trained` in this file's logs."""
    return Path(shutil.copytree(trained_once, place.folder / "logs" / "trained" / trained_once.name))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a model `mine`, known to this process as if STAT_VIDEO_OWN had named it at its start."""
    folder = own_model.write(tmp_path / "own")
    monkeypatch.setattr(paths, "OWN", [folder])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder / "models")])
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name == f"{models.__name__}.mine"]:
        del sys.modules[name]
