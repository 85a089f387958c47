"""What is asked of W&B: names by key or environment, learning rates, predictions, and what an agent of a sweep gets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from test_wandb_logger import DATA, Working, config_of, finished_run
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from running import ROOT, SMALL, Place, read_json
from stat_video import compose
from stat_video.config import Config, DashboardConfig, LoggerKeys
from stat_video.errors import InputError
from stat_video.report import boards
from stat_video.runs.run import Run
from stat_video.training import fit, wandb_logger
from stat_video.training.wandb_logger import (
    LearningRates,
    RunLogger,
    log_result,
    make_logger,
    mode_of,
    rates,
    surest_errors,
)  # fmt: skip

VARIABLES = ("MODE", "PROJECT", "ENTITY", "NAME", "RUN_GROUP", "TAGS", "NOTES", "SWEEP_ID")
OF_KEYS = {"project": "p", "entity": "e", "name": "n", "group": "g", "notes": "two words"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `wandb.init` is asked for with these keys of the logger."""

    def of(**keys: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        monkeypatch.setattr(wandb, "init", lambda **arguments: found.update(arguments) or Working())
        config = config_of()
        config.logger = LoggerKeys(**keys)
        make_logger(config, asdict(config), Run(tmp_path / "folder", "12345678"), 3)
        return found

    return of


def test_keys_then_variables_then_the_run_say_the_names(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = asked()
    assert {key: plain[key] for key in OF_KEYS} == {
        "project": "stat-video", "entity": None, "name": "folder", "group": "default", "notes": None,
    }  # fmt: skip
    own = ["tiny", "motion", "means", "T4"]
    assert plain["tags"] == own
    for name, value in (("PROJECT", "P"), ("ENTITY", "E"), ("NAME", "N"), ("RUN_GROUP", "G"), ("NOTES", "O")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_TAGS", "x, y")
    found = asked()
    assert [found[key] for key in OF_KEYS] == ["P", "E", "N", "G", "O"]
    assert found["tags"] == [*own, "x", "y"]
    found = asked(**OF_KEYS, tags=["b", "a"])
    assert {key: found[key] for key in OF_KEYS} == OF_KEYS
    assert found["tags"] == [*own, "a", "b"]
    assert asked(tags="one")["tags"] == [*own, "one"]


@pytest.mark.parametrize(
    ("key", "variable", "mode"),
    [
        ("offline", "online", "online"), ("online", "offline", "offline"), ("online", "disabled", "off"),
        ("off", "online", "off"), ("online", "", "online"), ("offline", "dryrun", "offline"),
    ],
)  # fmt: skip
def test_the_mode_is_that_of_the_environment(
    key: str, variable: str, mode: str, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert mode_of(LoggerKeys(mode=key)) == mode
    assert asked(mode=key).get("mode", "off") == mode


def test_what_makes_no_sense_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for keys, says in (
        ({"tags": 3}, r"logger\.tags=3: must be a name or a list"),
        ({"tags": ["x" * 65]}, r"logger\.tags: xxx.* 64 characters"),
        ({"predictions": -1}, r"logger\.predictions=-1"),
    ):
        with pytest.raises(InputError, match=says):
            LoggerKeys(**keys)
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE=onlin: must be one of online, offline, disabled"):
        mode_of(LoggerKeys())


def test_boards_are_of_the_project_that_runs_are_logged_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    seen = []
    monkeypatch.setattr(boards, "workspace", lambda board, project, entity: seen.append((project, entity)) or Nothing())
    monkeypatch.setattr(boards, "report", lambda board, project, entity: seen.append((project, entity)) or Nothing())
    config = DashboardConfig()
    config.folders.logs = str(tmp_path)
    boards.write([SimpleNamespace(file="a")], config)
    assert seen == [("mine", "team")] * 2


class Nothing:
    """A board without content."""

    def _to_model(self) -> Any:
        return SimpleNamespace(model_dump_json=lambda **_: "{}")


def test_learning_rates_are_those_of_the_step() -> None:
    layers = [nn.Linear(1, 1) for _ in range(4)]
    groups = [{"params": layers[i].parameters(), "lr": lr} for i, lr in enumerate((0.2, 0.2, 0.1, 0.0))]
    optimizer = SGD(groups)
    LambdaLR(optimizer, lambda step: 0.5)
    assert rates(optimizer, 0.2) == {"lr": 0.1, "lr/1": 0.1, "lr/0.5": 0.05, "lr/0": 0.0}
    alone = SGD(layers[0].parameters(), lr=0.2)
    LambdaLR(alone, lambda step: 0.5)
    assert rates(alone, 0.2) == {"lr": 0.1}
    logged: dict[int, Any] = {}
    logger: Any = SimpleNamespace(log_metrics=lambda figures, step: logged.update({step: figures}))
    for step in range(7):
        trainer: Any = SimpleNamespace(global_step=step, log_every_n_steps=3)
        LearningRates(logger).on_before_optimizer_step(
            trainer, SimpleNamespace(recipe=SimpleNamespace(scaled_lr=0.2)), alone
        )
    assert logged == {step: {"lr": 0.1} for step in (0, 3, 6)}


def test_the_surest_errors_come_first() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [float("nan")] * 2])
    assert surest_errors(scores, torch.tensor([1, 1, 1, 0, 0])) == [(0, False), (2, False), (3, True), (1, True)]
    several = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [1, 0]])
    assert surest_errors(scores, several) == [(0, False), (2, False), (3, True), (1, True)]


def test_a_table_of_predictions_has_a_frame_of_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, module, result = finished_run(tmp_path)
    config = config_of()
    logger = RunLogger(experiment=Working())
    log_result(logger, result, config, module, DATA, run)
    assert "test/predictions" not in logger.experiment.logged
    config.logger.predictions = 4
    log_result(logger, result, config, module, DATA, run)
    table = logger.experiment.logged["test/predictions"]
    scores = torch.load(run.folder / "logits_5x1.pt")["logits"].softmax(-1).mean(1)
    wrong = {i: float(scores[i].max()) for i in range(7) if int(scores[i].argmax()) != i % 2}
    first = sorted(wrong, key=lambda i: -wrong[i])[:4]
    assert [row[0] for row in table.data][: len(first)] == [f"{i}.mp4" for i in first]
    assert [row[4] for row in table.data][: len(first)] == [round(wrong[i], 4) for i in first]
    assert len(table.data) == 4
    assert {int(row[1].image.getpixel((0, 0))[0]) for row in table.data} == {int(row[0][0]) for row in table.data}
    assert not caplog.records


def test_a_finished_run_reports_to_the_agent_of_a_sweep(
    place: Place, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And to nobody without one, or with logger=off; its id is the same whatever is asked of W&B."""
    logged: list[Any] = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: logged.append(Working()) or logged[-1])
    monkeypatch.setattr(Working, "finish", lambda self: None, raising=False)
    keys = [*SMALL, *place.keys, "name=trained"]
    for words, agent in ((["logger=offline"], False), (["logger=off"], True)):
        monkeypatch.setenv("WANDB_SWEEP_ID", "s") if agent else monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
        (row,) = compose.rows("train", Config, [*keys, *words])
        assert fit.finished(row.config) is not None
        assert not logged
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    words = ["logger=offline", "logger.predictions=3", "logger.group=g", "logger.tags=[t]", "logger.notes=n"]
    (row,) = compose.rows("train", Config, [*keys, *words])
    assert fit.finished(row.config) is not None
    (run,) = logged
    metrics = read_json(trained / "result.json")["metrics"]
    assert run.logged == run.summary == metrics
    assert "val/top1_1x1" in metrics


def test_the_sweep_of_the_docs_is_words_of_ours(place: Place) -> None:
    """As an agent types them, with the first and last value of each parameter."""
    sweep = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())
    assert sweep["program"] == "src/train.py"
    for end in (0, -1):
        ends = {key: (of.get("values") or [of["min"], of["max"]])[end] for key, of in sweep["parameters"].items()}
        words = create_sweep_command_args({"args": {key: {"value": value} for key, value in ends.items()}})
        own = [word for word in sweep["command"] if not word.startswith("${")]
        (row,) = compose.rows("train", Config, [*own, *words["args_no_hyphens"], *place.keys])
        assert row.config.recipe.lr == ends["recipe.lr"]
        assert row.config.model.stem == ends["stem"]
        assert row.config.logger.mode == "online"
    assert sweep["metric"]["name"] == "val/top1_1x1"
    assert wandb_logger.mode_of(row.config.logger) == "online"
