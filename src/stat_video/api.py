"""The functions of `import stat_video`; docs/api.md shows them at work."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import compose, models
from .config import Config, EvaluateConfig, WeightsConfig
from .errors import InputError
from .launch.command import acting_as
from .launch.frozen import frozen_for_devices
from .launch.script import quiet_libraries, run_alone
from .models.base import VideoModel
from .runs.overrides import remember
from .runs.result import Result
from .training import testing
from .training.checkpoint import read_weights
from .training.first_weights import load_any, named_weights, refuse_other_network
from .training.fit import finished, fit
from .training.loaded import Loaded
from .training.prediction import Prediction, predict_many
from .training.published import of_weights


def create_model(
    name: str,
    *,
    num_classes: int = 400,
    T: int | None = None,
    crop: int | None = None,
    weights: str | Path | None = None,
    new_classifier: bool = False,
    **keys: Any,
) -> VideoModel:
    """Return one of the models, from clips (B, 3, T, crop, crop) to logits (B, num_classes), in training mode.

    ``keys`` are those of `model.*`; what is not given, ``T`` and ``crop`` too, is as the model is published.
    ``weights`` is a checkpoint of this project, or one of another project as `init=FILE` takes it; without it, weights
    are drawn anew. ``new_classifier`` draws a classifier although the file has one.

    Raises:
        InputError: a name, key, value or file that does not fit, in one line.
    """
    try:
        kind = models.find(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    known = [f.name for f in fields(kind) if f.name != "name"]
    if unknown := [key for key in keys if key not in known]:
        raise InputError(f"{unknown[0]}: no key of model={name}; must be one of {', '.join(known)}")
    (row,) = compose.rows("train", Config, [f"model={name}", "scale=paper"])
    clip = row.config.clip
    size = clip.crop if crop is None else crop
    for key, value in (("num_classes", num_classes), ("T", clip.T if T is None else T), ("crop", size)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{key}={value!r:.60}: must be a whole number of 1 or more")
    of_clip = {"T": clip.T if T is None else T, "crop": size, "test_crop": None, "short_side": max(size, 256)}
    plain = {"model": asdict(row.config.model) | keys, "clip": asdict(clip) | of_clip}
    model = compose.checked(plain, Config).build(num_classes)
    if weights is not None:
        found = read_weights(Path(weights))
        refuse_other_network(found, row.config.model, str(weights), given=keys)
        with named_weights(str(weights)):
            load_any(model, found, new_classifier=new_classifier)
    return model


def load(checkpoint: str | Path | Result, *words: str) -> Loaded:
    """Return the model of a checkpoint of this project in evaluation mode, with its config and classes.

    A run's result or folder stands for its checkpoint, here and below. With words it is a file of weights of any form,
    and they say of which model, as after `weights=FILE`: `load("SLOWFAST_8x8_R50.pkl", "model=slowfast")`.
    """
    return of_weights(_of_weights(checkpoint, words)) if words else Loaded.of(_file_of(checkpoint))


def train(*words: str) -> Result:
    """Train and test one run as `src/train.py` does: `train("experiment=ablation_window", "t_o=5")`.

    A finished run is not run again, a begun one goes on. Prints what the script prints. Raises InputError for words
    that stand for no run or for several.
    """
    config = _composed("train", Config, words)
    if config.plan:
        raise InputError("plan=true: prints a plan and runs nothing; python -m stat_video train plan=true does that")
    with _inside("train", config):
        result: Result = run_alone(fit, finished, config)
    return result


def evaluate(checkpoint: str | Path | Result, *words: str) -> Result:
    """Test a checkpoint as `src/evaluate.py` does: `evaluate("logs/.../last.ckpt", "views=3x3")`.

    With `model=NAME` among the words it is a file of weights of any form.
    """
    path = _file_of(checkpoint)
    if any(isinstance(word, str) and word.startswith("model=") for word in words):
        of_file = _of_weights(checkpoint, words)
        with _inside("evaluate", of_file):
            return testing.evaluate_weights(of_file)
    config = _composed("evaluate", EvaluateConfig, words)
    with _inside("evaluate", config):
        return testing.evaluate(path, config)


def predict(checkpoint: str | Path | Result | Loaded, videos: str | Path | Sequence[str | Path]) -> list[Prediction]:
    """Return the five likeliest classes of each video; one that can't be read has a reason in their place."""
    loaded = checkpoint if isinstance(checkpoint, Loaded) else load(checkpoint)
    several = [videos] if isinstance(videos, str | Path) else videos
    return list(predict_many(loaded, [Path(video) for video in several], None))


def _file_of(checkpoint: str | Path | Result) -> Path:
    path = checkpoint.checkpoint if isinstance(checkpoint, Result) else Path(checkpoint)
    return path / "last.ckpt" if path.is_dir() else path


def _of_weights(file: str | Path | Result, words: Sequence[str]) -> WeightsConfig:
    config: WeightsConfig = _composed("evaluate", WeightsConfig, words, "weights")
    config.weights = str(_file_of(file))
    return config


def _composed(script: str, schema: type, words: Sequence[str], conf: str | None = None) -> Any:
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise InputError(f"{wrong[0]!r:.60}: must be a text, KEY=VALUE, each an argument of its own")
    if flags := [word for word in words if word.startswith("-")]:
        raise InputError(f"{flags[0]}: is of the command line alone; here KEY=VALUE")
    rows = compose.rows(script, schema, words, conf=conf)
    if len(rows) != 1:
        raise InputError(f"{' '.join(words)}: stands for {len(rows)} runs; must be one")
    remember(rows[0].words)
    return rows[0].config


@contextmanager
def _inside(command: str, config: Any) -> Iterator[None]:
    """Run a command inside of somebody else's program: further devices, workers and warnings are as in a script."""
    with warnings.catch_warnings(), acting_as(command), frozen_for_devices(config):
        quiet_libraries()
        yield
