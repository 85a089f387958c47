"""Tables 1 to 7 from the runs below logs/, beside the paper's: `python src/report.py` writes logs/report/index.html."""

from pathlib import Path

from stat_video.config import ReportConfig
from stat_video.cost.kept import keeping
from stat_video.launch.script import script
from stat_video.progress import console, say
from stat_video.report.collect import collect, hints
from stat_video.report.keep import keep
from stat_video.report.tables import runs_of
from stat_video.report.write import write


def report(config: ReportConfig) -> None:
    """Write the report, then say how many rows are filled and where it is."""
    logs = Path(config.folders.logs)
    out = Path(config.out) if config.out else logs / "report"
    with keeping(logs) as kept:
        collection = collect(logs, config.scales, kept)
        files, parts = write(collection, out, console, counted=config.gflops == "counted")
    if config.keep:
        runs = [run for tables in collection.tables.values() for run in runs_of(tables)]
        say(f"{len(keep(runs, Path(config.keep)))} runs kept in {config.keep}")
    for part in parts:
        say(f"scale {part.scale}: {part.filled}")
    for what, found in (("runs that are no row of a table", collection.others), ("not readable", collection.broken)):
        if found:
            say(f"{what}: {len(found)}")
    for hint in hints(collection.others):
        say(hint)
    say(f"{len(files)} files in {out}; begin with {out / 'index.html'}")


def main() -> None:
    """Run the command line."""
    script("report", ReportConfig, report)


if __name__ == "__main__":
    main()
