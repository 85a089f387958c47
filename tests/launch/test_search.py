"""A sweeper plugin of Hydra proposes rows; ours run them, and the objective goes back to it."""

import csv
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from stat_video.compose import read
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.launch.rows import Done, Outcome
from stat_video.launch.search import run_search
from stat_video.runs.result import Result
from stat_video.runs.searches import Trials

# A sweeper as somebody may write one: it asks for two rows in the middle of an interval, and keeps the better side.
PLUGIN = """
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Thirds(Sweeper):
    def __init__(self, steps, direction, optim, max_failure_rate, params):
        self.steps, self.direction, self.optim, self.rate = steps, direction, optim, max_failure_rate

    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments):
        words = [*(f"{key}={value}" for key, value in self.config.hydra.sweeper.params.items()), *arguments]
        (override,) = OverridesParser.create().parse_overrides(words)
        key, interval = override.get_key_element(), override.value()
        low, high = interval.start, interval.end
        sign = 1 if self.direction == "maximize" else -1
        assert self.rate == 1.0
        for step in range(self.steps):
            a, b = low + (high - low) / 3, high - (high - low) / 3
            returned = self.launcher.launch([[f"{key}={a}"], [f"{key}={b}"]], initial_job_idx=2 * step)
            values = []
            for one in returned:
                try:
                    values.append(sign * one.return_value)
                except Exception:
                    values.append(float("-inf"))
            low, high = (a, high) if values[1] > values[0] else (low, b)
"""
THIRDS = ["-m", "hydra/sweeper=thirds", "hydra/launcher=basic", "objective=val/top1_1x1"]


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "thirds.py").write_text(PLUGIN)
    sys.path.append(str(folder))
    from hydra_plugins.thirds import Thirds  # type: ignore[import-not-found]

    Plugins.instance().register(Thirds)
    keys = {"steps": 3, "direction": "minimize", "optim": {"seed": None}, "max_failure_rate": 0.0, "params": None}
    node = {"_target_": "hydra_plugins.thirds.Thirds", **keys}
    ConfigStore.instance().store(group="hydra/sweeper", name="thirds", node=node, provider="thirds")
    yield
    sys.path.remove(str(folder))


def searched(
    words: list[str], figure: Callable[[Config], float | None], tmp_path: Path, metric: str = "val/top1_1x1"
) -> tuple[Done, list[Config], list[Trials]]:
    """Run a search whose rows are not trained: their figure is a function of the config."""
    seen: list[Config] = []

    def attempt(config: Config) -> Outcome:
        seen.append(config)
        value = figure(config)
        if value is None:
            return Outcome(reason="it diverged")
        content = {"name": config.name, "metrics": {metric: value}, "config": {"views": "1x1"}}
        return Outcome(Result(tmp_path / f"run-{len(seen)}", content))

    done, known = Done([], {}), lambda config: None
    run_search(read("train", Config, [*words, f"folders.logs={tmp_path}"]), known, attempt, done)
    files = sorted((tmp_path / "default").glob("search-*.csv"))
    return done, seen, [trials for file in files if (trials := Trials.read(file)) is not None]


def test_the_objective_goes_back_and_the_best_is_found(tmp_path: Path, capsys: Any) -> None:
    def figure(config: Config) -> float:  # one peak, at a rate of 0.006
        return 90 - 1e3 * abs(config.recipe.lr - 0.006)

    done, seen, (trials,) = searched([*THIRDS, "lr=interval(0.001,0.01)", "t_o=3"], figure, tmp_path)
    assert len(seen) == 6 == len(done.results)
    assert not done.failures
    assert all(config.model.t_o == 3 for config in seen)  # type: ignore[attr-defined]
    assert trials.best is not None
    assert trials.best.value == pytest.approx(90, abs=1.4)  # in the middle third of 9 * (2/3)**2 thousandths
    said = capsys.readouterr().out
    assert "the highest val/top1_1x1 by recipe.lr" in said
    assert f"best: {trials.best.words[0].removeprefix('recipe.')} | val/top1_1x1 " in said


def test_less_is_better_of_a_loss_and_where_the_user_says_so(tmp_path: Path) -> None:
    def figure(config: Config) -> float:
        return 1e3 * abs(config.recipe.lr - 0.004)

    words = ["-m", "hydra/sweeper=thirds", "hydra/launcher=basic", "lr=interval(0.001,0.01)"]
    for more in (["objective=val/loss_1x1"], ["objective=val/top1_1x1", "hydra.sweeper.direction=minimize"]):
        folder = tmp_path / str(len(more))
        metric = more[0].partition("=")[2]
        _, _, (trials,) = searched([*words, *more], figure, folder, metric)
        assert trials.best is not None
        assert trials.best.value == pytest.approx(0, abs=1.4)
        assert trials.lower


def test_a_failed_or_refused_row_is_a_failed_trial(tmp_path: Path, capsys: Any) -> None:
    def figure(config: Config) -> float | None:
        return None if config.recipe.weight_decay > 0.4 else 50.0

    done, seen, (trials,) = searched(
        [*THIRDS, "weight_decay=interval(-3,3)", "hydra.sweeper.steps=1"], figure, tmp_path
    )
    assert [trial.value for trial in trials.trials] == [None, None]  # -1 is not allowed, 1 diverges
    assert "weight_decay=-1" in trials.trials[0].failed
    assert trials.trials[1].failed == "it diverged"
    assert len(seen) == 1
    (line,) = done.failures
    assert "no row of the search has a result" in line
    done, _, _ = searched([*THIRDS, "weight_decay=interval(0,1)", "hydra.sweeper.steps=1"], figure, tmp_path)
    assert not done.failures  # some have one
    assert "no result: weight_decay=0.666" in capsys.readouterr().out


def test_a_signal_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stat_video.launch.rows import InThisProcess

    def figure(config: Config) -> float:
        monkeypatch.setattr(InThisProcess, "stopped", signal.SIGTERM)
        return 1.0

    done, seen, _ = searched([*THIRDS, "lr=interval(0.001,0.01)"], figure, tmp_path)
    assert len(seen) == 1
    assert done.stopped is signal.SIGTERM
    assert "the same command goes on" in next(iter(done.failures))


def test_a_sweeper_gets_the_seed_of_the_rows_and_a_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra_plugins.thirds import Thirds

    told = []
    monkeypatch.setattr(Thirds, "sweep", lambda self, arguments: told.append((self.direction, self.optim.seed)))
    searched([*THIRDS, "lr=interval(0.001,0.01)", "seed=7"], lambda config: 1.0, tmp_path)
    searched([*THIRDS, "lr=interval(0.001,0.01)", "hydra.sweeper.optim.seed=3"], lambda config: 1.0, tmp_path)
    assert told == [("maximize", 7), ("maximize", 3)]


def test_a_plan_starts_nothing(tmp_path: Path, capsys: Any) -> None:
    done, seen, files = searched([*THIRDS, "lr=interval(0.001,0.01)", "plan=true"], lambda config: 1.0, tmp_path)
    assert (seen, files) == ([], [])
    assert len(done.results) == 1
    assert "plan=true" in capsys.readouterr().out


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    _, _, (trials,) = searched([*THIRDS, "lr=interval(0.001,0.01)"], lambda config: config.recipe.lr, tmp_path)
    (file,) = (tmp_path / "default").glob("search-*.csv")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["val/top1_1x1"]) for row in rows] == [float(row["recipe.lr"]) for row in rows]
    best = [max(float(row["val/top1_1x1"]) for row in rows[: n + 1]) for n in range(len(rows))]
    assert [float(row["best"]) for row in rows] == best
    assert trials.keys == ["recipe.lr"]
    file.write_text("nonsense")
    assert Trials.read(file) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "hydra/sweeper=thirds", "lr=interval(1,2)"], "objective is not given: objective=FIGURE must be one of"),
        ([*THIRDS[:3], "objective=top1", "lr=interval(1,2)"], "objective=top1: must be one of val/top1_1x1, "),
        ([*THIRDS[:3], "objective=test/top1_1x1", "lr=interval(1,2)"], "objective=test/top1_1x1: must be one of"),
        (THIRDS, "there is nothing to search"),
        ([*THIRDS, "lrr=interval(1,2)"], "unknown key 'lrr'"),
        ([*THIRDS, "lr=interval(2,1)"], "must be interval(LOW,HIGH)"),
        ([*THIRDS, "lr=interval(1,2)", "seeds=3"], "seeds=3: not allowed in a search"),
        ([*THIRDS, "lr=interval(1,2)", "experiment=ssv2,kinetics"], "experiment=ssv2,kinetics: must be one"),
        ([*THIRDS, "lr=interval(1,2)", "hydra.sweeper.step=3"], "unknown key 'hydra.sweeper.step'"),
        (
            ["-m", "hydra/sweeper=ax", "lr=interval(1,2)"],
            "hydra/sweeper=ax: there is no such sweeper here: pip install",
        ),
        (["hydra/sweeper=thirds", "lr=0.1"], "a sweep needs -m"),
        (["objective=val/top1_1x1"], "objective=val/top1_1x1: is of a search"),
        (["-m", "objective=val/top1_1x1", "T=16,32"], "objective=val/top1_1x1: is of a search"),
        (["-m", "lr=interval(1e-4,1e-2)"], "has no end of values"),
        (["-m", "hydra.sweeper.steps=3", "T=16,32"], "hydra.sweeper.steps=3: is of a search"),
        (["hparams_search=lr"], "hparams_search=lr: a search needs -m; lr=VALUE beside it is a row of it"),
    ],
)
def test_a_search_that_is_none_is_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        searched(words, lambda config: 1.0, tmp_path)
    assert "\n" not in str(error.value)
    assert says in error.value.line


def test_the_example_by_optuna(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'stat-video[search]'")
    words = ["-m", "hparams_search=lr", "hydra/launcher=basic", "name=default"]
    lists = [searched(words, lambda config: config.recipe.lr, tmp_path / str(i))[1] for i in range(2)]
    rates = [[config.recipe.lr for config in seen] for seen in lists]
    assert len(rates[0]) == 8
    assert rates[0] == rates[1]  # seeded: the same command proposes the same
    assert all(1e-4 <= rate <= 1e-2 for rate in rates[0])
