"""Write a model as a program that runs without this project: `python src/export.py ckpt=... to=[pt2,onnx]`."""

from pathlib import Path
from typing import TYPE_CHECKING

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import ExportConfig, ExportKeys, ExportWeights
from stat_video.launch.script import checkpoint_of, script
from stat_video.launch.weights import CONF, names_weights
from stat_video.progress import say

if TYPE_CHECKING:
    from stat_video.training.loaded import Loaded


def run(config: ExportConfig) -> None:
    """Write the model of a checkpoint."""
    from stat_video.training.export import check_libraries
    from stat_video.training.loaded import Loaded  # PyTorchVideo takes seconds to import

    check_libraries(config.to)
    write(Loaded.of(checkpoint_of("ckpt", config.ckpt)), config)


def run_weights(config: ExportWeights) -> None:
    """Write the model of a file of weights."""
    from stat_video.training.export import check_libraries
    from stat_video.training.published import of_weights

    check_libraries(config.to)
    write(of_weights(config), config)


def write(loaded: "Loaded", keys: ExportKeys) -> None:
    """Write the programs and how a clip is made for them; each was loaded back and compared."""
    from stat_video.training.best import BEST
    from stat_video.training.export import export

    name = "best" if loaded.file.name == BEST else "model"
    for path in export(loaded, keys.to, Path(keys.out) if keys.out else loaded.file.parent / name):
        say(str(path))


def main() -> None:
    """Run the command line."""
    if names_weights():
        script("export", ExportWeights, run_weights, conf=CONF)
    else:
        script("export", ExportConfig, run)


if __name__ == "__main__":
    main()
