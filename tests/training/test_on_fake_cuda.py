"""Each model trains, validates and is tested on CUDA, as far as that shows without a GPU: on fake tensors.

What is on the wrong device, or of the wrong type, raises there; what waits for the device is listed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import fake_cuda
from running import ROOT, skip_without_library
from stat_video.models import names

pytestmark = pytest.mark.skipif(bool(fake_cuda.lacking()), reason=str(fake_cuda.lacking()))

BUILT_IN = [name for name in names() if (ROOT / f"conf/model/{name}.yaml").is_file()]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which CUDA is fake."""
    return fake_cuda.preload(tmp_path_factory.mktemp("fake_cuda") / "driver")


def run(driver: dict[str, str], models: list[str], *words: str, precision: str = "bf16-mixed", first: str = "") -> Any:
    told = {"models": models, "words": list(words), "precision": precision, "first": first}
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    clean = {key: value for key, value in os.environ.items() if key != "STAT_VIDEO_OWN"}
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/fake_cuda_steps.py"), json.dumps(told)],
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **driver},
    )


def found(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(seen: list[dict[str, Any]], models: list[str]) -> None:
    """All of a run is on the device, reaches each weight, and no step waits for the device."""
    assert seen == [
        {"model": name, "device": "cuda:0", "steps": 2, "reads": {}, "no gradient": [], "misplaced": []}
        for name in models
    ]


def test_stat(driver: dict[str, str]) -> None:
    check(found(run(driver, ["stat"], "scale=tiny")), ["stat"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(
    ("scale", "precision"), [("tiny", "bf16-mixed"), ("paper", "bf16-mixed"), ("paper", "32-true")]
)
def test_each_model(name: str, scale: str, precision: str, driver: dict[str, str]) -> None:
    skip_without_library(name)
    # NOTE: precise_bn reads videos, of which there are none here.
    check(found(run(driver, [name], f"scale={scale}", "recipe.precise_bn=0", precision=precision)), [name])


@pytest.mark.slow
def test_averaged_weights_are_on_the_device(driver: dict[str, str]) -> None:
    (seen,) = found(run(driver, ["tsm"], "scale=tiny", "recipe.ema=0.9"))
    assert seen["misplaced"] == []


ON_THE_HOST = """
from stat_video.data.transforms import Normalize
right = Normalize.forward
Normalize.forward = lambda self, video: right(self, video) + torch.zeros(3, 1, 1, 1)
"""
WAITS = """
right = VideoModule.training_step
def waiting(self, batch, index):
    loss = right(self, batch, index)
    return loss if loss.item() == 0 else loss
waiting.__code__ = waiting.__code__.replace(co_filename=right.__code__.co_filename)
VideoModule.training_step = waiting
"""


@pytest.mark.slow
def test_a_tensor_on_the_host_is_found(driver: dict[str, str]) -> None:
    done = run(driver, ["tsm"], "scale=tiny", first=ON_THE_HOST)
    assert done.returncode != 0
    assert "cpu" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_wait_for_the_device_is_found(driver: dict[str, str]) -> None:
    (seen,) = found(run(driver, ["tsm"], "scale=tiny", first=WAITS))
    assert seen["reads"] == {"_local_scalar_dense in module.py:waiting": 2}  # passes of the second step
