"""W&B boards of the paper's tables and your own experiments: `python src/dashboard.py`; dry_run=true writes files."""

from pathlib import Path

from stat_video.config import DashboardConfig
from stat_video.launch.script import script
from stat_video.progress import say


def dashboard(config: DashboardConfig) -> None:
    """Write or save a workspace and a report for each table or experiment and scale, and say where each is."""
    from stat_video.report.boards import boards, save, write  # takes seconds, which a wrong word need not wait

    found = boards(Path(config.folders.logs), config.scales)  # composed when asked for: after the account
    for place in write(found, config) if config.dry_run else save(found, config):
        say(str(place))


def main() -> None:
    """Run the command line."""
    script("dashboard", DashboardConfig, dashboard)


if __name__ == "__main__":
    main()
