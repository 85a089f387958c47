"""Test a checkpoint: rebuild its model, data and protocol from what it carries."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from .. import metrics
from ..config import EvaluateConfig, WeightsConfig
from ..data.config import DataConfig
from ..data.lists import manifest_hash
from ..data.sampling import Views
from ..errors import InputError
from ..hardware import choose_backends, choose_pass_here, lightning_arguments, rank_zero
from ..metrics.scores import ensemble_of
from ..models.base import VideoModel
from ..paths import program
from ..progress import say
from ..runs.code import computing, provenance
from ..runs.identity import definition, digest_of, hash_of, with_content
from ..runs.result import Result
from ..runs.run import same_data
from ..weights.classes import columns_for
from .checkpoint import read_checkpoint
from .explained import nondeterminism_explained, out_of_memory_explained
from .fit import progress_callbacks
from .loaded import Loaded
from .module import VideoModule
from .outcome import hardware_of, save_logits, say_lacking
from .published import of_weights
from .ranks import SameOnAllRanks
from .rebuild import rebuild
from .saving import Signals
from .session import make_data, multiply_adds
from .unreadable import UnreadableVideos, said_once

GENERATED = 20_000  # built-in videos that a test generates unasked


@dataclass(frozen=True)
class Subject:
    """What is tested, and where its results go."""

    loaded: Loaded
    folder: Path
    views: Views
    trained_on: str | None = None  # state of the data set in training; None: not known
    about: Mapping[str, Any] = field(default_factory=dict)  # for the result, beside what is measured
    best: Mapping[str, Any] | None = None  # of which validation the weights are, if they are not a run's last

    @property
    def protocol(self) -> str:
        """How files of the test are called: '5x1', or 'best_5x1', which never stands in the place of the first."""
        return f"{'best_' if self.best else ''}{self.views}"


def evaluate(path: Path, asked: EvaluateConfig) -> Result:
    """Test on all views of the validation videos; write evaluation_<views>.json and the logits beside the file.

    Of `best.ckpt` they are called evaluation_best_<views>.json and logits_best_<views>.pt.
    """
    return _test(_of_checkpoint(path, asked))[0]


def evaluate_weights(config: WeightsConfig) -> Result:
    """Test a file of weights as a config says, without a training; write result.json and the logits as a run does.

    Its folder is logs/<name>/<model>-<data>-<id>; the id is of the config and of the content of the file.
    """
    loaded = of_weights(config)
    plain = {key: value for key, value in asdict(config).items() if key != "classes"}
    plain["weights"] = with_content(str(loaded.file), "weights")
    run_id = hash_of([definition(plain), loaded.classes])
    folder = Path(config.folders.logs) / config.name / f"{config.model.label}-{config.data.name}-{run_id}"
    about = {
        "id": run_id,
        "config": plain,
        "classes": loaded.classes,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "gmacs": multiply_adds(config, len(loaded.classes)),
    }
    return _test(Subject(loaded, folder, Views.parse(config.views), about=about), "result.json")[0]


def evaluate_ensemble(paths: Sequence[Path], asked: EvaluateConfig) -> list[Result]:
    """Test each checkpoint on the same views and average their scores after the softmax.

    Writes what `evaluate` writes of each, and ensemble_<views>.json beside the first; returns the results of each, then
    that of the mean. Raises InputError before any test if they are not of one data set.
    """
    if len(set(paths)) < max(len(paths), 2):
        raise InputError(f"ensemble=[{','.join(map(str, paths))}]: allowed are two or more different runs")
    found = [read_checkpoint(path) for path in paths]
    for key, values in {
        "classes": [checkpoint.classes for checkpoint in found],
        "data": [checkpoint.config["data"]["name"] for checkpoint in found],
        "views": [asked.views or checkpoint.config["views"] for checkpoint in found],
    }.items():
        if any(value != values[0] for value in values):
            raise InputError(
                f"ensemble: {paths[0]} and {paths[[value != values[0] for value in values].index(True)]} have other "
                f"{key}; allowed are runs of one data set" + (", with views=CxS for all" if key == "views" else "")
            )
    results, tests = zip(*(_test(_of_checkpoint(path, asked)) for path in paths), strict=True)
    figures = metrics.figures(*ensemble_of(tests))
    views = results[0].views
    content = {
        "name": "ensemble",
        "members": [{"checkpoint": str(path), **one.content} for path, one in zip(paths, results, strict=True)],
        "checkpoint": " and ".join(f"{path.parent.name}/{path.name}" for path in paths),
        "scale": results[0].scale,
        "views": str(views),
        "videos": results[0].content["videos"],
        "metrics": {f"test/{name}_{views}": float(value) for name, value in figures.items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    result = Result(paths[0].parent, content)
    if rank_zero():
        result.write(paths[0].parent / f"ensemble_{views}.json")
    return [*results, result]


def _check_generation(path: Path, data: DataConfig) -> None:
    """Raise InputError if a checkpoint would have us generate more videos than anyone expects of a test."""
    made = data.built_in
    if made is None or data.folder is None or (data.folder / made.folder_name).exists():
        return
    if (videos := made.train_videos + made.val_videos) > GENERATED:
        numbers = f"data.{data.name}.train_videos={made.train_videos} data.{data.name}.val_videos={made.val_videos}"
        raise InputError(
            f"{path}: trained on {videos:,} built-in videos that are not in {data.setting}={data.root}; a test makes "
            f"{GENERATED:,} at most; {program('prepare')} do=verify data={data.name} {numbers} makes them"
        )


def _check_root(path: Path, data: DataConfig, trained_on: str | None) -> None:
    """Say that the data set is in the run's own folder; InputError unless it is there and as it was in training."""
    here = data.folder is not None and data.folder.is_dir()
    if not here:
        was = f", and {data.root}, where it was in training, is not there" if data.root else ""
        raise InputError(
            f"{path}: {data.setting} is not set{was}; name the folder of data={data.name} with {data.setting}=FOLDER"
        )
    if not same_data(now := manifest_hash(data), trained_on):
        raise InputError(
            f"{path}: {data.setting} is not set, and {data.root}, where the videos were in training, has changed: its "
            f"lists are {now}, and were {trained_on}; {data.setting}={data.root} tests on it as it is"
        )
    say(f"{data.setting} is not set: the videos are in {data.root}, as in training")


def _of_checkpoint(path: Path, asked: EvaluateConfig) -> Subject:
    """Return a checkpoint of ours with its config as this machine and this test have it."""
    model, config, classes = rebuild(path)
    config.trainer, config.folders = asked.trainer, asked.folders
    folders = {f"folders.{f.name}": getattr(asked.folders, f.name) for f in fields(asked.folders)}
    if config.data.setting not in folders:
        raise InputError(f"{path}: data.setting={config.data.setting}: allowed are {', '.join(folders)}")
    config.data.root = folders[config.data.setting] or config.data.root
    if asked.layout is not None:  # each layout has names of its own for the lists
        same = DataConfig()
        config.data = replace(
            config.data, layout=asked.layout, classes=same.classes, train=same.train, val=same.val, videos=same.videos
        )
    of_run = {
        key: value
        for key in ("max_absent", "max_unreadable", "max_shared", "wait_seconds")
        if (value := getattr(asked, key)) is not None
    }
    config.data = replace(config.data, **of_run)
    _check_generation(path, config.data)
    loaded, views = Loaded(model, config, classes, path), Views.parse(asked.views or config.views)
    found = read_checkpoint(path)
    if folders[config.data.setting] is None:
        _check_root(path, config.data, found.manifest if asked.layout is None else None)
    return Subject(loaded, path.parent, views, found.manifest, best=found.best)


def _test(subject: Subject, record: str | None = None) -> tuple[Result, tuple[Tensor, Tensor]]:
    """Return the result, which is written to a file of this name, and the logits and labels."""
    began = time.monotonic()
    loaded, views, folder = subject.loaded, subject.views, subject.folder
    config, file = loaded.config, loaded.file
    # Batch norm has its statistics by now, so a pass has what fits.
    recipe = replace(config.recipe, norm_clips=None)
    at_once = choose_pass_here(replace(config, recipe=recipe), len(loaded.classes))
    data = make_data(config, views, at_once.clips)
    found = data.check()
    model, classes = _in_order_of(found.classes, subject)
    manifest = manifest_hash(config.data)
    if subject.trained_on is not None and not same_data(manifest, subject.trained_on):
        say(f"The data set is not as it was in training: {manifest} now, {subject.trained_on} then")
    kind: dict[str, Any] = {"class_groups": config.data.class_groups, "multi_label": config.data.multi_label}
    module = VideoModule(model, config.recipe, data.normalize, classes, views, **kind)
    callbacks, bar = progress_callbacks()
    unreadable = UnreadableVideos(found.counts, config.data.max_unreadable, "max_unreadable")
    same_test = {"checkpoint": digest_of(file), "manifest": manifest, "views": str(views), **computing()}
    callbacks += [unreadable, SameOnAllRanks(same_test), Signals()]
    hardware, backends = lightning_arguments(config.trainer), choose_backends(config.trainer)
    trainer = L.Trainer(**hardware, callbacks=callbacks, enable_progress_bar=bar)
    say(f"Testing {file} on {found.counts['val']} videos, {views} views")
    with out_of_memory_explained(at_once.clips), nondeterminism_explained(), said_once(trainer):
        measured = {k: float(v) for k, v in trainer.test(module, datamodule=data, verbose=False)[0].items()}
    content = {
        "name": config.name,
        "scale": config.scale,
        "checkpoint": file.name,
        "views": str(views),
        "metrics": measured,
        "videos": found.counts["val"],
        "absent": {"val": len(found.absent["val"])},
        "unreadable": {"val": unreadable.result()["val"]},
        "manifest": manifest,
        "seed": config.seed,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.monotonic() - began, 1),
        **provenance(),
        "hardware": {**hardware_of(trainer), **backends},
        "config": asdict(config),
        **({"best": dict(subject.best)} if subject.best else {}),
        **(subject.about and {**subject.about, "classes": classes}),
    }
    result = Result(folder, content)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
    test = save_logits(module, data, folder / f"logits_{subject.protocol}.pt")
    if trainer.is_global_zero:
        say_lacking(result)
        result.write(folder / (record or f"evaluation_{subject.protocol}.json"))
    return result, test


def _in_order_of(classes: list[str], subject: Subject) -> tuple[VideoModel, list[str]]:
    """Return the model with its logits in the order of the data set's classes, and the classes of the logits.

    Those that the data set has no videos of come last. Raises InputError if the model lacks one of the data set's.

    A run of ours must have been trained on these classes in this order: its data set has changed otherwise.
    """
    known, model, file = subject.loaded.classes, subject.loaded.model, subject.loaded.file
    data = subject.loaded.config.data.name
    if known == classes:
        return model, classes
    if not subject.about:
        raise InputError(
            f"{file}: it knows {len(known)} classes ({', '.join(known[:2])}, ...), but data={data} "
            f"lists {len(classes)} ({', '.join(classes[:2])}, ...); they have to be the same"
        )
    try:
        columns = columns_for(known, classes)
    except InputError as error:
        raise InputError(f"{file}: {error} (data={data}); classes=FILE names the weights' own") from None
    if columns[: len(classes)] != list(range(len(classes))):
        say(f"classes: the weights' order is not that of data={data}; the logits are put into the latter")
    if more := [known[i] for i in columns[len(classes) :]]:
        if subject.loaded.config.data.multi_label:
            raise InputError(f"{file}: of {len(known)} classes, data={data} of {len(classes)}; must be the same")
        say(f"classes: data={data} has {len(classes)} of the weights' {len(known)}; an answer may be any of all")
    model.register_forward_hook(lambda _, clips, logits: logits[:, columns])
    return model, [*classes, *more]
