"""Take one run from its config to its result: train, test, write result.json; resume if it was killed."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import Logger

from ..config import Config
from ..data.lists import Lists, manifest_hash, read_counts
from ..data.modules import VideoDataModule
from ..data.sampling import Views
from ..errors import InputError
from ..files import remove_unfinished, write_json
from ..hardware import (
    Pass,
    check_deterministic,
    choose_backends,
    choose_pass_here,
    cores_of_device,
    data_workers,
    devices,
    lightning_arguments,
    on_cuda,
    rank_zero,
    world_size,
)
from ..instantiate import instantiate
from ..models.base import VideoModel
from ..models.count import Uncounted, gmacs
from ..models.parts.backend import BACKEND
from ..models.parts.compiled import compile_parts
from ..models.parts.recompute import recompute_units
from ..paths import program
from ..progress import say, watched
from ..runs.code import computing, is_same, provenance
from ..runs.identity import TRAINED_ON, definition, with_content
from ..runs.result import Result
from ..runs.results import ended_as_asked, hold_of
from ..runs.run import Run, same_data
from ..runs.source import find_source
from .callbacks import Bar, EpochLog, StepLines, WaitingForData, callback_of
from .checkpoint import newest_whole, read_weights
from .explained import lost_worker_explained, nondeterminism_explained, out_of_memory_explained
from .finite import NonFinite
from .first_weights import load_first_weights
from .history import HISTORY, CodeHistory
from .hold import HoldPeak
from .module import VideoModule
from .optim import accumulation, describe_batch, parameter_groups
from .outcome import hardware_of, save_logits, say_lacking
from .ranks import SameOnAllRanks
from .saving import CheckpointWriter, Saving
from .unreadable import UnreadableVideos, said_once
from .untrained import Untrained

if TYPE_CHECKING:
    pass


def fit(config: Config) -> Result:
    """Train, test, write result.json; return it. A finished run is not repeated, a begun one goes on."""
    config, plain, run, manifest = identify(config)
    with run.alone() if rank_zero() else nullcontext():  # the first rank holds it for the others
        if config.fresh:
            if rank_zero():
                run.set_aside()
        elif (result := _result(run, config, manifest)) is not None:
            return result
        return _fit(config, plain, run, manifest)


def finished(config: Config) -> Result | None:
    """Return the result of a run that was finished before, else None; raise Busy if another process is running it."""
    if config.fresh:
        return None
    config, _, run, manifest = identify(config)
    if (result := _result(run, config, manifest)) is None and rank_zero():  # the first rank asks for all
        with run.alone():
            pass
    return result


def identify(config: Config) -> tuple[Config, dict[str, Any], Run, str | None]:
    """Return (config with `init` resolved to a file, the same as plain containers, the run, the data manifest hash)."""
    plain, logs, manifest = asdict(config), Path(config.folders.logs), manifest_hash(config.data)
    if config.init is not None and config.init.startswith(TRAINED_ON):
        init = find_source(config, logs)
        config, plain["init"] = replace(config, init=str(init.checkpoint)), f"{config.init}/{init.id}"
    elif config.init is not None:
        plain["init"] = with_content(config.init)
    return config, plain, Run.of(plain, logs, manifest), manifest


def _result(run: Run, config: Config, manifest: str | None) -> Result | None:
    if (result := run.result()) is None:
        return None
    _refuse_other_data(run, result.content.get("manifest"), manifest)
    if not ended_as_asked(config.recipe, result):
        _refuse_other_hold(run, result.config, config)
    changed = "" if is_same(result.content, provenance()) else " by other code or packages"
    say(f"Finished before ({result.content['finished']}){changed}: {run.folder}; fresh=true runs it again")
    return Result(run.folder, {**result.content, "name": config.name})


def _refuse_other_data(run: Run, then: str | None, now: str | None) -> None:
    """Raise InputError if a run's data set has changed: all of a run, from first step to test, sees one state of it."""
    if not same_data(then, now):
        raise InputError(
            f"{run.folder}: its data set has changed since, from {then} to {now} (a manifest of do=verify); "
            f"with fresh=true the run is set aside and begins anew"
        )


def _refuse_other_hold(run: Run, trained: Mapping[str, Any], config: Config) -> None:
    """Raise InputError if a run's config had another `hold_until`, which can give it other epochs."""
    then, now = hold_of(trained.get("recipe", {})), hold_of(vars(config.recipe))
    if then != now:
        had, asked = (", ".join(f"recipe.{key}={value}" for key, value in keys.items()) for keys in (then, now))
        raise InputError(
            f"{run.folder}: its epochs are those of {had}, not of {asked}; with fresh=true the run is set aside and "
            f"begins anew"
        )


def _fit(config: Config, plain: dict[str, Any], run: Run, manifest: str | None) -> Result:
    # Gather: an error in the hardware, the files or the data shows here, before anything is begun.
    recipe, views, ranks = config.recipe, Views.parse(config.views), world_size(config.trainer)
    hardware, backends = lightning_arguments(config.trainer), choose_backends(config.trainer)
    classes = read_counts(config.data)[0] or 2  # if there are no lists, data.check says so
    check_deterministic(config, classes)
    at_once = choose_pass_here(config, classes)
    BACKEND.recompute = at_once.recompute
    clips, passes = accumulation(recipe, ranks, at_once.clips)
    if config.init is not None and plain["init"].startswith(TRAINED_ON) and not Path(config.init).exists():
        raise InputError(
            f"init={plain['init']}: {config.init} is not there, as of a run that was kept without its weights; the "
            f"command of that run with fresh=true trains them again"
        )
    weights = read_weights(Path(config.init)) if config.init is not None else None
    data = make_data(config, views, batch_size=clips)
    lists = data.check()
    set_aside = config.fresh and not rank_zero()  # the first rank does it, now or soon: what is there is not ours
    if rank_zero():
        remove_unfinished(run.folder)
    checkpoint = None if set_aside else newest_whole(run)
    if checkpoint:
        _refuse_other_data(run, checkpoint.manifest, manifest)
        _refuse_other_hold(run, checkpoint.config, config)
        data.start = checkpoint.goes_on_at

    own_callbacks = instantiate("callbacks", config.callbacks, Callback)
    own_loggers = instantiate("loggers", config.loggers, Logger, save_dir=str(run.folder))  # type: ignore[type-abstract]

    # Build.
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = config.build(len(lists.classes))
    parameter_groups(model, recipe)  # refuses recipe.lr_scale of unknown names before training
    if weights is not None:
        for change in load_first_weights(model, *weights, config, lists.classes):
            say(f"init: {change}")
    multiply_adds = _multiply_adds(config, len(lists.classes))
    _prepare_for_training(model, config)
    module = VideoModule(
        model, recipe, data.normalize, lists.classes, views, plain, config.data.class_groups, manifest,
        config.data.multi_label,
    )  # fmt: skip
    batch = describe_batch(model, recipe, ranks, clips, passes)
    say_begin(config, run, model, lists, batch, at_once, resumed=checkpoint is not None)
    if rank_zero():
        write_json(run.folder / "config.json", plain)
    started, code = time.monotonic(), provenance()
    logger = None
    if rank_zero() and config.logger.mode != "off":
        from .wandb_logger import log_result, make_logger  # W&B takes half a second, which no other run should wait for

        logger = make_logger(config, plain, run, len(lists.classes))
    with ExitStack() as at_the_end:
        if logger:
            at_the_end.callback(logger.finish)
            logger.log_hyperparams({"batch": batch})
        for other in own_loggers:
            other.log_hyperparams({**plain, "batch": batch})
        history = CodeHistory(code, say)
        unreadable = UnreadableVideos(lists.counts, config.data.max_unreadable)
        same = SameOnAllRanks({**_agreed(plain, manifest, data, batch), **computing()})
        # The user's own come first: what they change at an event is seen by ours, and is in a checkpoint of that event.
        callbacks = [*own_callbacks, unreadable, same, history, *run_callbacks(config, run)]
        loggers = [*([logger] if logger else []), *own_loggers]
        trainer = make_trainer(config, run, callbacks, loggers, hardware, passes)

        # Run.
        with (
            out_of_memory_explained(clips),
            nondeterminism_explained(),
            lost_worker_explained(trainer),
            said_once(trainer),
        ):
            metrics = _trained_and_tested(trainer, module, data, checkpoint.path if checkpoint else None)
            told = {
                "name": config.name,
                "scale": config.scale,
                "id": run.id,
                "model": config.model.label,
                "metrics": metrics,
                "videos": lists.counts,
                "absent": {split: len(names) for split, names in lists.absent.items()},
                "unreadable": unreadable.result(),
                "manifest": manifest,
                "gmacs": multiply_adds,
                "parameters": sum(p.numel() for p in model.parameters()),
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "batch": batch,
                "train_seconds": round(callback_of(trainer, EpochLog).seconds_at_end, 1),
                "data_wait": round(callback_of(trainer, EpochLog).data_wait, 4),
                "wall_seconds": round(time.monotonic() - started, 1),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": config.seed,
                "checkpoint": run.checkpoint.name,
                **code,
                HISTORY: history.parts,
                "hardware": {
                    **hardware_of(trainer),
                    **backends,
                    "recompute": at_once.recompute,
                    "compile": config.trainer.compile,
                },
                "config": plain,
            }
            result = Result(run.folder, told)
            save_logits(module, run.folder / f"logits_{views}.pt")
            if trainer.is_global_zero:
                say_lacking(result)
                result.write(run.folder / "result.json")
                for path in run.checkpoints[1:]:  # a finished run is not resumed
                    path.unlink()
                if logger:
                    log_result(logger, result, config, module, data, run)
            return result


def _trained_and_tested(
    trainer: L.Trainer, module: VideoModule, data: VideoDataModule, checkpoint: Path | None
) -> dict[str, float]:
    """Train, from a checkpoint if given, then test; return the metrics of the last validation and of the test."""
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging):
            # Lightning skips on_train_end when no epoch is left; call it so that the averaged weights are swapped in.
            callback.on_train_end(trainer, module)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    # Nothing is validated if the run was killed after its last epoch, and that epoch is not if val_every leaves it out.
    if not metrics or trainer.current_epoch % (trainer.check_val_every_n_epoch or 1):
        metrics = {k: float(v) for k, v in trainer.validate(module, datamodule=data, verbose=False)[0].items()}
    return metrics | {k: float(v) for k, v in trainer.test(module, datamodule=data, verbose=False)[0].items()}


def _multiply_adds(config: Config, num_classes: int) -> float | None:
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


def _agreed(
    plain: dict[str, Any], manifest: str | None, data: VideoDataModule, batch: dict[str, Any]
) -> dict[str, Any]:
    """Return the values in which all ranks of a run have to agree."""
    trainer = {key: value for key, value in plain["trainer"].items() if key not in ("workers", "clips_per_second")}
    return {**definition(plain), "manifest": manifest, "trainer": trainer, "batch": batch, "begins_at": data.start}


def say_begin(
    config: Config, run: Run, model: VideoModel, lists: Lists, batch: dict[str, Any], at_once: Pass, resumed: bool
) -> None:
    """Print the model, its data and the make-up of a step before training begins."""
    recipe, millions = config.recipe, sum(p.numel() for p in model.parameters()) / 1e6
    say(
        f"{'Resuming' if resumed else 'Training'} {run.folder.name}: {millions:.2f} M parameters, "
        f"{lists.counts['train']} training and {lists.counts['val']} validation videos, {len(lists.classes)} classes; "
        f"{recipe.batch_size} clips a step: {recipe.repeats} of a video, {batch['devices']} devices x "
        f"{batch['clips_per_device_and_pass']} clips x {batch['passes']} passes; "
        f"lr {recipe.scaled_lr:.2e}, {recipe.lr:.2e} for {recipe.lr_batch} clips"
    )
    if recipe.norm_clips and batch["norm_clips"] not in (None, recipe.norm_clips):
        say(
            f"Batch norm sees {batch['norm_clips']} clips at once, not recipe.norm_clips={recipe.norm_clips}: "
            f"trainer.batch_per_device, the devices' memory and their share of a step allow no other number"
        )
    if batch["mixed_clips"] == 1:
        say("Nothing is mixed: each device has one clip of a step; fewer trainer.devices or a larger recipe.batch_size")
    if at_once.needs:
        clips = batch["clips_per_device_and_pass"]
        say(
            f"Chosen by the devices' memory: {clips} clips a pass, recompute={str(at_once.recompute).lower()}; "
            f"{at_once.needs.whole(clips) / 2**30:.1f} GiB by the count"
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
        batch_size=batch_size,
        step=config.recipe.batch_size,
        mix=bool(config.recipe.mixup or config.recipe.cutmix),
        workers=data_workers(config.trainer),
    )
    data.check_shared_memory(devices(config.trainer), world_size(config.trainer))
    return data


def progress_callbacks() -> tuple[list[Callback], bool]:
    """Return (a progress bar if stdout is a terminal, else a line a minute; whether it is the bar)."""
    return [Bar(leave=False) if watched() else StepLines(say)], watched()


def run_callbacks(config: Config, run: Run) -> list[Callback]:
    """Return the callbacks for progress, a row per epoch, checks of the step, checkpoints and averaged weights."""
    shown, bar = progress_callbacks()
    waiting = WaitingForData(feeding(config)) if rank_zero() else None
    callbacks = [
        *shown,
        NonFinite(run.folder),
        Untrained(say),
        EpochLog(run.epochs_file, None if bar else say, waiting),
    ]
    if config.recipe.hold_until is not None:
        callbacks.append(HoldPeak(config.recipe))
    callbacks.append(Saving(run, config.trainer))
    if config.recipe.ema:
        callbacks.append(EMAWeightAveraging(decay=config.recipe.ema))
    return callbacks


def feeding(config: Config) -> str:
    """Say what gives a run its data faster, of what is left to do."""
    cores, workers, augment = cores_of_device(config.trainer), config.trainer.workers, config.recipe.augment
    ways = []
    if workers is not None and workers < cores:
        ways.append(f"trainer.workers={cores}, one for each core of a device")
    if not config.data.built_in:
        ways.append(f"copies that are read faster ({program('prepare')} do=transcode)")
    if on_cuda(config.trainer) and augment.randaugment_ops and not augment.device:
        ways.append("recipe.augment.device=true")
    return "; ".join([*ways, "more cores for a device (docs/data.md has how many)"])


def make_trainer(
    config: Config,
    run: Run,
    callbacks: list[Callback],
    loggers: list[Logger],
    hardware: dict[str, Any],
    passes: int,
) -> L.Trainer:
    """Return Lightning's Trainer of a run, which takes an optimizer step every ``passes`` batches."""
    recipe = config.recipe
    epochs = next(callback for callback in callbacks if isinstance(callback, EpochLog))
    try:
        return L.Trainer(
            **{**hardware, "logger": loggers or False},
            callbacks=callbacks,
            plugins=[CheckpointWriter(config.trainer.keep_checkpoints)],
            profiler=epochs.clock,
            enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
            default_root_dir=run.folder,
            max_epochs=recipe.epochs,
            max_steps=-1 if recipe.max_steps is None else recipe.max_steps,
            accumulate_grad_batches=passes,
            check_val_every_n_epoch=recipe.val_every,
            gradient_clip_val=recipe.clip_grad_norm or None,
            log_every_n_steps=10,
        )
    except (ValueError, L.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from None
