"""Log to W&B without ever stopping a run: offline unless told otherwise, and offline if online fails."""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch
import wandb
from lightning import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torch.optim import Optimizer

from ..config import LONGEST_TAG, Config, LoggerKeys, project_of
from ..data.dataset import ViewRequest
from ..data.modules import VideoDataModule
from ..draw import draw
from ..errors import InputError
from ..metrics.mean_ap import class_precision
from ..metrics.scores import class_accuracy, likeliest, ranks
from ..models.base import ModelConfig, short
from ..models.count import Uncounted, gmacs, parameters
from ..paper import load
from ..runs.differing import searchable
from ..runs.identity import row_id
from ..runs.result import Result
from ..runs.run import Run
from .module import VideoModule

log = logging.getLogger(__name__)
ONLINE_TIMEOUT = 20  # seconds to wait for the server before going offline
START_TIMEOUT = 60  # for all of starting, whatever it hangs in
END_TIMEOUT = 300  # to send what is left at a run's end; `wandb sync` sends the rest
PICTURES = 3  # validation videos of which pictures are drawn

R = TypeVar("R")


def limited(seconds: float, call: Callable[[], R]) -> R:
    """Return what the call returns; raise TimeoutError after so many seconds, and leave its thread running."""
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        worked, answer = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if not worked:
        raise answer
    return answer


class RunLogger(WandbLogger):
    """Lightning's W&B logger, whose errors do not end the run: the first is a warning, later ones are silent."""

    failed = False

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn the first error inside into a warning, and pass over later ones."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                log.warning("W&B: %s failed (%s); the run goes on", what, _line(error))
            self.failed = True

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row of the learning curves."""
        with self.guard("logging"):
            super().log_metrics(metrics, step)

    def finish(self) -> None:
        """End the W&B run; without it the next run of a sweep would write into this one."""
        with self.guard("finishing"):
            limited(END_TIMEOUT, self.experiment.finish)


def make_logger(config: Config, plain: dict[str, Any], run: Run, num_classes: int) -> RunLogger | None:
    """Return a logger in `config.logger.mode` (offline, online); None if even offline fails.

    ``plain`` is the config as the result file has it.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    keys, mode = config.logger, mode_of(config.logger)
    if mode == "off":
        return None
    modes = ["online", "offline"] if mode == "online" else ["offline"]
    for attempt in modes:
        try:
            start = partial(
                wandb.init,
                project=project_of(keys.project),
                entity=keys.entity or os.environ.get("WANDB_ENTITY"),
                id=run.id,
                name=keys.name or os.environ.get("WANDB_NAME") or run.folder.name,
                group=keys.group or os.environ.get("WANDB_RUN_GROUP") or config.name,
                notes=keys.notes or os.environ.get("WANDB_NOTES"),
                job_type="train",
                tags=tags(config),
                config={**flat_config(config, plain, run, num_classes), "config": plain},
                dir=str(run.folder),
                mode=attempt,  # type: ignore[arg-type]
                resume="allow" if attempt == "online" else None,
                reinit="finish_previous",
                settings=wandb.Settings(
                    silent=True, console="off", init_timeout=ONLINE_TIMEOUT, login_timeout=ONLINE_TIMEOUT
                ),
            )
            return RunLogger(experiment=limited(START_TIMEOUT, start))
        except Exception as error:  # no key, no network, no disk: none of them may end a training run
            with suppress(Exception):
                limited(START_TIMEOUT, wandb.teardown)
            going = "going on offline" if attempt == "online" else "off"
            log.warning("W&B %s failed (%s); %s", attempt, _line(error), going)
    return None


def mode_of(keys: LoggerKeys) -> str:
    """Return offline, online or off: WANDB_MODE in the place of the key, but where that is off."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    found = {"offline": "offline", "dryrun": "offline", "online": "online", "run": "online", "disabled": "off"}
    if asked and asked not in found:
        raise InputError(f"WANDB_MODE={asked}: must be one of online, offline, disabled")
    return keys.mode if keys.mode == "off" else found.get(asked, keys.mode)


def log_again(config: Config, plain: dict[str, Any], run: Run, result: Result, num_classes: int) -> None:
    """Log the metrics of a run that was finished before, for a W&B agent that asks for it as for a new one."""
    if (logger := make_logger(config, plain, run, num_classes)) is None:
        return
    with logger.guard("logging"):
        logger.experiment.log(dict(result.content["metrics"]))
        logger.experiment.summary.update(dict(result.content["metrics"]))
    logger.finish()


class LearningRates(Callback):
    """Logs the learning rate as `lr`; if parameters have several factors on it, that of each as `lr/FACTOR`."""

    def __init__(self, logger: RunLogger) -> None:
        self.logger = logger

    def on_before_optimizer_step(self, trainer: Trainer, module: VideoModule, optimizer: Optimizer) -> None:  # type: ignore[override]
        """Log those of the step that is about to be taken."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.logger.log_metrics(rates(optimizer, module.recipe.scaled_lr), trainer.global_step)


def rates(optimizer: Optimizer, peak: float) -> dict[str, float]:
    """Return the learning rates as they are logged; ``peak`` is that of a parameter without a factor."""
    of_factor = {group["initial_lr"] / peak: float(group["lr"]) for group in optimizer.param_groups}
    found = {"lr": next((lr / factor for factor, lr in of_factor.items() if factor), 0.0)}
    if len(of_factor) > 1:
        found |= {f"lr/{factor:.4g}": lr for factor, lr in of_factor.items()}
    return found


def flat_config(config: Config, plain: Mapping[str, Any], run: Run, num_classes: int) -> dict[str, Any]:
    """Return the flat config that W&B filters and groups by: `searchable` keys, and what else sets runs apart.

    `model` is the model's label. `row` is equal for the runs of one row of a table, which differ in the seed;
    `table` is the number of the paper's table that the experiment reruns, None if it is none; `gflops` is of one clip,
    None if it can't be counted.
    """
    gflops = None
    with suppress(Uncounted):
        gflops = round(gmacs(config.model, config.clip, num_classes), 4)
    tables = {table.experiment: table.number for table in load().tables.values()}
    return {
        **searchable(plain),
        "model": config.model.label,
        "seed": config.seed,
        "scale": config.scale,
        "data": config.data.name,
        "id": run.id,
        "row": row_id(dict(plain)),
        "table": tables.get(config.name),
        "gflops": gflops,
        "parameters": parameters(config.model, config.clip, num_classes),
    }


def tags(config: Config) -> list[str]:
    """Return scale, data set, model, T and the model's keys that are not at their defaults: 'tiny', 'depth=50'.

    Then those of `logger.tags`, else of WANDB_TAGS.
    """
    own = config.logger.tags or [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    changed = [_tag(key, value) for key, value in config.model.changed().items()]
    found = [config.scale, config.data.name, config.model.name, f"T{config.clip.T}", *changed, *own]
    return [tag[:LONGEST_TAG] for tag in dict.fromkeys(found) if tag]


def _tag(key: str, value: Any) -> str:
    return f"{key}={value}" if value is None or isinstance(value, bool | int | float) else short(key, value)


def log_result(
    logger: RunLogger,
    result: Result,
    config: Config,
    module: VideoModule,
    data: VideoDataModule,
    run: Run,
) -> None:
    """Log a finished run: its metrics, accuracy by class, pictures and, if asked for, the checkpoint.

    The metrics have the names of the result file. The first rank alone calls this, after the test's logits are
    written; nothing here waits for other ranks. A part that fails is left out with a warning.
    """
    views, folder = module.views, run.folder
    parts: dict[str, Callable[[], None]] = {
        "the summary": lambda: logger.experiment.summary.update(dict(result.content["metrics"])),
        "accuracy by class": lambda: _log_classes(logger, folder / f"logits_{views}.pt", module.classes, str(views)),
        "pictures": lambda: _log_pictures(logger, config, module, data),
    }
    if count := config.logger.predictions:
        parts["predictions"] = lambda: _log_predictions(logger, count, folder / f"logits_{views}.pt", module, data)
    if config.logger.artifact:
        parts["the checkpoint"] = lambda: _log_checkpoint(logger, run, config.model, result)
    for what, part in parts.items():
        with logger.guard(what):
            part()


def _class_names(label: int | Tensor, classes: list[str]) -> str:
    """Return the class of a video, or all of them, 'a, b', if the label is 0 or 1 of each."""
    numbers = [label] if isinstance(label, int) else label.nonzero()[:, 0].tolist()
    return ", ".join(classes[number] for number in numbers)


def _log_classes(logger: RunLogger, logits: Path, classes: list[str], views: str) -> None:
    test = torch.load(logits, weights_only=True)
    several = test["labels"].ndim == 2
    if several:
        found = class_precision(test["logits"], test["labels"])
    else:
        found = class_accuracy(ranks(test["logits"], test["labels"]), test["labels"])
    rows = [[classes[c], videos, figure] for c, videos, figure in found]
    table = wandb.Table(columns=["class", "videos", f"test/{'ap' if several else 'top1'}_{views}"], data=rows)
    logger.experiment.log({"test/classes": table})


def _log_pictures(logger: RunLogger, config: Config, module: VideoModule, data: VideoDataModule) -> None:
    """Log pictures of the same few validation videos in each run, so that runs can be compared."""
    model = config.build(len(module.classes)).to(module.device)  # a copy: hooks do not reach into a compiled model
    model.load_state_dict(module.model.state_dict())
    model.eval()
    clips: Any = data.val_dataloader().dataset
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for i in sorted({i * len(clips) // PICTURES for i in range(PICTURES)}):
            item = clips[ViewRequest(i, 0)]
            clip = module.normalize(item["video"][None].to(module.device))
            with torch.no_grad():
                top = likeliest(model(clip)[0], module.classes, multi_label=module.multi_label)
            label, path = _class_names(item["label"], module.classes), Path(folder, f"{i}.png")
            title = f"{Path(clips.videos[i][0]).name}: {label}"
            draw(item["video"].permute(0, 2, 3, 1), model.look(clip), top, path, title=title)
            pictures.append(wandb.Image(str(path), caption=f"{label}; likeliest: {top[0][0]}"))
        logger.experiment.log({"pictures": pictures})


def _log_predictions(logger: RunLogger, count: int, logits: Path, module: VideoModule, data: VideoDataModule) -> None:
    """Log a table of predictions of the test, each with the middle frame of the video."""
    test, classes = torch.load(logits, weights_only=True), module.classes
    scores, labels = test["logits"].float(), test["labels"]
    scores = (scores.sigmoid() if module.multi_label else scores.softmax(-1)).mean(1)
    table = wandb.Table(columns=["video", "frame", "label", "likeliest", "probability", "right"])
    clips: Any = data.val_dataloader().dataset
    for i, right in surest_errors(scores, labels)[:count]:
        frames, best = clips[ViewRequest(i, 0)]["video"], int(scores[i].argmax())
        frame = wandb.Image(frames[len(frames) // 2].permute(1, 2, 0).numpy())
        label = _class_names(labels[i] if module.multi_label else int(labels[i]), classes)
        name = Path(clips.videos[i][0]).name
        table.add_data(name, frame, label, classes[best], round(float(scores[i, best]), 4), right)
    logger.experiment.log({"test/predictions": table})


def surest_errors(scores: Tensor, labels: Tensor) -> list[tuple[int, bool]]:
    """Return (video, whether its likeliest class is right): errors, the surest first, then the least sure right ones.

    Scores are (videos, num_classes), labels (videos,) or 0 and 1 of each class. Videos that could not be read are left
    out.
    """
    several = labels.ndim == 2
    found = []
    for i, of in enumerate(scores):
        if of.isnan().any():
            continue
        best = int(of.argmax())
        right = bool(labels[i, best]) if several else best == int(labels[i])
        found.append((right, float(of[best]) * (1 if right else -1), i))
    return [(i, right) for right, _, i in sorted(found)]


def _log_checkpoint(logger: RunLogger, run: Run, model: ModelConfig, result: Result) -> None:
    known = {key: result.content[key] for key in ("name", "scale", "seed", "commit", "metrics")}
    artifact = wandb.Artifact(f"{model.name}-{run.id}", type="model", metadata=known)
    artifact.add_file(str(run.checkpoint), policy="immutable")  # read where it lies instead of copied
    logger.experiment.log_artifact(artifact)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
