"""What `src/prepare.py` is told, and does."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from .config import Folders
from .data.config import DataConfig
from .data.lists import find_root
from .data.manifest import OK, in_both_splits, manifest_path
from .data.transcode import Encoding, copies_table, measure, transcode
from .data.verify import summary_table, verify
from .errors import InputError

TASKS = ("verify", "transcode")


@dataclass
class PrepareConfig:
    """Everything that `src/prepare.py` is told."""

    do: str | None = None  # verify or transcode
    out: str | None = None  # of transcode: a new folder
    workers: int | None = None  # default: the cores
    T: int = 16  # frames of a clip, for the speed that transcode measures
    encoding: Encoding = field(default_factory=Encoding)
    data: DataConfig = field(default_factory=DataConfig)
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        if self.do not in TASKS:
            raise InputError(f"do={self.do}: allowed are {', '.join(TASKS)}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers={self.workers}: allowed is 1 or more")
        if self.T < 1:
            raise InputError(f"T={self.T}: allowed is 1 or more")


def prepare(config: PrepareConfig, console: Console) -> None:
    """Verify, or transcode, one data set."""
    if config.do == "verify":
        rows = verify(config.data, config.workers, console)
        console.print(summary_table(config.data.name, rows))
        path = manifest_path(find_root(config.data), config.data)
        for wrong in [row for row in rows if row.status != OK]:
            console.print(f"{wrong.path}: {wrong.status} {wrong.reason}".strip(), soft_wrap=True, highlight=False)
        if both := in_both_splits(rows):
            said = f"{len(both)} validation videos are training videos too, first {both[0][1]} = {both[0][0]}"
            console.print(said, soft_wrap=True, highlight=False)
        console.print(f"{path}, and beside it _classes and _problems", soft_wrap=True, highlight=False)
        return
    if config.out is None:
        raise InputError("out is not given: out=FOLDER names a new one for the copies")
    out = Path(config.out).expanduser()
    copies = transcode(config.data, out, config.encoding, config.workers, console)
    console.print(copies_table(out, copies, measure(find_root(config.data), out, copies, config.T)))
    console.print(f"Use them with {config.data.setting}={out} data.layout=lists", soft_wrap=True, highlight=False)
