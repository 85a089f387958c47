"""What a checkpoint sees in a video: `python src/predict.py ckpt=logs/.../last.ckpt video=some.mp4`."""

from stat_video.config import PredictConfig
from stat_video.launch.script import path_of, script
from stat_video.progress import say, show_table
from stat_video.terminal import prediction_table
from stat_video.training.prediction import predict


def main(config: PredictConfig) -> None:
    """Print the top-5; write a picture of the frames and, if the model says, of where it looks in them."""
    ckpt, video = path_of("ckpt", config.ckpt), path_of("video", config.video)
    top, picture = predict(ckpt, video, config.picture)
    show_table(prediction_table(top))
    say(f"picture: {picture}")


if __name__ == "__main__":
    script("predict", PredictConfig, main)
