"""The W&B dashboard as code: a workspace and a report of each table of the paper and of each experiment of one's own.

A run set is the runs of an experiment, and those of its rows that were begun under another experiment. A table of the
paper stands beside its published numbers.
`wandb-workspaces` is an optional dependency, and slow to import, so that is done where it is used.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import paper
from ..config import Config, DashboardConfig, project_of
from ..cost.reruns import reruns
from ..data.sampling import Views
from ..errors import InputError
from ..files import write_json
from ..paper import PaperRow, PaperTable
from ..runs.differing import searchable
from ..runs.identity import hash_of, row_id
from .collect import FoundRun, found_runs
from .own import Experiment, experiment_of, slug

CURVES = {"val/top1_1x1": "Validation top-1, one view", "train/loss_epoch": "Training loss"}
# Between systems. Rows that differ in depth or width alone have one label, and no two of them the same cost.
SYSTEM = ["model", "T", "gflops"]


@dataclass(frozen=True)
class Board:
    """What is shown of one experiment at one scale."""

    experiment: str  # the runs' name, which is their group on W&B
    scale: str
    rows: tuple[str, ...]  # `row_id` of each
    views: tuple[str, ...]  # protocols that the rows are tested with
    data: str
    axes: list[str]  # the keys of W&B's config that tell its rows apart
    table: PaperTable | None = None  # of the paper; None: an experiment of one's own

    @property
    def name(self) -> str:
        """'Table 2: ablation_window, scale tiny'."""
        return f"{f'Table {self.table.number}: ' if self.table else ''}{self.experiment}, scale {self.scale}"

    @property
    def mark(self) -> str:
        """What the ids of its parts begin with, another for each experiment."""
        return f"t{self.table.number}" if self.table else f"e{hash_of(self.experiment)}"

    @property
    def file(self) -> str:
        """What the names of its files begin with."""
        return f"table_{self.table.number}_{self.scale}" if self.table else f"own_{slug(self.experiment, self.scale)}"

    @property
    def metrics(self) -> list[str]:
        """Top-1 of the test, as runs log it."""
        return [f"test/top1_{views}" for views in self.views]


def board(table: PaperTable, scale: str) -> Board:
    """Return the board of a table at one scale; its run set holds the runs of each row that can be rerun."""
    configs: list[Config] = [config for again in reruns(table, scale) for config in again.configs]
    ids = dict.fromkeys(row_id(asdict(config)) for config in configs)
    views = dict.fromkeys(str(Views.parse(config.views)) for config in configs)
    axes = SYSTEM if table.compares_systems else [table.axis]
    return Board(table.experiment, scale, tuple(ids), tuple(views), configs[0].data.name, axes, table)


def own_boards(logs: Path, scales: Sequence[str]) -> list[Board]:
    """Return the board of each experiment below `logs` that reruns no table of the paper."""
    tables = {table.experiment for table in paper.load().tables.values()}
    named: dict[tuple[str, str], list[FoundRun]] = {}
    for run in found_runs(logs)[0]:
        if run.name not in tables and run.scale in scales:
            named.setdefault((run.scale, run.name), []).append(run)
    return [own_board(experiment_of(name, scale, runs)) for (scale, name), runs in sorted(named.items())]


def own_board(experiment: Experiment) -> Board:
    """Return the board of an experiment that is no table of the paper.

    Its axes are the keys in which its rows differ. `row`, which is another for each row, stands for a key that is not
    among those by which runs are found on W&B.
    """
    configs = [row.runs[0].config for row in experiment.rows]
    logged = [key for config in configs for key in (*searchable(config), "model", "data", "T")]
    axes = [key for key in experiment.keys if key in logged]
    if len(axes) < len(experiment.keys):
        axes = ["row"]
    views = dict.fromkeys(row.views for row in experiment.rows)
    ids = tuple(row_id(config) for config in configs)
    return Board(experiment.name, experiment.scale, ids, tuple(views), experiment.rows[0].data, axes or ["model"])


def boards(logs: Path, scales: Sequence[str]) -> Iterator[Board]:
    """Yield the boards of the paper's tables and of the experiments below `logs`.

    As in the report, the paper's are left out if there are experiments of one's own and no run of a paper's experiment.
    """
    own = own_boards(logs, scales)
    tables = paper.load().tables.values()
    names = {run.name for run in found_runs(logs)[0]}
    if not own or names & {table.experiment for table in tables}:
        yield from (board(table, scale) for scale in scales for table in tables)
    yield from own


def printed(board: Board) -> str:
    """Return the paper's numbers as a Markdown table, with what to know before comparing with them; '' without any."""
    if (table := board.table) is None:
        return ""
    lines = [
        f"Published ({table.dataset}, GFLOPs of a {table.gflops_of}): {table.title}",
        "",
        "| | GFLOPs | Top-1 | Top-5 |",
        "|---|---|---|---|",
    ]
    for row in table.rows:
        figures = ("" if v is None else f"{v:g}" for v in (row.gflops, row.top1, row.top5))
        lines.append(f"| {_label(row, table)} | {' | '.join(figures)} |")
    lines += ["", *(f"- {_label(row, table)}: {row.note}" for row in table.rows if row.note)]
    if board.scale == "tiny":
        lines += ["", f"The runs are of the tiny scale on {board.data}: their accuracies say nothing about these."]
    return "\n".join(lines)


def workspace(board: Board, project: str, entity: str) -> Any:
    """Return a `wandb_workspaces.workspaces.Workspace`; nothing here asks the server."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name="Comparison", panels=_panels(board), is_open=True, pinned=True)]
    if text := printed(board):
        numbers = wr.MarkdownPanel(markdown=text)
        numbers._id = f"{board.mark}paper"
        sections.append(ws.Section(name="The paper", panels=[numbers], is_open=True))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=board.name,
        sections=sections,
        runset_settings=ws.RunsetSettings(filters=_filters(board), groupby=[ws.Config(axis) for axis in board.axes]),
    )


def report(board: Board, project: str, entity: str) -> Any:
    """Return a `wandb_workspaces.reports.v2.Report`: the published numbers, then the same panels over the same runs."""
    import wandb_workspaces.reports.v2 as wr

    # Without entity and project a run set is of the report's own project, and nothing asks the server for its id.
    groups = board.axes if len(board.axes) > 1 else []
    text = printed(board)
    numbers: list[Any] = [wr.H2("The paper"), wr.MarkdownBlock(text)] if text else []
    runs = wr.Runset(
        name=f"{board.experiment}, {board.scale}",
        filters=_filters(board),
        groupby=[f"config.{axis}" for axis in groups],
    )
    runs._id = f"{board.mark}runs"
    return wr.Report(
        entity=entity,
        project=project,
        title=board.name,
        description=board.table.title if board.table else f"The runs of name={board.experiment}",
        width="fluid",
        blocks=[*numbers, wr.H2("Our runs"), wr.PanelGrid(runsets=[runs], panels=_panels(board))],
    )


def _filters(board: Board) -> Any:
    import wandb_workspaces.workspaces as ws

    ours = ws.Or(ws.Metric("Group") == board.experiment, ws.Config("row").isin(list(board.rows)))
    return ws.And(ws.Config("scale") == board.scale, ours)


def _panels(board: Board) -> list[Any]:
    """Return bars by axis, curves by axis, accuracy against cost, and the pictures; three in a line."""
    import wandb_workspaces.reports.v2 as wr

    over_seeds: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    if len(board.axes) == 1:  # a panel has one key at most; with two the run set itself is grouped
        over_seeds["groupby"] = wr.Config(board.axes[0])
    panels = [
        wr.BarPlot(
            title=f"Top-1 by {' and '.join(board.axes)}", metrics=list(board.metrics), orientation="v", **over_seeds
        ),
        *(wr.LinePlot(title=title, x="epoch", y=[key], **over_seeds) for key, title in CURVES.items()),
        *(
            wr.ScatterPlot(title=f"{key} against GFLOPs", x=wr.Config("gflops"), y=wr.SummaryMetric(key))
            for key in board.metrics
        ),
        wr.MediaBrowser(title="Pictures", media_keys=["pictures"]),
    ]
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (i % 3), y=6 * (i // 3), w=8, h=6)
        panel._id = f"{board.mark}p{i}"  # else drawn at random: the files of a dry run can be compared
    return panels


def write(boards: Iterable[Board], config: DashboardConfig) -> list[Path]:
    """Write each workspace and report as JSON below <logs>/dashboard/, as the server would get it."""
    _need_workspaces()
    paths = []
    for b in boards:
        for kind, build in (("workspace", workspace), ("report", report)):
            model = build(
                b, project_of(config.project), config.entity or os.environ.get("WANDB_ENTITY") or "ENTITY"
            )._to_model()
            path = Path(config.folders.logs) / "dashboard" / f"{b.file}_{kind}.json"
            write_json(path, json.loads(model.model_dump_json(by_alias=True, exclude_none=True)))
            paths.append(path)
    return paths


def save(boards: Iterable[Board], config: DashboardConfig) -> list[str]:
    """Save all to W&B and return their addresses; what was saved before, by <logs>/dashboard/saved.json, is replaced.

    Raises InputError without an account or server, or if a saved address holds nothing any more.
    """
    _need_workspaces()
    import wandb
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    book = Path(config.folders.logs) / "dashboard" / "saved.json"
    saved: dict[str, str] = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    kinds: list[tuple[Any, Callable[[Board, str, str], Any], tuple[str, ...]]] = [
        (wr.Report, report, ("description", "blocks")),  # first, since saving a report makes the project
        (ws.Workspace, workspace, ("sections", "runset_settings")),
    ]
    addresses = []
    try:
        entity = config.entity or os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity or ""
        for b in boards:
            for kind, build, parts in kinds:
                item = build(b, project_of(config.project), entity)
                key = f"{entity}/{project_of(config.project)}: {kind.__name__}, {b.name}"
                if key in saved:
                    before = kind.from_url(saved[key])
                    for part in parts:
                        setattr(before, part, getattr(item, part))
                    item = before
                item.save()
                saved[key] = item.url
                write_json(book, saved)  # after each: what is saved is known even if the next one fails
                addresses.append(item.url)
    except InputError:
        raise
    except Exception as error:  # of wandb, its server and the network, of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"W&B: {reason} (dry_run=true writes the dashboard to files, without an account)") from None
    return addresses


def _label(row: PaperRow, table: PaperTable) -> str:
    """Return a row's name: its value of the axis as runs have it, or the system with its clip length."""
    if not row.ours:
        return " ".join(filter(None, (row.method, row.backbone, row.frames)))
    value = row.axes[table.axis]
    return f"{row.method}, {table.axis} {'+'.join(value) if isinstance(value, list) else value}"


def _need_workspaces() -> None:
    if find_spec("wandb_workspaces") is None:
        raise InputError("the package wandb-workspaces is not installed: pip install 'stat-video[dashboard]'")
