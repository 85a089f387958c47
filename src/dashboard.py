"""The W&B dashboard of the paper's tables: `python src/dashboard.py`; with dry_run=true files, without an account."""

from rich.console import Console

from stat_video import grid, published
from stat_video.dashboard import DashboardConfig, board, save, write
from stat_video.entry import entry

console = Console(markup=False)  # names hold brackets


@entry("dashboard")
def main(config: DashboardConfig) -> None:
    """A workspace and a report for each table and scale; prints where each is."""
    boards = [
        board(table, [row.config for row in grid.rows(table.experiment, [f"scale={scale}"])])
        for scale in config.scales
        for table in published.load().tables.values()
    ]
    for place in write(boards, config) if config.dry_run else save(boards, config):
        console.print(str(place), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
