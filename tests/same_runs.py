"""Compares the finished runs of two log folders, bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from running import read_json

TIMES = ("seconds", "train/data_wait")


def content(folder: Path) -> dict[str, Any]:
    """Return what two runs of the same definition have in common, however often they were interrupted."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    result = read_json(folder / "result.json")
    (logits,) = folder.glob("logits_*.pt")
    with (folder / "epochs.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "averaged weights": checkpoint.get("current_model_state"),
        "place": checkpoint["stat_video"].get("place"),
        "loss": checkpoint["stat_video"]["epoch_loss"],
        "epochs": rows,
        "logits": torch.load(logits, weights_only=True)["logits"],
        **{key: result[key] for key in ("metrics", "videos", "absent", "unreadable", "steps")},
    }


def same(one: Any, other: Any) -> bool:
    """Return whether two contents are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differences(expected: Path, found: Path) -> list[str]:
    """Return in what the runs below two log folders differ: 'RUN: weights'; those that are missing, too."""
    one, two = ({file.parent.name: file.parent for file in logs.rglob("result.json")} for logs in (expected, found))
    assert one, f"no run below {expected}"
    lines = [f"{name}: only in one of the folders" for name in sorted(one.keys() ^ two.keys())]
    for name in sorted(one.keys() & two.keys()):
        a, b = content(one[name]), content(two[name])
        lines += [f"{name}: {what}" for what in a if not same(a[what], b[what])]
    return lines
