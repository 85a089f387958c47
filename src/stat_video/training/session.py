"""All that a run needs, gathered and checked before anything is begun: hardware, data, checkpoint, model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ..config import Config
from ..data.lists import Lists, read_counts
from ..data.modules import VideoDataModule
from ..data.sampling import Views
from ..errors import InputError, refused
from ..files import remove_unfinished
from ..hardware import (
    Pass,
    check_deterministic,
    choose_backends,
    choose_pass_here,
    data_workers,
    devices,
    lightning_arguments,
    rank_zero,
    world_size,
)
from ..models.base import VideoModel
from ..models.count import Uncounted, gmacs
from ..models.parts.backend import BACKEND
from ..models.parts.compiled import compile_parts
from ..models.parts.recompute import recompute_units
from ..models.trained import freeze
from ..progress import say
from ..runs.identity import TRAINED_ON
from ..runs.results import hold_of
from ..runs.run import Run, same_data
from ..weights.read import WeightFile
from .checkpoint import Checkpoint, newest_whole, read_weights
from .class_weights import class_weights
from .first_weights import load_first_weights
from .optim import accumulation, describe_batch, parameter_groups
from .own import check_monitors, make_callbacks, make_loggers


@dataclass
class Session:
    """A run, ready to train."""

    config: Config
    plain: dict[str, Any]  # the config in plain containers, as files have it
    run: Run
    manifest: str | None  # state of the data set
    hardware: dict[str, Any]  # arguments of Lightning's Trainer
    backends: dict[str, Any]  # which kernels compute the model
    at_once: Pass
    clips: int  # of a pass of a device
    passes: int  # of an optimizer step
    data: VideoDataModule
    lists: Lists
    checkpoint: Checkpoint | None  # from which it goes on
    model: VideoModel  # with its first weights
    gmacs: float | None  # 1e9 multiply-adds of a view
    class_weights: list[float] | None  # of the loss
    callbacks: list[Callback]  # the user's own, as are the loggers
    loggers: list[Logger]

    @classmethod
    def of(cls, config: Config, plain: dict[str, Any], run: Run, manifest: str | None) -> "Session":
        """Return a run with all that it needs; InputError, before anything is begun, for what is not there or wrong."""
        hardware, backends = lightning_arguments(config.trainer), choose_backends(config.trainer)
        classes = read_counts(config.data)[0] or 2  # if there are no lists, data.check says so
        check_deterministic(config, classes)
        at_once = choose_pass_here(config, classes)
        BACKEND.recompute = at_once.recompute
        clips, passes = accumulation(config.recipe, world_size(config.trainer), at_once.clips)
        callbacks, loggers = make_callbacks(config), make_loggers(config, run.folder)
        weights = _first_weights(config, plain)
        data = make_data(config, Views.parse(config.views), batch_size=clips)
        lists = data.check()
        check_monitors(config, callbacks, lists.classes, _steps_of_epoch(config, lists))
        labels = () if config.data.multi_label else (about["label"] for _, about in lists.videos["train"])
        weights_of_classes = class_weights(config.recipe.class_weights, lists.classes, labels)
        checkpoint = _where_to_go_on(config, run, manifest)
        if checkpoint:
            data.start = checkpoint.goes_on_at
        L.seed_everything(config.seed, workers=True, verbose=False)
        model = config.build(len(lists.classes))
        with refused():
            freeze(model, config.recipe.freeze)
        parameter_groups(model, config.recipe)  # refuses recipe.lr_scale of unknown names before training
        if weights is not None:
            for change in load_first_weights(model, weights, config, lists.classes):
                say(f"init: {change}")
        counted = multiply_adds(config, len(lists.classes))
        _prepare_for_training(model, config)
        return cls(
            config, plain, run, manifest, hardware, backends, at_once, clips, passes, data, lists, checkpoint, model,
            counted, weights_of_classes, callbacks, loggers,
        )  # fmt: skip

    @property
    def views(self) -> Views:
        """Protocol of the test."""
        return Views.parse(self.config.views)

    @property
    def steps_of_epoch(self) -> int:
        """Optimizer steps of an epoch, as far as `trainer.more` limits them not."""
        return _steps_of_epoch(self.config, self.lists)

    @cached_property
    def batch(self) -> dict[str, Any]:
        """Make-up of an optimizer step, for the result."""
        return describe_batch(self.model, self.config.recipe, world_size(self.config.trainer), self.clips, self.passes)


def _steps_of_epoch(config: Config, lists: Lists) -> int:
    return lists.counts["train"] * config.recipe.repeats // config.recipe.batch_size


def _first_weights(config: Config, plain: Mapping[str, Any]) -> WeightFile | None:
    """Return what `read_weights` returns of `init`, None without."""
    if config.init is None:
        return None
    if plain["init"].startswith(TRAINED_ON) and not Path(config.init).exists():
        raise InputError(
            f"init={plain['init']}: {config.init} is not there, as of a run that was kept without its weights; the "
            f"command of that run with fresh=true trains them again"
        )
    return read_weights(Path(config.init))


def _where_to_go_on(config: Config, run: Run, manifest: str | None) -> Checkpoint | None:
    """Return the checkpoint of a run that was begun, None of a new one; InputError if it is of other data or epochs."""
    set_aside = config.fresh and not rank_zero()  # the first rank does it, now or soon: what is there is not ours
    if rank_zero():
        remove_unfinished(run.folder)
    checkpoint = None if set_aside else newest_whole(run)
    if checkpoint:
        refuse_other_data(run, checkpoint.manifest, manifest)
        refuse_other_hold(run, checkpoint.config, config)
    return checkpoint


def refuse_other_data(run: Run, then: str | None, now: str | None) -> None:
    """Raise InputError if a run's data set has changed: all of a run, from first step to test, sees one state of it."""
    if not same_data(then, now):
        raise InputError(
            f"{run.folder}: its data set has changed since, from {then} to {now} (a manifest of do=verify); "
            f"with fresh=true the run is set aside and begins anew"
        )


def refuse_other_hold(run: Run, trained: Mapping[str, Any], config: Config) -> None:
    """Raise InputError if a run's config had another `hold_until`, which can give it other epochs."""
    then, now = hold_of(trained.get("recipe", {})), hold_of(vars(config.recipe))
    if then != now:
        had, asked = (", ".join(f"recipe.{key}={value}" for key, value in keys.items()) for keys in (then, now))
        raise InputError(
            f"{run.folder}: its epochs are those of {had}, not of {asked}; with fresh=true the run is set aside and "
            f"begins anew"
        )


def make_data(config: Config, views: Views, batch_size: int) -> VideoDataModule:
    """Return the data module of a config, with so many clips in a pass of a device.

    Raises InputError if there is no memory for its workers.
    """
    data = VideoDataModule(
        config.data,
        clip=config.clip,
        short_side=config.short_side,
        normalization=config.normalization,
        views=views,
        augment=config.recipe.augment,
        seed=config.seed,
        repeats=config.recipe.repeats,
        share_frames=config.recipe.repeats_share_frames,
        val_videos=config.recipe.val_videos,
        train_videos=config.recipe.train_videos,
        batch_size=batch_size,
        step=config.recipe.batch_size,
        mix=bool(config.recipe.mixup or config.recipe.cutmix),
        workers=data_workers(config.trainer),
    )
    data.check_shared_memory(devices(config.trainer), world_size(config.trainer))
    return data


def multiply_adds(config: Config, num_classes: int) -> float | None:
    """Return 1e9 multiply-adds of a view; None, and say why, if they can't be counted: a run does without."""
    try:
        return gmacs(config.model, config.clip, num_classes)
    except Uncounted as error:
        say(f"{error}; the run goes on without")
        return None


def _prepare_for_training(model: VideoModel, config: Config) -> None:
    if config.trainer.gradient_checkpointing:
        if not list(model.units()):
            raise InputError(
                f"trainer.gradient_checkpointing=true: model={config.model.name} has no units to recompute"
            )
        recompute_units(model)
    if config.trainer.compile:
        compile_parts(model)
