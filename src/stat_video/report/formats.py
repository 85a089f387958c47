"""Markdown, LaTeX and CSV of a report's tables."""

import csv
import io
import re
from collections.abc import Sequence

from .collect import Collection
from .mistakes import by_class
from .own import Experiment
from .tables import TextTable

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
}


def markdown(table: TextTable, level: int = 3) -> str:
    """Return a heading, the table, what is missing and the notes."""
    lines = [f"{'#' * level} {table.title}", ""]
    lines.append(f"| {' | '.join(_md(c) for c in table.columns)} |")
    lines.append(f"|{'|'.join('--:' if number else '---' for number in table.numbers)}|")
    for row, marked in zip(table.rows, table.marked, strict=True):
        cells = [f"**{_md(cell)}**" if marked and cell else _md(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    if table.commands:
        lines += ["", "Missing; to fill:", "", "```bash", *table.commands, "```"]
    if table.notes:
        lines += ["", *(f"- {_md(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def latex(table: TextTable) -> str:
    """Return a booktabs table; \\usepackage{booktabs}, and graphicx to fit the wide ones."""
    caption = re.sub(r"^Table \d+\. ", "", table.title)  # LaTeX counts by itself
    form = "".join("r" if number else "l" for number in table.numbers)
    body = [
        " & ".join(rf"\textbf{{{tex(cell)}}}" if marked and cell else tex(cell) for cell in row) + r" \\"
        for row, marked in zip(table.rows, table.marked, strict=True)
    ]
    return "\n".join(
        [
            r"\begin{table}[tb]",
            r"\centering\footnotesize",
            rf"\caption{{{tex(caption)}}}",
            rf"\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{\begin{{tabular}}{{{form}}}",
            r"\toprule",
            " & ".join(tex(column) for column in table.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\smallskip\raggedright\scriptsize {tex(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Return text with what LaTeX takes for commands escaped."""
    return "".join(_TEX.get(character, character) for character in text)


def long_csv(collection: Collection, scale: str) -> str:
    """Return a line a figure: every metric of every run of every row, and the paper's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scale", "table", "row", "source", "metric", "value", "seed", "run", "commit", "manifest"])
    for rows in collection.tables[scale]:
        for row in rows:
            key = [scale, row.table.number, row.printed.id]
            for metric in ("gflops", "top1", "top5"):
                value = getattr(row.printed, metric)
                if value is not None:
                    protocol = f"{row.printed.clips}x{row.printed.crops}"
                    name = metric if metric == "gflops" else f"test/{metric}_{protocol}"
                    writer.writerow([*key, "paper", name, value, "", "", "", ""])
            if row.gflops is not None:
                writer.writerow([*key, "ours", "gflops", row.gflops, "", "", "", ""])
            for run in row.runs:
                about = [run.seed, run.id, run.commit, run.content.get("manifest")]
                for metric, value in run.content["metrics"].items():
                    writer.writerow([*key, "ours", metric, value, *about])
    return text.getvalue()


def own_csv(experiments: Sequence[tuple[Experiment, Sequence[str]]]) -> str:
    """Return one line per figure: every metric of every run, and the mean top-1 of each class of each row.

    With each experiment stand the names of its classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["scale", "experiment", "row", "metric", "class", "videos", "value", "seed", "run", "commit", "manifest"]
    )
    for experiment, names in experiments:
        for row in experiment.rows:
            key = [experiment.scale, experiment.name, row.name]
            for run in row.runs:
                about = [run.seed, run.id, run.commit, run.content.get("manifest")]
                for metric, value in run.content["metrics"].items():
                    writer.writerow([*key, metric, "", "", value, *about])
            for c, (videos, top1) in (by_class(row) or {}).items():
                name = names[c] if c < len(names) else c
                writer.writerow([*key, row.metrics[0], name, videos, f"{top1:.4f}", "", "", "", ""])
    return text.getvalue()


def documents(tables: Sequence[TextTable]) -> str:
    """Return LaTeX tables as a document that compiles by itself."""
    head = "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage[margin=2cm]{geometry}",
            r"\usepackage{booktabs,graphicx}",
            r"\begin{document}",
            "",
        ]
    )
    return head + "\n".join(latex(table) for table in tables) + "\n\\clearpage\n\\end{document}\n"
