"""One run from its config to its result: trained, tested, written down; resumed where it was killed."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from rich.console import Console

from ..config import Config
from ..cost import gmacs
from ..data.lists import manifest_hash
from ..data.modules import VideoDataModule
from ..data.sampling import Views
from ..errors import InputError
from ..model import STAT
from ..model.weights import load_weights
from ..runs.files import remove_unfinished, replacing, write_json
from ..runs.run import TRAINED_ON, Run, definition, provenance, same_data
from ..runs.source import find_source
from .callbacks import Bar, EpochLog, Say, StepLines, callback_of
from .checkpoint import read_checkpoint
from .finite import NonFinite
from .hardware import data_workers, lightning_arguments, rank_zero
from .module import StatModule
from .optim import accumulation, describe_batch
from .ranks import SameOnAllRanks
from .saving import AtomicCheckpointIO, Saving
from .sharding import make_module
from .unreadable import UnreadableVideos
from .wandb_logger import log_result, make_logger

MEANS = {
    "absent": "Videos of the lists that are not there, and stand in no figure",
    "unreadable": "Videos that could not be read, drawn anew in training and wrong in the test",
}


def fit(config: Config, console: Console) -> dict[str, Any]:
    """Train, test and write result.json; a finished run is not run again, a begun one goes on. Returns the result."""
    console.quiet = not rank_zero()
    config, plain, run, manifest = _defined(config)
    with run.alone() if rank_zero() else nullcontext():  # its other ranks belong to it
        if config.fresh:
            if rank_zero():
                run.set_aside()
        elif (result := _result(run, config, manifest, console)) is not None:
            return result
        return _fit(config, plain, run, manifest, console)


def finished(config: Config, console: Console) -> dict[str, Any] | None:
    """The result of a run that was finished before, else None; Busy where another process is at it."""
    if config.fresh:
        return None
    config, _, run, manifest = _defined(config)
    if (result := _result(run, config, manifest, console)) is None and rank_zero():  # the first rank has it for all
        with run.alone():
            pass
    return result


def _defined(config: Config) -> tuple[Config, dict[str, Any], Run, str | None]:
    """The config with the file of its first weights, as the result has it, its run, and the state of its data."""
    plain, logs, manifest = asdict(config), Path(config.folders.logs), manifest_hash(config.data)
    if config.init is not None and config.init.startswith(TRAINED_ON):
        init = find_source(config, logs)
        config, plain["init"] = replace(config, init=str(init.checkpoint)), f"{config.init}/{init.id}"
    return config, plain, Run.of(plain, logs, manifest), manifest


def _result(run: Run, config: Config, manifest: str | None, console: Console) -> dict[str, Any] | None:
    if (result := run.result()) is None:
        return None
    _refuse_other_data(run, result.get("manifest"), manifest)
    when = result["finished"]
    console.print(f"Finished before ({when}): {run.folder}; fresh=true runs it again", soft_wrap=True)
    return {**result, "name": config.name}


def _refuse_other_data(run: Run, then: str | None, now: str | None) -> None:
    """A run is of one state of its data set from its first step to its result."""
    if not same_data(then, now):
        raise InputError(
            f"{run.folder}: its data set has changed since, from {then} to {now} (a manifest of src/prepare.py); "
            f"with fresh=true the run is set aside and begins anew"
        )


def _fit(config: Config, plain: dict[str, Any], run: Run, manifest: str | None, console: Console) -> dict[str, Any]:
    views = Views.parse(config.views)
    data = make_data(config, views)
    trainer = make_trainer(config, run, console)
    ranks, recipe = trainer.world_size, config.recipe
    clips, passes = accumulation(recipe, ranks, config.trainer.batch_per_device)
    data.batch_size, trainer.accumulate_grad_batches = clips, passes
    batch = describe_batch(recipe, ranks, clips, passes)
    state = read_checkpoint(Path(config.init))["weights"] if config.init is not None else None
    lists = data.check()
    unreadable = UnreadableVideos(lists.counts["train"], config.data.max_unreadable)
    if rank_zero():
        remove_unfinished(run.folder)
    set_aside = config.fresh and not rank_zero()  # by the first rank, in a while or just now
    checkpoint, content = (None, {}) if set_aside else newest_whole(run, console)
    if checkpoint:
        _refuse_other_data(run, content["manifest"], manifest)
        data.start = place_of(content)
    trained = {key: value for key, value in plain["trainer"].items() if key not in ("workers", "clips_per_second")}
    about = {**definition(plain), "manifest": manifest, "trainer": trained, "begins_at": data.start}
    trainer.callbacks[:0] = [unreadable, SameOnAllRanks(about)]  # type: ignore[attr-defined]  # before what saves them
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = STAT(config.stat_config(len(lists.classes)))
    if state is not None:
        for change in load_into(model, state, str(config.init), config.new_classifier):
            console.print(f"init: {change}", soft_wrap=True)
    if config.trainer.compile:
        model.compile()
    module = make_module(config.trainer)(
        model, recipe, data.normalize, lists.classes, views, plain, config.data.class_groups, manifest
    )

    millions = sum(p.numel() for p in model.parameters()) / 1e6
    console.print(
        f"{'Resuming' if checkpoint else 'Training'} {run.folder.name}: {millions:.2f} M parameters, "
        f"{lists.counts['train']} training and {lists.counts['val']} validation videos, {len(lists.classes)} classes; "
        f"{recipe.batch_size} clips a step: {recipe.repeats} of a video, {ranks} devices x {clips} clips x {passes} "
        f"passes; lr {recipe.scaled_lr:.2e}, {recipe.lr:.2e} for {recipe.lr_batch} clips",
        soft_wrap=True,
        highlight=False,
    )
    write_json(run.folder / "config.json", plain)
    started, code = time.monotonic(), provenance()  # of the code that was loaded: it may be edited while the run lasts
    logger = make_logger(config, plain, run, model) if trainer.is_global_zero else None
    trainer.loggers = [logger] if logger else []
    if logger:
        logger.log_hyperparams({"batch": batch})
    with ExitStack() as at_the_end, _explained(trainer):
        if logger:
            at_the_end.callback(logger.finish)
        metrics = _trained_and_tested(trainer, module, data, checkpoint)
        result = {
            "name": config.name,
            "scale": config.scale,
            "id": run.id,
            "metrics": metrics,
            "videos": lists.counts,
            "absent": {split: len(names) for split, names in lists.absent.items()},
            "unreadable": unreadable.result(trainer),
            "manifest": manifest,
            "gmacs": gmacs(model.config),
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
            "hardware": {
                "device": str(trainer.strategy.root_device),
                "devices": trainer.world_size,
                "threads": torch.get_num_threads(),
                "precision": str(trainer.precision),
            },
            "config": plain,
        }
        save_logits(module, run.folder / f"logits_{views}.pt")
        if trainer.is_global_zero:
            say_lacking(result, console)
            write_json(run.folder / "result.json", result)
            for path in run.checkpoints[1:]:  # nothing goes on from them any more
                path.unlink()
            log_result(logger, result, module, data, run)
        return result


def _trained_and_tested(
    trainer: L.Trainer, module: StatModule, data: VideoDataModule, checkpoint: Path | None
) -> dict[str, float]:
    """Train from a checkpoint on, then test: the last validation's and the test's figures."""
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging):  # which a run with nothing left to train has not told yet
            callback.on_train_end(trainer, module)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    if not metrics:  # killed between the last epoch and the result: nothing was left to train
        metrics = {k: float(v) for k, v in trainer.validate(module, datamodule=data, verbose=False)[0].items()}
    return metrics | {k: float(v) for k, v in trainer.test(module, datamodule=data, verbose=False)[0].items()}


@contextmanager
def _explained(trainer: L.Trainer) -> Iterator[None]:
    """One line where a data worker was killed, as the system does it when memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        saving = callback_of(trainer, Saving)
        if saving.asked:  # the same signal ended both
            saving.stop(trainer)
        reason = str(error).partition(". ")[0]
        raise InputError(
            f"{reason}; where memory is short, fewer trainer.workers need less; the same command goes on"
        ) from error


def say_lacking(result: dict[str, Any], console: Console) -> None:
    """A line of what the data set lacked, where it lacked something."""
    for what in ("absent", "unreadable"):
        counts = {split: n if isinstance(n, int) else len(n) for split, n in result.get(what, {}).items()}
        if any(counts.values()):
            said = ", ".join(f"{n} in {split}" for split, n in counts.items() if n)
            console.print(f"{MEANS[what]}: {said}", soft_wrap=True, highlight=False)


def make_data(config: Config, views: Views) -> VideoDataModule:
    """The data module of a config."""
    return VideoDataModule(
        config.data,
        T=config.T,
        crop=config.crop,
        views=views,
        augment=config.recipe.augment,
        seed=config.seed,
        repeats=config.recipe.repeats,
        val_videos=config.recipe.val_videos,
        batch_size=config.trainer.batch_per_device,
        step=config.recipe.batch_size,
        workers=data_workers(config.trainer),
    )


def newest_whole(run: Run, console: Console) -> tuple[Path | None, dict[str, Any]]:
    """The newest checkpoint that can be read, and what `read_checkpoint` says of it; None where the run has not begun.

    A broken one is set aside with a line that says so; InputError where none is whole, since starting over is not
    for us to decide.
    """
    begun = run.checkpoints
    for path in begun:
        try:
            content = read_checkpoint(path)
        except InputError as error:
            console.print(f"{error.line}; going on from the one before", soft_wrap=True, highlight=False)
        else:
            if rank_zero():
                for broken in begun[: begun.index(path)]:
                    broken.replace(broken.with_suffix(".broken"))
            return path, content
    if begun:
        raise InputError(f"{run.folder}: none of its checkpoints can be read; fresh=true sets it aside and starts over")
    return None, {}


def place_of(content: dict[str, Any]) -> tuple[int, int]:
    """(epoch, clips of it that lie behind) from which a checkpoint goes on."""
    place = content["place"] or {"epoch": content["epoch"] + 1, "clips": 0}  # once, only an epoch's end was saved
    return place["epoch"], place["clips"]


def progress(console: Console) -> tuple[list[Callback], bool]:
    """A progress bar where somebody watches, else a line a minute; and whether it is the bar."""
    watched = sys.stdout.isatty()
    return [Bar(leave=False) if watched else StepLines(plainly(console))], watched


def plainly(console: Console) -> Say:
    """Prints lines as they are."""
    return partial(console.print, soft_wrap=True, highlight=False)


def make_trainer(config: Config, run: Run, console: Console) -> L.Trainer:
    """Lightning's Trainer with the callbacks of a run."""
    recipe = config.recipe
    callbacks, bar = progress(console)
    epochs = EpochLog(run.epochs_file, None if bar else plainly(console))
    callbacks += [NonFinite(run.folder), epochs, Saving(run, config.trainer)]
    if recipe.ema:
        if config.trainer.strategy == "fsdp":
            raise InputError(f"recipe.ema={recipe.ema}: not to be had with trainer.strategy=fsdp; trainer=ddp has it")
        callbacks.append(EMAWeightAveraging(decay=recipe.ema))
    try:
        return L.Trainer(
            **lightning_arguments(config.trainer),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(config.trainer.keep_checkpoints)],
            profiler=epochs.clock,
            enable_progress_bar=bar,
            default_root_dir=run.folder,
            max_epochs=recipe.epochs,
            max_steps=-1 if recipe.max_steps is None else recipe.max_steps,
            check_val_every_n_epoch=recipe.val_every,
            gradient_clip_val=recipe.clip_grad_norm or None,
            log_every_n_steps=10,
        )
    except (ValueError, L.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from None


def load_into(model: STAT, state: dict[str, torch.Tensor], source: str, new_classifier: bool) -> list[str]:
    """`load_weights`, its refusal named after the checkpoint."""
    try:
        return load_weights(model, state, new_classifier=new_classifier)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def save_logits(module: StatModule, path: Path) -> None:
    """Per-view logits (videos, views, num_classes) and labels (videos,) of the test, in the order of the list."""
    logits, labels = module.test_accuracy.gathered()  # from all ranks, so all call this
    if module.trainer.is_global_zero:
        with replacing(path) as file:
            torch.save({"logits": logits.cpu(), "labels": labels.cpu(), "views": str(module.views)}, file)
