"""What a checkpoint sees in a video: `python src/predict.py ckpt=logs/.../last.ckpt video=some.mp4`."""

from rich.console import Console

from stat_video.config import PredictConfig
from stat_video.entry import entry, path_of
from stat_video.predict import predict
from stat_video.report.table import prediction_table

console = Console(markup=False)  # names hold brackets


@entry("predict")
def main(config: PredictConfig) -> None:
    """Prints the top-5 and writes a picture of what CA, LA and the aggregation look at."""
    ckpt, video = path_of("ckpt", config.ckpt), path_of("video", config.video)
    top, picture = predict(ckpt, video, config.picture)
    console.print(prediction_table(top))
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
