"""Testing a checkpoint: model, data and protocol are rebuilt from what it carries."""

from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from ..config import Config, EvaluateConfig
from ..data.config import DataConfig
from ..data.lists import manifest_hash
from ..data.sampling import Views
from ..errors import InputError
from ..model import STAT
from ..runs.files import write_json
from ..runs.run import provenance, same_data
from .checkpoint import read_checkpoint
from .fit import load_into, make_data, progress, save_logits, say_lacking
from .hardware import lightning_arguments, rank_zero
from .saving import Signals
from .sharding import make_module
from .unreadable import UnreadableVideos


def rebuild(path: Path) -> tuple[STAT, Config, list[str]]:
    """Model with its weights, the config of its run, and its class names; InputError where they don't fit together."""
    content = read_checkpoint(path)
    try:
        config: Config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), content["config"]))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: its config is of another version: {str(error).splitlines()[0]}") from None
    model = STAT(config.stat_config(len(content["classes"])))
    load_into(model, content["weights"], str(path), new_classifier=False)
    return model.eval(), config, content["classes"]


def evaluate(path: Path, asked: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Multi-view test of the validation videos; writes evaluation_<views>.json and the logits beside the checkpoint."""
    console.quiet = not rank_zero()
    model, config, classes = rebuild(path)
    views = Views.parse(asked.views or config.views)
    config.trainer, config.folders = asked.trainer, asked.folders
    folders = {f"folders.{f.name}": getattr(asked.folders, f.name) for f in fields(asked.folders)}
    if config.data.setting not in folders:
        raise InputError(f"{path}: data.setting={config.data.setting}: allowed are {', '.join(folders)}")
    config.data.root = folders[config.data.setting]
    if asked.layout is not None:  # the names of the run's own lists are not this layout's
        same = DataConfig()
        config.data = replace(
            config.data, layout=asked.layout, classes=same.classes, train=same.train, val=same.val, videos=same.videos
        )
    data = make_data(config, views)
    found = data.check()
    if found.classes != classes:
        raise InputError(
            f"{path}: it knows {len(classes)} classes ({', '.join(classes[:2])}, ...), but data={config.data.name} "
            f"lists {len(found.classes)} ({', '.join(found.classes[:2])}, ...); they have to be the same"
        )
    manifest, trained_on = manifest_hash(config.data), read_checkpoint(path)["manifest"]
    if not same_data(manifest, trained_on):
        console.print(f"The data set is not as it was in training: {manifest} now, {trained_on} then", soft_wrap=True)
    module = make_module(config.trainer)(
        model, config.recipe, data.normalize, classes, views, class_groups=config.data.class_groups
    )
    callbacks, bar = progress(console)
    unreadable = UnreadableVideos(found.counts["train"], config.data.max_unreadable)
    callbacks += [unreadable, Signals()]
    trainer = L.Trainer(**lightning_arguments(config.trainer), callbacks=callbacks, enable_progress_bar=bar)
    console.print(f"Testing {path} on {found.counts['val']} videos, {views} views", soft_wrap=True, highlight=False)
    metrics = {k: float(v) for k, v in trainer.test(module, datamodule=data, verbose=False)[0].items()}
    result = {
        "name": config.name,
        "scale": config.scale,
        "checkpoint": path.name,
        "views": str(views),
        "metrics": metrics,
        "videos": found.counts["val"],
        "absent": {"val": len(found.absent["val"])},
        "unreadable": {"val": unreadable.result(trainer)["val"]},
        "manifest": manifest,
        "seed": config.seed,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "config": asdict(config),
    }
    save_logits(module, path.parent / f"logits_{views}.pt")
    if trainer.is_global_zero:
        say_lacking(result, console)
        write_json(path.parent / f"evaluation_{views}.json", result)
    return result
