"""The W&B dashboard of the paper's tables: `python src/dashboard.py`; with dry_run=true files, without an account."""

from stat_video import paper
from stat_video.config import DashboardConfig
from stat_video.launch.script import script
from stat_video.progress import say
from stat_video.report.boards import board, save, write


def dashboard(config: DashboardConfig) -> None:
    """Write or save a workspace and a report for each table and scale, and say where each is."""
    tables = paper.load().tables.values()
    boards = (board(table, scale) for scale in config.scales for table in tables)  # when asked for: after the account
    for place in write(boards, config) if config.dry_run else save(boards, config):
        say(str(place))


def main() -> None:
    """Run the command line."""
    script("dashboard", DashboardConfig, dashboard)


if __name__ == "__main__":
    main()
