"""The tables of a report as plain cells, which each format writes in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import paper
from ..data.lists import read_counts
from ..paper import PaperTable
from .collect import Collection, FoundRun, ReportRow, mean_std
from .compare import Verdict, judge, pairs

MISSING = "missing"
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

    def __post_init__(self) -> None:
        self.numbers = self.numbers or [False] * len(self.columns)
        self.marked = self.marked or [False] * len(self.rows)


def main_table(rows: Sequence[ReportRow]) -> TextTable:
    """Return a table of the paper, ours beside the printed figures; at the paper scale with the difference."""
    table, scale = rows[0].table, rows[0].scale
    comparable = scale == "paper"
    systems = table.compares_systems
    groups = list(dict.fromkeys(m.rpartition("_")[2] for row in rows for m in row.metrics[2:]))
    columns = ["Method", "Backbone", "Pre-train", "Frames×Clips×Crops"] if systems else [table.columns[0]]
    head = len(columns)
    columns += ["GFLOPs", "GFLOPs printed", "top-1", "top-1 printed", *(["difference"] if comparable else [])]
    columns += [f"top-1 {group}" for group in groups] + ["top-5", "top-5 printed", "n", "views", "commit"]
    cells = []
    for row in rows:
        line = _system(row) if systems else [row.printed.label]
        line += [_figure(row.gflops, 3 if scale == "tiny" else 1), _figure(row.printed.gflops, 0 if systems else 1)]
        line += [_accuracy(row, row.metrics[0]), _figure(row.printed.top1, 1)]
        line += [_difference(row)] if comparable else []
        line += [_accuracy(row, f"{row.metrics[0]}_{group}") for group in groups]
        line += [_accuracy(row, row.metrics[1]), _figure(row.printed.top5, 1)]
        line += [str(len(row.runs)) if row.config else "", row.views, ", ".join(_commits(row.runs))]
        cells.append(line)
    shown = [i for i in range(len(columns)) if i < head or columns[i] == "commit" or any(line[i] for line in cells)]
    columns, cells = [columns[i] for i in shown], [[line[i] for i in shown] for line in cells]
    return TextTable(
        title=f"Table {table.number}. {table.title} Scale {scale}.",
        columns=columns,
        rows=cells,
        numbers=[i >= head and name not in ("views", "commit") for i, name in enumerate(columns)],
        marked=[systems and row.printed.ours for row in rows],
        notes=_notes(table, rows),
        commands=[command for row in rows if not row.runs for command in row.commands],
    )


def pair_table(rows: Sequence[ReportRow]) -> TextTable:
    """Return every two of our rows, with their difference in top-1 and its interval."""
    cells = []
    for a, b, d in pairs(rows):
        if isinstance(d, str):
            cells.append([a.name, b.name, "", "", "", "", f"can't be compared: {d}"])
            continue
        verdict = f"{'' if d.told_apart else 'not '}told apart{', of the videos alone' if d.seeds == 1 else ''}"
        p = f"{d.p:.3f}" if d.p >= 0.001 else "< 0.001"
        figures = [f"{d.mean:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", p, str(d.seeds)]
        cells.append([a.name, b.name, *figures, verdict])
    columns = ["row", "minus row", "top-1", "95 % interval", "p (Holm)", "seeds", ""]
    return TextTable("Pair by pair", columns, cells, [False, False, True, True, True, True, False])


def claim_table(verdicts: Sequence[Verdict]) -> TextTable:
    """Return the claims of the paper, and what our figures say of them."""
    cells = [
        [v.claim.quote, _asked(v), v.verdict, v.why + (f". {v.claim.note}" if v.claim.note else "")] for v in verdicts
    ]
    return TextTable("Claims of the paper", ["claim", "checked as", "verdict", "figures"], cells)


def run_table(runs: Sequence[FoundRun]) -> TextTable:
    """Return where the figures come from: a row a run."""
    cells = []
    for run in runs:
        r = run.result
        versions, hardware = r.get("versions", {}), r.get("hardware", {})
        machine = (
            f"{hardware.get('devices', '?')} x {hardware.get('device', '?')}, {hardware.get('threads', '?')} threads"
        )
        if "attention" in hardware:  # older results do not say it
            machine += f", attention by {hardware['attention']}"
        train, wall = (r.get(key, float("nan")) for key in ("train_seconds", "wall_seconds"))
        name = f"{run.folder.parent.name}/{run.folder.name}"
        about = [name, str(run.seed), run.commit, str(r.get("manifest")), f"{train:.0f}", f"{wall:.0f}", machine]
        cells.append([*about, str(versions.get("torch", "?")), str(r["finished"])])
    total = sum(run.result.get("wall_seconds", 0) for run in runs)
    notes = [f"{len(runs)} runs, {total / 3600:.2f} hours one after the other."] if runs else []
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
            return f"{metric}: {refs[0]} is the best of Table {v.claim.rows[0].partition('/')[0]}"
        case "close":
            return f"{metric}: {', '.join(refs)} within {v.claim.limit:g}"
        case _:
            return f"{metric}: {refs[0]} / {refs[1]} at most {v.claim.limit:g}"


def _system(row: ReportRow) -> list[str]:
    p = row.printed
    return [p.method, p.backbone or "-", p.pretrain or "-", f"{p.frames}×{p.clips}×{p.crops}"]


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _accuracy(row: ReportRow, metric: str) -> str:
    values = row.values(metric)
    if row.config is None:
        return ""
    if not values:
        return MISSING
    mean, std = mean_std(values)
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _difference(row: ReportRow) -> str:
    values = row.values(row.metrics[0])
    if not values or row.printed.top1 is None:
        return ""
    mark = "" if _protocol(row) == row.views else " †"
    return f"{mean_std(values)[0] - row.printed.top1:+.2f}{mark}"


def _protocol(row: ReportRow) -> str:
    return f"{row.printed.clips}x{row.printed.crops}"


def _commits(runs: Sequence[FoundRun]) -> list[str]:
    return list(dict.fromkeys(run.commit for run in runs))


def _notes(table: PaperTable, rows: Sequence[ReportRow]) -> list[str]:
    ours = [row for row in rows if row.config]
    sets = {row.config.data.name: row.config.data for row in rows if row.config}
    counted = "of a clip" if table.gflops_of == "clip" else "of all views of a video"
    notes = [
        f"printed: the paper's figure, on {NAMES.get(table.dataset, table.dataset)}. GFLOPs are 1e9 multiply-adds "
        f"{counted}, as counted for ours. n: seeds; ± is the standard deviation over them."
    ]
    if rows[0].scale == "tiny":
        notes.append(
            f"Ours are tiny models on the built-in {', '.join(sets)} videos: other models, data and recipes than the "
            "printed ones, so the two are not compared."
        )
    elif any(_protocol(row) != row.views for row in ours):
        notes.append("† tested with other views than the printed figure.")
    if table.compares_systems:
        own = next(row.printed.method for row in rows if row.printed.ours)
        others = [row for row in ours if not row.printed.ours]
        named = f"{len(others)} rows of other systems, each by its own recipe," if others else "no other row"
        notes.append(
            f"The rows of {own} and {named} can be rerun; the others are printed only. Two systems are compared each "
            "with its own views, as in the paper."
        )
    notes += [
        f"{row.name}: printed only, since its words do not compose: {row.why_not}." for row in rows if row.why_not
    ]
    few = [name for name, data in sets.items() if (read_counts(data)[0] or 6) <= 5]
    if few:
        notes.append(f"{', '.join(few)} has no more than five classes, so top-5 says nothing.")
    for row in ours:
        if row.stale:
            left = ", ".join(f"{run.id} ({run.result.get('manifest')})" for run in row.stale)
            notes.append(f"{row.name}: left out, since they saw another state of the data set: {left}.")
        for run in row.runs:
            lacking = [f"{len(paths)} {split}" for split, paths in run.result.get("unreadable", {}).items() if paths]
            if lacking:
                notes.append(
                    f"{row.name}, seed {run.seed}: {' and '.join(lacking)} videos could not be read; those of "
                    "the test count as wrong."
                )
        if any(run.commit.endswith("+") for run in row.runs):
            notes.append(f"{row.name}: + means that files were changed since that commit.")
    notes += [f"{row.printed.id}: {row.printed.note}." for row in rows if row.printed.note]
    return notes
