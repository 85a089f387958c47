"""Which code computed a run: ranks and resumed runs are held against it, and the result lists all of it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from on_ranks import on_ranks
from running import ROOT, SMALL, Place, only, read_json, script
from stat_video import compose
from stat_video.config import Config, EvaluateConfig, TrainerKeys
from stat_video.runs import code
from stat_video.training import fit as training
from stat_video.training import testing
from stat_video.training.fit import fit

TINY = (*SMALL, "T=4", "crop=32", "views=1x1", "trainer=cpu")
IDENTITY = ["-c", "user.name=x", "-c", "user.email=x@x"]
SHOW = """
import sys

sys.dont_write_bytecode = True
from stat_video.runs.code import provenance

print(provenance()["code"], provenance()["changed_since_commit"])
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The sources in a repository of their own."""
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    (tmp_path / "src" / "show_code.py").write_text(SHOW)
    for words in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def printed(clone: Path, own: Path | None = None) -> list[str]:
    done = script("show_code", root=clone, STAT_VIDEO_OWN=str(own or ""))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_source_counts_tracked_or_not(clone: Path, tmp_path: Path) -> None:
    clean = printed(clone)
    assert clean[1] == "False"
    new = clone / "src" / "stat_video" / "models" / "new.py"
    new.write_text("x = 1\n")
    assert printed(clone)[1] == "True"
    assert printed(clone)[0] != clean[0]
    new.unlink()
    assert printed(clone) == clean
    (own := tmp_path / "own" / "models").mkdir(parents=True)
    (own / "mine.py").write_text("x = 1\n")
    with_own = printed(clone, own.parent)[0]
    (own / ".#mine.py").symlink_to("somebody@host.1:2")  # of an editor, while changes are not saved
    (own / "notes.py").mkdir()
    (own / ".ipynb_checkpoints").mkdir()
    (own / ".ipynb_checkpoints" / "mine-checkpoint.py").write_text("x = 1\n")
    assert printed(clone, own.parent)[0] == with_own
    (own / "mine.py").write_text("x = 2\n")
    assert len({clean[0], with_own, printed(clone, own.parent)[0]}) == 3
    (clone / "conf" / "model" / "new.yaml").write_text("x: 1\n")
    assert printed(clone) == [clean[0], "True"]  # a config changes no source, and is in the run's id


def test_ranks_on_other_code_or_packages_are_refused(place: Place, tmp_path: Path) -> None:
    words = [*TINY, "trainer.devices=2", "trainer.strategy=ddp", *place.keys_with(tmp_path)]
    (row,) = compose.rows("train", Config, words)

    def begin(rank: int, key: str) -> None:
        here = dict(code.provenance())
        here["versions"] = dict(here["versions"])
        if rank:
            here |= {"code": "0123456789ab"} if key == "code" else {"versions": here["versions"] | {"torch": "2.9"}}
        training.provenance = code.provenance = lambda: here  # type: ignore[assignment]
        fit(row.config)

    for key, said in (("code", "code is "), ("torch", "versions.torch is ")):
        outcomes = on_ranks(lambda rank, key=key: begin(rank, key), 2)
        assert said in outcomes[0]
        assert "SystemExit(2)" in outcomes[1]
    assert not list(tmp_path.glob("*/*/result.json"))


def test_ranks_of_an_evaluation_on_other_code_are_refused(place: Place, tmp_path: Path) -> None:
    (row,) = compose.rows("train", Config, [*TINY, "recipe.max_steps=1", *place.keys_with(tmp_path)])
    fit(row.config)
    file = only("last.ckpt", tmp_path)
    trainer = TrainerKeys(accelerator="cpu", devices=2, strategy="ddp", workers=0)

    def test(rank: int) -> None:
        here = {**code.provenance(), **({"code": "0123456789ab"} if rank else {})}
        testing.provenance = code.provenance = lambda: here  # type: ignore[assignment]
        testing.evaluate(file, EvaluateConfig(views="3x1", trainer=trainer, folders=row.config.folders))

    outcomes = on_ranks(test, 2)
    assert "code is " in outcomes[0]
    assert "SystemExit(2)" in outcomes[1]
    assert not list(tmp_path.glob("*/*/evaluation_*.json"))


def test_a_run_that_is_resumed_on_other_code_says_so_and_lists_both(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = compose.rows("train", Config, [*TINY, "recipe.max_steps=3", *place.keys_with(tmp_path)])
    fit(row.config)
    folder = only("result.json", tmp_path).parent
    first = read_json(folder / "result.json")
    assert [part["step"] for part in first["history"]] == [0]
    assert first["history"][0]["code"] == first["code"] == code.DIGEST
    (folder / "result.json").unlink()
    capsys.readouterr()
    fit(row.config)
    assert "other code" not in capsys.readouterr().out
    assert len(read_json(folder / "result.json")["history"]) == 1
    (folder / "result.json").unlink()
    other = {**code.provenance(), "code": "0123456789ab", "commit": "f" * 40}
    monkeypatch.setattr(training, "provenance", lambda: other)
    fit(row.config)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "other code" in line]
    assert first["commit"][:7] in line
    assert "fffffff" in line
    history = read_json(folder / "result.json")["history"]
    assert [(part["code"], part["step"]) for part in history] == [(code.DIGEST, 0), ("0123456789ab", 3)]
    assert code.commits(history).endswith(" then fffffff" + "+" * other["changed_since_commit"])
    assert torch.load(folder / "last.ckpt", weights_only=True)["stat_video"]["history"]


def test_a_checkpoint_without_a_history_was_made_by_unknown_code() -> None:
    said = code.difference({"code": None}, code.provenance())
    assert "unknown code" in said
    assert code.commits([{"code": None}, {"commit": "a" * 40, "changed_since_commit": True}]) == "- then aaaaaaa+"
