"""Tables 1 to 7 from the runs below logs/, beside the paper's: `python src/report.py` writes logs/report/index.html."""

from pathlib import Path

from rich.console import Console

from stat_video.entry import entry
from stat_video.report.collect import collect
from stat_video.report.config import ReportConfig
from stat_video.report.write import write

console = Console(markup=False)  # names hold brackets


@entry("report")
def report(config: ReportConfig) -> None:
    """Write the report, then say how many rows are filled and where it is."""
    logs = Path(config.folders.logs)
    out = Path(config.out) if config.out else logs / "report"
    collection = collect(logs, config.scales)
    files, parts = write(collection, out, console, counted=config.gflops == "counted")
    for part in parts:
        console.print(f"scale {part.scale}: {part.filled} of {part.total} rows filled", highlight=False)
    for what, found in (("runs that are no row of a table", collection.others), ("not readable", collection.broken)):
        if found:
            console.print(f"{what}: {len(found)}", highlight=False)
    console.print(f"{len(files)} files in {out}; begin with {out / 'index.html'}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    report()
