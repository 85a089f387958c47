"""Batch norm's statistics over so many batches: against a slow computation, a library, a kill and other devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.nn.precise_bn import update_bn_stats
from test_fit import TOY, config_of, fit
from torch import Tensor, nn

from on_ranks import on_ranks
from running import Place, only
from stat_video import models, paths
from stat_video.config import Config, Recipe
from stat_video.data.loader import Waiting
from stat_video.data.modules import VideoDataModule
from stat_video.data.sampling import Views
from stat_video.errors import InputError
from stat_video.training.callbacks import EpochLog
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.precise_bn import set_statistics
from stat_video.training.rebuild import rebuild
from stat_video.training.session import make_data


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 5, 1), nn.BatchNorm3d(5, momentum=None)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 2 * 6 * 6, 3)).train()


def batches(number: int) -> list[Tensor]:
    return [i + torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(number)]


def slowly(model: nn.Module, clips: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean and variance of what each norm sees, of all batches; inside a batch divided by one less."""
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].detach()))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm3d)
    ]
    with torch.no_grad():
        for batch in clips:
            model(batch)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, inputs in seen.items():
        values = torch.stack([x.transpose(0, 1).flatten(1) for x in inputs]).double()  # (batches, C, places of clips)
        places = values.shape[2]
        mean = values.mean((0, 2), keepdim=True)
        inside = (values - values.mean(2, keepdim=True)).square().sum(2) / (places - 1)
        between = (values.mean(2, keepdim=True) - mean).square()[..., 0]
        assert torch.allclose((inside * (places - 1) / places + between).mean(0), (values - mean).square().mean((0, 2)))
        found[name] = mean.flatten(), (inside + between).mean(0)
    return found


def test_statistics_are_those_of_all_values_together() -> None:
    model, clips = network(), batches(7)
    set_statistics(model, clips)
    library, slow = network(), network()
    update_bn_stats(library, clips, len(clips))
    for name, (mean, variance) in slowly(slow, clips).items():
        ours, theirs = model.get_submodule(name), library.get_submodule(name)
        torch.testing.assert_close(ours.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.running_var.double(), variance, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-5)
        more = 1 / (2 * 2 * 6 * 6 - 1)  # inside a batch theirs is divided by the number of places
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=more, atol=1e-5)
        assert (ours.momentum, int(ours.num_batches_tracked)) == (slow.get_submodule(name).momentum, 0)


def test_a_norm_that_no_batch_reaches_and_one_in_evaluation_stay() -> None:
    model = network()
    model.add_module("aside", nn.Identity())
    model.aside.norm = nn.BatchNorm3d(4)
    model[1].eval()
    model.aside.norm.running_mean += 3
    set_statistics(model, batches(2))
    assert torch.equal(model.aside.norm.running_mean, torch.full((4,), 3.0))
    assert torch.equal(model.aside.norm.running_var, torch.ones(4))
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert model[4].running_mean.abs().sum() > 0


def test_if_a_batch_fails_the_statistics_are_as_they_were() -> None:
    model, before = network(), network().state_dict()
    with pytest.raises(RuntimeError):
        set_statistics(model, [*batches(2), torch.ones(2, 5, 4, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model[1].momentum, model[4].momentum) == (0.1, None)


def test_two_ranks_have_the_statistics_of_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: what the first one adds up is there when the second one adds up its own."""
    sums: list[Tensor] = []

    def all_reduce(own: Tensor) -> None:
        sums.append(own.clone())
        own.copy_(sum(sums))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    model, alone = network(), network()
    set_statistics(network(), batches(6)[0::2], ranks=2)
    set_statistics(model, batches(6)[1::2], ranks=2)
    set_statistics(alone, batches(6))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)
    assert len(sums) == 2


BN = ("model=toy", "recipe.precise_bn=2", "recipe.epochs=3", "recipe.val_every=2", "trainer.save_steps=1")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model of test_fit.py with a batch norm."""
    own = tmp_path / "own"
    (own / "models").mkdir(parents=True)
    (own / "conf" / "model").mkdir(parents=True)
    normed = "3, stride=2)\n        self.norm = nn.BatchNorm3d(config.width)"
    text = TOY.replace("3, stride=2)", normed).replace("self.conv(clip).relu()", "self.norm(self.conv(clip)).relu()")
    (own / "models" / "toy.py").write_text(text)
    (own / "conf" / "model" / "toy.yaml").write_text("# @package _global_\nclip: {T: 4, crop: 16}\n")
    monkeypatch.setattr(paths, "OWN", [own])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(own / "models")])
    yield
    sys.modules.pop("stat_video.models.toy", None)


def data_of(config: Config) -> VideoDataModule:
    return make_data(config, Views(1, 1), config.recipe.batch_size)


@pytest.mark.usefixtures("toy")
def test_what_is_validated_and_kept_has_them_and_a_killed_run_too(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first two batches of the epoch after; the same if the run was killed before, and on a resumed epoch."""
    killed = config_of(place, tmp_path / "killed", *BN)
    whole = fit(replace(killed, folders=replace(killed.folders, logs=str(tmp_path / "whole"))))

    def die(self: EpochLog, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (2, 1):
            raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_end", die)
        with pytest.raises(InputError, match="killed"):
            fit(killed)
    assert fit(killed)["metrics"] == whole["metrics"]
    one, two = (read_checkpoint(only("last.ckpt", tmp_path / name)).weights for name in ("whole", "killed"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())

    model, config, _ = rebuild(only("last.ckpt", tmp_path / "whole"))
    data = data_of(config)
    clips = [
        data.normalize(data.transfer_batch_to_device(b, torch.device("cpu"), 0)["video"])
        for b in data.first_batches(3, 2)
    ]
    assert len(clips) == 2
    expected = slowly(model.train(), clips)
    kept = dict(read_checkpoint(only("last.ckpt", tmp_path / "whole")).weights)
    assert len(expected) == 1
    for name, (mean, variance) in expected.items():
        torch.testing.assert_close(kept[f"{name}.running_mean"].double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[f"{name}.running_var"].double(), variance, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("toy")
def test_several_devices_share_the_batches_of_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(place, tmp_path, *BN, "recipe.batch_size=8")

    def videos(rank: int, ranks: int, passes: int) -> list[list[int]]:
        data = make_data(config, Views(1, 1), 2)
        monkeypatch.setattr(data, "_ranks", lambda: {"rank": rank, "world_size": ranks})
        data._waiting = Waiting()  # that of several ranks needs their group
        data.start = (0, 8)  # of a resumed run
        parts: Any = data.first_batches(0, passes).batch_sampler
        return [[request.video for request in part] for part in parts]

    alone = videos(0, 1, 8)
    assert sorted([*videos(0, 2, 4), *videos(1, 2, 4)]) == sorted(alone)
    assert len({i for batch in alone for i in batch}) == 16
    assert len(videos(0, 1, 1000)) == 12  # an epoch of 24 clips


@pytest.mark.slow
def test_a_run_on_two_ranks_has_the_statistics_of_one_on_one(place: Place, tmp_path: Path) -> None:
    """Of four batches on one rank, and of three, which are two of each of two: the same ones, of four clips each."""
    words = ["model=tsm", "recipe.max_steps=1", "recipe.lr=1e-6", "trainer.batch_per_device=4"]
    kept = []
    for ranks, number in ((1, 4), (2, 3)):
        logs = tmp_path / str(ranks)
        keys = [f"recipe.precise_bn={number}", f"trainer.devices={ranks}"]
        config = config_of(place, logs, *words, *keys, *(["trainer.strategy=ddp"] if ranks > 1 else []))
        assert on_ranks(lambda rank, config=config: fit(replace(config)), ranks) == [None] * ranks
        kept.append(read_checkpoint(only("last.ckpt", logs)).weights)
    statistics = [name for name in kept[0] if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 20
    for name in statistics:
        torch.testing.assert_close(
            kept[0][name], kept[1][name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_averaged_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"recipe\.precise_bn=200: must be 0 with recipe\.ema=0\.9"):
        Recipe(precise_bn=200, ema=0.9)
