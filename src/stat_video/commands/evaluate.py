"""Test a checkpoint, the mean of several, or a published file of weights: `src/evaluate.py ckpt=... views=3x3`."""

from collections.abc import Sequence

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import EvaluateConfig, WeightsConfig
from stat_video.errors import InputError
from stat_video.launch.script import checkpoint_of, script
from stat_video.launch.weights import CONF, names_weights
from stat_video.progress import say, show_table
from stat_video.runs.result import Result
from stat_video.terminal import evaluation_table


def run(config: EvaluateConfig) -> None:
    """Rebuild model and data from the checkpoint alone, test, and print the figures."""
    from stat_video.training.testing import evaluate, evaluate_ensemble  # Lightning takes seconds to import

    if config.ensemble is None:
        show_tests([evaluate(checkpoint_of("ckpt", config.ckpt), config)])
        return
    if config.ckpt is not None:
        raise InputError(f"ckpt={config.ckpt}: not allowed beside ensemble=[RUN,RUN]")
    show_tests(evaluate_ensemble([checkpoint_of("ensemble", run) for run in config.ensemble], config))


def run_weights(config: WeightsConfig) -> None:
    """Test a file of weights by the model and the data that the words name, and print the figures."""
    from stat_video.training.testing import evaluate_weights

    show_tests([evaluate_weights(config)])


def show_tests(results: Sequence[Result]) -> None:
    """Print which test it was and its figures, for each."""
    for result in results:
        say(f"{result.content['checkpoint']}, {result.content['videos']} videos, scale {result.scale}")
        show_table(evaluation_table(result))


def main() -> None:
    """Run the command line."""
    if names_weights():
        script("evaluate", WeightsConfig, run_weights, conf=CONF)
    else:
        script("evaluate", EvaluateConfig, run)


if __name__ == "__main__":
    main()
