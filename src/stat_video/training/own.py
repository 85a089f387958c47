"""Make the callbacks and loggers that a run is given, and check what would fail or do nothing later."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import Logger

from .. import metrics
from ..config import Config
from ..errors import InputError
from ..instantiate import instantiate
from .best import Best


def make_callbacks(config: Config) -> list[Callback]:
    """Return the callbacks of `config.callbacks`; InputError for one that can't be made or has nowhere to write to."""
    found = instantiate("callbacks", config.callbacks, Callback)
    for name, callback in zip(config.callbacks, found, strict=True):
        writes = isinstance(callback, LearningRateMonitor | DeviceStatsMonitor)
        if writes and config.logger.mode == "off" and not config.loggers:
            raise InputError(f"callbacks.{name}: writes to loggers, of which there is none: loggers=csv adds one")
    if sum(isinstance(callback, Best) for callback in found) > 1:
        raise InputError("callbacks: one of stat_video.training.best.Best at most, which writes best.ckpt")
    return found


def check_callbacks(config: Config) -> None:
    """Raise InputError for callbacks that can't be made or would watch nothing, as far as the config alone says it.

    For all rows of a sweep before the first one starts; what depends on the data is checked when a run begins.
    """
    callbacks = make_callbacks(config)
    if not config.data.class_groups:
        check_monitors(config, callbacks, (), steps_of_epoch=1)


def make_loggers(config: Config, folder: Path) -> list[Logger]:
    """Return the loggers of `config.loggers`, which write into a run's folder unless they are told another."""
    defaults = {"save_dir": str(folder), "run_name": folder.name}
    return instantiate("loggers", config.loggers, Logger, **defaults)  # type: ignore[type-abstract]


def check_monitors(config: Config, callbacks: Sequence[Callback], classes: Sequence[str], steps_of_epoch: int) -> None:
    """Raise InputError if a callback watches a figure that a run does not have, or a run without any validation.

    Not beside a callback from elsewhere, which may log figures of its own.
    """
    if not all(type(callback).__module__.startswith(("lightning.", "stat_video.")) for callback in callbacks):
        return
    several = config.data.multi_label
    groups = sorted({name.partition(": ")[0] for name in classes if ": " in name}) if config.data.class_groups else []
    validated = ["loss_1x1", *(f"{name}_1x1" for name in metrics.names(several)), *(f"top1_1x1_{g}" for g in groups)]
    of_validation = [f"val/{name}" for name in validated]
    never = _never_validates(config, steps_of_epoch)
    for name, callback in zip(config.callbacks, callbacks, strict=True):
        patience = getattr(callback, "patience", 1)
        if isinstance(callback, EarlyStopping) and not (isinstance(patience, int) and patience >= 1):
            raise InputError(f"callbacks.{name}.patience={patience}: must be 1 or more")
        if never and isinstance(callback, Best | EarlyStopping):
            raise InputError(f"callbacks.{name}: this run ends before its first validation ({never})")
        figures = (
            of_validation if isinstance(callback, Best) else [*of_validation, "train/loss_epoch", "train/loss_step"]
        )
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in figures:
            near = difflib.get_close_matches(monitor, figures, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"callbacks.{name}.monitor={monitor}: must be one of {', '.join(figures)}{guess}")


def _never_validates(config: Config, steps_of_epoch: int) -> str | None:
    """Return the key by which a run has no validation while it trains; None if it has one."""
    recipe = config.recipe
    if 0 < recipe.epochs < recipe.val_every:
        return f"recipe.val_every={recipe.val_every}, recipe.epochs={recipe.epochs}"
    if recipe.max_steps is not None and recipe.max_steps < recipe.val_every * steps_of_epoch:
        return f"recipe.max_steps={recipe.max_steps}, {steps_of_epoch} steps an epoch"
    return None
