"""The systems of the paper trained on the built-in motion videos: the table of docs/systems.md, from result files.

    python src/train.py -m model=stat,tsm,...    # some, or all sixteen; most are rows of Table 6
    python benchmarks/systems.py logs            # or docs/results

Writes benchmarks/results/systems.json and, from it, the table. The time of a training step is measured here, with all
systems taking turns. A system without a run is shown as missing.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from model import figure, in_turns, make_clip, step
from page import processor, table, write_part

from stat_video import paper
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.files import write_json
from stat_video.paths import PROJECT
from stat_video.runs.identity import row_id
from stat_video.runs.results import read_results

RESULTS, PAGE = PROJECT / "benchmarks/results/systems.json", PROJECT / "docs/systems.md"
SYSTEMS = sorted(["stat", *paper.load().others()])
KEPT = ("id", "metrics", "parameters", "gmacs", "steps", "train_seconds", "hardware", "seed", "commit", "finished")


def row_of(name: str) -> Config:
    """Return the config of `python src/train.py model=NAME`."""
    (row,) = rows("train", Config, ["scale=tiny", f"model={name}"])
    return row.config


def read(logs: Path) -> dict[str, Any]:
    """Return what is kept of the run of each model with the lowest seed, under whatever experiment it was begun."""
    wanted = {row_id(asdict(row_of(name))): name for name in SYSTEMS}
    found: dict[str, dict[str, Any]] = {}
    for result in (run.content for run in sorted(read_results(logs).results, key=lambda run: -run.seed)):
        if name := wanted.get(row_id(result["config"])):
            found[name] = {key: result[key] for key in KEPT}
            found[name] |= {"lr": result["batch"]["lr"], "epochs": result["epochs"]}
    return dict(sorted(found.items()))


def step_times(systems: list[str], rounds: int = 9) -> dict[str, dict[str, float]]:
    """Return seconds of a training step of each tiny system, forward pass to optimizer, all taking turns."""
    works, cpu = {}, torch.device("cpu")
    for name in systems:
        config = row_of(name)
        clip = make_clip(config.clip.T, config.clip.crop, config.recipe.batch_size, cpu)
        works[name] = step(config.build(12), clip, cpu)
    return {name: figure(times) for name, times in in_turns(works, rounds, cpu).items()}


def page(result: dict[str, Any]) -> str:
    """Return the table in Markdown, the best first."""
    head = [
        "`model=`",
        "top-1 5x1, %",
        "M parameters",
        "GMACs",
        "lr",
        "epochs",
        "ms a step",
        "of STAT's",
        "seed",
        "commit",
    ]
    per_step = {name: 1e3 * r["step"]["median"] for name, r in result.items()}
    ordered = sorted(result, key=lambda name: -result[name]["metrics"]["test/top1_5x1"])
    lines = [
        [
            f"`{name}`",
            f"{r['metrics']['test/top1_5x1']:.1f}",
            f"{r['parameters'] / 1e6:.2f}",
            f"{r['gmacs']:.3f}",
            f"{r['lr']:g}",
            str(r["epochs"]),
            f"{per_step[name]:.0f}",
            f"{per_step[name] / per_step['stat']:.1f}" if "stat" in per_step else "missing",
            str(r["seed"]),
            str(r["commit"])[:7],
        ]
        for name, r in ((name, result[name]) for name in ordered)
    ]
    lines += [[f"`{name}`", "missing", *[""] * 8] for name in SYSTEMS if name not in result]
    timed = ", ".join(sorted({r["step"]["processor"] for r in result.values()}))
    return f"{table(head, lines)}\nSteps were timed on: {timed}.\n"


def main(folder: Path) -> None:
    """Write the results and the table."""
    result = read(folder)
    for name, times in step_times(list(result)).items():
        result[name]["step"] = {**times, "processor": processor()}
    write_json(RESULTS, result)
    write_part(PAGE, "systems.py", page(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
