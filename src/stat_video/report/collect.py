"""The rows of the paper's tables and the runs that fill them.

A run fills a row if its definition, but for the seed, is the row's: the same model, data, recipe, scale and protocol.
Runs that fill no row are for `own.experiments`; files that can't be read are listed: nothing is dropped in silence.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor

from .. import paper
from ..config import SCALES, Config
from ..cost.kept import KeptRows
from ..cost.reruns import reruns
from ..data.lists import read_counts
from ..data.sampling import Views
from ..errors import InputError
from ..metrics import figures
from ..metrics.scores import ensemble_of, ranks
from ..models.count import Uncounted
from ..paper import PaperRow, PaperTable
from ..progress import shown
from ..runs.code import commits
from ..runs.differing import differing, label_of
from ..runs.identity import data_of_init, foreign_keys, row_id
from ..runs.result import Key, Result
from ..runs.results import TOP1_OF_ONE_VIEW, ended_as_asked, epoch_figures, read_results
from ..runs.run import same_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundRun(Result):
    """A finished run, with what a report asks of it: logits, curves, commits."""

    members: Sequence["FoundRun"] = ()  # of an ensemble: the runs whose scores it averages
    folds: Sequence["FoundRun"] = ()  # of `data.folds`: the runs whose test videos it has, each its own
    lacking: str = ""  # why the folds give no figure: '3 of 5 folds'

    @property
    def commit(self) -> str:
        """The commits that it ran at, as `runs.code.commits` has them; '-' if unknown."""
        return commits(self.content.get("history") or [self.content])

    @property
    def trainings(self) -> Sequence["FoundRun"]:
        """The runs behind it: itself, or the members of an ensemble."""
        return self.members or self.folds or [self]

    @cached_property
    def ranks(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """`metrics.ranks` (videos,) of the test, and the labels; None without saved logits that can be read."""
        if self.lacking:
            return None
        try:
            logits, labels = self.logits()
            if labels.ndim > 1:  # of videos with several classes
                return None
            return ranks(logits, labels).numpy(), labels.numpy()
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many kinds
            files = " and ".join(str(run.logits_file) for run in self.trainings)
            log.warning("%s: no logits of a test (%s)", files, str(error).partition("\n")[0][:120])
            return None

    @cached_property
    def curve(self) -> tuple[list[int], list[float]]:
        """The clips that it had seen at each validation, and its top-1 of one view there, in percent."""
        return self.curve_of(TOP1_OF_ONE_VIEW)

    def curve_of(self, column: str) -> tuple[list[int], list[float]]:
        """Return the clips seen at each epoch of `epochs.csv` that has a figure in a column, and these figures."""
        clips = int(self.config["recipe"].get("batch_size", 0))
        points = epoch_figures(self.folder, column) if clips else []  # without: of another project's config
        return [steps * clips for steps, _ in points], [figure for _, figure in points]

    @property
    def logits_file(self) -> Path:
        """Path of the logits of its test."""
        return self.folder / f"logits_{self.content['config']['views']}.pt"

    def logits(self) -> tuple[Tensor, Tensor]:
        """Return logits (videos, views, num_classes) of the test and the labels; raise any of torch's errors."""
        if self.members:
            return ensemble_of([member.logits() for member in self.members])
        if self.folds:
            logits, labels = zip(*(fold.logits() for fold in self.folds), strict=True)
            return torch.cat(logits), torch.cat(labels)
        saved = torch.load(self.logits_file, weights_only=True)
        return saved["logits"], saved["labels"]

    @cached_property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """A number of each test video's group, (videos,); None if the videos are in no groups, or it is not known."""
        if self.folds:
            of_folds = [fold.groups for fold in self.folds]
            return None if any(of is None for of in of_folds) else np.concatenate(of_folds)  # type: ignore[arg-type]
        try:
            saved = torch.load(self.logits_file, weights_only=True)
        except Exception:  # torch raises many kinds; `ranks` says it
            return None
        return saved["groups"].numpy() if "groups" in saved and not self.members else None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of any table of runs: those that differ in the seed alone."""

    runs: Sequence[FoundRun] = ()  # one a seed
    stale: Sequence[FoundRun] = ()  # of another state of the data set

    @property
    def name(self) -> str:
        """The row's name in its table."""
        raise NotImplementedError

    @property
    def views(self) -> str:
        """Protocol of the test, '5x1'."""
        raise NotImplementedError

    @property
    def system(self) -> str:
        """Name of the model: rows of one system are compared with the same views alone."""
        raise NotImplementedError

    @property
    def trainings(self) -> list[FoundRun]:
        """All runs behind it, the members of ensembles one by one."""
        return [training for run in self.runs for training in run.trainings]

    @property
    def metrics(self) -> list[str]:
        """Names of its accuracies in result files, those of class groups after top-1 and top-5."""
        names = [str(Key("test", top, Views.parse(self.views))) for top in ("top1", "top5")]
        more = {m for run in self.runs for m in run.content["metrics"] if m.startswith(f"{names[0]}_")}
        return [*names, *sorted(more)]

    def values(self, metric: str) -> list[float]:
        """Return the metric of each run that has it, in percent."""
        return [run.content["metrics"][metric] for run in self.runs if metric in run.content["metrics"]]

    @property
    def parameters(self) -> float | None:
        """1e6 parameters, of all members of an ensemble; None without a run that says so."""
        count = self.runs[0].content.get("parameters") if self.runs else None
        return None if count is None else count / 1e6


@dataclass(frozen=True)
class ReportRow(TableRow):
    """One row of a table of the paper at one scale."""

    table: PaperTable
    printed: PaperRow
    scale: str
    configs: Sequence[Config] = ()  # what reruns it, several for an ensemble; none: it is printed only
    commands: Sequence[str] = ()
    why_not: str = ""  # why nothing reruns it, if something should
    kept: KeptRows = field(default_factory=KeptRows)  # of which multiply-adds are asked

    @property
    def config(self) -> Config | None:
        """What reruns it: of an ensemble the first run's."""
        return self.configs[0] if self.configs else None

    @property
    def system(self) -> str:
        """The printed name of the model."""
        return self.printed.method

    @property
    def name(self) -> str:
        """How the rows of its table are told apart: the printed label, in Tables 6 and 7 the system and its frames."""
        return self.printed.id if self.printed.label == self.printed.method else self.printed.label

    @property
    def views(self) -> str:
        """Protocol of the test, '5x1'."""
        return self.config.views if self.config else f"{self.printed.clips}x{self.printed.crops}"

    @cached_property
    def gflops(self) -> float | None:
        """1e9 multiply-adds as counted: of a view, or of all views if the table prints those; None if unknown."""
        if self.config is None:
            return None
        if self.runs and self.runs[0].content.get("gmacs") is not None:
            view = float(self.runs[0].content["gmacs"])
        else:
            try:
                view = sum(self.kept.gmacs(config) for config in self.configs)
            except (ImportError, Uncounted):  # ImportError: of the library that the model is built from
                return None
        clips, crops = (int(n) for n in self.views.split("x"))
        return view * (clips * crops if self.table.gflops_of == "video" else 1)


def clips_until(run: FoundRun, top1: float) -> tuple[int, int] | None:
    """Return the clips that a run had seen when a validation first gave so high a top-1, and at the one before that.

    Somewhere between the two it got there. None if no validation gave it.
    """
    clips, values = run.curve
    first = next((i for i, value in enumerate(values) if value >= top1), None)
    return None if first is None else (clips[first], clips[first - 1] if first else 0)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation, None for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


def config_difference(run: FoundRun, baseline: FoundRun | None) -> str:
    """Return what the config of a run says otherwise than the baseline's: 'modules=CA+SA, T=32'.

    The seed is left out, and so is which run its first weights are of, if the baseline's are of the same data set.
    """
    if baseline is None:
        return ""
    configs = [{**r.config, "init": data_of_init(r.config["init"])} for r in (run, baseline)]
    return ", ".join(f"{key}={ours}" for key, (ours, _) in differing(configs)[0].items() if key != "seed")


def baseline_of(rows: Sequence[ReportRow]) -> FoundRun | None:
    """Return the run of a table whose model has the fewest keys off their defaults, the paper's own model first."""
    of_ours = [run for row in rows if row.printed.ours for run in row.trainings]
    runs = of_ours or [run for row in rows for run in row.trainings]
    return min(runs, key=lambda run: len(label_of(run.config)), default=None)


@dataclass(frozen=True)
class Collection:
    """All that a report is made of."""

    tables: Mapping[str, Sequence[Sequence[ReportRow]]]  # scale: tables: rows
    runs: Sequence[FoundRun] = ()  # all that were found
    others: Sequence[FoundRun] = ()  # those of them that are no row of a table
    broken: Sequence[tuple[Path, str]] = ()  # files that can't be read, why
    rows: Mapping[tuple[str, str], ReportRow] = field(init=False)  # (scale, PaperRow.ref)

    def __post_init__(self) -> None:
        rows = {(row.scale, row.printed.ref): row for tables in self.tables.values() for t in tables for row in t}
        object.__setattr__(self, "rows", rows)


def collect(
    logs: Path,
    scales: Sequence[str] | None = None,
    kept: KeptRows | None = None,
    console: Console = Console(quiet=True),
) -> Collection:
    """Read all results below `logs` and put them into the rows of the paper's tables, as far as possible the kept.

    Without ``scales`` those that have runs: to compose the rows of a scale takes a minute. InputError if none has.
    """
    kept = kept or KeptRows()
    every, broken = found_runs(logs)
    scales = scales or [scale for scale in SCALES if scale in {run.scale for run in every}]
    if not scales:
        unread = f", {len(broken)} that can't be read ({broken[0][0]}: {broken[0][1]})" if broken else ""
        raise InputError(
            f"folders.logs={logs}: no finished run there{unread}; scales=[tiny] shows what there is to run"
        )
    runs: dict[str, list[FoundRun]] = {}
    for run in every:
        runs.setdefault(row_id(run.config), []).append(run)
    asked = [(scale, table) for scale in scales for table in paper.load().tables.values()]
    tables: dict[str, list[Sequence[ReportRow]]] = {scale: [] for scale in scales}
    for scale, table in shown(asked, "rows of a table", len(asked), console):
        tables[scale].append(_rows(table, scale, runs, kept))
    used = {r.folder for ts in tables.values() for t in ts for row in t for r in (*row.trainings, *row.stale)}
    return Collection(tables, every, [run for run in every if run.folder not in used], broken)


def found_runs(logs: Path) -> tuple[list[FoundRun], list[tuple[Path, str]]]:
    """Return the finished runs below `logs` by folder, and the files there that can't be read, with the reason."""
    found = read_results(logs)
    runs = []
    for result in found.results:
        try:
            row_id(result.config)
            label_of(result.config)
        except (KeyError, TypeError, AttributeError) as error:  # of no config of ours
            found.broken.append((result.folder / "result.json", f"its config is not a run's ({error!r:.60})"))
        else:
            runs.append(FoundRun(result.folder, result.content))
    return sorted(runs, key=lambda run: str(run.folder)), found.broken


def hints(runs: Sequence[FoundRun]) -> list[str]:
    """Return one line per key that keeps runs from their rows since the code has changed, with what mends it."""
    lacks, unknown = Counter[str](), Counter[str]()
    for run in runs:
        missing, left = foreign_keys(run.config)
        lacks.update(missing)
        unknown.update(left)
    return [
        *(f"{n} runs lack {key}: give the field a neutral value, and they fill their rows" for key, n in lacks.items()),
        *(f"{n} runs have {key}, which is no key here: list it as retired" for key, n in unknown.items()),
    ]


def few_classes(rows: Sequence[ReportRow]) -> list[str]:
    """Return the names of the data sets in which every answer is among the first five."""
    sets = {row.config.data.name: row.config.data for row in rows if row.config}  # reading the lists of each once
    return [name for name, data in sets.items() if (read_counts(data)[0] or 6) <= 5]


def _rows(table: PaperTable, scale: str, runs: Mapping[str, list[FoundRun]], kept_rows: KeptRows) -> list[ReportRow]:
    rows = []
    for again in reruns(table, scale, kept_rows):
        members = [
            [run for run in runs.get(row_id(asdict(config)), []) if ended_as_asked(config.recipe, run)]
            for config in again.configs
        ]
        kept, stale = one_state([run for same in members for run in same])
        if len(members) > 1:
            kept = _ensembles([[run for run in same if run in kept] for same in members])
        commands = [row.command for row in again.rows]
        about = (table, again.printed, scale, again.configs, commands, again.why_not, kept_rows)
        rows.append(ReportRow(*about, runs=kept, stale=stale))
    return rows


def _ensembles(members: Sequence[Sequence[FoundRun]]) -> list[FoundRun]:
    """Return an ensemble of each seed that all members have: its accuracies are of the averaged scores."""
    found = []
    for first in members[0]:
        same = [run for runs in members for run in runs if run.seed == first.seed]
        if len(same) < len(members):
            continue
        result = dict(first.content)
        ensemble = FoundRun(first.folder, result, same)
        if ensemble.ranks is None:
            continue
        averaged, views = figures(*ensemble.logits()), result["config"]["views"]
        result["id"] = "+".join(run.id for run in same)
        result["metrics"] = {f"test/{name}_{views}": float(value) for name, value in averaged.items()}
        for key in ("gmacs", "parameters"):
            result[key] = sum(run.content[key] for run in same) if all(run.content.get(key) for run in same) else None
        found.append(ensemble)
    return found


def pooled(runs: Sequence[FoundRun]) -> tuple[list[FoundRun], list[FoundRun]]:
    """Return the runs of folds as one run per seed, and those on an older state of the data set.

    Its figures are those of the test videos of all folds together. A seed whose folds are not all of all videos is
    `lacking` and has none.
    """
    kept, stale = list[FoundRun](), list[FoundRun]()
    for fold in sorted({_fold_of(run) for run in runs}):
        newest, older = one_state([run for run in runs if _fold_of(run) == fold])
        kept, stale = kept + newest, stale + older
    found = list[FoundRun]()
    for seed in sorted({run.seed for run in kept}):
        folds = [run for run in kept if run.seed == seed]
        content = {**folds[0].content, "id": "+".join(run.id for run in folds), "metrics": {}}
        whole = FoundRun(folds[0].folder, content, folds=folds, lacking=_lacking(folds))
        if not whole.lacking:
            views = content["config"]["views"]
            metrics = figures(*whole.logits()).items()
            content["metrics"] = {f"test/{name}_{views}": float(value) for name, value in metrics}
        found.append(whole)
    return found, stale


def _fold_of(run: FoundRun) -> int:
    return int(run.config["data"]["fold"])


def _lacking(folds: Sequence[FoundRun]) -> str:
    """Return why runs of a seed are not a test of each video of a data set once; empty if they are."""
    number = int(folds[0].config["data"]["folds"])
    if missing := sorted({*range(1, number + 1)} - {_fold_of(run) for run in folds}):
        return f"{len(folds)} of {number} folds, without {', '.join(map(str, missing))}"
    if lost := [_fold_of(run) for run in folds if run.ranks is None]:
        return f"{number - len(lost)} of {number} folds, without the logits of {', '.join(map(str, lost))}"
    if len({sum(run.content.get("videos", {}).values()) for run in folds}) > 1:
        return f"{number} folds, which were run on different states of the data set"
    return ""


def one_state(runs: Sequence[FoundRun]) -> tuple[list[FoundRun], list[FoundRun]]:
    """Return the runs on the newest state of the data set by seed, and the others: the two are never averaged."""
    if not runs:
        return [], []
    newest = max(runs, key=lambda run: str(run.content["finished"])).content.get("manifest")
    kept = [run for run in runs if same_data(run.content.get("manifest"), newest)]
    return sorted(kept, key=lambda run: run.seed), [run for run in runs if run not in kept]
