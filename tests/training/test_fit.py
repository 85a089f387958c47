"""One run from its config to its result: found again, refused, begun from other weights, and of any model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from running import SMALL, Place, only, read_json
from stat_video import compose, models, paths
from stat_video.config import Config, EvaluateConfig
from stat_video.cost.plan import plan
from stat_video.data.lists import manifest_hash
from stat_video.data.transforms import Normalize
from stat_video.errors import InputError
from stat_video.models.parts import recompute
from stat_video.models.parts.backend import AUTO_WINDOW, BACKEND
from stat_video.runs.result import Result
from stat_video.runs.run import Run
from stat_video.training import fit as fit_module
from stat_video.training import testing
from stat_video.training.callbacks import EpochLog
from stat_video.training.checkpoint import read_checkpoint
from stat_video.training.fit import identify
from stat_video.training.module import VideoModule

TOY = '''
from dataclasses import dataclass
from torch import nn
from stat_video.models.base import ModelConfig, VideoModel

@dataclass
class Config(ModelConfig):
    name: str = "toy"
    width: int = 8
    rate: float = 0.0

    def build(self, clip, num_classes):
        return Toy(self, num_classes)

class Toy(VideoModel):
    """The mean of a convolution."""

    lr_scale = {"head": 5.0}
    no_decay = ("conv.weight",)

    def __init__(self, config, num_classes):
        super().__init__()
        self.conv = nn.Conv3d(3, config.width, 3, stride=2)
        self.dropout = nn.Dropout(config.rate)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, clip):
        return self.head(self.dropout(self.conv(clip).relu().mean((2, 3, 4))))
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model of one's own: a file and its YAML in a folder that STAT_VIDEO_OWN would name."""
    own = tmp_path / "own"
    (own / "models").mkdir(parents=True)
    (own / "conf" / "model").mkdir(parents=True)
    (own / "models" / "toy.py").write_text(TOY)
    (own / "conf" / "model" / "toy.yaml").write_text("# @package _global_\nclip: {T: 4, crop: 16}\n")
    monkeypatch.setattr(paths, "OWN", [own])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(own / "models")])
    yield
    sys.modules.pop("stat_video.models.toy", None)


def config_of(place: Place, logs: Path, *words: str) -> Config:
    """A run of three steps of eight clips."""
    few = ["data.motion.train_videos=24", "data.motion.val_videos=12", "recipe.epochs=1", "recipe.warmup_epochs=0"]
    keys = [*SMALL, *place.keys_with(logs), "trainer=cpu", "trainer.workers=0", "views=1x1", *few]
    (row,) = compose.rows("train", Config, [*keys, *words])
    return row.config


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """As a file holds it: a tuple is a list there."""
    return json.loads(json.dumps(content))


def told(result: Result) -> dict[str, Any]:
    return {**plain(dict(result.content)), "folder": str(result.folder)}


def fit(config: Config) -> dict[str, Any]:
    return told(fit_module.fit(config))


def finished(config: Config) -> dict[str, Any] | None:
    result = fit_module.finished(config)
    return result and told(result)


def evaluate(path: Path, asked: EvaluateConfig) -> dict[str, Any]:
    return told(testing.evaluate(path, asked))


def weights_of(logs: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(only("last.ckpt", logs)).weights


def check_one_line(error: InputError, *parts: str) -> None:
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


# ------------------------------------------------------------------------------------------------- found again


def test_what_a_config_is_identified_by(place: Place, tmp_path: Path) -> None:
    config = config_of(place, tmp_path)
    same, content, run, manifest = identify(config)
    assert same == config
    assert content == asdict(config)
    assert manifest == manifest_hash(config.data)
    assert run == Run.of(content, tmp_path, manifest)
    assert not list(tmp_path.iterdir())  # nothing is begun


@pytest.mark.usefixtures("toy")
def test_a_finished_run_is_not_run_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(place, tmp_path / "logs", "model=toy")
    assert finished(config) is None
    result = plain(fit(config))
    file = only("result.json", tmp_path / "logs")
    assert result == {**read_json(file), "folder": str(file.parent)}
    assert result["model"] == "toy"
    assert result["steps"] == 3
    assert result["config"] == plain(asdict(config))
    written = file.stat().st_mtime_ns
    assert finished(config) == fit(config) == result
    renamed = replace(config, name="another table")  # a row of several tables is run once
    assert finished(renamed) == {**result, "name": "another table"}
    assert file.stat().st_mtime_ns == written
    fresh = replace(config, fresh=True)
    assert finished(fresh) is None
    again = fit(fresh)
    assert again["id"] == result["id"]
    assert again["metrics"] == result["metrics"]
    assert sorted(p.name.removeprefix(file.parent.name) for p in file.parents[1].iterdir()) == ["", ".old-1"]
    first, second = (read_checkpoint(p).weights for p in (tmp_path / "logs").rglob("last.ckpt"))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.usefixtures("toy")
def test_a_run_whose_videos_have_changed_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(place, tmp_path / "logs", "model=toy")
    monkeypatch.setattr(fit_module, "manifest_hash", lambda data: "lists.one")
    result = plain(fit(config))
    assert result["manifest"] == "lists.one"
    monkeypatch.setattr(fit_module, "manifest_hash", lambda data: "lists.two")
    for look in (fit, finished):
        with pytest.raises(InputError) as caught:
            look(config)
        check_one_line(caught.value, "data set has changed", "from lists.one to lists.two", "fresh=true")
    monkeypatch.setattr(fit_module, "manifest_hash", lambda data: "lists")  # not verified: taken for the same
    assert finished(config) == result


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["recipe.optimizer=sgd", "recipe.nesterov=true", "recipe.lr=0.01"],
        ["recipe.augment.randaugment_ops=4", "recipe.augment.device=true"],
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Bit for bit, by AdamW, by SGD with its momentum and steps of the learning rate, with RandAugment by batch."""
    steps = ["recipe.schedule=steps", "recipe.milestones=[1,2]", "recipe.epochs=3", "model.rate=0.5"]
    steps += ["trainer.save_steps=1"]
    killed = config_of(place, tmp_path / "killed", "model=toy", *steps, *words)

    def die(self: EpochLog, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (1, 2):
            raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_end", die)
        with pytest.raises(InputError, match="killed"):
            fit(killed)
    place_of = read_checkpoint(only("last.ckpt", tmp_path / "killed")).place
    assert place_of == {"epoch": 1, "clips": 16}  # inside an epoch
    resumed = fit(killed)
    whole = fit(config_of(place, tmp_path / "whole", "model=toy", *steps, *words))
    assert resumed["steps"] == whole["steps"] == 9
    assert resumed["metrics"] == whole["metrics"]
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "killed").items())


# ------------------------------------------------------------------------------------------------------ late runs

WSD = ("model=toy", "recipe.schedule=wsd", "recipe.epochs=2", "recipe.min_lr=0", "trainer.save_steps=1")
LATE = (*WSD, "recipe.hold_until=100", "recipe.hold_epochs=2")


@pytest.mark.usefixtures("toy")
def test_a_late_run_holds_its_rate_and_goes_on_alike_if_it_was_killed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of three steps become four, of whose twelve steps the last 1.5 fall, as of six; to the bit."""
    rates: list[float] = []
    step = VideoModule.optimizer_step

    def note(self: VideoModule, *arguments: Any, **more: Any) -> Any:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, *arguments, **more)

    killed = config_of(place, tmp_path / "killed", *LATE)

    def die(self: EpochLog, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (2, 2):  # in an epoch that the recipe alone would not have
            raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_end", die)
        with pytest.raises(InputError, match="killed"):
            fit(killed)
    assert read_checkpoint(only("last.ckpt", tmp_path / "killed")).place == {"epoch": 2, "clips": 16}
    resumed = fit(killed)
    said = capsys.readouterr().out
    assert said.count("below recipe.hold_until=100") == 2
    assert "for an epoch more, 3 epochs in all" in said
    assert "for an epoch more, 4 epochs in all" in said
    with monkeypatch.context() as patch:
        patch.setattr(VideoModule, "optimizer_step", note)
        whole = fit(config_of(place, tmp_path / "whole", *LATE))
    peak = killed.recipe.scaled_lr
    assert rates[:11] == pytest.approx([peak] * 11)
    assert rates[11:] == pytest.approx([peak / 1.5])
    assert (whole["steps"], whole["epochs"]) == (resumed["steps"], resumed["epochs"]) == (12, 4)
    assert resumed["metrics"] == whole["metrics"]
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "killed").items())
    only("result.json", tmp_path / "killed").unlink()  # as if it had been killed in the test: nothing is left to train
    again = fit(killed)
    assert (again["steps"], again["epochs"], again["metrics"]) == (12, 4, whole["metrics"])
    assert fit(config_of(place, tmp_path / "short", *LATE, "recipe.max_steps=1"))["steps"] == 1  # no validation at all


@pytest.mark.usefixtures("toy")
def test_a_run_that_is_not_late_is_the_same_without_the_rule(place: Place, tmp_path: Path) -> None:
    without = fit(config_of(place, tmp_path / "without", *WSD))
    never = fit(config_of(place, tmp_path / "never", *WSD, "recipe.hold_until=0", "recipe.hold_epochs=2"))
    assert never["id"] == without["id"]
    assert never["metrics"] == without["metrics"]
    expected = weights_of(tmp_path / "without")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(tmp_path / "never").items())
    asked = config_of(place, tmp_path / "without", *WSD, "recipe.hold_until=0", "recipe.hold_epochs=2")
    assert finished(asked) == plain(without)  # what was run before the rule was asked for counts
    assert plan(asked).state == "done"


@pytest.mark.usefixtures("toy")
def test_a_run_with_other_epochs_than_the_rule_gives_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished or only begun; without its validations, nobody knows."""
    without = config_of(place, tmp_path / "logs", *WSD)
    late = config_of(place, tmp_path / "logs", *LATE)
    on_time = config_of(place, tmp_path / "logs", *WSD, "recipe.hold_until=0", "recipe.hold_epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(VideoModule, "on_test_epoch_start", lambda self: (_ for _ in ()).throw(InputError("killed")))
        with pytest.raises(InputError, match="killed"):
            fit(without)
    with pytest.raises(InputError) as caught:
        fit(late)
    check_one_line(caught.value, "recipe.hold_until=None", "recipe.hold_until=100", "fresh=true")
    fit(without)
    for look in (fit, finished):
        with pytest.raises(InputError) as caught:
            look(late)
        check_one_line(caught.value, "recipe.hold_until=None", "recipe.hold_until=100", "fresh=true")
    assert plan(late).state == "done with another hold_until"
    assert fit(replace(late, fresh=True))["epochs"] == 4
    assert finished(late) is not None
    with pytest.raises(InputError):
        finished(without)
    only("epochs.csv", Path(fit(replace(without, fresh=True))["folder"])).unlink()
    with pytest.raises(InputError):
        finished(on_time)


# ------------------------------------------------------------------------------------------------ first weights

STILL = ("recipe.lr=1e-12", "recipe.weight_decay=0", "recipe.max_steps=1")  # what is trained stays as it was


def foreign(config: Config, classes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return config.build(classes).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
        lambda state: {"model_state": {**state, "another.weight": torch.ones(3)}},
    ],
    ids=["plain", "of DataParallel", "with more in it"],
)
def test_a_run_begins_from_weights_that_this_project_did_not_write(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrap: Any
) -> None:
    file = tmp_path / "foreign.pyth"
    config = config_of(place, tmp_path / "logs", *STILL, f"init={file}")
    state = foreign(config, 12)
    torch.save(wrap(state), file)
    fit(config)
    trained = weights_of(tmp_path / "logs")
    assert trained.keys() == state.keys()
    for name, weight in trained.items():
        torch.testing.assert_close(weight, state[name], rtol=0, atol=1e-9, msg=name)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init: ")]
    more = "another.weight" in str(wrap(state))
    n = len(state)
    assert "with names of" in said[0]
    assert said[1].startswith(f"init: {n} of {n} tensors taken from {n + more} in the file, ")
    assert said[2:] == (["init: left in the file: another.weight"] if more else [])


def test_a_new_classifier_is_drawn_and_the_rest_taken(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "foreign.pt"
    config = config_of(place, tmp_path / "logs", *STILL, f"init={file}", "new_classifier=true")
    state = foreign(config, 7)
    torch.save(state, file)
    with pytest.raises(InputError) as caught:
        fit(replace(config, new_classifier=False))
    check_one_line(caught.value, str(file), "new_classifier=true")
    assert not list(tmp_path.rglob("config.json"))
    fit(config)
    for name, weight in weights_of(tmp_path / "logs").items():
        if name.startswith("head."):
            assert len(weight) == 12
        else:
            torch.testing.assert_close(weight, state[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, "it holds 0% of the model's numbers"),
        ({"head.weight": torch.ones(3, 3)}, "it holds 0% of the model's numbers"),
        ({"epoch": 3}, "no weights in it"),
        ("text", "not a readable checkpoint"),
        (None, "there is no such checkpoint"),
    ],
    ids=["another model's", "a classifier alone", "no weights", "no checkpoint", "no file"],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_begun(
    place: Place, tmp_path: Path, content: Any, says: str
) -> None:
    file = tmp_path / "foreign.pt"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(InputError) as caught:
        fit(config_of(place, tmp_path / "logs", f"init={file}"))
    check_one_line(caught.value, str(file), says)
    assert not list(tmp_path.rglob("*.json"))


def test_init_names_the_run_of_another_data_set(place: Place, trained: Path, tmp_path: Path) -> None:
    """`trained` is of motion, in the session's logs; nothing is run here."""
    source = read_json(trained / "result.json")
    (row,) = compose.rows("train", Config, [*SMALL, *place.keys, "recipe.epochs=1", "init='trained_on=motion'"])
    config, content, run, _ = identify(row.config)
    assert config.init == str(trained / "last.ckpt")
    assert content["init"] == f"trained_on=motion/{source['id']}"
    assert run.id != identify(replace(row.config, init=None))[2].id
    (row,) = compose.rows("train", Config, [*SMALL, *place.keys, "seed=7", "init='trained_on=motion'"])
    with pytest.raises(InputError) as caught:
        identify(row.config)
    check_one_line(caught.value, "init=trained_on=motion", "seed=7", "init=FILE")


# -------------------------------------------------------------------------------------- recomputing and any model


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_gradient_checkpointing_changes_no_weight(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """Bit for bit, with what is drawn inside the blocks and the head."""
    words = ["model.stochastic_depth=0.3", "model.head_dropout=0.5", f"recipe.ema={ema}"]
    results = [fit(config_of(place, tmp_path / "kept", *words))]
    calls = []
    checkpoint = recompute.checkpoint

    def counted(*inputs: Any, **how: Any) -> Any:
        calls.append(how)
        return checkpoint(*inputs, **how)

    monkeypatch.setattr(recompute, "checkpoint", counted)
    config = config_of(place, tmp_path / "recomputed", *words, "trainer.gradient_checkpointing=true")
    results.append(fit(config))
    units = len(list(config.build(12).units()))
    assert len([k for k in calls if "preserve_rng_state" not in k]) == 3 * units  # each of them at each of three steps
    kept, recomputed = weights_of(tmp_path / "kept"), weights_of(tmp_path / "recomputed")
    assert kept.keys() == recomputed.keys()
    assert [name for name in kept if not torch.equal(kept[name], recomputed[name])] == []
    assert results[0]["id"] == results[1]["id"]  # the same run, on a smaller machine
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.mark.usefixtures("toy")
def test_an_operator_that_is_not_deterministic_is_one_line(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of a step it is that PyTorch refuses; on a CPU it refuses `put_`."""
    right = VideoModule.training_step

    def putting(self: VideoModule, *batch: Any) -> Any:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return right(self, *batch)

    monkeypatch.setattr(VideoModule, "training_step", putting)
    try:
        with pytest.raises(InputError) as caught:
            fit(config_of(place, tmp_path / "logs", "model=toy", "trainer.deterministic=true"))
    finally:
        torch.use_deterministic_algorithms(False)
    check_one_line(caught.value, "trainer.deterministic=true: put_", "false")


@pytest.mark.usefixtures("toy")
def test_memory_that_runs_out_is_one_line(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, where the run then goes on with fewer clips, and in a test."""

    def full(self: VideoModule, *batch: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of ...")

    words = ["model=toy", "trainer.batch_per_device=4"]
    config = config_of(place, tmp_path / "logs", *words)
    with monkeypatch.context() as during:
        during.setattr(VideoModule, "training_step", full)
        with pytest.raises(InputError) as caught:
            fit(config)
    check_one_line(caught.value, "trainer.batch_per_device=4: the memory of the device has run out", "such as 2, ")
    result = fit(config_of(place, tmp_path / "logs", "model=toy", "trainer.batch_per_device=1"))
    assert result["batch"]["passes"] == 8
    monkeypatch.setattr(VideoModule, "test_step", full)
    asked = EvaluateConfig(trainer=replace(config.trainer, batch_per_device=1), folders=config.folders)
    with pytest.raises(InputError) as caught:
        evaluate(Path(result["folder"]) / "last.ckpt", asked)
    check_one_line(caught.value, "trainer.batch_per_device=1: the memory of the device has run out; trainer.recompute")


@pytest.mark.usefixtures("toy")
def test_results_say_how_they_were_computed(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(BACKEND, "recompute", True)  # put back afterwards
    config = config_of(place, tmp_path / "logs", "model=toy", "trainer.recompute=false")
    result = fit(config)
    ways = {"attention": "flash or math", "depthwise": "pytorch", "window": AUTO_WINDOW["cpu"]}
    device = {"device": "cpu", "devices": 1, "threads": 1, "precision": "32-true"}
    assert result["hardware"] == {**device, **ways, "recompute": False, "compile": False}
    assert not BACKEND.recompute
    asked = EvaluateConfig(trainer=config.trainer, folders=config.folders)
    assert evaluate(Path(result["folder"]) / "last.ckpt", asked)["hardware"] == {**device, **ways}


@pytest.mark.usefixtures("toy")
def test_gradient_checkpointing_of_a_model_without_units_is_refused(place: Place, tmp_path: Path) -> None:
    config = config_of(place, tmp_path / "logs", "model=toy", "trainer.gradient_checkpointing=true")
    with pytest.raises(InputError) as caught:
        fit(config)
    check_one_line(caught.value, "trainer.gradient_checkpointing=true: model=toy has no units")
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.usefixtures("toy")
def test_operators_left_to_the_device_change_the_clips_that_the_data_workers_would(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model is given is the same to 1 of 255, at nearly all pixels; and it is another run."""
    given: list[torch.Tensor] = []
    normalize = Normalize.forward
    monkeypatch.setattr(Normalize, "forward", lambda self, video: given.append(video) or normalize(self, video))
    words = ["model=toy", "recipe.repeats=2", "recipe.augment.randaugment_ops=4", "recipe.augment.color_jitter=0.4"]
    ids, batches = [], []
    for device in ("false", "true"):
        config = config_of(place, tmp_path, *words, f"recipe.augment.device={device}", "trainer.batch_per_device=4")
        ids.append(fit(config)["id"])
        batches.append([video.int() for video in given])
        given.clear()
    assert ids[0] != ids[1]
    assert len(batches[0]) == len(batches[1]) > 6  # six passes of training, then validation and test
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(*batches, strict=True)])
    assert (apart > 0).float().mean() < 2e-3
    assert (apart > 1).float().mean() < 2e-4


@pytest.mark.usefixtures("toy")
def test_a_model_of_ones_own_learns_and_is_tested_from_its_checkpoint(place: Place, tmp_path: Path) -> None:
    words = [
        "model=toy",
        "crop=16",
        "model.width=16",
        "recipe.epochs=12",
        "recipe.lr=0.02",
        "views=5x1",
        "recipe.val_every=12",
    ]
    config = config_of(place, tmp_path / "logs", *words)
    result = fit(config)
    folder = only("result.json", tmp_path / "logs").parent
    assert folder.name == f"tiny-motion-T4-toy-width16-seed0-{result['id']}"
    rows = (folder / "epochs.csv").read_text().splitlines()
    at = rows[0].split(",").index("train/loss_epoch")
    losses = [float(row.split(",")[at]) for row in rows[1:]]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.1
    assert result["parameters"] == 16 * 3 * 27 + 16 + 12 * 16 + 12
    # (4, 16, 16) -> (1, 7, 7) of 16 x 3 x 27, and the classifier
    assert result["gmacs"] == pytest.approx((49 * 16 * 3 * 27 + 16 * 12) / 1e9)
    asked = EvaluateConfig(trainer=config.trainer, folders=config.folders)
    tested = evaluate(folder / "last.ckpt", asked)["metrics"]
    assert tested == {name: figure for name, figure in result["metrics"].items() if name.startswith("test/")}


@pytest.mark.parametrize(("asked", "said"), [("4", False), ("2", True), ("null", False)])
def test_the_clips_that_batch_norm_sees_are_recorded(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, said: bool
) -> None:
    """trainer.batch_per_device=4 goes before the recipe's number, and a line says so."""
    words = [*SMALL, "model=tsm", "T=4", "crop=32", "views=1x1", "recipe.max_steps=1", "trainer=cpu"]
    words += [f"recipe.norm_clips={asked}", "trainer.batch_per_device=4", *place.keys_with(tmp_path)]
    result = fit(compose.rows("train", Config, words)[0].config)
    assert result["batch"]["norm_clips"] == 4
    assert result["batch"]["mixed_clips"] is None
    assert ("recipe.norm_clips=2" in capsys.readouterr().out) == said
