"""Measure what a run waits for, and what its steps spend their time on: `trainer.more.profiler`."""

import time
from pathlib import Path

from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler

NAME = "profile"  # in the names of the files: fit-profile.txt, test-profile.txt
KINDS: dict[str, type[Profiler]] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def profiler(kind: str | None, folder: Path) -> Profiler:
    """Return Lightning's profiler of one of KINDS, which writes into a folder; without a kind one that does nothing."""
    return PassThroughProfiler() if kind is None else KINDS[kind](dirpath=folder, filename=NAME)


def profiles(folder: Path) -> list[Path]:
    """Return the files that profilers have written."""
    return sorted(folder.glob(f"*{NAME}*"))


class LoaderClock(Profiler):
    """Measures the seconds that the training loop waits for its loader; passes everything on to another profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.waited, self.begun = 0.0, time.monotonic()
        self.other: Profiler = PassThroughProfiler()

    def start(self, action_name: str) -> None:
        """Start the clock if Lightning is about to ask for a training batch."""
        if action_name.endswith("train_dataloader_next"):
            self.begun = time.monotonic()
        self.other.start(action_name)

    def stop(self, action_name: str) -> None:
        """Add the time since, if Lightning has got that batch."""
        self.other.stop(action_name)
        if action_name.endswith("train_dataloader_next"):
            self.waited += time.monotonic() - self.begun

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin a stage."""
        super().setup(stage, local_rank, log_dir)
        self.other._lightning_module = self._lightning_module  # type: ignore[attr-defined]
        self.other.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """End a stage."""
        self.other.teardown(stage)
        super().teardown(stage)

    def describe(self) -> None:
        """Write what was measured."""
        self.other.describe()

    def summary(self) -> str:
        """Return what was measured."""
        return self.other.summary()
