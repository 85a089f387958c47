"""Find the run that another one takes its first weights from: `init=trained_on=DATA`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .. import models
from ..config import Config
from ..errors import InputError
from ..paths import program
from .identity import TRAINED_ON, WEIGHTS, definition
from .results import read_results
from .run import Run

SAME = ("scale", "seed")  # equal in both runs, as are SAME_CLIP and the network
SAME_CLIP = ("T", "crop")


def find_source(config: Config, logs: Path) -> Run:
    """Return the one finished run of the same model, clip, scale and seed, trained from scratch on the named data.

    Of one run that lies under two names, as where kept results were copied in beside it, either will do; one that has
    its weights goes before. Its dropout may be another, as MViT's is on Something-Something; a run with the same goes
    before.
    Raises Busy if another process is still training it; InputError, with the command or the choices, if there is none
    or more than one.
    """
    data = str(config.init).removeprefix(TRAINED_ON)
    fitting = [result for result in read_results(logs).results if _fits(result.config, data, config)]
    model = definition(asdict(config))["model"]
    exact = [result for result in fitting if definition(result.config)["model"] == model]
    runs = [Run(result.folder, result.id) for result in exact or fitting]
    runs.sort(key=lambda run: run.checkpoint.exists())
    found = list({run.id: run for run in runs}.values())  # the last of an id, which has weights if any has
    if not found:
        for file in logs.glob("*/*/config.json"):
            if _fits(json.loads(file.read_text(encoding="utf-8")), data, config):
                with Run(file.parent, file.parent.name.rpartition("-")[2]).alone():
                    pass  # raises Busy if a process is training it
        raise InputError(
            f"init={config.init}: no finished run with this model on data={data}, scale={config.scale}, "
            f"T={config.clip.T}, seed={config.seed} in {logs}; run it first: {program('train')} experiment=kinetics "
            f"model={config.model.name} T={config.clip.T} seed={config.seed}, or name a checkpoint with init=FILE"
        )
    if len(found) > 1:
        names = ", ".join(str(run.checkpoint) for run in found)
        raise InputError(f"init={config.init}: {len(found)} runs fit; choose one with init=FILE: {names}")
    return found[0]


def _fits(source: Mapping[str, Any], data: str, config: Config) -> bool:
    if not {"clip", "model", "init"} <= source.keys() or WEIGHTS in source:
        return False  # written by an earlier version, or of a published file that was only tested
    same = all(source.get(key) == getattr(config, key) for key in SAME)
    same &= network_of(definition(source)["model"]) == network_of(definition(asdict(config))["model"])
    same &= all(source["clip"].get(key) == getattr(config.clip, key) for key in SAME_CLIP)
    return same and source["data"]["name"] == data and source["init"] is None


def network_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's keys without those of what training drops at random."""
    try:
        noise = {f.name for f in fields(models.find(model["name"])) if f.metadata.get("noise")}
    except (ValueError, KeyError):  # of a model whose file is gone
        noise = set()
    return {key: value for key, value in model.items() if key not in noise}
