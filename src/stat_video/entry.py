"""What the entry scripts share: composed configs with checked keys, sweeps, and errors of one line."""

import difflib
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from .config import SCALES, Config, EvaluateConfig, Folders, PredictConfig
from .dashboard import DashboardConfig
from .errors import InputError
from .prepare import PrepareConfig
from .report.config import ReportConfig
from .runs.files import write_json
from .runs.run import PROJECT, Busy
from .slurm import Slurm, SlurmJobs
from .sweep import (
    BUSY_SECONDS,
    FROZEN,
    FreshProcesses,
    InThisProcess,
    Launcher,
    Outcome,
    Processes,
    Row,
    check_in_process,
    clear,
    end_with_parent,
    frozen_for_devices,
    launch_folder,
    outcome_file,
    read_frozen,
    run_rows,
)
from .training.hardware import rank_zero

CONF = PROJECT / "conf"
LAUNCHERS = ("processes", "basic", "slurm")
SCHEMAS: dict[str, Any] = {
    "train": Config,
    "cost": Config,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "dashboard": DashboardConfig,
    "report": ReportConfig,
    "prepare": PrepareConfig,
}


def at_T(T: int, values: Any) -> Any:
    """`${at_T:${T},{16:3,32:5,64:7}}`: the value of the longest listed clip that T reaches, else the shortest's."""
    table = {int(k): v for k, v in dict(values).items()}
    reached = [length for length in table if length <= T]
    return table[max(reached) if reached else min(table)]


def register() -> dict[str, Any]:
    """Make schemas, resolvers and the folders of conf/local.yaml known to Hydra; return what that file says."""
    OmegaConf.register_new_resolver("at_T", at_T, replace=True)
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    local = read_local(Path(os.environ.get("STAT_VIDEO_LOCAL", CONF / "local.yaml")))
    store.store(name="this_machine", node={"folders": local.get("folders", {})}, package="_global_")
    return local


def read_local(path: Path) -> dict[str, Any]:
    """Scale and folders of this machine, {} where there is no such file; InputError where it says anything else."""
    if not path.exists():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    allowed = {"scale": SCALES, "folders": tuple(f.name for f in fields(Folders))}
    if not isinstance(content, dict) or content.keys() - allowed.keys():
        raise InputError(f"{path}: allowed keys are {', '.join(allowed)}; see conf/local.example.yaml")
    for key, names in allowed.items():
        given = content.get(key, [])
        for name in [given] if isinstance(given, str) else given:
            if name not in names:
                raise InputError(f"{path}: {key}: '{name}' is not one of {', '.join(names)}")
    return content


def checked(config: DictConfig, schema: Any) -> Any:
    """The composed config as an object of its schema; InputError names a key or value that does not belong there."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
        # Merged anew, since `+key=value` goes past the schema that the composition was held against.
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    except (OmegaConfBaseException, ValueError) as error:  # ValueError: a part of the config refuses its values
        raise InputError(one_line(error)) from None


def sweeps(words: list[str]) -> list[list[str]]:
    """The command lines that a command line stands for.

    `seeds=3` means `seed=0,1,2`, and `-m experiment=a,b` one sweep after another: of several experiments in one sweep
    Hydra would drop each one's own axes in silence. InputError where either comes without -m.
    """
    multirun = any(word in ("-m", "--multirun") for word in words)
    lines: list[list[str]] = [[]]
    for word in words:
        key, _, value = word.partition("=")
        options = [word]
        if key == "seeds":
            if not re.fullmatch("[1-9][0-9]*", value):
                raise InputError(f"{word}: allowed is a number of seeds, 1 or more")
            options = ["seed=" + ",".join(map(str, range(int(value))))]
        elif key == "hydra/launcher" and value not in LAUNCHERS:
            raise InputError(f"{word}: allowed are {', '.join(LAUNCHERS)}")
        elif key == "experiment" and "," in value:
            options = [f"experiment={name}" for name in value.split(",") if name]
        if options != [word] and not multirun:
            raise InputError(f"{word}: several runs need -m: python src/train.py -m ...")
        lines = [[*line, option] for option in options for line in lines]
    return lines


def entry(
    name: str,
    after: Callable[[list[Any]], None] | None = None,
    known: Callable[[Any], Any] = lambda config: None,
) -> Callable[[Callable[[Any], Any]], Any]:
    """Turn `task(config)` into a script that reads conf/<name>.yaml and the command line.

    Hydra composes; then the rows are run (sweep.py), each from its resolved config. Bad input ends in one line on
    stderr and exit code 2; an error of ours shows its trace. In a sweep a row that fails is named at the end and does
    not stop the others; one that another process is running is left until last. ``after`` gets what the tasks returned,
    row by row. What ``known(config)`` returns unless None is taken in place of running the task.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        rows: list[Row] = []
        failures: dict[str, list[str]] = {}  # what was wrong: the rows of the sweep that it stopped
        launch: dict[str, Any] = {}  # settings of hydra/launcher, {} where there is no sweep

        def job(config: DictConfig) -> None:
            hydra_config = HydraConfig.get()
            words = ""
            if hydra_config.mode == RunMode.MULTIRUN:
                words = " ".join(hydra_config.overrides.task)
                launch.update(OmegaConf.to_container(hydra_config.launcher, resolve=True))  # type: ignore[arg-type]
                launch["name"] = hydra_config.runtime.choices["hydra/launcher"]
            try:
                rows.append(Row(words, checked(config, SCHEMAS[name])))
            except InputError as error:
                failures.setdefault(error.line, []).append(words)

        def attempt(config: Any) -> Outcome:
            try:
                return Outcome(task(config))
            except InputError as error:
                return Outcome(reason=error.line)
            except Busy as busy:
                print(busy, flush=True)
                return Outcome(busy=True)
            except Exception as error:
                traceback.print_exc()  # a mistake of ours, or of the machine
                return Outcome(reason=f"{type(error).__name__}: {one_line(error)}")

        def single(config: Any) -> list[Any]:
            told = False
            while True:
                try:
                    returned = known(config)
                    return [task(config) if returned is None else returned]
                except Busy as busy:
                    if not told:
                        print(f"{busy}; waiting for it", flush=True)
                    told = True
                    time.sleep(BUSY_SECONDS)

        def from_file(path: Path) -> int:
            """As a process that another one started: a row of its sweep, or a further device of its run."""
            end_with_parent()
            outcome = attempt(checked(OmegaConf.create(read_frozen(path)), SCHEMAS[name]))
            if rank_zero() or (outcome.reason is not None and not outcome_file(path).exists()):
                write_json(outcome_file(path), asdict(outcome))
            if outcome.reason is not None and not rank_zero():
                print(f"error: rank {os.environ.get('LOCAL_RANK')}: {outcome.reason}", file=sys.stderr)
            return 2 if outcome.reason is not None else 0

        def script() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us instead of being printed
            quiet()
            if len(sys.argv) == 2 and sys.argv[1].startswith(FROZEN):
                sys.exit(from_file(Path(sys.argv[1].removeprefix(FROZEN))))
            results: list[Any] = []
            stopped: signal.Signals | None = None
            try:
                local = register()
                if name == "train" and "scale" in local and not any(w.startswith("scale=") for w in sys.argv):
                    sys.argv.append(f"scale={local['scale']}")  # Hydra has no other way to choose a group from outside
                run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)
                for line in sweeps(sys.argv):
                    sys.argv = line
                    GlobalHydra.instance().clear()
                    run()
                if launch and rows:
                    results, stopped = sweep(rows, launch, known, attempt, failures)
                elif rows:
                    with frozen_for_devices(rows[0].config):
                        results = single(rows[0].config)
            except Exception as error:
                if rows and not isinstance(error, InputError | HydraException | OmegaConfBaseException):
                    raise  # a mistake of ours: with its trace
                failures[one_line(error)] = []
            finally:
                if results and after and rank_zero():
                    after(results)
            for reason, words in failures.items():
                print(f"error: {' | '.join([*filter(None, words), reason])}", file=sys.stderr)
            if stopped:
                sys.exit(128 + stopped)
            if failures:
                sys.exit(2)

        return script

    return decorate


def sweep(
    rows: list[Row],
    settings: dict[str, Any],
    known: Callable[[Any], Any],
    attempt: Callable[[Any], Outcome],
    failures: dict[str, list[str]],
) -> tuple[list[Any], signal.Signals | None]:
    """Run the rows where `hydra/launcher` says; what they returned, and the signal that stopped them.

    ``failures`` holds the rows that were refused already, and gets those that fail.
    """
    if not rank_zero() or "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError("-m: a sweep starts its own processes; torchrun and srun are for a single run")
    name_apart(rows, failures)
    for reason, refused in failures.items():
        print(f"not run: {' | '.join([*refused, reason])}", flush=True)
    folder, how = launch_folder(Path(rows[0].config.folders.logs)), settings.pop("name")
    launcher: Launcher
    with ExitStack() as stack:
        if how == "slurm":
            launcher = SlurmJobs(folder, Slurm(**settings))
        elif how == "basic":
            check_in_process(rows)
            launcher = InThisProcess(attempt)
        else:
            stack.callback(clear, folder)
            launcher = FreshProcesses(folder, Processes(**settings))
            launcher.check(rows)
            stack.enter_context(launcher.passing_signals_on())
        outcomes = run_rows(rows, known, launcher, partial(print, flush=True))
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome is not None and outcome.reason is not None:
            failures.setdefault(outcome.reason, []).append(row.words)
    if launcher.stopped:
        left = sum(outcome is None for outcome in outcomes)
        failures[f"stopped by {launcher.stopped.name}; the same command goes on with the {left} rows left"] = []
    return [o.returned for o in outcomes if o is not None and o.reason is None], launcher.stopped


def name_apart(rows: list[Row], refused: dict[str, list[str]]) -> None:
    """Leave out of the rows' names the words that are the same in all of them."""
    names = [row.words.split(" ") for row in rows] + [words.split(" ") for r in refused.values() for words in r]
    same = set(names[0]).intersection(*names[1:]) if len(names) > 1 else set()

    def short(words: str) -> str:
        return " ".join(word for word in words.split(" ") if word not in same) or words

    for row in rows:
        row.words = short(row.words)
    for reason in refused:
        refused[reason] = [short(words) for words in refused[reason]]


def quiet() -> None:
    """Our own warnings as plain lines on stderr; leave out what libraries say of themselves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    ours = logging.getLogger("stat_video")
    ours.addHandler(handler)
    ours.propagate = False  # Hydra's own handler would say all of it again on stdout
    logging.getLogger("hydra").setLevel(logging.CRITICAL)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="(hydra|lightning)")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def one_line(error: BaseException) -> str:
    """What is wrong and what is allowed, in one line."""
    if isinstance(error, InputError):
        return error.line
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(cause)
    text = str(error)
    if isinstance(error, MissingConfigException):
        options = re.search(r"Available options in '(.+?)':\n((?:\t.*\n?)+)", text)
        if options:
            names = ", ".join(line.strip() for line in options[2].splitlines())
            return f"{text.splitlines()[0].rstrip('.')}; allowed in '{options[1]}': {names}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if isinstance(error, AssertionError) and "Unexpected type for root" in text:  # OmegaConf does not name the key
        keys = [f.f_locals["key"] for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "update"]
        key = str(keys[0] if keys else "key")
        parent = key.rpartition(".")[0]
        return f"{key}: {parent} is null in this composition and has no keys; choose a group option that sets it"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown_key(error: OmegaConfBaseException) -> str:
    """Name the key, its nearest neighbour and what is allowed where it stood."""
    full_key = str(error.full_key)
    parent, _, key = full_key.rpartition(".")
    keys = sorted(getattr(error.object_type, "__dataclass_fields__", {}))
    groups = [] if parent else sorted(p.name for p in CONF.iterdir() if p.is_dir())
    near = difflib.get_close_matches(key, [*keys, *groups], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    allowed = f"; allowed {f'in {parent}' if parent else 'keys'}: {', '.join(keys)}" if keys else ""
    return f"unknown key '{full_key}'{guess}{allowed}" + (f"; groups: {', '.join(groups)}" if groups else "")


def path_of(key: str, value: str | None) -> Path:
    """The path that a key names; InputError where it is not given or not there."""
    if value is None:
        raise InputError(f"{key} is not given: {key}=PATH")
    path = Path(value).expanduser()
    if not path.exists():
        raise InputError(f"{key}={value}: there is no such file")
    return path
