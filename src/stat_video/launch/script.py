"""Run an entry script: read its words, run the rows, show the results; print an input error as one line."""

import gc
import logging
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import together
from ..compose import Command, checked, one_line, read
from ..errors import InputError, Stopped, in_a_line, of_the_machine, printable
from ..hardware import rank_zero
from ..progress import console
from ..runs.overrides import remember
from ..runs.run import Busy
from ..slurm_job import answer_early, in_job, restarts
from .frozen import FROZEN, WORDS, end_with_parent, forget_losses, frozen_for_devices, leave_outcome, read_frozen
from .place import check_place, check_variables, keep_together, launched_by
from .rows import BUSY_SECONDS, Done, Outcome
from .search import run_search
from .sweep import run_sweep

Task = Callable[[Any], Any]
RESTARTED_SECONDS = 300.0


def script(
    name: str,
    schema: type,
    task: Task,
    *,
    known: Task = lambda config: None,
    show: Callable[[list[Any]], None] | None = None,
    every: bool = False,
    conf: str | None = None,
    check: Callable[[Any], None] | None = None,
) -> None:
    """Run ``task(config)`` for each row that the command line stands for; exit with 0, 2 or a signal's code.

    ``name`` is the script's and, without ``conf``, that of conf/<name>.yaml, ``schema`` the dataclass of its keys. If
    ``known(config)`` returns a result, the task is not run. ``show`` gets what the rows returned. With ``every`` all
    rows of an experiment are run without -m. ``check(config)`` raises InputError for a row that is refused; all are
    checked before one runs. Bad input ends in one line on stderr and exit code 2; an error of ours
    shows its trace. In a sweep a row that fails is named at the end and does not stop the others; one that another
    process is running is left until last.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `early`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # what the imports have made is never garbage: to look it through again takes a tenth of a short script
    quiet()
    answer_early()
    words, code = sys.argv[1:], 0
    done = Done([], {})
    try:
        check_variables()
        console.quiet = not rank_zero()
        if len(words) == 1 and words[0].startswith(FROZEN):
            code = run_frozen(Path(words[0].removeprefix(FROZEN)), schema, task)
        else:
            run_command(name, schema, words, task, known, show, every, done, conf, check)
    except KeyboardInterrupt:  # before anything has begun: training answers Ctrl-C itself
        together.ended(None, 128 + signal.SIGINT)
        print("error: stopped by SIGINT; the same command goes on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BaseException as error:
        if (reason := reason_of(error)) is None:
            stopped = error.code if isinstance(error, Stopped) else 1
            together.ended(None if isinstance(error, SystemExit) else in_a_line(error), int(stopped or 0))
            raise
        done.failures[reason] = []
    for line in done.lines():
        print(f"error: {line}", file=sys.stderr)
    together.ended(next(iter(done.lines()), None), 2 if done.failures else 0)
    close_stdout()
    if code:
        sys.exit(code)
    if done.stopped:
        sys.exit(128 + done.stopped)
    if done.failures:
        sys.exit(2)


def reason_of(error: BaseException) -> str | None:
    """Return in one line what a user, the machine or another rank did wrong; None for an error whose trace is shown.

    With STAT_VIDEO_TRACE=1 in the environment the trace of what the machine did wrong is shown, too.
    """
    if isinstance(error, InputError):
        return error.line
    if lost := together.explained(error):
        return lost.line
    reason = of_the_machine(error)
    if reason is not None and os.environ.get("STAT_VIDEO_TRACE"):
        traceback.print_exception(error)
    return reason


def close_stdout() -> None:
    """Write what stdout still holds; if it is a pipe that is closed or on a full disk, let Python not try it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(
    name: str,
    schema: type,
    words: list[str],
    task: Task,
    known: Task,
    show: Callable[[list[Any]], None] | None,
    every: bool,
    done: Done,
    conf: str | None = None,
    check: Callable[[Any], None] | None = None,
) -> None:
    """Read a command line, run its rows, show the results; write what fails into `done`."""
    try:
        command = read(name, schema, words, every, conf)
    except Exception as error:  # raised by Hydra, its parser or YAML before anything has begun
        raise InputError(reason_of(error) or one_line(error)) from error
    if command.text is not None:
        console.print(command.text, soft_wrap=True, highlight=False)
        return
    if check is not None:
        check_rows(command, check)
    for note in command.notes if rank_zero() else ():
        print(note, flush=True)
    try:
        run_rows(command, task, known, done)
    except Exception as error:
        if (reason := reason_of(error)) is None:
            raise
        done.failures[reason] = []
    finally:
        if done.results and show and rank_zero():
            show(done.results)


def check_rows(command: Command, check: Callable[[Any], None]) -> None:
    """Move the rows of a command that a check refuses to those that are refused."""
    rows, command.rows = command.rows, []
    for row in rows:
        try:
            check(row.config)
        except InputError as error:
            if command.search is not None:
                raise
            command.refused.setdefault(error.line, []).append(row.words)
        else:
            command.rows.append(row)


def run_rows(command: Command, task: Task, known: Task, done: Done) -> None:
    """Run the rows of a command and write their outcomes into `done`."""
    if command.search is not None:
        run_search(command, known, lambda config: attempt(task, config), done)
        return
    if command.multirun:
        run_sweep(command, known, lambda config: attempt(task, config), done)
        return
    for reason, refused in command.refused.items():
        done.failures[reason] = [" ".join(words) for words in refused] if len(command.rows) else []
    for row in command.rows:
        remember(row.words)
        with frozen_for_devices(row.config):
            done.results.append(run_alone(task, known, row.config))


def run_alone(task: Task, known: Task, config: Any) -> Any:
    """Return the result if it is known, else what the task returns; wait if another process has the run.

    In an allocation nobody waits for that (InputError): it would be paid for until its time limit.
    """

    def run() -> Any:
        returned = known(config)
        return task(config) if returned is None else returned

    check_place(config)
    keep_together(config)
    try:
        return when_free(run, patience() if launched_by() or in_job() else math.inf)
    except Busy as busy:
        raise InputError(str(busy)) from None


def when_free(run: Callable[[], Any], seconds: float) -> Any:
    """Return what a call returns; while it raises Busy, call it again, until the seconds are over."""
    until, told = time.monotonic() + seconds, False
    while True:
        try:
            return run()
        except Busy as busy:
            if time.monotonic() >= until:
                raise
            if not told:
                print(f"{busy}; waiting for it", flush=True)
            told = True
            time.sleep(BUSY_SECONDS)


def patience() -> float:
    """Return the seconds to wait for a run's lock: a requeued job's former processes may take a while to end."""
    return RESTARTED_SECONDS if in_job() and restarts() else 0


def attempt(task: Task, config: Any) -> Outcome:
    """Return the outcome of a task: what it returned, or in one line why it failed."""
    try:
        return Outcome(when_free(lambda: task(config), patience()))
    except Busy as busy:
        print(busy, flush=True)
        return Outcome(busy=True)
    except Exception as error:
        if lost := together.explained(error):
            return Outcome(reason=lost.line, lost=True)
        if (reason := reason_of(error)) is None:
            traceback.print_exc()
        return Outcome(reason=reason or f"{type(error).__name__}: {one_line(error)}")


def run_frozen(file: Path, schema: type, task: Task) -> int:
    """Run the config in a file, in a process that a sweep started for a row, or a run for one of its devices."""
    started = end_with_parent()
    together.ON_END.append(lambda line: leave_outcome(file, Outcome(reason=line, lost=True)))
    forget_losses(file)
    try:
        plain = read_frozen(file)
        remember(plain.pop(WORDS, None))
        config = checked(plain, schema)
        keep_together(config)
        outcome = attempt(task, config)
    except InputError as error:
        outcome = Outcome(reason=error.line)
    except Stopped as stopped:
        if rank_zero() and not stopped.requeued:
            leave_outcome(file, Outcome(reason=stopped.line))
        together.ended(None, int(stopped.code or 0))
        raise
    leave_outcome(file, outcome)
    if outcome.busy and launched_by():
        together.ended(None, 2)
        return 2  # else the other ranks wait for this one
    together.ended(outcome.reason, 2 if outcome.reason else 0)
    if outcome.reason is None:
        return 0
    if not (rank_zero() and started):  # else the process that started this one prints it
        where = "" if rank_zero() or outcome.lost else "on another rank: "  # a lost rank is named in the reason
        print(f"error: {where}{outcome.reason}", file=sys.stderr)
    return 2


class OneLine(logging.Formatter):
    """Writes names as they can be printed: one may hold control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def quiet() -> None:
    """Print our own warnings as plain lines on stderr, and silence those of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    ours = logging.getLogger("stat_video")
    ours.addHandler(handler)
    ours.propagate = False
    quiet_libraries()


def quiet_libraries() -> None:
    """Silence what libraries say of themselves."""
    logging.getLogger("hydra").setLevel(logging.CRITICAL)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="(hydra|lightning)")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # of a name in a picture


def checkpoint_of(key: str, value: str | None) -> Path:
    """Return the checkpoint that a key names, a run's last if it names its folder; InputError if it is not there."""
    path = path_of(key, value)
    return path / "last.ckpt" if path.is_dir() else path


def path_of(key: str, value: str | None) -> Path:
    """Return the path that a key names; InputError if it is not given or not there."""
    if value is None:
        raise InputError(f"{key} is not given: {key}=PATH")
    path = Path(os.path.expanduser(value))  # noqa: PTH111  of ensemble's; other paths come expanded, and may begin with ~
    with suppress(OSError):  # that of a name that is too long
        if path.exists():
            return path
    raise InputError(f"{key}={value}: there is no such file")
