"""A logs folder of made-up results."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_runs import HOSTILE, VIDEOS, fake_run
from stat_video import compose
from stat_video.config import Config
from stat_video.cost import reruns
from stat_video.cost.kept import KeptRows, keeping
from stat_video.report.collect import Collection, collect


@dataclass
class Fake:
    """Where the results are, and what was written into them."""

    logs: Path
    correct: dict[tuple[str, int], np.ndarray]  # (words of the row, seed): (videos,) whether it was right
    collection: Collection
    kept: KeptRows  # all that was composed for it


def configs(*words: str, every: bool = True) -> dict[str, dict[str, Any]]:
    """Return {words that set a row apart: its config as result files have it} of the rows that words stand for."""
    rows = compose.rows("train", Config, [*words, "scale=tiny"], every=every)
    return {
        " ".join(word for word in row.words if word not in (*words, "scale=tiny")): asdict(row.config) for row in rows
    }


@pytest.fixture(scope="session")
def fake(tmp_path_factory) -> Fake:
    """Table 1 at the tiny scale: CA and CA+SA with two seeds, CA+SA+LA with one; in Table 7 two systems; odd ones."""
    logs = tmp_path_factory.mktemp("fake_logs")
    rng = np.random.default_rng(0)
    rows = configs("experiment=ablation_modules")
    correct = {}
    for words, accuracy, seeds in (("modules=ca", 0.5, 2), ("modules=ca_sa", 0.9, 2), ("modules=ca_sa_la", 0.88, 1)):
        for seed in range(seeds):
            correct[words, seed] = rng.random(VIDEOS) < accuracy
            fake_run(logs, {**rows[words], "seed": seed}, correct[words, seed])
    old = {**rows["modules=ca"], "seed": 7}
    fake_run(logs, old, rng.random(VIDEOS) < 0.1, manifest="probe-0", finished="2025-01-01T00:00:00+00:00")
    transfer = configs("experiment=ssv2")["clip=T16"]
    correct["ssv2", 0] = rng.random(VIDEOS) < 0.7
    fake_run(logs, {**transfer, "init": "trained_on=motion/0a1b2c3d"}, correct["ssv2", 0])
    (other,) = configs("experiment=ssv2", "model=mvit", every=False).values()
    correct["mvit", 0] = rng.random(VIDEOS) < 0.3
    fake_run(logs, other, correct["mvit", 0])
    for T, seeds in (("", (0, 1)), ("T=8", (0,))):  # of MSNet-16+8; of seed 1 a member is missing
        words = ["experiment=ssv2", "model=msnet", "init=null", "new_classifier=false", *T.split()]
        (member,) = configs(*words, every=False).values()
        for seed in seeds:
            correct[f"msnet {T}".strip(), seed] = right = rng.random(VIDEOS) < 0.6
            fake_run(logs, {**member, "seed": seed}, right, sure=6 if T else 5)
    unlike = {**rows["modules=ca"], "clip": {**rows["modules=ca"]["clip"], "crop": 56}, "name": "x"}
    fake_run(logs, unlike, correct["modules=ca", 0], commit=HOSTILE)
    (logs / "ablation_modules" / "torn").mkdir()
    (logs / "ablation_modules" / "torn" / "result.json").write_text("{")
    reruns._found.clear()  # what another file's tests have composed
    with keeping() as kept:
        return Fake(logs, correct, collect(logs, ["tiny", "paper"], kept), kept)
