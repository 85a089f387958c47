"""What `src/prepare.py` is told, and does."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from .config import Folders
from .data.config import DataConfig
from .data.lists import find_root, manifest_hash
from .data.manifest import DAMAGED, UNREADABLE, in_both_splits, manifest_path
from .data.transcode import Encoding, copies_config, copies_table, measure, transcode
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
        _verify(config.data, config.workers, console)
        return
    if config.data.built_in is not None:
        raise InputError(f"data={config.data.name}: built-in videos are made to be read fast and need no copies")
    if config.out is None:
        raise InputError("out is not given: out=FOLDER names a new one for the copies")
    out = Path(config.out).expanduser()
    copies = transcode(config.data, out, config.encoding, config.workers, console)
    console.print(copies_table(out, copies, measure(find_root(config.data), out, copies, config.T)))
    _verify(copies_config(config.data, out), config.workers, console)
    also = "" if config.data.videos == "." else " data.videos=."
    console.print(f"Use them with {config.data.setting}={out} data.layout=lists{also}", soft_wrap=True, highlight=False)


def _verify(data: DataConfig, workers: int | None, console: Console) -> None:
    """Verify and say what was found: each broken video, how many are absent, videos that stand in both splits."""
    rows = verify(data, workers, console)
    for row in {row.path: row for row in rows}.values():  # one may stand in both splits
        if row.status in (DAMAGED, UNREADABLE):
            console.print(f"{row.path}: {row.status} ({row.reason})", soft_wrap=True, highlight=False)
    if both := in_both_splits(rows):
        said = f"{len(both)} validation videos are training videos too, first {both[0][1]} = {both[0][0]}"
        console.print(said, soft_wrap=True, highlight=False)
    console.print(summary_table(data.name, rows))
    path = manifest_path(find_root(data), data)
    console.print(
        f"{path} (state {manifest_hash(data)}); videos by class and all that is wrong in _classes and _problems beside",
        soft_wrap=True,
        highlight=False,
    )
