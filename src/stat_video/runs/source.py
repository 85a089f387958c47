"""Where a run's first weights come from when they are those of another run: `init=trained_on=DATA`."""

import json
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import InputError
from .results import read_results
from .run import TRAINED_ON, Run

SAME = ("scale", "T", "crop", "t_o", "l_ta", "seed", "model")  # what both runs have in common


def find_source(config: Config, logs: Path) -> Run:
    """The one finished run with the same model, scale and seed, trained on the named data set from its own start.

    Busy where another process is still training it; InputError where there is none or more than one, with the command
    or the choices.
    """
    data = str(config.init).removeprefix(TRAINED_ON)
    found = [Run(folder, r["id"]) for folder, r in read_results(logs).results if _fits(r["config"], data, config)]
    if not found:
        for file in logs.glob("*/*/config.json"):
            if _fits(json.loads(file.read_text(encoding="utf-8")), data, config):
                with Run(file.parent, file.parent.name.rpartition("-")[2]).alone():
                    pass  # nobody is at it
        raise InputError(
            f"init={config.init}: no finished run with this model on data={data}, scale={config.scale}, T={config.T}, "
            f"seed={config.seed} in {logs}; run it first: python src/train.py experiment=kinetics clip=T{config.T} "
            f"seed={config.seed}, or name a checkpoint with init=FILE"
        )
    if len(found) > 1:
        names = ", ".join(str(run.checkpoint) for run in found)
        raise InputError(f"init={config.init}: {len(found)} runs fit; choose one with init=FILE: {names}")
    return found[0]


def _fits(source: dict[str, Any], data: str, config: Config) -> bool:
    plain = {**vars(config), "model": vars(config.model)}
    same = all(source[key] == plain[key] for key in SAME)
    return same and source["data"]["name"] == data and source["init"] is None
