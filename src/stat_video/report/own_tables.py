"""The tables of experiments that are no table of the paper, as plain cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runs.differing import in_words
from .compare import accuracy_of
from .mistakes import Mistakes
from .own import MANY, Experiment, OwnRow, best_first
from .tables import SOON, TextTable, commits_of, figure_cell, hours, mean_cell, notes_of_runs, run_table, soon_cell
from .videos import name_of

FEW = 20  # lines of a table that has the first of many
HOW_TO_READ = (
    "A row has the runs that differ in the seed alone; the columns before top-1 are the keys in which rows differ. n: "
    "seeds; ± is the standard deviation over them. The 95 % interval of top-1 counts with other test videos and, from "
    "two seeds on, with other seeds (docs/intervals.md). GFLOPs are 1e9 multiply-adds of a view.",
    f"Of more than {MANY} rows the best stand first and in colour, and pairs are those of the best row; p is adjusted "
    "for the number of all pairs (Holm) in either case. 'Told apart': p is below 0.05, the difference is significant.",
    "Curves are of the validation of one view and of the training loss: the mean over the seeds, in a band from the "
    "lowest to the highest.",
    "Confusions and errors are of the scores of all views. The diagonal of a confusion matrix is the top-1 of a class; "
    "both are means over the seeds. An error is a video whose highest score, averaged over the seeds, is of a wrong "
    "class; those with the highest stand first.",
)


def overview(experiments: Sequence[Experiment]) -> TextTable:
    """Return one row per experiment: its rows, runs and the best of them."""
    cells = []
    for experiment in experiments:
        best = best_first(experiment.rows)[0]
        top1 = "" if best.top1 is None else f"{best.top1:.2f}"
        about = [experiment.name, experiment.scale, str(len(experiment.rows)), str(len(experiment.runs))]
        cells.append([*about, best.name, top1, hours(experiment.runs)])
    columns = ["experiment", "scale", "rows", "runs", "best row", "its top-1", "hours"]
    table = TextTable("Your experiments", columns, cells, [False, False, True, True, False, True, True])
    table.anchors = [f"own-{experiment.slug}" for experiment in experiments]
    return table


def own_table(experiment: Experiment) -> TextTable:
    """Return the rows of an experiment: what differs between them, and the figures of their tests."""
    rows = experiment.rows
    named = not experiment.keys or any(row.name.startswith("row ") for row in rows)
    groups = sorted({m.removeprefix(f"{row.metrics[0]}_") for row in rows for m in row.metrics[2:]})
    further = list(dict.fromkeys(figure for row in rows for figure in row.further))
    columns = ["row"] * named + [*experiment.keys, "M parameters", "GFLOPs a view", "top-1", "95 % interval"]
    columns += [f"top-1 {group}" for group in groups] + [" ".join(filter(None, figure)) for figure in further]
    columns += [f"clips to {SOON} %", "top-5", "n", "views", "commit"]
    few, cells = {row.data for row in rows if _few_classes(row)}, []
    for row in rows:
        line = [row.name] * named + [*row.cells, figure_cell(row.parameters, 2), figure_cell(row.gflops, 3)]
        line += [mean_cell(row.values_of("top1")), _interval(row)]
        line += [mean_cell(row.values_of("top1", group)) for group in groups]
        line += [mean_cell(row.values_of(*figure)) for figure in further]
        line += [soon_cell(row), "" if row.data in few else mean_cell(row.values_of("top5")), _number(row)]
        cells.append([*line, row.views, ", ".join(commits_of(row.runs))])
    head = named + len(experiment.keys)
    there = [i for i in range(len(columns)) if i < head or any(line[i] for line in cells)]
    there = [i for i in there if columns[i] != "views" or i < head or "views" not in experiment.keys]
    return TextTable(
        title=f"{experiment.name}, scale {experiment.scale}",
        columns=[columns[i] for i in there],
        rows=[[line[i] for i in there] for line in cells],
        numbers=[i >= head and columns[i] not in ("views", "commit", "95 % interval") for i in there],
        notes=_notes(experiment),
        anchors=[anchor(experiment, row) for row in rows],
    )


def anchor(experiment: Experiment, row: OwnRow) -> str:
    """Return the name in the page of a row's runs."""
    return f"runs-{experiment.slug}-{experiment.rows.index(row)}"


def own_runs(experiment: Experiment) -> TextTable:
    """Return the runs of each row, and where they come from."""
    table = run_table(experiment.runs)
    runs = [(row, n) for row in experiment.rows for n in range(len(row.every))]
    names = [anchor(experiment, row) if n == 0 else "" for row, n in runs]
    labels = [row.name for row, _ in runs]
    rows = [[label, *cells] for label, cells in zip(labels, table.rows, strict=True)]
    numbers = [False, *table.numbers]
    return TextTable("Runs", ["row", *table.columns], rows, numbers, notes=table.notes, names=names)


def class_table(
    rows: Sequence[tuple[OwnRow, Mapping[int, tuple[int, float]]]], names: Sequence[str], most: int
) -> TextTable:
    """Return the top-1 of each class in each row, of `mistakes.by_class`; of many classes those with the lowest."""
    first = rows[0][1]
    lowest = sorted(first, key=lambda c: sum(of_row[c][1] for _, of_row in rows))
    classes = list(first) if len(first) <= most else lowest[:FEW]
    cells = [[names[c], str(first[c][0]), *(f"{of_row[c][1]:.2f}" for _, of_row in rows)] for c in classes]
    columns = ["class", "videos", *(row.name for row, _ in rows)]
    table = TextTable("Top-1 by class", columns, cells, [False, *[True] * (len(columns) - 1)])
    if len(classes) < len(first):
        table.notes.append(f"The {len(classes)} classes with the lowest top-1 of {len(first)}; the CSV file has all.")
    return table


def confused_table(row: OwnRow, found: Mistakes, names: Sequence[str]) -> TextTable:
    """Return the most frequent confusions of a row."""
    cells = [[names[a], names[b], f"{videos:.1f}", f"{share:.1f}"] for a, b, videos, share in found.confused(FEW)]
    columns = ["class", "taken for", "videos", "% of the class"]
    table = TextTable(f"Most frequent confusions, {row.name}", columns, cells, [False, False, True, True])
    if found.unread:
        table.notes.append(f"{found.unread} tests of a video had no answer, since it could not be read: wrong.")
    return table


def error_table(row: OwnRow, found: Mistakes, names: Sequence[str], videos: Sequence[Path] | str) -> TextTable:
    """Return the errors that a row was surest of; a text in the place of the videos says why they are not known."""
    cells = []
    for m in found.surest:
        video = f"video {m.video}" if isinstance(videos, str) else name_of(videos[m.video])
        wrong = f"{m.wrong} of {m.seeds}"
        cells.append([video, names[m.label], names[m.taken_for], f"{100 * m.probability:.1f}", wrong])
    columns = ["video", "class", "taken for", "score, %", "seeds wrong"]
    table = TextTable(f"Errors with the highest score, {row.name}", columns, cells, [False, False, False, True, True])
    if isinstance(videos, str) and cells:
        table.notes.append(f"Without names and frames: {videos}. Numbers are places in the validation list, from 0.")
    return table


def _interval(row: OwnRow) -> str:
    found = accuracy_of(row)
    return "" if found is None else f"{max(found.low, 0.0):.2f} to {min(found.high, 100.0):.2f}"


def _number(row: OwnRow) -> str:
    """Return the number of seeds, or which folds there are if they give no figure."""
    return row.runs[0].lacking.partition(",")[0] or str(len(row.runs))


def _few_classes(row: OwnRow) -> bool:
    """Return whether a test has no more than five classes, so that its top-5 says nothing."""
    ranks = row.runs[0].ranks
    return ranks is not None and bool(ranks[1].max() < 5)


def _notes(experiment: Experiment) -> list[str]:
    notes = [f"All rows: {in_words(experiment.same)}."] if experiment.same and len(experiment.rows) > 1 else []
    if beside := experiment.beside:
        more = f" and {len(beside) - 8} more" if len(beside) > 8 else ""
        notes.append(
            f"Rows also differ in {', '.join(beside[:8])}{more}: as models and data sets have it, or as it was set."
        )
    if experiment.table is not None:
        notes.append(f"Runs of experiment={experiment.name} that fill no row of Table {experiment.table}.")
    if any(row.runs[0].folds for row in experiment.rows):
        notes.append(
            "Folds: the figures of a row are of the test videos of all its folds together, each video tested once, and "
            "intervals are over groups of videos if there are groups. Curves are of the first fold."
        )
    for row in experiment.rows:
        notes += [f"{row.name}, seed {run.seed}: {run.lacking}; no figure." for run in row.partial]
    if lacking := [row.name for row in experiment.rows if accuracy_of(row) is None and not row.runs[0].lacking]:
        notes.append(
            f"No interval, pair, class or error, for lack of saved logits of one class a video: {'; '.join(lacking)}."
        )
    if alone := sum(len(row.runs) == 1 for row in experiment.rows):
        notes.append(
            f"Rows of one seed: {alone} of {len(experiment.rows)}. Their intervals are of the videos alone, and say "
            "nothing about other seeds."
        )
    return [*notes, *notes_of_runs(experiment.rows)]
