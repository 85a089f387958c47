"""Fixtures that several test files share."""

from pathlib import Path

import pytest

from running import SMALL, Place, only, script


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="session")
def trained(place: Place) -> Path:
    """Folder of a finished tiny run named `trained`."""
    done = script("train", *SMALL, *place.keys, "name=trained")
    assert done.returncode == 0, done.stderr
    return only("result.json", place.folder / "logs" / "trained").parent
