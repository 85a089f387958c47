"""What a model sees in a video, or in many: `python src/predict.py ckpt=logs/.../last.ckpt video=some.mp4`."""

from pathlib import Path
from typing import TYPE_CHECKING

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import PredictConfig, PredictKeys, PredictWeights
from stat_video.errors import InputError
from stat_video.files import with_ending
from stat_video.launch.script import checkpoint_of, path_of, script
from stat_video.launch.weights import CONF, names_weights
from stat_video.progress import console, say, show_table, shown
from stat_video.terminal import prediction_table, predictions_table

if TYPE_CHECKING:
    from stat_video.training.loaded import Loaded


def run(config: PredictConfig) -> None:
    """Look at videos by the model of a checkpoint."""
    from stat_video.training.loaded import Loaded  # PyTorchVideo takes seconds to import

    ckpt, video = checkpoint_of("ckpt", config.ckpt), path_of("video", config.video)
    look(Loaded.of(ckpt), video, config)


def run_weights(config: PredictWeights) -> None:
    """Look at videos by the model of a file of weights."""
    from stat_video.training.published import of_weights

    video = path_of("video", config.video)
    look(of_weights(config), video, config)


def look(loaded: "Loaded", video: Path, keys: PredictKeys) -> None:
    """Print the top 5 of one video, with a picture; of many the best, with all five in files, and name what failed."""
    from stat_video.training.prediction import (
        name_of,
        predict_many,
        predict_one,
        videos_of,
        write_features,
        write_predictions,
    )

    videos, beside = videos_of(video), loaded.file.parent
    name = f"{'best_' if loaded.file.name == 'best.ckpt' else ''}{name_of(video)}"
    features = "npz" if keys.features is True else keys.features
    if videos == [video] and not (keys.pictures or keys.out):
        picture = Path(keys.picture) if keys.picture else beside / f"predict_{name}.png"
        found = predict_one(loaded, video, picture)
        show_table(prediction_table(found.top))
        say(f"picture: {picture}")
        if features:
            say(f"features: {write_features([found], beside / f'predictions_{name}', features)}")
        return
    if keys.picture:
        raise InputError(f"picture={keys.picture}: allowed for one video; pictures=true draws each of several")
    out = Path(keys.out) if keys.out else beside / f"predictions_{name}"
    with_ending(out, "")  # refuses what is no name before any work
    every = shown(predict_many(loaded, videos, out if keys.pictures else None), "predict", len(videos), console)
    predictions = list(every)
    show_table(predictions_table(predictions))
    for path in write_predictions(predictions, out):
        say(f"all five of each: {path}")
    if features:
        say(f"features: {write_features(predictions, out, features)}")
    if failed := [p for p in predictions if p.reason]:
        first = f"first {failed[0].video}: {failed[0].reason}"
        raise InputError(f"{len(failed)} of {len(videos)} videos can't be read, {first}")


def main() -> None:
    """Run the command line."""
    if names_weights():
        script("predict", PredictWeights, run_weights, conf=CONF)
    else:
        script("predict", PredictConfig, run)


if __name__ == "__main__":
    main()
