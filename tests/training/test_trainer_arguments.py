"""Arguments of Lightning's Trainer, debug runs, early stopping and best weights, also after a kill."""

from __future__ import annotations

import csv
import inspect
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from running import SMALL, Place, only, read_json, script
from stat_video import compose, paths, trainer_arguments
from stat_video.config import Config, EvaluateConfig, TrainerKeys
from stat_video.cost.budget import Estimate
from stat_video.cost.config import Hardware
from stat_video.errors import InputError
from stat_video.launch.script import checkpoint_of
from stat_video.models.base import VideoModel
from stat_video.runs.identity import MORE, definition
from stat_video.runs.results import read_results
from stat_video.training import testing
from stat_video.training.callbacks import EpochLog
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.fit import fit, identify
from stat_video.training.module import VideoModule

FEW = ("data.motion.train_videos=24", "recipe.warmup_epochs=0", "trainer=cpu", "trainer.workers=0", "views=1x1")


@pytest.fixture
def config(place: Place, tmp_path: Path, mine: Path) -> Any:
    """What words make of a small run of the model `mine`: three steps an epoch."""

    def make(*words: str, logs: str = "logs") -> Config:
        keys = [*SMALL, *FEW, *place.keys_with(tmp_path / logs), "model=mine", "trainer.workers=0"]
        (row,) = compose.rows("train", Config, [*keys, *words])
        return row.config

    return make


def die_at(monkeypatch: pytest.MonkeyPatch, config: Config, epoch: int, batch: int) -> None:
    """Run a config until it is killed after a batch, before the checkpoint there."""

    def die(self: EpochLog, trainer: Any, module: Any, outputs: Any, b: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (epoch, batch):
            raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_end", die)
        with pytest.raises(InputError, match="killed"):
            fit(config)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = read_checkpoint(one).weights, read_checkpoint(other).weights
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# ---------------------------------------------------------------------------------------------------- which are taken


def test_every_argument_of_the_trainer_is_known() -> None:
    assert {*trainer_arguments.PASSED, *trainer_arguments.INSTEAD} == {*inspect.signature(L.Trainer).parameters}
    assert not trainer_arguments.PASSED.keys() & trainer_arguments.INSTEAD.keys()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"limit_train_batchs": 2}, "(did you mean limit_train_batches?)"),
        ({"max_epochs": 3}, "trainer.more.max_epochs: use recipe.epochs=N"),
        ({"limit_test_batches": 3}, "recipe.val_videos=N"),
        ({"limit_train_batches": 0}, "trainer.more.limit_train_batches=0: must be a number of steps"),
        ({"limit_train_batches": 1.5}, "must be a number of steps"),
        ({"limit_train_batches": True}, "must be a number of steps"),
        ({"profiler": "cpu"}, "trainer.more.profiler=cpu: must be one of simple, advanced, pytorch"),
        ({"detect_anomaly": 1}, "trainer.more.detect_anomaly=1: must be true or false"),
        ({"gpus": 2}, "use trainer.devices=N"),
    ],
)
def test_what_is_wrong_says_what_must_be(more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainerKeys(more=more)
    assert says in caught.value.line


@pytest.mark.parametrize(("name", "says"), [("fsdp", "does not fit"), ("deepspeed_stage_2", "does not fit"),
                                            ("ddp_spawn", "programs"), ("ddp_find_unused_parameters_true", "gradient"),
                                            ("horovod", "must be auto or ddp")])  # fmt: skip
def test_a_strategy_is_refused_with_a_reason(name: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainerKeys(strategy=name)
    assert caught.value.line.startswith(f"trainer.strategy={name}: ")
    assert says in caught.value.line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainer.max_epochs=3"], "trainer.max_epochs: use recipe.epochs=N"),
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run: use debug=fast_dev_run"),
        (["trainer.min_epochs=1"], "needs what stops early, such as callbacks=early_stopping"),
        (["trainer.min_epochs=9", "callbacks=early_stopping"], "must be at most recipe.epochs=2"),
        (["logger=csv"], "beside W&B: loggers=csv"),
    ],
)
def test_words_of_other_projects_name_ours(config: Any, words: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        config(*words)
    assert says in caught.value.line


def test_an_argument_is_part_of_the_run_if_it_may_change_the_result(config: Any) -> None:
    plain, free = config(), config("trainer.profiler=simple", "trainer.more.log_every_n_steps=1")
    limited = config("trainer.more={limit_train_batches: 2}")
    assert config("trainer.limit_train_batches=2") == limited
    assert free.trainer.more == {"profiler": "simple", "log_every_n_steps": 1}
    assert identify(free)[2] == identify(plain)[2] != identify(limited)[2]
    assert MORE not in definition(asdict(free))
    assert definition(asdict(limited))[MORE] == {"limit_train_batches": 2}


def test_it_is_of_training_alone() -> None:
    with pytest.raises(InputError, match=r"trainer.more.profiler=simple: is of training alone"):
        EvaluateConfig(trainer=TrainerKeys(more={"profiler": "simple"}))


# ----------------------------------------------------------------------------------------------------- what they do


@pytest.mark.parametrize("limit", ["2", "0.7"])
def test_a_limited_epoch_counts_steps_whatever_the_passes_and_goes_on_after_a_kill(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Two steps of eight clips in passes of four, of three in an epoch."""
    words = [f"trainer.limit_train_batches={limit}", "trainer.batch_per_device=4", "trainer.save_steps=1"]
    words += ["trainer.num_sanity_val_steps=1"]
    killed = config(*words, logs="killed")
    die_at(monkeypatch, killed, 1, 2)
    place = read_checkpoint(only("last.ckpt", tmp_path / "killed")).place
    assert place == {"epoch": 1, "clips": 8}
    resumed, whole = fit(killed), fit(config(*words, logs="whole"))
    assert resumed.content["steps"] == whole.content["steps"] == 4
    assert resumed.metrics == whole.metrics
    assert same_weights(resumed.checkpoint, whole.checkpoint)
    assert Estimate(killed, Hardware()).clips == 4 * 8


def test_a_profiler_leaves_the_clock_of_the_loader_as_it_is(config: Any) -> None:
    result = fit(config("trainer.profiler=simple", "debug=two_steps", "trainer.enable_model_summary=true"))
    report = (result.folder / "fit-profile.txt").read_text()
    assert "run_training_batch" in report
    rows = list(csv.DictReader((result.folder / "epochs.csv").open()))
    assert float(rows[0]["train/data_wait"]) > 0
    assert result.name == "debug"
    assert read_results(result.folder.parents[1]).results == []  # of no report


@pytest.mark.parametrize("file", sorted((paths.CONF / "debug").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_debug_run_is_told_from_a_real_one(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert (content["name"], content["debug"], content["fresh"]) == ("debug", file.stem, True)
    assert content["logger"] == {"mode": "off"}


def test_training_on_a_part_takes_each_class_its_share(config: Any) -> None:
    result = fit(config("recipe.train_videos=12", "recipe.batch_size=4", "recipe.max_steps=3", "recipe.val_videos=6"))
    assert result.content["videos"] == {"train": 12, "val": 6}
    assert result.content["steps"] == 3


# --------------------------------------------------------------------------------------- the best, and stopping early

WATCH = (
    "callbacks=[best,early_stopping]", "callbacks.best.monitor=val/loss_1x1", "callbacks.early_stopping.mode=min",
    "callbacks.early_stopping.monitor=val/loss_1x1", "callbacks.early_stopping.patience=2", "recipe.epochs=9",
    "callbacks.early_stopping.min_delta=100", "trainer.save_steps=1", "recipe.ema=0.9",
)  # fmt: skip


@pytest.mark.parametrize(  # of a loss that falls: the best epoch is the first, and the last
    ("mode", "least", "epochs"), [("max", (), 3), ("min", (), 3), ("max", ("trainer.min_epochs=4",), 4)]
)
def test_a_run_that_is_stopped_early_ends_alike_if_it_was_killed(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, least: tuple[str, ...], epochs: int
) -> None:
    words = [*WATCH, f"callbacks.best.mode={mode}", *least]
    killed = config(*words, logs="killed")
    die_at(monkeypatch, killed, epochs - 1, 1)
    with monkeypatch.context() as patch:  # once more, in the test, when the callback has asked to stop

        def die(self: VideoModule) -> None:
            raise InputError("killed")

        patch.setattr(VideoModule, "on_test_epoch_start", die)
        with pytest.raises(InputError, match="killed"):
            fit(killed)
    resumed, whole = fit(killed), fit(config(*words, logs="whole"))
    assert (whole.content["epochs"], whole.content["steps"]) == (epochs, 3 * epochs)
    assert (resumed.content["epochs"], resumed.content["steps"]) == (epochs, 3 * epochs)
    assert resumed.metrics == whole.metrics
    assert same_weights(resumed.checkpoint, whole.checkpoint)
    losses = [float(row["val/loss_1x1"]) for row in csv.DictReader((whole.folder / "epochs.csv").open())]
    best = (max if mode == "max" else min)(losses)
    assert resumed.content["best"] == whole.content["best"]
    assert whole.content["best"]["epoch"] == losses.index(best) + 1
    assert whole.content["best"]["value"] == pytest.approx(best, rel=1e-5)
    assert same_weights(resumed.folder / "best.ckpt", whole.folder / "best.ckpt")
    assert same_weights(whole.folder / "best.ckpt", whole.checkpoint) == (losses.index(best) == epochs - 1)
    assert "optimizer_states" not in torch.load(whole.folder / "best.ckpt", weights_only=True)


def test_the_best_weights_are_those_that_were_validated_and_their_test_is_no_other(config: Any, tmp_path: Path) -> None:
    """With averaged weights, of which the validation is."""
    result = fit(config("callbacks=best", "callbacks.best.monitor=val/loss_1x1", "recipe.ema=0.9"))
    logits = (result.folder / "logits_1x1.pt").read_bytes()
    best = result.content["best"]
    assert best["epoch"] == 1
    asked = EvaluateConfig(trainer=TrainerKeys(accelerator="cpu", devices=1, workers=0))
    asked.folders.motion = None
    asked.folders.built_in = str(config().folders.built_in)
    tested = testing.evaluate(result.folder / "best.ckpt", asked)
    rows = list(csv.DictReader((result.folder / "epochs.csv").open()))
    assert tested.top1 == pytest.approx(float(rows[0]["val/top1_1x1"]), abs=1e-3)
    assert tested.content["best"] == best
    assert (result.folder / "logits_1x1.pt").read_bytes() == logits
    assert not (result.folder / "evaluation_1x1.json").exists()
    assert read_json(result.folder / "evaluation_best_1x1.json")["best"] == best
    assert "best" not in testing.evaluate(result.checkpoint, asked).content


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=null"],
         "callbacks.early_stopping.patience=None: must be 1 or more"),
        (["callbacks=best", "recipe.val_every=5"], "callbacks.best: this run ends before its first validation"),
        (["callbacks=early_stopping", "recipe.max_steps=1"], "this run ends before its first validation"),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/acc"],
         "callbacks.early_stopping.monitor=val/acc: must be one of val/loss_1x1, val/top1_1x1"),
        (["callbacks=best", "callbacks.best.monitor=train/loss_epoch"], "callbacks.best.monitor=train/loss_epoch: mu"),
        (["callbacks=best", "callbacks.best.mode=up"], "mode=up: must be max or min"),
        (["callbacks=lr_monitor"], "callbacks.lr_monitor: writes to loggers, of which there is none"),
        (["callbacks=best", "callbacks.two={_target_: stat_video.training.best.Best, monitor: val/loss_1x1}"],
         "one of stat_video.training.best.Best at most"),
        (["loggers=tensorboard"], "tensorboard: needs a package that is not installed: pip install tensorboard"),
        (["loggers=mlflow"], "mlflow: needs a package that is not installed: pip install mlflow"),
        (["callbacks.early_stopping.patience=3"], "callbacks.early_stopping: needs callbacks=early_stopping, or"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_one_line_before_the_run(config: Any, tmp_path: Path, words: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        fit(config(*words))
    assert says in caught.value.line
    assert not list((tmp_path / "logs").rglob("config.json"))


def test_an_anomaly_is_one_line_after_pytorchs_trace(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Any, clip: torch.Tensor, target: torch.Tensor, criterion: Any) -> torch.Tensor:
        return (0 * self(clip).sum()).sqrt()  # a gradient of 0 / 0

    made = config("debug=detect_anomaly")
    monkeypatch.setattr(VideoModel, "loss", loss)
    warnings.simplefilter("ignore")  # PyTorch's, which has the trace; pytest restores the filters
    with pytest.raises(InputError, match=r"detect_anomaly=true: Function '\w+' returned nan"):
        fit(made)


def test_the_folder_of_a_run_is_its_last_checkpoint(trained: Path, config: Any) -> None:
    of_folder = identify(config("model=stat", f"init={trained}"))
    of_file = identify(config("model=stat", f"init={trained / 'last.ckpt'}"))
    assert of_folder[0] == of_file[0]
    assert of_folder[2] == of_file[2]
    assert checkpoint_of("ckpt", str(trained)) == trained / "last.ckpt"


def test_callbacks_are_checked_in_all_rows_before_one_runs(place: Place) -> None:
    words = ["-m", "callbacks=best", "callbacks.best.monitor=val/top1_1x1,val/foo", *SMALL, *place.keys, "plan=true"]
    done = script("train", *words)
    assert done.returncode == 2
    assert "val/foo: must be one of val/loss_1x1" in done.stderr
    assert "1 runs, 1 not done" in done.stdout
