"""A user's own videos, as the README says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from running import only, refused, script


def test_own_videos_train_from_scratch_and_from_a_checkpoint(
    trained: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    own = tmp_path / "my videos"
    for name in ("wave", "jump"):
        (own / name).mkdir(parents=True)
        for i in range(4):
            write_video(own / name / f"{i}.mp4", size=(60 + 2 * i, 80))
    words = ["data=own", f"folders.own={own}", f"folders.logs={tmp_path / 'logs'}", "debug=two_steps", "views=1x1"]
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert "6 training and 2 validation videos, 2 classes" in done.stdout
    ckpt = only("last.ckpt", tmp_path / "logs")
    assert script("evaluate", f"ckpt={ckpt}", f"folders.own={own}", "trainer=cpu").returncode == 0
    done = script("train", *words, f"init={trained / 'last.ckpt'}", "new_classifier=true", "name=from_motion")
    assert done.returncode == 0, done.stderr
    assert "head: drawn anew" in done.stdout
    assert "folders.own=FOLDER" in refused(script("train", "data=own"))
