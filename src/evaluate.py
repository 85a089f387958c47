"""Test a checkpoint with any views: `python src/evaluate.py ckpt=logs/.../last.ckpt views=3x3`."""

from rich.console import Console

from stat_video.config import EvaluateConfig
from stat_video.entry import entry, path_of
from stat_video.report.table import evaluation_table
from stat_video.training.evaluate import evaluate

console = Console(markup=False)  # names hold brackets


@entry("evaluate")
def main(config: EvaluateConfig) -> None:
    """Rebuilds model and data from the checkpoint alone."""
    console.print(evaluation_table(evaluate(path_of("ckpt", config.ckpt), config, console)))


if __name__ == "__main__":
    main()
