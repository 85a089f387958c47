"""What `src/report.py` is told."""

from dataclasses import dataclass, field

from ..config import SCALES, Folders
from ..errors import InputError

GFLOPS = ("printed", "counted")


@dataclass
class ReportConfig:
    """Everything that `src/report.py` is told."""

    scales: list[str] = field(default_factory=lambda: list(SCALES))
    out: str | None = None  # default: <folders.logs>/report
    gflops: str = "printed"  # of other systems in Figure 1: the paper's, or counted as ours are (cost/peers.py)
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        if not self.scales or not set(self.scales) <= set(SCALES) or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales={self.scales}: a list of {', '.join(SCALES)} is allowed, each once")
        if self.gflops not in GFLOPS:
            raise InputError(f"gflops={self.gflops}: allowed are {', '.join(GFLOPS)}")
