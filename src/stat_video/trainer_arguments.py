"""The arguments of Lightning's Trainer: those that `trainer.more` passes on, and what says the same for the others.

Without Lightning, whose import takes seconds; a test compares the names with its signature.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from .errors import InputError

PROFILERS = ("simple", "advanced", "pytorch")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1


Fits = Callable[[Any], bool]
FLAG: tuple[Fits, str] = (lambda value: isinstance(value, bool), "must be true or false")
FREE: dict[str, tuple[Fits, str]] = {  # they change no result, and are no part of a run's id
    "profiler": (lambda value: value in PROFILERS, f"must be one of {', '.join(PROFILERS)}"),
    "log_every_n_steps": (lambda value: _whole(value, 1), "must be 1 or more"),
    "num_sanity_val_steps": (lambda value: _whole(value, -1), "must be -1 (all), 0 (none) or more"),
    "detect_anomaly": FLAG,
    "enable_model_summary": FLAG,
    "enable_progress_bar": FLAG,
    "benchmark": FLAG,
    "inference_mode": FLAG,
}
DEFINING: dict[str, tuple[Fits, str]] = {  # they may change a result, and are part of the id
    # Batches of recipe.batch_size clips, which are optimizer steps, whatever the number of devices and passes.
    "limit_train_batches": (
        lambda value: _whole(value, 1) or _share(value),
        "must be a number of steps of an epoch, 1 or more, or a share of them, above 0.0 to 1.0",
    ),
    "min_epochs": (lambda value: _whole(value, 1), "must be 1 or more"),
    "min_steps": (lambda value: _whole(value, 1), "must be 1 or more"),
}
PASSED = {**FREE, **DEFINING}
PART = "not passed on: a test never leaves videos out; recipe.val_videos=N gives a run N of them, each class its share"
RESUMES = "not passed on: the same command resumes a run, and init=FILE begins from weights"
SHARED = "not passed on: the samplers share videos among devices without repeating any"
INSTEAD = {  # why an argument is not passed on, and what says the same
    "accelerator": "use trainer.accelerator=cpu or cuda",
    "devices": "use trainer.devices=N",
    "num_nodes": "use trainer.num_nodes=N",
    "strategy": "use trainer.strategy=ddp",
    "precision": "use trainer.precision=bf16-mixed",
    "deterministic": "use trainer.deterministic=true",
    "logger": "use loggers=NAME to add loggers, logger=off to go without W&B",
    "callbacks": "use callbacks=NAME",
    "max_epochs": "use recipe.epochs=N",
    "max_steps": "use recipe.max_steps=N",
    "max_time": "use recipe.max_steps=N: where a run ends must not depend on the machine's speed "
    "(hydra.launcher.hours=H limits a job, and the same command resumes it)",
    "fast_dev_run": "use debug=fast_dev_run",
    "overfit_batches": "use debug=overfit, or recipe.train_videos=N",
    "limit_val_batches": PART,
    "limit_test_batches": PART,
    "limit_predict_batches": "not passed on: src/predict.py predicts",
    "val_check_interval": "use recipe.val_every=N, epochs; trainer.more.limit_train_batches=N makes epochs shorter",
    "check_val_every_n_epoch": "use recipe.val_every=N",
    "accumulate_grad_batches": "use trainer.batch_per_device=N, the clips of a pass: passes are accumulated up to "
    "recipe.batch_size",
    "gradient_clip_val": "use recipe.clip_grad_norm=X",
    "gradient_clip_algorithm": "use recipe.clip_grad_norm=X: gradients are clipped by their norm",
    "enable_checkpointing": "use trainer.save_minutes=N: a run always saves its last checkpoint",
    "use_distributed_sampler": SHARED,
    "barebones": "not passed on: a run always saves checkpoints and figures",
    "plugins": "not passed on: trainer.precision and trainer.strategy choose them",
    "sync_batchnorm": "use recipe.norm_clips=N, the clips of one device that batch norm sees at once, or "
    "recipe.precise_bn=N, statistics over all devices",
    "reload_dataloaders_every_n_epochs": "not passed on: each epoch draws its clips anew",
    "default_root_dir": "use folders.logs=FOLDER",
    "enable_autolog_hparams": "not passed on: loggers get every key of the run",
    "model_registry": "not passed on: it is of Lightning's own cloud",
}
OLDER = {  # of older versions of Lightning
    "gpus": "use trainer.devices=N with trainer=gpu or trainer=ddp",
    "num_processes": "use trainer.devices=N",
    "amp_backend": "use trainer.precision=bf16-mixed",
    "auto_scale_batch_size": "use trainer.batch_per_device=auto, the default",
    "auto_lr_find": "use recipe.lr=X",
    "resume_from_checkpoint": RESUMES,
    "ckpt_path": RESUMES,
    "weights_summary": "use trainer.more.enable_model_summary=true",
    "progress_bar_refresh_rate": "use trainer.more.enable_progress_bar=false",
    "replace_sampler_ddp": SHARED,
}
STRATEGY = ("auto", "ddp")
_ONE_COPY = "it shards a model that does not fit into one device, and all models here fit; must be auto or ddp"
_PROGRAMS = "the processes of a run are started as programs, so that it resumes; must be auto or ddp"
_EVERY_WEIGHT = "weights without a gradient are named at the first step and none are expected; must be auto or ddp"
STRATEGIES = {
    "fsdp": _ONE_COPY,
    "deepspeed": _ONE_COPY,
    "model_parallel": _ONE_COPY,
    "ddp_spawn": _PROGRAMS,
    "ddp_fork": _PROGRAMS,
    "ddp_notebook": _PROGRAMS,
    "ddp_find_unused_parameters_true": _EVERY_WEIGHT,
    "dp": "Lightning has none; must be auto or ddp",
    "ddp2": "Lightning has none; must be auto or ddp",
    "single_device": "trainer.devices=1 is one device; must be auto or ddp",
}


def check(more: Mapping[str, Any], *, deterministic: bool) -> None:
    """Raise InputError if `trainer.more` holds something else than arguments that are passed on, of their kind."""
    for name, value in more.items():
        if name not in PASSED:
            raise InputError(f"trainer.more.{name}: {instead(name) or unknown(name)}")
        fits, words = PASSED[name]
        if not fits(value):
            raise InputError(f"trainer.more.{name}={value}: {words}")
    if deterministic and more.get("benchmark"):
        raise InputError("trainer.more.benchmark=true: must be false with trainer.deterministic=true")


def check_least(more: Mapping[str, Any], *, epochs: int, stops_early: bool) -> None:
    """Raise InputError for a least number of epochs or steps that would do nothing."""
    for name in ("min_epochs", "min_steps"):
        if name in more and not stops_early:
            raise InputError(
                f"trainer.more.{name}={more[name]}: needs what stops early, such as callbacks=early_stopping"
            )
    if more.get("min_epochs", 0) > epochs:
        raise InputError(f"trainer.more.min_epochs={more['min_epochs']}: must be at most recipe.epochs={epochs}")


def instead(name: str) -> str | None:
    """Return why an argument of the Trainer is not passed on, and what says the same; None for any other name."""
    return {**INSTEAD, **OLDER}.get(name)


def unknown(name: str) -> str:
    """Return what may have been meant by a name that is no argument of the Trainer."""
    near = difflib.get_close_matches(name, [*PASSED, *INSTEAD], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"no argument of Lightning's Trainer{guess}; must be one of {', '.join(sorted(PASSED))}"


def check_strategy(strategy: str) -> str | None:
    """Return why a strategy is refused, None if it is not."""
    if strategy in STRATEGY:
        return None
    name = next((name for name in sorted(STRATEGIES, key=len, reverse=True) if strategy.startswith(name)), None)
    return STRATEGIES[name] if name else "must be auto or ddp"


def steps_of_epoch(more: Mapping[str, Any], steps: int) -> int:
    """Return how many of an epoch's optimizer steps are taken."""
    limit = more.get("limit_train_batches", steps)
    return max(1, int(limit * steps)) if isinstance(limit, float) else min(limit, steps)


def defining(more: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `trainer.more` that may change a result; all batches of an epoch is what goes without saying."""
    whole = {"limit_train_batches": 1.0}
    return {name: value for name, value in more.items() if name not in FREE and not _same(value, whole.get(name))}


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)
