"""Write a model as a program that runs without this project: `python src/export.py ckpt=... to=[pt2,onnx]`."""

from pathlib import Path

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import ExportConfig, ExportKeys, ExportWeights
from stat_video.launch.script import checkpoint_of, script
from stat_video.launch.weights import CONF, names_weights
from stat_video.progress import say
from stat_video.training.export import export
from stat_video.training.loaded import Loaded
from stat_video.training.published import of_weights


def run(config: ExportConfig) -> None:
    """Write the model of a checkpoint."""
    write(Loaded.of(checkpoint_of("ckpt", config.ckpt)), config)


def run_weights(config: ExportWeights) -> None:
    """Write the model of a file of weights."""
    write(of_weights(config), config)


def write(loaded: Loaded, keys: ExportKeys) -> None:
    """Write the programs and how a clip is made for them; each was loaded back and compared."""
    for path in export(loaded, keys.to, Path(keys.out) if keys.out else loaded.file.parent / "model"):
        say(str(path))


def main() -> None:
    """Run the command line."""
    if names_weights():
        script("export", ExportWeights, run_weights, conf=CONF)
    else:
        script("export", ExportConfig, run)


if __name__ == "__main__":
    main()
