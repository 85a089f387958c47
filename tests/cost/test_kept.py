"""What is kept from one report to the next is what would be made anew, and is dropped as soon as it might not be."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from stat_video import compose, models
from stat_video.config import Config
from stat_video.cost import kept
from stat_video.cost.kept import KeptFile, KeptRows, keeping, restored

STAT = ("scale=tiny", "t_o=5")
MVIT = ("scale=tiny", "model=mvit", "data=probe")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often something was composed or counted."""
    found: Counter[str] = Counter()

    def counted(name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            found[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(compose, "rows", counted("rows", compose.rows))
    monkeypatch.setattr(kept, "gmacs", counted("gmacs", kept.gmacs))
    return found


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/, in its place for this process."""
    copy = Path(shutil.copytree(compose.CONF, tmp_path / "conf"))
    for module in (compose.composed, compose.known, compose.local, compose.wrong):
        monkeypatch.setattr(module, "CONF", copy)
    monkeypatch.setattr(kept, "CONF", copy)
    return copy


def ask(folder: Path, *words: str) -> tuple[Config, float]:
    """Return a config and its multiply-adds, as a report asks for them."""
    with keeping(folder) as found:
        (row,) = found.rows(words)
        return row.config, found.gmacs(row.config)


@pytest.mark.parametrize("words", [STAT, MVIT])
def test_what_is_kept_is_what_would_be_made(words: tuple[str, ...], tmp_path: Path, calls: Counter[str]) -> None:
    first = ask(tmp_path, *words)
    assert calls == {"rows": 1, "gmacs": 1}
    again = ask(tmp_path, *words)
    assert calls == {"rows": 1, "gmacs": 1}
    assert again == first
    assert again == ask(tmp_path / "elsewhere", *words)
    assert type(again[0].model) is type(first[0].model)


def test_all_rows_of_a_sweep_are_kept(tmp_path: Path, calls: Counter[str]) -> None:
    words = ["experiment=ablation_window", "scale=tiny"]
    with keeping(tmp_path) as found:
        grid, one = found.rows(words, every=True), found.rows(words)
    with keeping(tmp_path) as found:
        assert (found.rows(words, every=True), found.rows(words)) == (grid, one)
    assert (len(grid), len(one), calls["rows"]) == (4, 1, 2)
    assert [row.config.model.t_o for row in grid] == [3, 5, 7, 9]


def test_a_changed_yaml_is_seen_at_once(conf: Path, tmp_path: Path, calls: Counter[str]) -> None:
    before, cost = ask(tmp_path, *STAT)
    recipe = conf / "model" / "stat.yaml"
    recipe.write_text(recipe.read_text().replace("kv_strides: [8, 4, 2, 1]", "kv_strides: [8, 4, 1, 1]"))
    after, other_cost = ask(tmp_path, *STAT)
    assert (before.model.kv_strides, after.model.kv_strides) == ([8, 4, 2, 1], [8, 4, 1, 1])
    assert other_cost > cost
    assert calls == {"rows": 2, "gmacs": 2}
    (conf / "clip" / "T128.yaml").write_text("T: 128\n")  # a new file too
    ask(tmp_path, *STAT)
    assert calls == {"rows": 3, "gmacs": 2}  # the model is the same


def test_changed_code_is_seen_at_once(tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(kept.PACKAGE, tmp_path / "stat_video", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(kept, "PACKAGE", copy)
    monkeypatch.setattr(kept, "_of_this_project", lambda config: True)
    ask(tmp_path, *STAT)
    for changed, expected in (("config.py", (2, 1)), ("models/stat/attention.py", (3, 2)), (None, (3, 2))):
        if changed:
            with (copy / changed).open("a") as file:
                file.write("# changed\n")
        ask(tmp_path, *STAT)
        assert (calls["rows"], calls["gmacs"]) == expected


def test_changed_settings_of_the_machine_are_seen_at_once(
    tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("folders: {kinetics400: '${oc.env:VIDEOS}/k400'}\n")
    monkeypatch.setenv("STAT_VIDEO_LOCAL", str(local))
    for value in ("/a", "/b"):  # of a variable that the settings name
        monkeypatch.setenv("VIDEOS", value)
        assert ask(tmp_path, *STAT)[0].folders.kinetics400 == f"{value}/k400"
    local.write_text("folders: {kinetics400: /c}\n")
    assert ask(tmp_path, *STAT)[0].folders.kinetics400 == "/c"
    assert calls == {"rows": 3, "gmacs": 1}
    monkeypatch.setattr(kept, "version", lambda name: "0")  # other libraries
    ask(tmp_path, *STAT)
    assert calls == {"rows": 4, "gmacs": 2}


def test_what_changes_while_it_is_composed_is_not_kept(conf: Path, tmp_path: Path, calls: Counter[str]) -> None:
    with keeping(tmp_path) as found:
        found.rows(STAT)
        (conf / "clip" / "T128.yaml").write_text("T: 128\n")
    (conf / "clip" / "T128.yaml").unlink()
    ask(tmp_path, *STAT)
    assert calls["rows"] == 2


def test_a_damaged_file_keeps_nothing(tmp_path: Path) -> None:
    """Cut off, empty, other bytes, a digit changed in a figure, another state."""
    file = KeptFile(tmp_path, "figures", lambda: "a state")
    path = file.path
    file.values = {"one": 59.05, "other": [["words"], {"T": 16}]}
    file.save()
    whole = path.read_bytes()
    assert KeptFile(tmp_path, "figures", lambda: "a state").values == file.values
    assert KeptFile(tmp_path, "figures", lambda: "another").values == {}
    wrong = whole.replace(b"59.05", b"58.05")
    assert json.loads(wrong.partition(b"\n")[2])["one"] == 58.05  # well formed
    for damaged in (whole[:-2], whole[: len(whole) // 2], b"", b"\xff\x00" * 40, wrong):
        path.write_bytes(damaged)
        again = KeptFile(tmp_path, "figures", lambda: "a state")
        assert again.values == {}
        again.values = file.values
        again.save()
        assert path.read_bytes() == whole  # mended


def test_a_place_that_can_not_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder would be")
    assert ask(tmp_path / "file", *STAT) == ask(tmp_path / "elsewhere", *STAT)
    KeptRows(tmp_path / "other")._rows.path.mkdir(parents=True)
    assert ask(tmp_path / "other", *STAT) == ask(tmp_path / "elsewhere", *STAT)


def test_files_of_a_few_states_stay(tmp_path: Path) -> None:
    for n in range(kept.MOST_STATES + 3):
        file = KeptFile(tmp_path, "figures", lambda n=n: f"{n:016}")
        file.values = {"n": n}
        file.save()
        os.utime(file.path, (n, n))
    assert len(list(tmp_path.iterdir())) == kept.MOST_STATES
    assert file.path.exists()


def test_models_from_elsewhere_are_made_anew(mine: Path, tmp_path: Path, calls: Counter[str]) -> None:
    """Their files may import what no hash here is of."""
    for _ in range(2):
        ask(tmp_path, "scale=tiny", "model=mine")
        ask(tmp_path, *STAT)
    assert calls == {"rows": 3, "gmacs": 3}


@pytest.mark.slow
def test_every_model_and_data_set_is_restored(tmp_path: Path) -> None:
    """As configs that are equal, down to each value."""
    options = [f"model={name}" for name in models.names()] + [
        f"data={name}" for name in compose.local.groups_of("data")
    ]
    for option in options:
        (row,) = KeptRows(tmp_path).rows(
            ["scale=paper", option, *["crop=48"] * (option in ("data=motion", "data=probe"))]
        )
        again = restored(Config, json.loads(json.dumps(asdict(row.config))))
        assert again == row.config
        assert repr(again) == repr(row.config)
