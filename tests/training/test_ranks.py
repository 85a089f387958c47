"""Two processes, a gloo group: the same steps, the same evaluation to the last digit, and no two different runs."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from on_ranks import on_ranks
from running import SMALL, Place, only, read_json
from stat_video import compose
from stat_video.config import Config, EvaluateConfig, Recipe
from stat_video.data.dataset import TrainSampler
from stat_video.data.lists import manifest_hash
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.errors import InputError
from stat_video.models.parts import recompute
from stat_video.runs.run import Busy, Run
from stat_video.training.callbacks import EpochLog
from stat_video.training.fit import finished, fit
from stat_video.training.module import VideoModule
from stat_video.training.ranks import SameOnAllRanks
from stat_video.training.testing import evaluate

EPSILON = 1e-8  # of AdamW


def one_step(place: Place, logs: Path, *words: str) -> Config:
    """A run of one optimizer step of 8 clips at the peak of the learning rate, 1e-5, with nothing random about it."""
    keys = [*SMALL, *place.keys_with(logs), "views=5x1", "recipe.max_steps=1", "recipe.warmup_epochs=0"]
    keys += ["recipe.lr=2e-5", "recipe.val_videos=7", "trainer=cpu", "trainer.workers=0"]
    (row,) = compose.rows("train", Config, [*keys, *words])
    return row.config


@pytest.fixture(scope="module")
def alone(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of such a run on one rank."""
    logs = tmp_path_factory.mktemp("alone")
    assert on_ranks(lambda rank: fit(one_step(place, logs)), 1) == [None]
    return only("result.json", logs).parent


def mean_gradients(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Absolute mean gradient by weight's name, as the optimizer of the checkpoint has it."""
    (optimizer,) = checkpoint["optimizer_states"]
    names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    states = [optimizer["state"].get(number) for number in numbers]  # none without a gradient
    return {f"model.{name}": state["exp_avg"].abs() for name, state in zip(names, states, strict=True) if state}


def check_same_step(
    folder: Path, expected: Path, weights: float = 1e-6, gradients: float = 1e-6, rounded: bool = False
) -> None:
    """Weights, and the optimizer's mean gradients relative to the largest, of the two checkpoints are equal.

    ``rounded``: but for weights whose mean gradient is below Adam's epsilon. There a first step g / (|g| + 1e-8)
    magnifies a rounding of 1e-9 to a tenth of the learning rate. They are fewer than one weight in 1,000.
    """
    one, two = (torch.load(f / "last.ckpt", weights_only=True) for f in (expected, folder))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    means, left_out = mean_gradients(one), 0
    for name, weight in one["state_dict"].items():
        differs = (two["state_dict"][name] - weight).abs() > weights
        if rounded and differs.any():
            left_out += int(differs.sum())
            differs &= means[name] > EPSILON
        assert not differs.any(), f"{name}: {two['state_dict'][name][differs]}, expected {weight[differs]}"
    assert left_out < sum(weight.numel() for weight in one["state_dict"].values()) / 1000
    states = [content["optimizer_states"][0]["state"] for content in (one, two)]
    assert len(states[0]) == len(states[1]) > 50
    scale = max(float(state["exp_avg"].abs().max()) for state in states[0].values())
    for key, state in states[0].items():
        torch.testing.assert_close(states[1][key]["exp_avg"], state["exp_avg"], atol=gradients * scale, rtol=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.strategy=ddp"],
        ["trainer.strategy=ddp", "trainer.batch_per_device=2"],  # accumulated over two passes
        ["trainer.strategy=ddp", "trainer.gradient_checkpointing=true"],
    ],
    ids=["ddp", "ddp, two passes", "ddp, recomputed"],
)
def test_a_step_of_two_ranks_is_that_of_one(
    words: list[str], alone: Path, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = one_step(place, tmp_path, "trainer.devices=2", *words)
    assert on_ranks(lambda rank: fit(replace(config)), 2) == [None, None]
    folder = only("result.json", tmp_path).parent
    assert folder.name == alone.name  # the same run, on other hardware
    check_same_step(folder, alone)
    one, two = read_json(alone / "result.json"), read_json(folder / "result.json")
    assert two["batch"] == {
        **one["batch"],
        "devices": 2,
        "clips_per_device_and_pass": 2 if "two passes" in request.node.callspec.id else 4,
        "passes": 2 if "two passes" in request.node.callspec.id else 1,
    }
    assert two["metrics"].keys() == one["metrics"].keys()
    assert two["metrics"]["val/loss_1x1"] == pytest.approx(one["metrics"]["val/loss_1x1"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_step_of_two_ranks_is_that_of_one_plain_one(place: Place, tmp_path: Path) -> None:
    """Compiled part by part, with the compiler's own backward pass, and recomputed inside the programs."""
    words = ["model.depths=[1,1,1,1]", "T=4", "views=1x1", "recipe.val_videos=2"]

    def compiled(rank: int) -> None:
        torch.compiler.set_default_backend("aot_eager")
        recompute.SMALL = 0
        fit(one_step(place, tmp_path / "two", *words, *two, "trainer.compile=true"))
        assert not counters["graph_break"]

    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    assert on_ranks(lambda rank: fit(one_step(place, tmp_path / "alone", *words)), 1) == [None]
    assert on_ranks(compiled, 2, seconds=1500) == [None, None]
    folders = [only("result.json", tmp_path / name).parent for name in ("alone", "two")]
    assert read_json(folders[1] / "result.json")["hardware"]["compile"]
    check_same_step(folders[1], folders[0], rounded=True)


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 2])
def test_a_run_begun_on_two_ranks_goes_on_on_one_or_two(then: int, place: Place, tmp_path: Path) -> None:
    """Weights and the optimizer's state after two epochs, the first of them on two ranks, are those of one process."""
    words = ["recipe.max_steps=null", "recipe.epochs=2"]
    assert on_ranks(lambda rank: fit(one_step(place, tmp_path / "alone", *words)), 1) == [None]

    def begin(rank: int) -> None:
        def die(self: EpochLog, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                raise InputError("killed")

        EpochLog.on_train_epoch_start = die  # type: ignore[method-assign]
        fit(one_step(place, tmp_path / "two", *words, "trainer.devices=2", "trainer.strategy=ddp"))

    assert on_ranks(begin, 2) == ["killed", "killed"]
    ddp = ["trainer.devices=2", "trainer.strategy=ddp"] if then == 2 else []
    config = one_step(place, tmp_path / "two", *words, *ddp)
    assert on_ranks(lambda rank: fit(config), then) == [None] * then
    alone, two = (only("result.json", tmp_path / name).parent for name in ("alone", "two"))
    check_same_step(two, alone, weights=1e-5, gradients=1e-3)


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_evaluation_is_the_same_on_any_number_of_ranks(ranks: int, alone: Path, place: Place) -> None:
    """7 videos of 5 views: 35 shared by 2 and by 3. Figures to the last digit, each view's logits."""
    (row,) = compose.rows("train", Config, [*SMALL, *place.keys, "trainer=ddp_cpu", "trainer.workers=0"])
    results = []
    for n in (1, ranks):
        trainer = replace(row.config.trainer, devices=n, strategy="ddp" if n > 1 else "auto")
        asked = EvaluateConfig(trainer=trainer, folders=row.config.folders)
        assert on_ranks(lambda rank, asked=asked: evaluate(alone / "last.ckpt", asked), n) == [None] * n
        results.append(read_json(alone / "evaluation_5x1.json")["metrics"])
        results.append(torch.load(alone / "logits_5x1.pt", weights_only=True)["logits"])
    assert results[0] == results[2]
    assert results[0]["test/top1_5x1"] == read_json(alone / "result.json")["metrics"]["test/top1_5x1"]
    assert results[1].shape == (7, 5, 12)
    torch.testing.assert_close(results[3], results[1], atol=1e-6, rtol=0)


def test_fewer_views_than_ranks_are_refused(place: Place, tmp_path: Path) -> None:
    config = one_step(place, tmp_path, "trainer.devices=2", "trainer.strategy=ddp", "recipe.val_videos=1", "views=1x1")
    for line in on_ranks(lambda rank: fit(replace(config)), 2):
        assert line == (
            "motion: 1 views of validation videos for 2 devices: each needs one; "
            "set recipe.val_videos or trainer.devices"
        )


def test_ranks_with_different_configs_stop_before_the_first_step(place: Place, tmp_path: Path) -> None:
    configs = [one_step(place, tmp_path, "trainer.devices=2", "trainer.strategy=ddp", f"t_o={t_o}") for t_o in (3, 5)]
    first, second = on_ranks(lambda rank: fit(configs[rank]), 2)
    assert first == "the processes of this run have different configs: model.t_o is 3 on rank 0, 5 on rank 1"
    assert second == "SystemExit(2)"
    assert not list(tmp_path.rglob("last.ckpt"))


def test_only_the_first_rank_asks_whether_another_process_has_the_run(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would wait for it, and it for them."""
    config = one_step(place, tmp_path)
    run = Run.of(asdict(config), tmp_path, manifest_hash(config.data))
    with run.alone():
        with pytest.raises(Busy):
            finished(config)
        monkeypatch.setenv("RANK", "1")
        assert finished(config) is None


def test_what_is_compared() -> None:
    config = {"seed": 3, "recipe": {"lr": 0.1, "augment": {"erasing": 0}}, "init": None}
    assert SameOnAllRanks(config).about == {
        "seed": "3",
        "recipe.lr": "0.1",
        "recipe.augment.erasing": "0",
        "init": "null",
    }


@pytest.mark.parametrize(("videos", "repeats", "step"), [(50, 1, 8), (50, 2, 8), (23, 3, 12), (9, 2, 4)])
def test_the_clips_of_a_step_do_not_depend_on_the_number_of_ranks(videos: int, repeats: int, step: int) -> None:
    def steps(ranks: int) -> list[list[Any]]:
        """The clips of each step, sorted."""
        shares = []
        for rank in range(ranks):
            sampler = TrainSampler(videos, seed=1, repeats=repeats, rank=rank, world_size=ranks, step=step)
            sampler.set_epoch(2)
            shares.append(list(sampler))
            assert len(shares[-1]) == len(sampler)
        share = step // ranks
        count = len(shares[0]) // share
        return [sorted(c for s in shares for c in s[i * share : (i + 1) * share]) for i in range(count)]

    expected = steps(1)
    assert len(expected) == videos * repeats // step
    assert all(len(set(clips)) == step for clips in expected)
    for ranks in (2, 4):
        assert steps(ranks) == expected


def test_each_rank_and_step_draws_apart_and_again_the_same(place: Place, tmp_path: Path) -> None:
    model = one_step(place, tmp_path).build(2)
    module = VideoModule(model, Recipe(), Normalize([0.45], [0.225]), ["a", "b"], Views(1, 1))

    class Where:
        current_epoch, global_rank = 0, 0

    def draw(epoch: int, batch: int, rank: int) -> float:
        module._trainer = Where()  # type: ignore[assignment]
        Where.current_epoch, Where.global_rank = epoch, rank
        module.on_train_batch_start({}, batch)  # type: ignore[typeddict-item]
        return float(torch.rand(()))

    places = [(epoch, batch, rank) for epoch in range(2) for batch in range(3) for rank in range(2)]
    drawn = [draw(*where) for where in places]
    assert len(set(drawn)) == len(places)
    assert [draw(*where) for where in places] == drawn
