"""Take one run from its config to its result: train, test, write result.json; resume if it was killed."""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from ..config import Config
from ..data.lists import manifest_hash, read_counts
from ..errors import InputError
from ..files import write_json
from ..hardware import (
    cores_of_device,
    on_cuda,
    rank_zero,
)
from ..paths import program
from ..progress import say, watched
from ..runs.code import computing, is_same, provenance
from ..runs.identity import TRAINED_ON, definition, with_content
from ..runs.overrides import write_overrides
from ..runs.result import Result
from ..runs.results import ended_as_asked
from ..runs.run import Run
from ..runs.settled import settled
from ..runs.source import find_source
from ..trainer_arguments import steps_of_epoch
from ..weights import shipped
from .best import Best
from .callbacks import Bar, EpochLog, StepLines, WaitingForData, callback_of
from .explained import anomaly_explained, lost_worker_explained, nondeterminism_explained, out_of_memory_explained
from .finite import NonFinite
from .history import HISTORY, CodeHistory
from .hold import HoldPeak
from .module import VideoModule
from .outcome import hardware_of, save_logits, say_chance, say_lacking
from .precise_bn import PreciseBN
from .profiling import profiler, profiles
from .ranks import SameOnAllRanks
from .saving import CheckpointWriter, Saving
from .session import Session, refuse_other_data, refuse_other_hold
from .unreadable import UnreadableVideos, said_once
from .untrained import Untrained


def fit(config: Config) -> Result:
    """Train, test, write result.json; return it. A finished run is not repeated, a begun one goes on."""
    config, plain, run, manifest = identify(config)
    with run.alone() if rank_zero() else nullcontext():  # the first rank holds it for the others
        if config.fresh:
            if rank_zero():
                run.set_aside()
        elif (result := _result(run, config, manifest)) is not None:
            return result
        return _train_and_test(Session.of(config, plain, run, manifest))


def finished(config: Config) -> Result | None:
    """Return the result of a run that was finished before, else None; raise Busy if another process is running it."""
    if config.fresh:
        return None
    config, plain, run, manifest = identify(config)
    result = _result(run, config, manifest)
    if result is None and rank_zero():  # the first rank asks for all
        with run.alone():
            pass
    if result is not None and rank_zero() and config.logger.mode != "off" and "WANDB_SWEEP_ID" in os.environ:
        from .wandb_logger import log_again

        log_again(config, plain, run, result, read_counts(config.data)[0] or 2)
    return result


def identify(config: Config) -> tuple[Config, dict[str, Any], Run, str | None]:
    """Return (`settled` config with `init` resolved to a file, it as plain containers, the run, the manifest hash)."""
    config = settled(config)
    plain, logs, manifest = asdict(config), Path(config.folders.logs), manifest_hash(config.data)
    if config.init is not None and config.init.startswith(TRAINED_ON):
        init = find_source(config, logs)
        config, plain["init"] = replace(config, init=str(init.checkpoint)), f"{config.init}/{init.id}"
    elif shipped.is_shipped(config.init):
        plain["init"] = with_content(str(config.init))
        config = replace(config, init=str(shipped.file_of(str(config.init))))
    elif config.init is not None:
        file = Path(config.init)
        if file.is_dir():  # of a run
            config = replace(config, init=str(file / "last.ckpt"))
        plain["init"] = with_content(str(config.init))
    return config, plain, Run.of(plain, logs, manifest), manifest


def _result(run: Run, config: Config, manifest: str | None) -> Result | None:
    if (result := run.result()) is None:
        return None
    refuse_other_data(run, result.content.get("manifest"), manifest)
    if not ended_as_asked(config.recipe, result):
        refuse_other_hold(run, result.config, config)
    changed = "" if is_same(result.content, provenance()) else " by other code or packages"
    say(f"Finished before ({result.content['finished']}){changed}: {run.folder}; fresh=true runs it again")
    return Result(run.folder, {**result.content, "name": config.name})


def _train_and_test(session: Session) -> Result:
    config, run, data = session.config, session.run, session.data
    module = VideoModule(
        session.model,
        config.recipe,
        data.normalize,
        session.lists.classes,
        session.views,
        session.plain,
        config.data.class_groups,
        session.manifest,
        config.data.multi_label,
        session.class_weights,
    )
    say_begin(session)
    if rank_zero():
        write_json(run.folder / "config.json", session.plain)
        write_overrides(run.folder)
    started, code = time.monotonic(), provenance()
    logger = None
    if rank_zero() and config.logger.mode != "off":
        from .wandb_logger import (
            LearningRates,
            log_result,
            make_logger,
        )  # W&B takes half a second, which no other run should wait for

        logger = make_logger(config, session.plain, run, len(session.lists.classes))
    # Callbacks may ask for a logger, which W&B is on the first rank alone, and there only if it starts.
    shown = logger or (DummyLogger() if config.logger.mode != "off" else None)
    with ExitStack() as at_the_end:
        if logger:
            at_the_end.callback(logger.finish)
            logger.log_hyperparams({"batch": session.batch})
        for other in session.loggers:
            other.log_hyperparams({**session.plain, "batch": session.batch})
        history = CodeHistory(code, say)
        unreadable = UnreadableVideos(session.lists.counts, config.data.max_unreadable)
        same = SameOnAllRanks({**_agreed(session), **computing()})
        # The user's own come first: what they change at an event is seen by ours, and is in a checkpoint of that event.
        callbacks = [*session.callbacks, unreadable, same, history, *run_callbacks(config, run)]
        if logger:
            callbacks.append(LearningRates(logger))
        loggers = [*([shown] if shown else []), *session.loggers]
        steps = session.steps_of_epoch
        trainer = make_trainer(config, run, callbacks, loggers, session.hardware, session.passes, steps)
        with (
            out_of_memory_explained(session.clips),
            nondeterminism_explained(),
            anomaly_explained(),
            lost_worker_explained(trainer),
            said_once(trainer),
        ):
            metrics = _trained_and_tested(trainer, module, session)
            result = _result_of(
                session, trainer, metrics, unreadable, round(time.monotonic() - started, 1), code, history
            )
            _, labels = save_logits(module, data, run.folder / f"logits_{session.views}.pt")
            if trainer.is_global_zero:
                say_lacking(result)
                if not (config.data.multi_label or config.debug):
                    say_chance(result.top1, labels, len(session.lists.classes), config.init)
                for file in profiles(run.folder):
                    say(f"profile: {file}")
                if config.debug:
                    say(f"debug={config.debug}: its files are in {run.folder}; it is in no report")
                if trainer.should_stop:
                    say(f"A callback stopped the run after {trainer.current_epoch} of {trainer.max_epochs} epochs")
                result.write(run.folder / "result.json")
                for path in run.checkpoints[1:]:  # a finished run is not resumed
                    path.unlink()
                if logger:
                    log_result(logger, result, config, module, data, run)
            return result


def _result_of(
    session: Session,
    trainer: L.Trainer,
    metrics: dict[str, float],
    unreadable: UnreadableVideos,
    wall_seconds: float,
    code: Mapping[str, Any],
    history: CodeHistory,
) -> Result:
    config, lists, epochs = session.config, session.lists, callback_of(trainer, EpochLog)
    best = next((callback for callback in session.callbacks if isinstance(callback, Best)), None)
    weights = session.class_weights
    told = {
        "name": config.name,
        "scale": config.scale,
        "id": session.run.id,
        "model": config.model.label,
        "metrics": metrics,
        "videos": lists.counts,
        "absent": {split: len(names) for split, names in lists.absent.items()},
        "unreadable": unreadable.result(),
        "manifest": session.manifest,
        "gmacs": session.gmacs,
        "parameters": sum(p.numel() for p in session.model.parameters()),
        "trained_parameters": sum(p.numel() for p in session.model.parameters() if p.requires_grad),
        **({"class_weights": dict(zip(lists.classes, weights, strict=True))} if weights else {}),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "batch": session.batch,
        "train_seconds": round(epochs.seconds_at_end, 1),
        "data_wait": round(epochs.data_wait, 4),
        "wall_seconds": wall_seconds,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "checkpoint": session.run.checkpoint.name,
        **({"best": best.best} if best else {}),
        **code,
        HISTORY: history.parts,
        "hardware": {
            **hardware_of(trainer),
            **session.backends,
            "recompute": session.at_once.recompute,
            "compile": config.trainer.compile,
        },
        "config": session.plain,
    }
    return Result(session.run.folder, told)


def _trained_and_tested(trainer: L.Trainer, module: VideoModule, session: Session) -> dict[str, float]:
    """Train, from a checkpoint if given, then test; return the metrics of the last validation and of the test."""
    data, path = session.data, session.checkpoint.path if session.checkpoint else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging):
            # Lightning skips on_train_end when no epoch is left; call it so that the averaged weights are swapped in.
            callback.on_train_end(trainer, module)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    # Nothing is validated if the run was killed after its last epoch, and that epoch is not if val_every leaves it out.
    if not metrics or trainer.current_epoch % (trainer.check_val_every_n_epoch or 1):
        metrics = {k: float(v) for k, v in trainer.validate(module, datamodule=data, verbose=False)[0].items()}
    return metrics | {k: float(v) for k, v in trainer.test(module, datamodule=data, verbose=False)[0].items()}


def _agreed(session: Session) -> dict[str, Any]:
    """Return the values in which all ranks of a run have to agree."""
    trainer = {k: v for k, v in session.plain["trainer"].items() if k not in ("workers", "clips_per_second")}
    own = {"manifest": session.manifest, "trainer": trainer, "batch": session.batch, "begins_at": session.data.start}
    return {**definition(session.plain), **own}


def say_begin(session: Session) -> None:
    """Print the model, its data and the make-up of a step before training begins."""
    recipe, batch, lists, at_once = session.config.recipe, session.batch, session.lists, session.at_once
    millions = sum(p.numel() for p in session.model.parameters()) / 1e6
    trained = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    say(
        f"{'Resuming' if session.checkpoint else 'Training'} {session.run.folder.name}: {millions:.2f} M parameters, "
        f"{f'{trained:,} of them trained, ' if recipe.freeze else ''}"
        f"{lists.counts['train']} training and {lists.counts['val']} validation videos, {len(lists.classes)} classes; "
        f"{recipe.batch_size} clips a step: {recipe.repeats} of a video, {batch['devices']} devices x "
        f"{batch['clips_per_device_and_pass']} clips x {batch['passes']} passes; "
        f"lr {recipe.scaled_lr:.2e}, {recipe.lr:.2e} for {recipe.lr_batch} clips"
    )
    if recipe.freeze and session.config.init is None:
        say("recipe.freeze with init=null: the frozen weights stay as they are drawn")
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


def progress_callbacks(bar: bool | None = None) -> tuple[list[Callback], bool]:
    """Return (a progress bar or a line a minute; whether it is the bar); by itself the bar if stdout is a terminal."""
    bar = watched() if bar is None else bar
    return [Bar(leave=False) if bar else StepLines(say)], bar


def run_callbacks(config: Config, run: Run) -> list[Callback]:
    """Return the callbacks for progress, a row per epoch, checks of the step, checkpoints and averaged weights."""
    shown, bar = progress_callbacks(config.trainer.more.get("enable_progress_bar"))
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
    if config.recipe.precise_bn:  # after what may stop the run
        callbacks.append(PreciseBN(config.recipe.precise_bn, config.seed))
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
    steps: int = 0,
) -> L.Trainer:
    """Return Lightning's Trainer of a run, which takes an optimizer step every ``passes`` batches.

    ``steps``: of an epoch, of which `trainer.more` may limit the number.
    """
    recipe, more = config.recipe, dict(config.trainer.more)
    epochs = next(callback for callback in callbacks if isinstance(callback, EpochLog))
    epochs.clock.other = profiler(more.pop("profiler", None), run.folder)
    more.pop("enable_progress_bar", None)
    if "limit_train_batches" in more:
        more["limit_train_batches"] = passes * steps_of_epoch(more, steps)
    try:
        return L.Trainer(
            **{**hardware, "logger": loggers or False, "log_every_n_steps": 10, **more},
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
        )
    except (ValueError, L.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from None
