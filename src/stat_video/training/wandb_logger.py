"""W&B that never stops or slows a run: offline unless told otherwise, and offline again where online fails."""

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
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from ..config import Config
from ..cost import gmacs
from ..data.dataset import ClipDataset, ViewRequest
from ..data.modules import VideoDataModule
from ..data.sampling import Views
from ..explain import draw, explain
from ..model import STAT
from ..published import load
from ..runs.run import Run, row_id
from .metrics import ranks
from .module import StatModule

log = logging.getLogger(__name__)
ONLINE_TIMEOUT = 20  # seconds to wait for the server before going offline
START_TIMEOUT = 60  # for all that starting does, whatever it hangs in
END_TIMEOUT = 300  # for what is still to be sent at a run's end; `wandb sync` sends the rest
PICTURES = 3  # validation videos whose attention is drawn
AXES = ("modules", "T", "t_o", "l_ta", "stem", "spatial_token")


R = TypeVar("R")


def limited(seconds: float, call: Callable[[], R]) -> R:
    """What the call returns; TimeoutError where it takes longer, and then it is left to itself."""
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
    """Lightning's W&B logger, whose errors are a warning, said once, instead of the end of a run."""

    failed = False

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Whatever goes wrong inside is left at that."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                log.warning("W&B: %s failed (%s); the run goes on", what, _line(error))
            self.failed = True

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A row of the learning curves."""
        with self.guard("logging"):
            super().log_metrics(metrics, step)

    def finish(self) -> None:
        """End the W&B run; without it the next run of a sweep would write into this one."""
        with self.guard("finishing"):
            limited(END_TIMEOUT, self.experiment.finish)


def make_logger(config: Config, plain: dict[str, Any], run: Run, model: STAT) -> RunLogger | None:
    """A logger in `config.logger.mode` (offline, online, off); None where it is off or not even offline works.

    ``plain`` is the config as the result file has it.
    """
    if config.logger.mode == "off":
        return None
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    modes = ["online", "offline"] if config.logger.mode == "online" else ["offline"]
    flat = flat_config(config, plain, run, model)
    for attempt in modes:
        try:
            start = partial(
                wandb.init,
                project=config.logger.project,
                entity=config.logger.entity,
                id=run.id,
                name=run.folder.name,
                group=config.name,
                job_type="train",
                tags=tags(flat),
                config={**flat, "config": plain},
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


def flat_config(config: Config, plain: dict[str, Any], run: Run, model: STAT) -> dict[str, Any]:
    """What W&B's filters, groups and axes take: the ablation axes and what else sets runs apart, a key each.

    `row` is equal for the runs of one row of a table, which differ in the seed; `table` is the paper's table that the
    experiment reruns, None where it is none; `gflops` is of one clip.
    """
    stem = config.model.stem
    tables = {table.experiment: table.number for table in load().tables.values()}
    return {
        "modules": "+".join(config.model.modules),
        "T": config.T,
        "t_o": config.t_o,
        "l_ta": config.l_ta,
        "stem": stem if isinstance(stem, str) else "stem",
        "spatial_token": config.model.spatial_token,
        "seed": config.seed,
        "scale": config.scale,
        "data": config.data.name,
        "id": run.id,
        "row": row_id(plain),
        "table": tables.get(config.name),
        "gflops": round(gmacs(model.config), 4),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def tags(flat: Mapping[str, Any]) -> list[str]:
    """Scale, data set and axes: 'tiny', 'motion', 'CA+SA', 'T16', 't_o=3', 'l_ta=1', 'conv3', 'class_token'."""
    named = {"T": "T{}", "t_o": "t_o={}", "l_ta": "l_ta={}"}
    return [str(flat[key]) for key in ("scale", "data")] + [named.get(key, "{}").format(flat[key]) for key in AXES]


def log_result(
    logger: RunLogger | None, result: Mapping[str, Any], module: StatModule, data: VideoDataModule, run: Run
) -> None:
    """Add to W&B what is known at a run's end: its metrics, accuracy by class, attention pictures, the checkpoint.

    The metrics have the names of the result file. To be called by the first rank alone, when the logits of the test
    are written; nothing here waits for other ranks. What fails is left out with a warning.
    """
    if logger is None:
        return
    views, folder = module.views, run.folder
    parts: dict[str, Callable[[], None]] = {
        "the summary": lambda: logger.experiment.summary.update(dict(result["metrics"])),
        "accuracy by class": lambda: _log_classes(logger, folder / f"logits_{views}.pt", module.classes, str(views)),
        "attention pictures": lambda: _log_attention(logger, module, data),
    }
    if result["config"]["logger"].get("artifact"):
        parts["the checkpoint"] = lambda: _log_checkpoint(logger, run, result)
    for what, part in parts.items():
        with logger.guard(what):
            part()


def class_accuracy(logits: Tensor, labels: Tensor) -> list[tuple[int, int, float]]:
    """(class, videos, top-1 in percent) of each class that has videos, from logits (videos, views, num_classes)."""
    right = (ranks(logits, labels) == 0).float()
    videos = torch.bincount(labels, minlength=logits.shape[-1])
    return [(c, int(n), 100 * float(right[labels == c].mean())) for c, n in enumerate(videos) if n]


def _log_classes(logger: RunLogger, logits: Path, classes: list[str], views: str) -> None:
    test = torch.load(logits, weights_only=True)
    rows = [[classes[c], videos, top1] for c, videos, top1 in class_accuracy(test["logits"], test["labels"])]
    table = wandb.Table(columns=["class", "videos", f"test/top1_{views}"], data=rows)
    logger.experiment.log({"test/classes": table})


@torch.no_grad()
def _log_attention(logger: RunLogger, module: StatModule, data: VideoDataModule) -> None:
    """Pictures of the same few validation videos in each run, so that runs can be compared."""
    config = module.model.config
    model = STAT(config).to(module.device)  # a copy, since hooks do not reach into a compiled model
    model.load_state_dict(module.model.state_dict())
    videos = data.check().videos["val"]
    clips = ClipDataset(videos, config.T, view=data.view_transform, views=Views(1, 1))
    shown = sorted({i * len(clips) // PICTURES for i in range(PICTURES)})
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for i in shown:
            item = clips[ViewRequest(i, 0)]
            explanation = explain(model, module.normalize(item["video"][None].to(module.device)))
            probabilities, indices = explanation.logits.softmax(-1).topk(min(5, len(module.classes)))
            top = [(module.classes[c], p) for c, p in zip(indices.tolist(), probabilities.tolist(), strict=True)]
            label = module.classes[item["label"]]
            path = Path(folder, f"{i}.png")
            draw(item["video"].permute(0, 2, 3, 1), explanation, top, path, title=f"{Path(videos[i][0]).name}: {label}")
            pictures.append(wandb.Image(str(path), caption=f"{label}; likeliest: {top[0][0]}"))
        logger.experiment.log({"attention": pictures})


def _log_checkpoint(logger: RunLogger, run: Run, result: Mapping[str, Any]) -> None:
    known = {key: result[key] for key in ("name", "scale", "seed", "commit", "metrics")}
    artifact = wandb.Artifact(f"stat-{run.id}", type="model", metadata=known)
    artifact.add_file(str(run.checkpoint), policy="immutable")  # read where it lies instead of copied
    logger.experiment.log_artifact(artifact)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
