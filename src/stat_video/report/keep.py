"""Keeps what the tables are made of: results, epochs and scores of the runs, without their checkpoints and videos.

Such a folder is read as logs are (`python src/report.py folders.logs=docs/results`): the same tables, intervals and
curves, of 10 KB a run in place of 15 MB. It can be committed, and outlives the machine.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from ..files import replacing, write_json
from ..runs.searches import FILES
from .collect import FoundRun
from .videos import name_of


def keep(runs: Iterable[FoundRun], folder: Path) -> list[Path]:
    """Copy runs to `<folder>/<name>/<run>/`; return these folders.

    In place of each view's logits stand those of one view with the same mean scores: the same ranks and accuracies.
    Folders of the machine are left out, and of videos that could not be read the names alone are kept.
    """
    kept = []
    for run in runs:
        there = folder / run.name / run.folder.name
        if there.resolve() == run.folder.resolve():
            continue
        there.mkdir(parents=True, exist_ok=True)
        for search in run.folder.parent.glob(FILES):
            with replacing(there.parent / search.name) as copy:
                copy.write(search.read_bytes())
        if (epochs := run.folder / "epochs.csv").exists():
            with replacing(there / epochs.name) as copy:
                copy.write(epochs.read_bytes())
        if run.ranks is not None:
            logits, labels = run.logits()
            if logits.shape[1] > 1:  # else, as of a run that was kept before, they stay to the bit
                logits = logits.softmax(-1).mean(1, keepdim=True).log()
            with replacing(there / run.logits_file.name) as copy:
                groups = {} if run.groups is None else {"groups": torch.from_numpy(run.groups)}
                torch.save({"logits": logits, "labels": labels.to(torch.int16), **groups}, copy)
        config = {key: value for key, value in run.config.items() if key != "folders"}
        config["data"] = {**config["data"], "root": None}
        unreadable = {
            split: [name_of(Path(p)) for p in paths] for split, paths in run.content.get("unreadable", {}).items()
        }
        content = {**run.content, **({"unreadable": unreadable} if unreadable else {}), "config": config}
        write_json(there / "result.json", content)  # last: a folder with one is whole
        kept.append(there)
    return kept
