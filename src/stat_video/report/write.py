"""A report as files: one page, Markdown, LaTeX and CSV of each scale and of own experiments, and the pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich.console import Console

from ..config import SCALES
from ..files import replacing
from ..paths import program
from ..progress import shown
from . import compare, figures, formats, own_tables, tables
from .collect import Collection, ReportRow, hints
from .figures import Picture
from .own import experiments
from .own_parts import OwnPart, own_part
from .tables import TextTable
from .videos import Videos


@dataclass
class TablePart:
    """One table of the paper at one scale."""

    main: TextTable
    pairs: TextTable
    runs: TextTable  # of each row
    pictures: Sequence[Picture]


@dataclass
class ScalePart:
    """All of one scale."""

    scale: str
    summary: TextTable
    tables: Mapping[int, TablePart]
    figure_1: Sequence[Picture]
    claims: TextTable
    runs: TextTable
    own: tuple[int, int]  # rows of the paper's own model that have a run, and all of them
    systems: tuple[int, int]  # likewise the rows of other systems that can be rerun

    @property
    def filled(self) -> str:
        """How many rows have a run, in words."""
        (own, all_own), (systems, all_systems) = self.own, self.systems
        return f"{own} of {all_own} rows of the paper's model and {systems} of {all_systems} of other systems filled"

    @property
    def pictures(self) -> list[Picture]:
        """Every picture of the scale."""
        return [*self.figure_1, *(p for table in self.tables.values() for p in table.pictures)]


def make(collection: Collection, scale: str, counted: bool = False) -> ScalePart:
    """Return the tables, pictures and claims of one scale; ``counted`` is for `figures.figure_1`."""
    rows = collection.tables[scale]
    can_run = [row for table in rows for row in table if row.config]
    own, systems = ([bool(row.runs) for row in can_run if row.printed.ours is ours] for ours in (True, False))
    pairs = {table[0].table.number: compare.pairs([row for row in table if row.runs]) for table in rows}
    judged = tables.verdicts(collection, scale)
    return ScalePart(
        scale,
        tables.summary(rows, pairs, judged),
        {table[0].table.number: _table_part(table, pairs[table[0].table.number]) for table in rows},
        [figures.figure_1(collection, scale, t[0].table.number, counted) for t in rows if t[0].table.compares_systems],
        tables.claim_table(judged),
        tables.run_table(tables.runs_of(rows)),
        (sum(own), len(own)),
        (sum(systems), len(systems)),
    )


def _table_part(rows: Sequence[ReportRow], pairs: Sequence[compare.Pair]) -> TablePart:
    there = [row for row in rows if row.runs]
    pictures = []
    if there or (rows[0].scale == "paper" and not rows[0].table.compares_systems):
        pictures.append(figures.by_row(rows))
    pictures += [figures.learning_curves(rows)] if there else []
    return TablePart(tables.main_table(rows), tables.pair_table(pairs), tables.row_runs(rows), pictures)


def write(
    collection: Collection,
    out: Path,
    console: Console = Console(quiet=True),
    counted: bool = False,
    videos: Videos | None = None,
) -> tuple[list[Path], list[ScalePart]]:
    """Write the report of a collection below `out`; return its files, and the paper's tables of each scale in them.

    The paper's tables are left out if none of their rows is run and there are experiments of one's own. ``videos``
    finds the videos of tests.
    """
    files: dict[Path, bytes] = {}
    with figures.style():
        found, videos = experiments(collection), videos or Videos()
        own = [own_part(experiment, videos) for experiment in shown(found, "experiments", len(found), console)]
        with_paper = not own or any(row.runs for tables in collection.tables.values() for t in tables for row in t)
        scales = list(collection.tables) if with_paper else []
        parts = [make(collection, s, counted) for s in shown(scales, "tables of a scale", len(scales), console)]
        files[out / "index.html"] = page(collection, parts, own).encode()
        if own:
            files[out / "experiments.md"] = own_markdown(own).encode()
            files[out / "experiments.tex"] = formats.documents([part.main for part in own]).encode()
            files[out / "experiments.csv"] = formats.own_csv([(part.experiment, part.names) for part in own]).encode()
        for part in parts:
            every = [table.main for table in part.tables.values()]
            files[out / f"tables-{part.scale}.md"] = as_markdown(part).encode()
            files[out / f"tables-{part.scale}.tex"] = formats.documents(every).encode()
            files[out / f"tables-{part.scale}.csv"] = formats.long_csv(collection, part.scale).encode()
        pictures = [*(p for part in parts for p in part.pictures), *(p for part in own for p in part.pictures)]
        for picture in shown(pictures, "pictures", len(pictures), console):
            header = b'<?xml version="1.0" encoding="utf-8"?>\n'
            files[out / "figures" / f"{picture.name}.svg"] = header + picture.svg(ink="#1d2430").encode()
            files[out / "figures" / f"{picture.name}.png"] = picture.png()
    for path, content in files.items():
        with replacing(path) as file:
            file.write(content)
    return list(files), parts


def page(collection: Collection, parts: Sequence[ScalePart], own: Sequence[OwnPart]) -> str:
    """Return the self-contained page; whatever comes from results is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stat_video", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        parts=parts,
        numbers=list(parts[0].tables) if parts else [],
        how_to_read=tables.HOW_TO_READ,
        tiny=tables.TINY,
        own=own,
        overview=own_tables.overview([part.experiment for part in own]),
        how_to_read_own=own_tables.HOW_TO_READ,
        hints=left_out(collection),
        broken=collection.broken,
    )


def left_out(collection: Collection) -> list[str]:
    """Return one line per reason why runs stand in no table of the paper or in no section at all."""
    scales = [run.scale for run in collection.others]
    other = Counter(scale for scale in scales if scale not in collection.tables)
    lines = [f"{n} runs of scale {scale}: scales=[{scale}] shows them" for scale, n in sorted(other.items())]
    empty = [scale for scale in SCALES if scale not in (*collection.tables, *scales)]
    lines += [f"no run of scale {scale}: scales=[{scale}] shows what there is to run" for scale in empty]
    return [*lines, *hints(collection.others)]


def own_markdown(parts: Sequence[OwnPart]) -> str:
    """Return the experiments that are no table of the paper as one document."""
    text = ["# Your experiments", "", f"Written by `{program('report')}`.", ""]
    text += [*(f"- {line}" for line in own_tables.HOW_TO_READ), ""]
    text.append(formats.markdown(own_tables.overview([part.experiment for part in parts]), 2))
    for part in parts:
        text.append(formats.markdown(part.main, 2))
        text += [formats.markdown(table, 3) for table in part.tables]
    return "\n".join(text)


def as_markdown(part: ScalePart) -> str:
    """Return one scale as a document of its own."""
    text = [f"# The tables of the paper at scale {part.scale}", ""]
    text += [f"{part.filled}. Written by `{program('report')}`.", ""]
    text += [*([tables.TINY, ""] if part.scale == "tiny" else []), *(f"- {line}" for line in tables.HOW_TO_READ), ""]
    text.append(formats.markdown(part.summary, 2))
    for table in part.tables.values():
        text.append(formats.markdown(table.main, 2))
        text += [formats.markdown(t, 3) for t in (table.pairs, table.runs) if t.rows or t.notes]
    text += [formats.markdown(part.claims, 2), formats.markdown(part.runs, 2)]
    return "\n".join(text)
