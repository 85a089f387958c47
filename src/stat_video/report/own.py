"""Experiments that are no table of the paper: the runs of each `name=`, in rows by what differs between them."""

import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from .. import paper
from ..data.sampling import Views
from ..runs.differing import differing, flat, short_name
from ..runs.identity import CONTENT, WEIGHTS, data_of_init, hash_of, row_id, updated
from ..runs.result import Key
from .collect import Collection, FoundRun, TableRow, one_state, pooled

MANY = 10  # rows: with more, the best ones stand first and are compared with the best alone
LONGEST = 40  # characters of a row's name; a longer one is numbered


@dataclass(frozen=True)
class OwnRow(TableRow):
    """The runs of an experiment that differ in the seed alone."""

    label: str  # 'lr=0.01, T=8': of the keys that tell the rows apart
    cells: Sequence[str]  # its values of `Experiment.keys`
    partial: Sequence[FoundRun] = ()  # of `data.folds`: those that are lacking, which are `runs` if no others are there

    @property
    def name(self) -> str:
        """Its label."""
        return self.label

    @property
    def every(self) -> list[FoundRun]:
        """The runs behind it, and those of folds that give no figure."""
        others = () if self.runs[0].lacking else self.partial
        return [*self.trainings, *(run for whole in others for run in whole.trainings)]

    @property
    def views(self) -> str:
        """Protocol of the test, '5x1'."""
        return str(self.runs[0].config["views"])

    @property
    def system(self) -> str:
        """Name of the model in the config."""
        return str(self.runs[0].config["model"]["name"])

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.runs[0].config["data"].get("name"))

    @property
    def gflops(self) -> float | None:
        """1e9 multiply-adds of a view; None if they could not be counted."""
        gmacs = self.runs[0].content.get("gmacs")
        return None if gmacs is None else float(gmacs)

    @property
    def further(self) -> list[tuple[str, str]]:
        """(name, group) of its test's other figures than top-1, top-5 and their groups, as `Key` has them."""
        keys = []
        for metric in dict.fromkeys(metric for run in self.runs for metric in run.content["metrics"]):
            with suppress(ValueError):  # not a name that runs write
                keys.append(Key.parse(metric))
        return [(k.name, k.group) for k in keys if k.stage == "test" and k.name not in ("top1", "top5", "loss")]

    def values_of(self, name: str, group: str = "") -> list[float]:
        """Return a figure of the test by its row's protocol, of each run that has it."""
        return self.values(str(Key("test", name, Views.parse(self.views), group)))

    @property
    def top1(self) -> float | None:
        """Mean top-1 over the seeds, percent; None of a test that has none."""
        values = self.values_of("top1")
        return mean(values) if values else None


@dataclass(frozen=True)
class Experiment:
    """The runs of one `name=` at one scale."""

    name: str
    scale: str
    keys: Sequence[str]  # in which the rows differ
    rows: Sequence[OwnRow]
    same: Mapping[str, str]  # model, data, T, as far as all rows agree in them
    beside: Sequence[str] = ()  # further keys that differ, with what the model or data set is: they may follow from it
    table: int | None = None  # the paper's table that the experiment reruns: these are its runs that fill no row of it

    @property
    def slug(self) -> str:
        """Its name for files and ids of the page."""
        return slug(self.name, self.scale)

    @property
    def runs(self) -> list[FoundRun]:
        """All runs of its rows."""
        return [run for row in self.rows for run in row.every]


def slug(name: str, scale: str) -> str:
    """Return a name for files and ids of the page: of letters, digits, '-' and '_', another for each experiment."""
    plain = re.sub(r"[^\w-]", "_", f"{scale}_{name}", flags=re.ASCII)[:60]
    return plain if plain == f"{scale}_{name}" else f"{plain}-{hash_of([scale, name])}"


def best_first(rows: Sequence[OwnRow]) -> list[OwnRow]:
    """Return rows by mean top-1, the highest first."""
    return sorted(rows, key=lambda row: -1.0 if row.top1 is None else row.top1, reverse=True)


def experiments(collection: Collection) -> list[Experiment]:
    """Return the experiments that have a run which fills no row of the paper, at the collection's scales.

    One whose name is the user's has all of its runs, since a row may also be one of the paper's. One that reruns a
    table of the paper has the runs that fill no row of it.
    """
    others = {run.folder for run in collection.others}
    tables = {table.experiment: table.number for table in paper.load().tables.values()}
    named: dict[tuple[str, str], list[FoundRun]] = {}
    for run in collection.runs:
        name, scale = run.name, run.scale
        if scale in collection.tables and (run.folder in others or name not in tables):
            named.setdefault((scale, name), []).append(run)
    return [
        experiment_of(name, scale, runs, tables.get(name))
        for (scale, name), runs in sorted(named.items())
        if any(run.folder in others for run in runs)
    ]


def experiment_of(name: str, scale: str, runs: Sequence[FoundRun], table: int | None = None) -> Experiment:
    """Return runs as an experiment, in rows by what differs between them."""
    same_row: dict[str, list[FoundRun]] = {}
    for run in runs:
        same_row.setdefault(row_id(run.config), []).append(run)
    states = [
        pooled(same) if same[0].config["data"].get("folds", 1) > 1 else one_state(same) for same in same_row.values()
    ]
    partial = [[run for run in kept if run.lacking] for kept, _ in states]
    states = [([run for run in kept if not run.lacking] or kept, stale) for kept, stale in states]
    varied, same = differing([_without_seed(kept[0].config) for kept, _ in states])
    of_rows = [_short(values) for key, values in varied.items() if key != "seed"]
    keys = [key for key in varied if key != "seed"]
    cells = [list(values) for values in zip(*of_rows, strict=True)] or [[] for _ in states]
    labels = _labels(keys, of_rows) or ["" for _ in states]
    rows = [
        OwnRow(label or same.get("model", name), values, lacking, runs=kept, stale=stale)
        for label, values, lacking, (kept, stale) in zip(labels, cells, partial, states, strict=True)
    ]
    rows.sort(key=lambda row: [_natural(value) for value in row.cells])
    if len(rows) > MANY:
        rows = best_first(rows)
    if any(len(label) > LONGEST for label in labels):
        rows = [replace(row, label=f"row {n}") for n, row in enumerate(rows, 1)]
    same = {key: value for key, value in same.items() if key != "seed"}
    beside = beside_the_model([kept[0].config for kept, _ in states], varied)
    return Experiment(name, scale, keys, rows, same, beside, table)


def beside_the_model(configs: Sequence[Mapping[str, Any]], shown: Container[str]) -> list[str]:
    """Return the keys of the recipe and the clip in which configs differ and which are not among the shown."""
    rows = [dict(flat(updated(config))) for config in configs]
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith(("recipe.", "clip."))))
    names = {key: short_name(key, list(rows[0])) for key in keys}
    return [
        key
        for key in keys
        if names[key] not in shown and key not in shown and len({str(row.get(key)) for row in rows}) > 1
    ]


def _labels(keys: Sequence[str], values: Sequence[Sequence[str]]) -> list[str]:
    """Return a name for each row of the first keys that tell all rows apart: 'lr=0.01, T=8'; none without keys."""
    named: list[str] = []
    for key, of_rows in zip(keys, values, strict=True):
        longer = [f"{key}={value}" for value in of_rows]
        longer = [", ".join(both) for both in zip(named, longer, strict=True)] if named else longer
        if len(set(longer)) > len(set(named)):
            named = longer
    return named


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as rows are told apart: without the seed, and `init` without a run or the folder of a file."""
    files = {"init": data_of_init(config.get("init"))}
    if WEIGHTS in config:
        files[WEIGHTS] = config[WEIGHTS]
    for key, value in files.items():
        if isinstance(value, str) and CONTENT in value:
            file, _, digest = value.rpartition(CONTENT)
            files[key] = f"{Path(file).name}@{digest[:6]}"
    return {**config, "seed": 0, **files, "data": {**config["data"], "fold": 1}}


def _short(values: Sequence[str]) -> list[str]:
    """Return numbers of a search with four digits, as far as they then still differ: '0.001234' for 0.00123417."""
    short = [f"{float(value):.4g}" if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", value) else value for value in values]
    return short if len(set(short)) == len(set(values)) else list(values)


def _natural(value: str) -> tuple[int, float, str]:
    """Return what a value is sorted by: numbers by size, before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value
