"""What a checkpoint sees in a video, or in many: `python src/predict.py ckpt=logs/.../last.ckpt video=some.mp4`."""

from pathlib import Path

from stat_video.config import PredictConfig
from stat_video.errors import InputError
from stat_video.files import with_ending
from stat_video.launch.script import path_of, script
from stat_video.progress import console, say, show_table, shown
from stat_video.terminal import prediction_table, predictions_table
from stat_video.training.prediction import name_of, predict, predict_many, videos_of, write_predictions


def run(config: PredictConfig) -> None:
    """Print the top 5 of one video, with a picture; of many the best, with all five in files, and name what failed."""
    ckpt, video = path_of("ckpt", config.ckpt), path_of("video", config.video)
    videos = videos_of(video)
    if videos == [video] and not (config.pictures or config.out):
        top, picture = predict(ckpt, video, config.picture)
        show_table(prediction_table(top))
        say(f"picture: {picture}")
        return
    if config.picture:
        raise InputError(f"picture={config.picture}: allowed for one video; pictures=true draws each of several")
    out = Path(config.out) if config.out else ckpt.parent / f"predictions_{name_of(video)}"
    with_ending(out, "")  # refuses what is no name before any work
    every = shown(predict_many(ckpt, videos, out if config.pictures else None), "predict", len(videos), console)
    predictions = list(every)
    show_table(predictions_table(predictions))
    for path in write_predictions(predictions, out):
        say(f"all five of each: {path}")
    if failed := [p for p in predictions if p.reason]:
        first = f"first {failed[0].video}: {failed[0].reason}"
        raise InputError(f"{len(failed)} of {len(videos)} videos can't be read, {first}")


def main() -> None:
    """Run the command line."""
    script("predict", PredictConfig, run)


if __name__ == "__main__":
    main()
