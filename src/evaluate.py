"""Test a checkpoint with any views: `python src/evaluate.py ckpt=logs/.../last.ckpt views=3x3`."""

from stat_video.config import EvaluateConfig
from stat_video.launch.script import path_of, script
from stat_video.progress import console
from stat_video.terminal import evaluation_table
from stat_video.training.testing import evaluate


def main(config: EvaluateConfig) -> None:
    """Rebuild model and data from the checkpoint alone, test, and print the figures."""
    console.print(evaluation_table(evaluate(path_of("ckpt", config.ckpt), config)))


if __name__ == "__main__":
    script("evaluate", EvaluateConfig, main)
