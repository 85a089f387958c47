"""Keeps what the tables are made of: results, epochs and scores of the runs, without their checkpoints.

Such a folder is read as logs are (`python src/report.py folders.logs=docs/results`): the same tables, intervals and
curves, of 10 KB a run in place of 15 MB. It can be committed, and outlives the machine.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from ..files import replacing
from .collect import FoundRun


def keep(runs: Iterable[FoundRun], folder: Path) -> list[Path]:
    """Copy runs to `<folder>/<name>/<run>/`; return these folders.

    In place of each view's logits stand those of one view with the same mean scores: the same ranks and accuracies.
    """
    kept = []
    for run in runs:
        there = folder / str(run.result["name"]) / run.folder.name
        if there.resolve() == run.folder.resolve():
            continue
        there.mkdir(parents=True, exist_ok=True)
        # The result comes last: a folder with one is whole.
        for file in (run.folder / name for name in ("config.json", "epochs.csv")):
            if file.exists():
                with file.open("rb") as source, replacing(there / file.name) as copy:
                    shutil.copyfileobj(source, copy)
        if run.ranks is not None:
            logits, labels = run.logits()
            scores = logits.softmax(-1).mean(1, keepdim=True)
            with replacing(there / run.logits_file.name) as copy:
                torch.save({"logits": scores.log(), "labels": labels.to(torch.int16)}, copy)
        with (run.folder / "result.json").open("rb") as source, replacing(there / "result.json") as copy:
            shutil.copyfileobj(source, copy)
        kept.append(there)
    return kept
