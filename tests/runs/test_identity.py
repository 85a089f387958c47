"""A run's id outlives new and retired keys, a new folder of its first weights, and this version."""

import os
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from running import ROOT, read_json, refused, script
from stat_video import compose, models
from stat_video.config import Config, Recipe
from stat_video.errors import InputError, Retired, any_value, one_of, ranged, sized
from stat_video.models.base import ModelConfig
from stat_video.runs import identity
from stat_video.runs.identity import definition, foreign_keys, row_id, updated, with_content
from stat_video.runs.run import Run
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.rebuild import rebuild

OLDER = ROOT / "tests" / "older"  # a folder per version, with a finished run and one that was killed
ADDED = {  # file, the line before which a key is added, the key
    "data/augment.py": ("    crop_area:", "blur: float = ranged(0.0, 0, neutral=0.0)"),
    "config.py": ("    epochs: int = ranged(200", "temperature: float = ranged(1.0, 0, above=True, neutral=1.0)"),
    "models/mvit.py": ("    depths:", 'gate: str = one_of("none", ("none", "sigmoid"), neutral="none")'),
    "models/stat/stat.py": ("    modules:", "gate: list[float] = ranged([], 0, neutral=[])"),
    "data/built_in.py": ("    height:", "wobble: int = ranged(0, 0, neutral=0)"),
}
TOP = ('    views: str = "1x1"', "    mood: bool = any_value(False, neutral=False)\n")
FILLED = """
from pathlib import Path
from stat_video.report.collect import collect, hints
found = collect(Path({results!r}), ["tiny"])
rows = [row for table in found.tables["tiny"] for row in table]
print(len([row for row in rows if row.configs]), len([row for row in rows if row.runs]), sum(len(r.runs) for r in rows))
print(hints(found.others))
"""


def filled(source: Path) -> list[str]:
    """Return what the report of the kept results says with the package of another folder."""
    code = FILLED.format(results=str(ROOT / "docs" / "results"))
    environment = {"PYTHONPATH": str(source / "src"), "PATH": "/usr/bin:/bin", "STAT_VIDEO_LOCAL": "/nowhere"}
    environment["XDG_CACHE_HOME"] = str(source / "cache")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_keys_that_are_added_keep_every_row_filled(tmp_path: Path) -> None:
    """A key of augmentation, recipe, two models, a built-in data set and the top, each at its neutral value."""
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "src" / "stat_video"
    for name, (before, key) in ADDED.items():
        text = (package / name).read_text()
        assert text.count(before) >= 1, name
        text = text.replace(before, f"    {key}\n{before}", 1)
        if "one_of(" in key and "one_of" not in text.partition("class ")[0]:
            text = text.replace("import ranged", "import one_of, ranged", 1)
        (package / name).write_text(text)
    text = (
        (package / "config.py")
        .read_text()
        .replace("import InputError, check_ranges", "import any_value, InputError, check_ranges")
    )
    assert TOP[0] in text
    (package / "config.py").write_text(text.replace(TOP[0], TOP[1] + TOP[0]))
    counts, hints = filled(tmp_path)
    rows, full, runs = counts.split()
    assert (rows, full, runs) == ("55", "55", runs)
    assert int(runs) >= 92
    assert hints == "[]"


@dataclass
class OwnConfig(ModelConfig):
    retired: ClassVar[dict[str, Retired]] = {"old": Retired(3), "never_hashed": Retired("off", hashed=False)}

    width: int = sized(8)
    gate: str = one_of("none", ("none", "soft"), neutral="none")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config of a model of one's own."""
    found = models.find
    monkeypatch.setattr(models, "find", lambda name: OwnConfig if name == "own" else found(name))
    return asdict(Config(model=OwnConfig(name="own")))


def test_a_key_counts_away_from_its_neutral_value(plain: dict[str, Any]) -> None:
    older, other = deepcopy(plain), deepcopy(plain)
    del older["model"]["gate"]
    other["model"]["gate"] = "soft"
    assert row_id(older) == row_id(plain)
    assert row_id(other) != row_id(plain)
    assert updated(older)["model"]["gate"] == "none"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["recipe.freeze=stem"], ["recipe.freeze=[stem.layers,stem]"]),
        ([], ["recipe.loss=cross_entropy"]),
        ([], ["trainer.limit_train_batches=1.0"]),
    ],
)
def test_what_says_the_same_is_the_same_run(words: list[str], same: list[str]) -> None:
    one, two = (compose.rows("train", Config, w)[0].config for w in (words, same))
    assert row_id(asdict(one)) == row_id(asdict(two))


def test_a_part_that_is_added_keeps_ids_if_each_of_its_keys_is_neutral(plain: dict[str, Any], monkeypatch) -> None:
    @dataclass
    class Gate:
        kind: str = one_of("none", ("none", "soft"), neutral="none")
        heads: int = ranged(1, 1, neutral=1)

    @dataclass
    class Gated(OwnConfig):
        sharing: Gate = field(default_factory=Gate)

    before = row_id(plain)
    monkeypatch.setattr(models, "find", lambda name: Gated)
    now = asdict(Config(model=Gated(name="own")))
    assert row_id(now) == row_id(plain) == before
    assert updated(plain)["model"]["sharing"] == {"kind": "none", "heads": 1}
    assert foreign_keys(plain) == foreign_keys(now) == ([], [])
    now["model"]["sharing"]["heads"] = 2
    assert row_id(now) != before
    assert updated(now) == now


def test_a_neutral_value_that_is_no_default_is_that_of_older_runs(plain: dict[str, Any], monkeypatch) -> None:
    """A better default does not fill its rows with older runs, nor change how those are rebuilt."""

    @dataclass
    class Better(OwnConfig):
        gate: str = one_of("soft", ("none", "soft"), neutral="none")

    older = deepcopy(plain)
    del older["model"]["gate"]
    before = row_id(older)
    monkeypatch.setattr(models, "find", lambda name: Better)
    assert row_id(older) == before
    assert row_id(asdict(Config(model=Better(name="own")))) != before
    assert updated(older)["model"]["gate"] == "none"


def test_a_retired_key_is_dropped_at_the_value_that_changed_nothing(plain: dict[str, Any]) -> None:
    older = deepcopy(plain)
    older["model"] |= {"old": 3, "never_hashed": "off"}
    assert row_id(older) == row_id(plain)
    assert updated(older) == updated(plain)
    for key, value in {"old": 4, "never_hashed": "on"}.items():
        other = deepcopy(older)
        other["model"][key] = value
        assert row_id(other) != row_id(plain)
        assert updated(other)["model"][key] == value  # `rebuild` refuses it
    assert definition(plain)["model"]["old"] == 3  # as it stands in the ids of its time


def test_what_keeps_older_runs_from_their_rows_is_named(plain: dict[str, Any]) -> None:
    assert foreign_keys(plain) == ([], [])
    older = deepcopy(plain)
    del older["recipe"]["ema"], older["recipe"]["augment"]["erasing"], older["model"]["width"]
    older["clip"]["tempo"] = 2
    assert foreign_keys(older) == (["model.width", "recipe.ema", "recipe.augment.erasing"], ["clip.tempo"])


def test_a_neutral_value_is_one_that_the_key_takes() -> None:
    schemas = [schema for _, _, schema in identity._parts(asdict(Config()))]
    for schema in [*schemas, *map(models.find, models.names())]:
        for key, neutral in identity._neutral(schema).items():
            if key in identity._nested(schema):  # a part, whose keys have their own
                continue
            refuse = schema.__dataclass_fields__[key].metadata["refuse"]
            assert neutral is None or refuse(neutral) is None, key


def test_the_content_of_first_weights_counts_and_not_their_path(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two"), ("d @sha256:x.pt", b"one")):
        (tmp_path / name).write_bytes(content)
    config = asdict(Config(model=models.find("stat")()))
    ids = [
        row_id({**config, "init": with_content(str(tmp_path / name))})
        for name in ("a.pt", "b.pt", "c.pt", "d @sha256:x.pt")
    ]
    assert ids[0] == ids[1] == ids[3]
    assert len({*ids, row_id(config)}) == 3
    with pytest.raises(InputError, match=r"init=.*gone"):
        with_content(str(tmp_path / "gone"))


@pytest.mark.parametrize("version", sorted(path.name for path in OLDER.iterdir()))
def test_a_finished_run_of_an_older_version_is_the_same_run(version: str) -> None:
    folder = OLDER / version / "finished"
    result = read_json(folder / "result.json")
    run = Run.of(result["config"], Path("logs"), result["manifest"])
    assert run.id == result["id"]
    model, config, classes = rebuild(folder / "last.ckpt")
    assert asdict(config)["recipe"]["epochs"] == 2
    assert len(classes) == 12
    weights = read_checkpoint(folder / "last.ckpt").weights
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("version", sorted(path.name for path in OLDER.iterdir()))
def test_a_run_of_an_older_version_is_found_resumed_and_tested(version: str, tmp_path: Path) -> None:
    """The command that began them finds the finished run, and trains the killed one to its end."""
    keys = ("folders.logs=" + str(tmp_path / "logs"), f"folders.built_in={tmp_path / 'data'}")
    result = read_json(OLDER / version / "finished" / "result.json")
    words = [
        "T=4", "crop=32", "depths=[1,1,1,1]", "widths=[8,8,16,16]", "heads=[1,1,2,2]", "data.motion.train_videos=48",
        "data.motion.val_videos=12", "data.motion.frames=24", "recipe.batch_size=8", "recipe.epochs=2", "logger=off",
        "trainer=cpu", "trainer.workers=0", "name=older", *keys,
    ]  # fmt: skip
    for state in ("finished", "begun"):
        shutil.copytree(OLDER / version / state, tmp_path / "logs" / "older" / f"x-{_id(version, state)}")
    done = script("train", *words, "recipe.ema=0.9")
    assert done.returncode == 0, done.stderr
    assert "Finished before" in done.stdout
    done = script("train", *words, "seed=1")
    assert done.returncode == 0, done.stderr
    assert "Resuming" in done.stdout
    assert "epoch 2/2" in done.stdout
    assert "epoch 1/2" not in done.stdout
    folder = tmp_path / "logs" / "older" / f"x-{result['id']}"
    done = script("evaluate", f"ckpt={folder}/last.ckpt", "trainer=cpu", "trainer.workers=0", *keys)
    assert done.returncode == 0, done.stderr
    kept = torch.load(OLDER / version / "finished" / "logits_5x1.pt")
    again = torch.load(folder / "logits_5x1.pt")
    assert torch.allclose(again["logits"], kept["logits"], atol=1e-4)
    assert refused(script("train", *words, "seed=1", "init=nowhere.pt")).count("nowhere.pt")


def _id(version: str, state: str) -> str:
    """Return the id of a run, the last part of its folder's name in the version that made it."""
    config = read_json(OLDER / version / state / "config.json")
    manifest = read_json(OLDER / version / "finished" / "result.json")["manifest"]
    return Run.of(config, Path("logs"), manifest).id


def test_older_versions_are_kept() -> None:
    """Each release adds a folder, and none is ever remade: they are what users have."""
    assert (OLDER / "0.1.0" / "finished" / "last.ckpt").exists()
    assert read_json(OLDER / "0.1.0" / "finished" / "result.json")["commit"].startswith("b8c933a")
    assert read_json(OLDER / "0.1.0" / "finished" / "result.json")["id"] == "19862b90"


def test_fields_without_a_neutral_value_are_as_before() -> None:
    assert "neutral" not in Recipe.__dataclass_fields__["epochs"].metadata
    for made in (ranged(1, 0), one_of(1, (1, 2)), sized(1), any_value(1), field(default=1)):
        assert "neutral" not in made.metadata


def test_a_tuple_is_a_neutral_value_as_a_list_of_a_config_is() -> None:
    @dataclass
    class Sized(ModelConfig):
        retired: ClassVar[dict[str, Retired]] = {"old": Retired((0, 1), hashed=False)}

        size: list[int] = any_value([0, 1], neutral=(0, 1))

    assert identity._neutral(Sized) == {"size": [0, 1]}
    assert Sized.retired["old"].neutral == [0, 1]


def test_first_weights_are_read_from_a_file_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a file"):
        with_content(str(tmp_path / "pipe"))
