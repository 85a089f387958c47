"""What a command would run, and what that costs, without running it: `plan=true`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from ..config import Config
from ..data.lists import manifest_hash
from ..errors import InputError
from ..hardware import device_memory, world_size
from ..models.count import Uncounted, parameters
from ..paths import program
from ..progress import WideTable
from ..runs.differing import differing, in_words
from ..runs.identity import TRAINED_ON, with_content
from ..runs.results import ended_as_asked, read_results
from ..runs.run import Busy, Run
from ..runs.settled import settled
from ..runs.source import find_source
from .budget import Estimate, duration, how_fast, in_hours
from .config import Hardware


@dataclass(frozen=True)
class Plan:
    """State and cost of one run; None for what is not known."""

    name: str  # of the experiment
    config: Mapping[str, Any]  # all keys, in plain containers
    run: Run
    state: str  # 'done', 'to resume', 'to do', ...
    parameters: float
    clips: int | None  # of the training
    gmacs: float | None = None  # of a view
    step_bytes: float | None = None  # of a training step on a device
    seconds: float | None = None  # of a device
    assumed: str | None = None  # by which hardware, if the seconds are not measured here


def plan(config: Config) -> Plan:
    """Return state and cost of one run.

    The time comes from `trainer.clips_per_second`, else from the finished runs of the same scale and kind of device, in
    proportion to clips and multiply-adds; else, off the CPU, it is assumed as `src/cost.py` does by default.
    """
    config = settled(config)
    run, plain, state = run_of(config)
    estimate = Estimate(config, Hardware())
    found = Plan(config.name, plain, run, state, parameters(*estimate.model), estimate.clips)
    with suppress(Uncounted):
        found = _with_cost(found, estimate, Path(config.folders.logs))
    return found


def run_of(config: Config) -> tuple[Run, dict[str, Any], str]:
    """Return the run of a config, its keys in plain containers, and its state."""
    plain, logs = asdict(config), Path(config.folders.logs)
    plain = {f.name: plain[f.name] for f in fields(Config)}  # without those of src/cost.py
    state = None
    if config.init is not None and config.init.startswith(TRAINED_ON):
        try:
            plain["init"] += f"/{find_source(config, logs).id}"
        except (InputError, Busy):
            state = "after its first weights"
    elif config.init is not None:
        plain["init"] = with_content(config.init)
    run = Run.of(plain, logs, manifest_hash(config.data))
    if (result := run.result()) is not None and not ended_as_asked(config.recipe, result):
        state = "done with another hold_until"
    return run, plain, state or run.state


def _with_cost(found: Plan, estimate: Estimate, logs: Path) -> Plan:
    """Return a plan with what rests on the count of a model."""
    config, clips, gmacs = estimate.config, estimate.clips, estimate.gmacs
    on_cpu = config.trainer.accelerator == "cpu"
    seconds = assumed = None
    if clips is not None and config.trainer.clips_per_second:
        seconds = clips / config.trainer.clips_per_second
    elif clips is not None and (rate := _seconds_per_gmac(config, logs)) is not None:
        seconds = rate * gmacs * clips
    elif estimate.gpu_hours is not None and not on_cpu:
        seconds, assumed = 3600 * estimate.gpu_hours, f"{estimate.gpu.name}, {how_fast(estimate)}"
    mixed = not on_cpu and estimate.mixed
    at_once = estimate.at_once(None if on_cpu else device_memory(config.trainer) or estimate.gpu.bytes, mixed)
    clips_of_pass = max(1, min(at_once.clips, config.recipe.batch_size // world_size(config.trainer)))
    memory = estimate.memory(mixed, config.trainer.gradient_checkpointing, at_once.recompute).whole(clips_of_pass)
    return replace(found, gmacs=gmacs, step_bytes=memory, seconds=seconds, assumed=assumed)


def _seconds_per_gmac(config: Config, logs: Path) -> float | None:
    """Return seconds of a device per clip and GMAC: the median of this scale's finished runs on such a device."""
    rates = []
    for result in (found.content for found in read_results(logs).results):
        same_device = (result["hardware"]["device"] == "cpu") == (config.trainer.accelerator == "cpu")
        known = result.get("train_seconds") and result.get("gmacs")  # of a published file nothing was trained
        if result["scale"] != config.scale or not same_device or not known:
            continue
        recipe = result["config"]["recipe"]
        done, epoch = result["steps"] * recipe["batch_size"], result["videos"]["train"] * recipe["repeats"]
        if done + recipe["batch_size"] <= epoch:
            continue  # cut off in its first epoch, as by debug=two_steps: its start took longer than its steps
        rates.append(result["train_seconds"] * result["hardware"]["devices"] / (done * result["gmacs"]))
    return median(rates) if rates else None


def total_of(rows: Sequence[Plan]) -> str:
    """Return the total of several experiments in a line, with each run that they share counted once."""
    runs = list({row.run.id: row for row in rows}.values())
    done = sum(row.state == "done" for row in runs)
    return (
        f"all: {len(runs)} runs in {len(rows)} rows, {done} done, {len(runs) - done} not done; "
        f"device hours left: {_hours_left(runs)}"
    )


def total_cost(estimates: Sequence[Estimate]) -> str:
    """Return the GPU hours of several experiments in a line, with each run that they share counted once."""
    runs: dict[str, tuple[Estimate, str]] = {}
    for estimate in estimates:
        run, _, state = run_of(estimate.config)
        runs[run.id] = estimate, state
    left = [estimate.gpu_hours for estimate, state in runs.values() if state != "done"]
    hours = [estimate.gpu_hours for estimate, _ in runs.values()]
    every, rest = (None if None in found else sum(h or 0 for h in found) for found in (hours, left))
    gpus = ", ".join(f"{duration(rest, n)} on {n}" for n in estimates[0].hardware.gpus)
    return (
        f"all: {len(runs)} runs in {len(estimates)} rows, {in_hours(every)} GPU hours; {len(runs) - len(left)} done, "
        f"{len(left)} not done: {in_hours(rest)} GPU hours, {gpus} GPUs"
    )


def _hours_left(rows: Sequence[Plan]) -> str:
    """Return the hours of the runs that are not done; '-' if no run's are known."""
    left = [row.seconds for row in rows if row.state != "done"]
    known = [seconds for seconds in left if seconds is not None]
    if left and not known:
        return "-"
    return f"{sum(known) / 3600:.2f}" + (f" for {len(known)} of them" if len(known) < len(left) else "")


def plan_table(rows: Sequence[Plan]) -> WideTable:
    """Return a row a run, with the keys in which they differ; unknown figures are shown as '-'."""
    left = sum(row.state != "done" for row in rows)
    axes, same = differing([row.config for row in rows])
    assumed = next((f"\n~ on {row.assumed}; {program('cost')} tells more" for row in rows if row.assumed), "")
    table = WideTable(
        title=f"plan of {rows[0].name}: nothing is started",
        caption=f"{in_words(same)}\n{len(rows)} runs, {left} not done; device hours left: {_hours_left(rows)}{assumed}",
    )
    for name in (*axes, "id", "state", "GMACs", "M parameters", "GB a step", "clips", "device hours"):
        table.add_column(name, justify="left" if name in (*axes, "id", "state") else "right")
    table.secondary = ["clips", "M parameters", "GB a step", "id"]
    for i, row in enumerate(rows):
        table.add_row(
            *(values[i] for values in axes.values()),
            row.run.id,
            row.state,
            "-" if row.gmacs is None else f"{row.gmacs:.2f}",
            f"{row.parameters / 1e6:.2f}",
            "-" if row.step_bytes is None else f"{row.step_bytes / 1e9:.2f}",
            "-" if row.clips is None else f"{row.clips:,}",
            "-" if row.seconds is None else f"{'~' if row.assumed else ''}{row.seconds / 3600:.2f}",
        )
    return table
