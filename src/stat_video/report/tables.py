"""The tables of a report as plain cells, which each format writes in its own way."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .. import paper
from ..paper import PaperTable
from .collect import (
    Collection,
    FoundRun,
    ReportRow,
    TableRow,
    baseline_of,
    clips_until,
    config_difference,
    few_classes,
    mean_std,
)
from .compare import FAILS, HOLDS, MISSING, OPEN, UNLIKE, Difference, Pair, Verdict, clips_apart, judge

LACKING = "missing"  # in the place of a figure of a row that can be rerun
SOON = 90  # percent of validation top-1: how many clips a row needs until then
SECONDARY = (
    "GFLOPs printed",
    "top-5",
    "top-5 printed",
    "views",
    "commit",
    "Backbone",
    "Pre-train",
    "about",
    "M parameters",
    "GFLOPs a video",
)  # not on a phone
HOW_TO_READ = (
    "printed: the paper's figure. GFLOPs are 1e9 multiply-adds, as counted for ours. n: seeds; ± is the standard "
    "deviation over them. missing: a row that can be rerun and has no run here.",
    f"clips to {SOON} %: training clips seen when the validation of one view first gave so high a top-1, asked after "
    "each epoch. epochs: a run whose validation is below recipe.hold_until when its learning rate would fall is late, "
    "and keeps the rate for more epochs.",
    "In the pictures a bar is the 95 % interval of a row's top-1. Pair by pair: the difference in top-1 on the same "
    "videos and seeds, in percentage points. Intervals count with other videos and, from two seeds on, with other "
    "seeds; with one seed they say nothing about other seeds. 'Told apart' if p, adjusted for the number of the "
    "table's pairs (Holm), is below 0.05. docs/intervals.md says how, and how wide. Beside it the difference in clips "
    "to 90 %, over the seeds, known to an epoch.",
    "Other systems are compared with the paper's own rows alone, and each with its own views, as in the paper.",
)
TINY = (
    "Scale tiny: tiny models on videos that the framework makes itself, a diagnostic of the mechanism and no evidence "
    "about Kinetics or Something-Something. Models, data and recipes are other than the printed figures', so the two "
    "are not compared; the printed ones show what each row is."
)
NAMES = {"kinetics400": "Kinetics-400", "ssv2": "Something-Something v2"}


@dataclass
class TextTable:
    """A table of text: what each cell shows, with what has to be known about it beneath."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    numbers: Sequence[bool] = ()  # which columns hold figures
    marked: list[bool] = field(default_factory=list)  # rows to set off: the paper's own among other systems
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # what would fill the missing rows
    anchors: Sequence[str] = ()  # of the page: where each row's first cell leads to, or '' for nowhere
    names: Sequence[str] = ()  # of the page: where each row itself is found
    grouped: bool = False  # of the page: rows with the same first cell stand beneath it, across all columns

    def __post_init__(self) -> None:
        self.numbers = self.numbers or [False] * len(self.columns)
        self.marked = self.marked or [False] * len(self.rows)
        self.anchors, self.names = self.anchors or [""] * len(self.rows), self.names or [""] * len(self.rows)

    @property
    def secondary(self) -> list[bool]:
        """Which columns a narrow window leaves out until they are asked for."""
        return [name in SECONDARY for name in self.columns]


def main_table(rows: Sequence[ReportRow]) -> TextTable:
    """Return a table of the paper, ours beside the printed figures; at the paper scale with the difference."""
    table, scale = rows[0].table, rows[0].scale
    comparable = scale == "paper"
    systems = table.compares_systems
    groups = list(dict.fromkeys(m.rpartition("_")[2] for row in rows for m in row.metrics[2:]))
    columns = ["Method", "Backbone", "Pre-train", "Frames×Clips×Crops"] if systems else [table.columns[0]]
    head = len(columns)
    columns += ["M parameters"] if systems else []
    columns += [f"GFLOPs a {table.gflops_of}", "GFLOPs printed", "top-1", "top-1 printed"]
    columns += ["difference"] if comparable else []
    columns += [f"top-1 {group}" for group in groups] + [f"clips to {SOON} %"]
    columns += ["top-5", "top-5 printed", "n", "views", "commit"]
    few, cells = few_classes(rows), []
    for row in rows:
        no_top5 = row.config is not None and row.config.data.name in few
        line = _system(row) if systems else [row.printed.label]
        line += [figure_cell(row.parameters, 2)] if systems else []
        line += [
            figure_cell(row.gflops, 3 if scale == "tiny" else 1),
            figure_cell(row.printed.gflops, 0 if systems else 1),
        ]
        line += [_accuracy(row, row.metrics[0]), figure_cell(row.printed.top1, 1)]
        line += [_difference(row)] if comparable else []
        line += [_accuracy(row, f"{row.metrics[0]}_{group}") for group in groups] + [soon_cell(row)]
        line += ["" if no_top5 else _accuracy(row, row.metrics[1]), figure_cell(row.printed.top5, 1)]
        line += [str(len(row.runs)) if row.config else "", row.views, ", ".join(commits_of(row.runs))]
        cells.append(line)
    shown = [i for i in range(len(columns)) if i < head or columns[i] == "commit" or any(line[i] for line in cells)]
    columns, cells = [columns[i] for i in shown], [[line[i] for i in shown] for line in cells]
    return TextTable(
        title=f"Table {table.number}. {table.title} Scale {scale}.",
        columns=columns,
        rows=cells,
        numbers=[i >= head and name not in ("views", "commit") for i, name in enumerate(columns)],
        marked=[systems and row.printed.ours for row in rows],
        anchors=[anchor(row) if row.runs else "" for row in rows],
        notes=_notes(table, rows, few),
        commands=[command for row in rows if not row.runs for command in row.commands],
    )


def pair_table(pairs: Sequence[Pair]) -> TextTable:
    """Return the difference in top-1 of each pair, with its interval; beneath, which can't be compared and why."""
    cells, not_compared = [], dict[str, list[str]]()
    for a, b, d in pairs:
        if isinstance(d, str):
            not_compared.setdefault(d, []).append(f"{a.name} and {b.name}")
            continue
        verdict = f"{'' if d.told_apart else 'not '}told apart{', of the videos alone' if d.seeds == 1 else ''}"
        p = f"{d.p:.3f}" if d.p >= 0.001 else "< 0.001"
        figures = [f"{d.mean:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", p, str(d.seeds)]
        soon = "" if (clips := clips_apart(a, b, SOON)) is None else "{:+,.0f} ({:+,.0f} to {:+,.0f})".format(*clips)
        cells.append([a.name, b.name, *figures, verdict, soon])
    columns = ["row", "minus row", "top-1", "95 % interval", "p (Holm)", "seeds", "", f"clips to {SOON} %"]
    if not any(line[-1] for line in cells):
        columns, cells = columns[:-1], [line[:-1] for line in cells]
    notes = [f"Not compared, {why}: {'; '.join(names)}." for why, names in not_compared.items()]
    numbers = [name not in ("row", "minus row", "") for name in columns]
    return TextTable("Pair by pair", columns, cells, numbers, notes=notes)


def anchor(row: ReportRow) -> str:
    """Return the name in the page of a row's runs."""
    return f"runs-{row.scale}-{row.table.number}-{row.printed.id}".replace(" ", "_")


def row_runs(rows: Sequence[ReportRow]) -> TextTable:
    """Return the runs of each row of a table, and what their configs say otherwise than the baseline's."""
    baseline = baseline_of(rows)
    cells, names = [], []
    for row in rows:
        for run in row.trainings:
            top1 = run.content["metrics"].get(row.metrics[0])
            soon = clips_until(run, SOON)
            figures = [figure_cell(top1, 2), "" if soon is None else f"{soon[0]:,}"]
            different = config_difference(run, baseline) or "the baseline"
            name = f"{run.folder.parent.name}/{run.folder.name}"
            cells.append([row.name, str(run.seed), str(run.content.get("epochs", "")), *figures, name, different])
            names.append("" if anchor(row) in names else anchor(row))
    columns = ["row", "seed", "epochs", "top-1", f"clips to {SOON} %", "run", "its config beside the baseline's"]
    return TextTable("Runs of each row", columns, cells, [False, True, True, True, True, False, False], names=names)


def summary(
    tables: Sequence[Sequence[ReportRow]], pairs: Mapping[int, Sequence[Pair]], judged: Sequence[Verdict]
) -> TextTable:
    """Return a row a table: what of it is run, what is told apart, what becomes of its claims, what it cost."""
    cells = []
    order = (HOLDS, FAILS, OPEN, MISSING, UNLIKE)
    judged = sorted(judged, key=lambda v: (order.index(v.verdict), v.one_seed))
    for rows in tables:
        number = rows[0].table.number
        can_run, filled = [row for row in rows if row.config], [row for row in rows if row.runs]
        seeds = sorted({len(row.runs) for row in filled})
        compared = [d for _, _, d in pairs[number] if isinstance(d, Difference)]
        claims = Counter(v.said for v in judged if v.claim.rows[0].partition("/")[0] == str(number))
        cells.append(
            [
                f"Table {number}",
                rows[0].table.title.rstrip("."),
                f"{len(filled)} of {len(can_run)}",
                " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else "",
                f"{sum(d.told_apart for d in compared)} of {len(compared)}" if compared else "",
                ", ".join(f"{n} {said}" for said, n in claims.items()),
                hours(runs_of([rows])),
            ]
        )
    columns = ["table", "about", "rows run", "seeds", "pairs told apart", "claims", "hours"]
    table = TextTable("At a glance", columns, cells, [False, False, True, True, True, False, True])
    table.anchors = [f"table-{rows[0].table.number}" for rows in tables]
    runs = runs_of(tables)
    verdict = Counter(v.said for v in judged)  # in the same order
    if runs:
        table.notes.append(
            f"All together: {len(runs)} runs (a run may stand in several tables), {hours(runs)} hours one after the "
            f"other; of {len(judged)} claims of the paper {', '.join(f'{n} {v}' for v, n in verdict.items())}."
        )
    return table


def hours(runs: Sequence[FoundRun]) -> str:
    """Return how long runs took one after the other, by their results: '1.25'; '' for none."""
    return f"{sum(run.content.get('wall_seconds', 0) for run in runs) / 3600:.2f}" if runs else ""


def claim_table(verdicts: Sequence[Verdict]) -> TextTable:
    """Return the claims of the paper, and what our figures say of them."""
    cells = [
        [v.claim.quote, _asked(v), v.said, v.why + (f". {v.claim.note}" if v.claim.note else "")] for v in verdicts
    ]
    return TextTable("Claims of the paper", ["claim", "checked as", "verdict", "figures"], cells, grouped=True)


def run_table(runs: Sequence[FoundRun], more: Sequence[str] = ()) -> TextTable:
    """Return where the figures come from: one row per run, with ``more`` notes below."""
    cells = []
    for run in runs:
        r = run.content
        versions, hardware = r.get("versions", {}), r.get("hardware", {})
        machine = (
            f"{hardware.get('devices', '?')} x {hardware.get('device', '?')}, {hardware.get('threads', '?')} threads"
        )
        if "attention" in hardware:  # older results do not say it
            machine += f", attention by {hardware['attention']}"
        train, wall = (float("nan") if r.get(key) is None else r[key] for key in ("train_seconds", "wall_seconds"))
        name = f"{run.folder.parent.name}/{run.folder.name}"
        about = [name, str(run.seed), run.commit, str(r.get("manifest")), f"{train:.0f}", f"{wall:.0f}", machine]
        cells.append([*about, str(versions.get("torch", "?")), str(r["finished"])])
    notes = [f"{len(runs)} runs, {hours(runs)} hours one after the other."] if runs else []
    notes += more
    columns = ["run", "seed", "commit", "data", "training s", "all s", "machine", "torch", "finished (UTC)"]
    return TextTable("Runs", columns, cells, [False, True, False, False, True, True, False, False, False], notes=notes)


def verdicts(collection: Collection, scale: str) -> list[Verdict]:
    """Return the verdict on each claim of the paper at one scale."""
    return [judge(claim, scale, collection.rows) for claim in paper.load().claims]


def runs_of(tables: Sequence[Sequence[ReportRow]]) -> list[FoundRun]:
    """Return the runs that fill tables, each once: one that stands in two tables is the same run."""
    runs = {run.folder: run for table in tables for row in table for run in row.trainings}
    return [runs[folder] for folder in sorted(runs)]


def _asked(v: Verdict) -> str:
    refs = [ref.partition("/")[2] for ref in v.claim.rows]
    metric = {"top1": "top-1", "top5": "top-5", "gflops": "GFLOPs"}[v.claim.metric]
    match v.claim.form:
        case "greater":
            return f"{metric}: {' > '.join(refs)}"
        case "best":
            table = paper.load().tables[int(v.claim.rows[0].partition("/")[0])]
            among = "no other system is above it in" if table.compares_systems else "the best of"
            return f"{metric}: {refs[0]}, {among} Table {table.number}"
        case "close":
            return f"{metric}: {', '.join(refs)} within {v.claim.limit:g}"
        case _:
            return f"{metric}: {refs[0]} / {refs[1]} at most {v.claim.limit:g}"


def _system(row: ReportRow) -> list[str]:
    p = row.printed
    return [p.method, p.backbone or "-", p.pretrain or "-", f"{p.frames}×{p.clips}×{p.crops}"]


def figure_cell(value: float | None, digits: int) -> str:
    """Return a figure with so many digits, '' for None."""
    return "" if value is None else f"{value:.{digits}f}"


def _accuracy(row: ReportRow, metric: str) -> str:
    values = row.values(metric)
    if row.config is None:
        return ""
    if not values:
        return "" if row.runs else LACKING  # an ensemble has no accuracies of class groups
    return mean_cell(values)


def mean_cell(values: Sequence[float]) -> str:
    """Return the mean over seeds, and the standard deviation of several: '71.25 ± 0.50'; '' for none."""
    if not values:
        return ""
    mean, std = mean_std(values)
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def soon_cell(row: TableRow) -> str:
    """Return the clips until SOON percent, over the seeds; how many of them came so far if not all did."""
    found = [clips_until(run, SOON) for run in row.runs]
    clips = [n for n, _ in filter(None, found)]
    if not clips:
        return ""
    figure, std = mean_std(clips)
    said = f"{figure:,.0f}" + ("" if std is None else f" ± {std:,.0f}")
    return said if len(clips) == len(found) else f"{said}, {len(clips)} of {len(found)} seeds"


def _difference(row: ReportRow) -> str:
    values = row.values(row.metrics[0])
    if not values or row.printed.top1 is None:
        return ""
    mark = "" if _protocol(row) == row.views else " †"
    return f"{mean_std(values)[0] - row.printed.top1:+.2f}{mark}"


def _protocol(row: ReportRow) -> str:
    return f"{row.printed.clips}x{row.printed.crops}"


def commits_of(runs: Sequence[FoundRun]) -> list[str]:
    """Return the commits that runs ran at, each once."""
    return list(dict.fromkeys(run.commit for run in runs))


def _notes(table: PaperTable, rows: Sequence[ReportRow], few: Sequence[str]) -> list[str]:
    """Return what is to be said of this table alone; HOW_TO_READ says what holds for all."""
    ours = [row for row in rows if row.config]
    sets = dict.fromkeys(row.config.data.name for row in rows if row.config)
    notes = [f"Printed on {NAMES.get(table.dataset, table.dataset)}; ours on {', '.join(sets) or 'nothing'}."]
    if rows[0].scale != "tiny" and any(_protocol(row) != row.views for row in ours):
        notes.append("† tested with other views than the printed figure.")
    if table.compares_systems:
        own = next(row.printed.method for row in rows if row.printed.ours)
        others = [row for row in ours if not row.printed.ours]
        recipe = "by one recipe but for the learning rate" if rows[0].scale == "tiny" else "each by its own recipe"
        named = f"{len(others)} rows of other systems, {recipe}," if others else "no other row"
        notes.append(f"The rows of {own} and {named} can be rerun; the others are printed only.")
    notes += [
        f"{row.name}: printed only, since its words do not compose: {row.why_not}." for row in rows if row.why_not
    ]
    if few:
        notes.append(f"{', '.join(few)} has no more than five classes: our top-5 says nothing, and is left out.")
    notes += notes_of_runs(ours)
    notes += [f"{row.printed.id}: {row.printed.note}." for row in rows if row.printed.note]
    return notes


def notes_of_runs(rows: Sequence[TableRow]) -> list[str]:
    """Return what is to be said of the runs of rows: those left out, unreadable videos, changed code."""
    notes = []
    for row in rows:
        if row.stale:
            left = ", ".join(f"{run.id} ({run.content.get('manifest')})" for run in row.stale)
            notes.append(f"{row.name}: left out, since they saw another state of the data set: {left}.")
        for run in row.trainings:
            lacking = [f"{len(paths)} {split}" for split, paths in run.content.get("unreadable", {}).items() if paths]
            if lacking:
                notes.append(
                    f"{row.name}, seed {run.seed}: {' and '.join(lacking)} videos could not be read; those of "
                    "the test count as wrong."
                )
            if len(run.content.get("history", [])) > 1:
                notes.append(f"{row.name}, seed {run.seed}: begun on other code than it was finished on: {run.commit}.")
        if any("+" in run.commit for run in row.trainings):
            notes.append(f"{row.name}: + means that files were changed since that commit.")
    return notes
