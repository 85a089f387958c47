"""The paper's tables and your own experiments from the runs below logs/: `python src/report.py` writes index.html."""

from pathlib import Path

from stat_video.config import ReportConfig
from stat_video.launch.script import script
from stat_video.progress import console, say


def report(config: ReportConfig) -> None:
    """Write the report, then say how many rows are filled, which experiments there are and where it is."""
    # Matplotlib, SciPy and PyTorchVideo take seconds to import, which a wrong word need not wait.
    from stat_video.cost.kept import keeping
    from stat_video.report.collect import collect
    from stat_video.report.keep import keep
    from stat_video.report.own import experiments
    from stat_video.report.tables import runs_of
    from stat_video.report.videos import Videos
    from stat_video.report.write import left_out, write

    logs = Path(config.folders.logs)
    out = Path(config.out) if config.out else logs / "report"
    with keeping() as kept:
        collection = collect(logs, config.scales, kept, console)
        files, parts = write(collection, out, console, config.gflops == "counted", Videos(config.folders))
    own = experiments(collection)
    if config.keep:
        every = [run for tables in collection.tables.values() for run in runs_of(tables)]
        runs = {run.folder: run for run in [*every, *(run for experiment in own for run in experiment.runs)]}
        say(f"{len(keep(runs.values(), Path(config.keep)))} runs kept in {config.keep}")
    for part in parts:
        say(f"scale {part.scale}: {part.filled}")
    for experiment in own:
        found = {"row": len(experiment.rows), "run": len(experiment.runs)}
        said = " of ".join(f"{number} {what}{'s' * (number != 1)}" for what, number in found.items())
        say(f"{experiment.name}, scale {experiment.scale}: {said}")
    if collection.broken:
        say(f"not readable: {len(collection.broken)}")
    for line in left_out(collection):
        say(line)
    say(f"{len(files)} files in {out}; begin with {out / 'index.html'}")


def main() -> None:
    """Run the command line."""
    script("report", ReportConfig, report)


if __name__ == "__main__":
    main()
