"""The published numbers: against each other, and against the paper's text where it is here."""

import math
import os
import re
from pathlib import Path

import pytest

from stat_video import paper
from stat_video.models.stat.stat import Config

REPO = Path(__file__).parents[1]
PAPER = paper.load()
# Claims that the paper's own tables contradict (each has a note), and one for which it prints no figures.
CONTRADICTED, NOT_PRINTED = {"half_of_mvit", "ssv2_mvit_64"}, {"stems_cost_the_same"}


# --- The file itself


def test_row_counts():
    assert {n: len(table.rows) for n, table in PAPER.tables.items()} == {1: 4, 2: 4, 3: 2, 4: 4, 5: 3, 6: 25, 7: 13}


def test_no_figure_is_outside_its_range():
    assert len({row.ref for row in PAPER.rows()}) == len(list(PAPER.rows()))
    assert len({claim.id for claim in PAPER.claims}) == len(PAPER.claims)
    assert {table.gflops_of for table in PAPER.tables.values()} == {"clip", "video"}
    for row in PAPER.rows():
        assert row.gflops is None or row.gflops > 0, row.ref
        assert 0 < (row.top1 or 1) < (row.top5 or 100) <= 100, row.ref
        assert row.views > 0, row.ref
        assert len(row.kernels) == len(row.strides), row.ref


@pytest.mark.parametrize(
    ("ref", "values"),
    [
        ("1/CA+LA", (58.4, 78.3, 93.5)),
        ("2/t_o=7", (121.5, 80.4, 94.4)),
        ("3/avg_pool", (None, 77.4, 93.2)),
        ("4/l_ta=2", (None, 78.6, 93.9)),
        ("5/conv5", (None, 78.3, None)),
        ("6/I3D_NL-R101", (10800, 77.7, 93.3)),
        ("6/TSM-16", (650, 74.7, None)),
        ("6/STAT-64", (2172, 81.3, 95.1)),
        ("7/SmallBigNet-16", (None, 63.8, 88.9)),
        ("7/ViViT-16", (11892, 65.4, 89.8)),
    ],
)
def test_spot_checks(ref, values):
    row = PAPER.row(ref)
    assert (row.gflops, row.top1, row.top5) == values


def test_each_table_names_the_experiment_that_reruns_it():
    ablations = [f"ablation_{name}" for name in ("modules", "window", "token", "aggregation", "stem")]
    assert [t.experiment for t in PAPER.tables.values()] == [*ablations, "kinetics", "ssv2"]


def test_axes_are_those_of_the_model():
    for row in PAPER.rows():
        assert row.ours == bool(row.axes) == (row.method == "STAT"), row.ref
        if row.axes:
            assert str(row.axes["T"]) == row.frames, row.ref
            for axes in ({}, row.cost_axes):
                Config(**{key: value for key, value in {**row.axes, **axes}.items() if key != "T"})
    axes = {n: [row.axes for row in t.rows if row.axes] for n, t in PAPER.tables.items()}
    assert [a["modules"] for a in axes[1]] == [["CA"], ["CA", "SA"], ["CA", "LA"], ["CA", "SA", "LA"]]
    assert [a["t_o"] for a in axes[2]] == [3, 5, 7, 9]
    assert [a["spatial_token"] for a in axes[3]] == ["avg_pool", "class_token"]
    assert [a["l_ta"] for a in axes[4]] == [0, 1, 2, 4]
    assert [a["stem"] for a in axes[5]] == ["conv1", "conv3", "conv5"]
    assert axes[6] == axes[7] == [{"T": T, "t_o": t_o} for T, t_o in ((16, 3), (32, 5), (64, 7))]


def test_each_table_has_the_axis_that_its_own_rows_differ_in():
    axes = {n: table.axis for n, table in PAPER.tables.items()}
    assert axes == {1: "modules", 2: "t_o", 3: "spatial_token", 4: "l_ta", 5: "stem", 6: "T", 7: "T"}
    assert [n for n, table in PAPER.tables.items() if table.compares_systems] == [6, 7]


def test_words_that_rerun_a_row_are_of_its_system():
    there = {row.ref: row.run for row in PAPER.rows() if row.run}
    assert len(there) == 32
    assert [ref for ref, runs in there.items() if len(runs) > 1] == ["7/MSNet-16+8"]
    others = {"SmallBigNet": "smallbig", "ip-CSN": "csn"}  # the others are named as the paper names them
    for ref, runs in there.items():
        row = PAPER.row(ref)
        assert {run.split()[0] for run in runs} == {f"model={others.get(row.method, row.method.lower())}"}
        assert not row.ours


def test_table_5_prints_the_stems_of_the_model():
    for name in ("conv1", "conv3", "conv5_printed"):
        row = PAPER.row("5/" + name.removesuffix("_printed"))
        convs = Config(stem=name).convs
        assert [(c.kernel, c.stride) for c in convs] == list(zip(row.kernels, row.strides, strict=True))
        assert row.label == str(len(convs))


@pytest.mark.parametrize(
    ("T", "per_clip", "kinetics", "ssv2"),
    [
        (16, PAPER.row("1/CA+SA+LA").gflops, 296, 178),
        (32, PAPER.row("2/t_o=5").gflops, 601, 361),
        (64, PAPER.row("6/STAT-64").gflops / 9, 2172, 724),
    ],
)
def test_gflops_of_stat_are_those_of_a_clip_times_views_rounded_up(T, per_clip, kinetics, ssv2):
    for ref, printed in ((f"6/STAT-{T}", kinetics), (f"7/STAT-{T}", ssv2)):
        row = PAPER.row(ref)
        assert row.gflops == printed == math.ceil(round(per_clip * row.views, 6))


def test_rows_that_several_tables_print_agree():
    baseline = [PAPER.row(ref) for ref in ("1/CA+SA+LA", "3/class_token", "4/l_ta=1", "5/conv3", "6/STAT-16")]
    assert {row.top1 for row in baseline} == {78.6}
    assert {row.top5 for row in baseline if row.top5} == {93.8}
    assert (PAPER.row("2/t_o=5").top1, PAPER.row("6/STAT-32").top1) == (80.4, 80.4)


def test_gflops_per_view():
    kinetics = PAPER.tables[6]
    assert kinetics.gflops_per_clip(PAPER.row("6/MViT-64")) == 455
    assert kinetics.gflops_per_clip(PAPER.row("6/SlowFast-R50")) == pytest.approx(65.7)
    assert PAPER.tables[1].gflops_per_clip(PAPER.row("1/CA")) == 58.2
    assert PAPER.tables[7].gflops_per_clip(PAPER.row("7/SmallBigNet-16")) is None


# --- Claims


def test_claims_hold_for_the_printed_numbers_but_for_those_noted():
    verdicts = {c.id: c.holds(PAPER.values(c.metric)) for c in PAPER.claims}
    assert {c for c, verdict in verdicts.items() if verdict is False} == CONTRADICTED
    assert {c for c, verdict in verdicts.items() if verdict is None} == NOT_PRINTED
    assert all(c.note for c in PAPER.claims if c.id in CONTRADICTED | NOT_PRINTED)


def test_stated_differences_are_the_printed_ones():
    stated = [c for c in PAPER.claims if c.form == "greater" and c.limit]
    assert len(stated) == 5
    for claim in stated:
        a, b = (PAPER.values(claim.metric)[ref] for ref in claim.rows)
        assert a - b == pytest.approx(claim.limit, abs=1e-6), claim.id


def test_claims_about_other_values():
    best = next(c for c in PAPER.claims if c.id == "all_modules_best")
    ours = {"1/CA": 60.0, "1/CA+SA": 61.0, "1/CA+LA": 62.0, "1/CA+SA+LA": 61.5}
    assert best.holds(ours) is False
    assert best.holds(ours | {"1/CA+SA+LA": 62.0}) is True
    del ours["1/CA"]
    assert best.holds(ours) is None  # 'best' of a table needs all of it
    half = next(c for c in PAPER.claims if c.id == "half_of_mvit")
    assert half.holds({"6/STAT-64": 2000.0, "6/MViT-64": 4000.0}) is True
    close = next(c for c in PAPER.claims if c.id == "one_layer_is_enough")
    assert close.holds({"4/l_ta=1": 70.0, "4/l_ta=2": 70.1, "4/l_ta=4": 70.2}) is False


def test_the_best_of_a_table_of_systems_is_above_every_other_system():
    """'Outperforms all previous models': of 64 frames or of 16, STAT is no previous model."""
    best = next(c for c in PAPER.claims if c.id == "best_on_kinetics")
    first, *others = [PAPER.row(ref) for ref in best.rows]
    assert first.ref == "6/STAT-64"
    assert [row.ref for row in others] == [row.ref for row in PAPER.tables[6].rows if row.method != "STAT"]


# --- The paper's text: every cell there is here, and every row here is there


def paper_text() -> str:
    named = os.environ.get("STAT_PAPER_TEXT")
    files = [Path(named)] if named else sorted((REPO.parent / "shared" / "paper").glob("*.txt"))
    if not files or not files[0].is_file():
        pytest.skip("the paper's text is not here; STAT_PAPER_TEXT names the file")
    return files[0].read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Without LaTeX marks, citations such as (Fan et al. 2021) and runs of spaces."""
    text = text.replace(r"\times", "×").replace(r"\sim", "~").replace("₋", "-").replace("$", "")
    return re.sub(r"\s+", " ", text).strip()


def printed_tables(text: str) -> dict[int, list[list[str]]]:
    """Cells of each table, header first: the tab-separated lines before its caption."""
    tables: dict[int, list[list[str]]] = {}
    lines: list[list[str]] = []
    for line in text.splitlines():
        if "\t" in line:
            lines.append([plain(cell) for cell in line.split("\t")])
        elif caption := re.match(r"Table (\d+): ", line):
            tables[int(caption[1])], lines = lines, []
    return tables


def number(cell: str) -> float | None:
    """'8,460' -> 8460; '-' -> None."""
    return None if cell in ("-", "") else float(cell.replace(",", ""))


def text_or_none(cell: str) -> str | None:
    return None if cell in ("-", "") else cell


@pytest.fixture(scope="module")
def printed() -> dict[int, list[list[str]]]:
    tables = printed_tables(paper_text())
    assert sorted(tables) == [1, 2, 3, 4, 5, 6, 7]
    return tables


@pytest.mark.parametrize("n", [1, 2, 3])
def test_text_of_tables_1_to_3(printed, n):
    header, *lines = printed[n]
    ours = PAPER.tables[n]
    assert header == list(ours.columns)
    assert len(lines) == len(ours.rows)
    for cells, row in zip(lines, ours.rows, strict=True):
        values = [row.gflops, row.top1, row.top5] if n < 3 else [row.top1, row.top5]
        assert cells[0].replace(" ", "") == row.label.replace(" ", "")
        assert [number(c) for c in cells[1:]] == values, row.ref
        assert n < 3 or row.gflops is None


def test_text_of_table_4(printed):
    header, top1, top5 = printed[4]
    rows = PAPER.tables[4].rows
    assert header == [PAPER.tables[4].columns[0], *(row.label for row in rows)]
    assert [top1[0], top5[0]] == list(PAPER.tables[4].columns[1:])
    assert [number(c) for c in top1[1:]] == [row.top1 for row in rows]
    assert [number(c) for c in top5[1:]] == [row.top5 for row in rows]
    assert all(row.gflops is None and row.label == str(row.axes["l_ta"]) for row in rows)


def test_text_of_table_5(printed):
    """A line a convolution; the number of layers and the accuracy stand in the middle line of a row."""
    header, *lines = printed[5]
    assert header == list(PAPER.tables[5].columns)
    for row in PAPER.tables[5].rows:
        block, lines = lines[: len(row.kernels)], lines[len(row.kernels) :]
        middle = block[len(block) // 2]
        assert (middle[0], number(middle[3])) == (row.label, row.top1)
        assert [c for line in block if line is not middle for c in (line[0], line[3]) if c] == []
        triples = [[tuple(int(d) for d in re.findall(r"\d+", line[i])) for line in block] for i in (1, 2)]
        assert triples == [list(row.kernels), list(row.strides)]
        assert row.gflops is row.top5 is None
    assert lines == []


@pytest.mark.parametrize("n", [6, 7])
def test_text_of_tables_6_and_7(printed, n):
    header, *lines = printed[n]
    assert header == list(PAPER.tables[n].columns)
    group, theirs = None, []
    for cells in lines:
        if not any(cells[1:]):
            group = cells[0].removesuffix(":")
            continue
        frames, clips, crops = re.fullmatch(r"\(?([\d+]+)\)?\s*×\s*(\d+)\s*×\s*(\d+)", cells[3]).groups()
        figures = tuple(number(c) for c in cells[4:])
        names = (group, cells[0], *map(text_or_none, cells[1:3]))
        theirs.append((*names, frames, int(clips), int(crops), *figures))
    ours = [
        (r.group, r.method, r.backbone, r.pretrain, r.frames, r.clips, r.crops, r.gflops, r.top1, r.top5)
        for r in PAPER.tables[n].rows
    ]
    assert ours == theirs
    assert all(r.label == r.method for r in PAPER.tables[n].rows)


def test_titles_and_quotes_are_in_the_text():
    text = paper_text()
    citation = r"\s*\([^()]*\d{4}[a-z]?\)"
    captions = dict(re.findall(r"^Table (\d+): (.*)$", text, re.M))
    for table in PAPER.tables.values():
        caption = re.sub(citation, "", plain(captions[str(table.number)]))
        assert caption.startswith(table.title)
    # Tables stand in the middle of sentences.
    prose = plain("\n".join(line for line in text.splitlines() if "\t" not in line and line[:6] != "Table "))
    for claim in PAPER.claims:
        assert claim.quote in prose, claim.id


def test_views_and_windows_are_those_of_the_text():
    text = plain(paper_text())
    assert "5×1 views (5 temporal clips and 1 spatial crops) when T=16,32 and 3×3 views" in text
    assert "1×3 views (1 temporal clip and 3 spatial crops)" in text
    assert "we set t_o=3,5,7 when T=16,32,64" in text
    stat = [row for row in PAPER.rows() if row.axes]
    for row in stat:
        expected = (1, 3) if row.table == 7 else (3, 3) if row.axes["T"] == 64 else (5, 1)
        assert (row.clips, row.crops) == expected, row.ref
