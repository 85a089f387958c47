"""The section of each experiment that is no table of the paper: its tables and pictures, built once for all formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..runs.results import TOP1_OF_ONE_VIEW
from . import own_figures, own_tables
from .compare import pairs_with_best
from .figures import Picture
from .mistakes import Mistakes, by_class, mistakes
from .own import MANY, Experiment, OwnRow, best_first
from .search import search_picture, search_table, searches
from .tables import TextTable, pair_table
from .videos import Videos, middle_frame

DETAILED = 4  # rows, the best, of which confusions and errors are shown
COLUMNS = 8  # rows, the best, with a column in the table of classes
MOST_ERRORS = 8


@dataclass
class RowPart:
    """What a row's tests got wrong."""

    name: str
    confused: TextTable
    errors: TextTable
    matrix: Picture | None  # None: there are too many classes
    frames: Picture | None  # None: the videos are not here, or nothing is wrong

    @property
    def pictures(self) -> list[Picture]:
        """Those that there are."""
        return [picture for picture in (self.matrix, self.frames) if picture is not None]


@dataclass
class OwnPart:
    """All of one experiment at one scale."""

    experiment: Experiment
    main: TextTable
    pairs: TextTable
    runs: TextTable
    charts: Sequence[Picture]
    searches: Sequence[TextTable] = ()  # a table for each, whose pictures are among the charts
    classes: TextTable | None = None
    names: Sequence[str] = ()  # of the classes of the best row
    rows: list[RowPart] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """Every picture of the section."""
        return [*self.charts, *(picture for row in self.rows for picture in row.pictures)]

    @property
    def tables(self) -> list[TextTable]:
        """Every table of the section but the first."""
        found = [self.pairs] if self.pairs.rows or self.pairs.notes else []
        found += [self.classes] if self.classes else []
        found += self.searches
        return [*found, *(t for row in self.rows for t in (row.confused, row.errors) if t.rows or t.notes), self.runs]


def own_part(experiment: Experiment, videos: Videos) -> OwnPart:
    """Return the section of an experiment; what needs logits or videos is left out, and said, where there are none."""
    pairs = pairs_with_best(experiment.rows, MANY)
    found = searches(experiment)
    charts = [
        own_figures.top1_by_row(experiment),
        own_figures.mean_curves(experiment, TOP1_OF_ONE_VIEW, "validation top-1, one view", ", %"),
        own_figures.mean_curves(experiment, "train/loss_epoch", "training loss"),
        *(search_picture(experiment, search, n) for n, search in enumerate(found)),
    ]
    part = OwnPart(
        experiment,
        own_tables.own_table(experiment),
        pair_table(pairs),
        own_tables.own_runs(experiment),
        [chart for chart in charts if chart is not None],
        [search_table(search) for search in found],
    )
    _add_classes(part, videos)
    return part


def _add_classes(part: OwnPart, videos: Videos) -> None:
    """Add accuracy by class, confusions and errors of the rows whose logits are there."""
    found = [(row, of_row) for row in best_first(part.experiment.rows) if (of_row := by_class(row)) is not None]
    if not found:
        return
    for row, _ in found[:DETAILED]:
        wrong = mistakes(row, MOST_ERRORS)
        names = videos.classes(row.runs[0], len(wrong.videos))
        part.names = part.names or names
        part.rows.append(_row_part(part.experiment, row, wrong, names, videos))
    same = [of_row for of_row in found if _test(*of_row) == _test(*found[0])][:COLUMNS]
    part.classes = own_tables.class_table(same, part.names, own_figures.MOST_CLASSES)


def _test(row: OwnRow, of_row: Mapping[int, tuple[int, float]]) -> tuple[object, ...]:
    """Return what rows have in common whose classes stand in one table: the data set, and each class's videos."""
    return row.data, *((c, videos) for c, (videos, _) in of_row.items())


def _row_part(experiment: Experiment, row: OwnRow, wrong: Mistakes, names: Sequence[str], videos: Videos) -> RowPart:
    tested = videos.tested(row.runs[0], wrong.labels.tolist())
    frames = None
    if wrong.surest and not isinstance(tested, str):
        middle = [middle_frame(tested[m.video]) for m in wrong.surest]
        frames = own_figures.error_frames(experiment, row, wrong, names, middle)
    matrix = None
    if len(names) <= own_figures.MOST_CLASSES:
        matrix = own_figures.confusion_matrix(experiment, row, wrong, names)
    errors = own_tables.error_table(row, wrong, names, tested)
    return RowPart(row.name, own_tables.confused_table(row, wrong, names), errors, matrix, frames)
