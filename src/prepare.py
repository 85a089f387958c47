"""Look at, or make copies of, a data set: `python src/prepare.py do=verify data=kinetics400`."""

from rich.console import Console

from stat_video.entry import entry
from stat_video.prepare import PrepareConfig, prepare

console = Console(markup=False)  # names hold brackets


@entry("prepare")
def main(config: PrepareConfig) -> None:
    """One task on one data set."""
    prepare(config, console)


if __name__ == "__main__":
    main()
