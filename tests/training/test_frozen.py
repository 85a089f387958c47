"""What `recipe.freeze` leaves as it is: weights, statistics, also in a run that is killed, and on two ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import check_one_line, fit
from test_fit import config_of as run_of
from test_precise_bn import BN, toy  # noqa: F401  a fixture

from on_ranks import on_ranks
from running import Place, only
from same_runs import differences
from stat_video.config import Recipe
from stat_video.errors import InputError
from stat_video.training.callbacks import EpochLog
from stat_video.training.checkpoint import read_checkpoint


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("words", [("recipe.freeze=norm",), ("recipe.freeze=[conv,norm]", "recipe.precise_bn=0")])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    words: tuple[str, ...], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With precise batch norm the frozen norm keeps its statistics; averaged weights leave what is frozen."""
    words = (*words, "recipe.ema=0.5") if "recipe.precise_bn=0" in words else words
    killed = run_of(place, tmp_path / "killed", *BN, *words)
    whole = replace(killed, folders=replace(killed.folders, logs=str(tmp_path / "whole")))
    fit(whole)

    def die(self: EpochLog, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (1, 1):
            raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_end", die)
        with pytest.raises(InputError, match="killed"):
            fit(killed)
    fit(killed)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    kept = read_checkpoint(only("last.ckpt", tmp_path / "whole")).weights
    assert torch.equal(kept["norm.running_mean"], torch.zeros(8))
    assert torch.equal(kept["norm.weight"], torch.ones(8))


def test_fine_tuning_leaves_the_frozen_weights_of_the_run_before(
    place: Place, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"init={trained / 'last.ckpt'}", "recipe.freeze=[stem,blocks.0]", "recipe.ema=0.5", "seed=3"]
    result = fit(run_of(place, tmp_path, *words, "recipe.layer_decay=0.5"))
    before = read_checkpoint(trained / "last.ckpt").weights
    after = read_checkpoint(only("last.ckpt", tmp_path)).weights
    frozen = {n for n in before if n.startswith(("stem.", "blocks.0."))}
    assert {n for n in before if torch.equal(before[n], after[n])} >= frozen
    assert not torch.equal(before["head.weight"], after["head.weight"])
    without = {*frozen, *(n for n in before if n.startswith("blocks.3.sta.pool_q."))}  # which never has a gradient
    assert result["trained_parameters"] == result["parameters"] - sum(before[n].numel() for n in without)
    assert f"{result['trained_parameters']:,} of them trained" in capsys.readouterr().out
    optimizer = torch.load(only("last.ckpt", tmp_path), weights_only=True)["optimizer_states"][0]
    names = {name for group in optimizer["param_groups"] for name in group["param_names"]}
    assert not names & frozen
    assert "head.weight" in names


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("recipe.freeze=stm", "recipe.freeze=[stm]: 'stm' must be a module or parameter of the model, such as stem"),
        ("recipe.freeze=true", "recipe.freeze=True: must be a name or a list of names"),
        ("recipe.freeze=[1]", "recipe.freeze=[1]: must be a name or a list of names"),
        ("recipe.freeze=[backbone,head]", "leaves nothing to train"),
        ("recipe.layer_decay=0", "recipe.layer_decay=0.0: "),
        ("recipe.layer_decay=1.5", "recipe.layer_decay=1.5: "),
        ("+recipe.lr_scale.stm=0.1", "recipe.lr_scale.stm=0.1: 'stm' must be a module or parameter"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_work(word: str, says: str, place: Place, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_of(place, tmp_path, word)
    check_one_line(caught.value, says)


def test_one_name_is_a_list_in_any_order(place: Place, tmp_path: Path) -> None:
    assert Recipe(freeze="stem").freeze == ["stem"]
    assert Recipe(freeze=["stem", "blocks.0", "stem"]).freeze == Recipe(freeze=["blocks.0", "stem"]).freeze
    assert Recipe(freeze=None).freeze == []


@pytest.mark.slow
def test_two_ranks_train_what_is_not_frozen(place: Place, tmp_path: Path) -> None:
    """DDP waits for no gradient of what is frozen."""
    words = ["model=tsm", "recipe.freeze=[conv1,bn1,layer1]", "recipe.epochs=2", "trainer.devices=2"]
    config = run_of(place, tmp_path, *words, "trainer.strategy=ddp")
    assert on_ranks(lambda rank: fit(replace(config)), 2, 300) == [None] * 2
    kept = read_checkpoint(only("last.ckpt", tmp_path)).weights
    assert not kept["bn1.running_mean"].any()
    assert kept["layer2.0.bn1.running_mean"].any()
