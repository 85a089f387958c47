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
from dataclasses import fields
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
from .cost.config import CostConfig
from .dashboard import DashboardConfig
from .errors import InputError
from .prepare import PrepareConfig
from .report.config import ReportConfig
from .runs.run import PROJECT, Busy
from .sweep.frozen import FROZEN, end_with_parent, frozen_for_devices, leave_outcome, read_frozen
from .sweep.launch import LAUNCHERS, run_sweep
from .sweep.rows import BUSY_SECONDS, Outcome, Row
from .training.hardware import rank_zero

CONF = PROJECT / "conf"
SCHEMAS: dict[str, Any] = {
    "train": Config,
    "cost": CostConfig,
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
    for name in ("train", "cost"):  # cost.yaml is train.yaml with more keys
        store.store(group="schema", name=name, node=SCHEMAS[name], package="_global_")
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
    Hydra would drop each one's own axes in silence, and the first of two words `experiment=`. InputError for such
    words, and for several runs without -m.
    """
    experiments = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(experiments) > 1:
        raise InputError(
            f"experiment= is given {len(experiments)} times; allowed is experiment={','.join(experiments)}"
        )
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

    Hydra composes; then the rows are run (sweep/), each from its resolved config. Bad input ends in one line on
    stderr and exit code 2; an error of ours shows its trace. In a sweep a row that fails is named at the end and does
    not stop the others; one that another process is running is left until last. ``after`` gets what the tasks returned,
    row by row. What ``known(config)`` returns unless None is taken in place of running the task.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        rows: list[Row] = []
        failures: dict[str, list[str]] = {}  # what was wrong: the rows of the sweep that it stopped
        launcher: list[tuple[str, Any]] = []  # hydra/launcher of each row of a sweep, and its settings

        def job(config: DictConfig) -> None:
            hydra_config = HydraConfig.get()
            words = ""
            if hydra_config.mode == RunMode.MULTIRUN:
                words = " ".join(hydra_config.overrides.task)
                settings = OmegaConf.to_container(hydra_config.launcher, resolve=True)
                launcher.append((hydra_config.runtime.choices["hydra/launcher"], settings))
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
            started = end_with_parent()
            try:
                outcome = attempt(checked(OmegaConf.create(read_frozen(path)), SCHEMAS[name]))
            except InputError as error:
                outcome = Outcome(reason=error.line)
            leave_outcome(path, outcome)
            if outcome.reason is None:
                return 0
            if not (rank_zero() and started):  # else the process that started this one says it
                print(f"error: {'' if rank_zero() else 'on another rank: '}{outcome.reason}", file=sys.stderr)
            return 2

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
                if launcher and rows:
                    results, stopped = run_sweep(rows, *launcher[0], known, attempt, failures)
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
