"""Write a checkpoint as a program that runs without this project: `python src/export.py ckpt=... to=[pt2,onnx]`."""

from pathlib import Path

from stat_video.config import ExportConfig
from stat_video.launch.script import path_of, script
from stat_video.progress import say
from stat_video.training.export import export


def run(config: ExportConfig) -> None:
    """Write the programs and how a clip is made for them; each was loaded back and compared."""
    ckpt = path_of("ckpt", config.ckpt)
    for path in export(ckpt, config.to, Path(config.out) if config.out else ckpt.parent / "model"):
        say(str(path))


def main() -> None:
    """Run the command line."""
    script("export", ExportConfig, run)


if __name__ == "__main__":
    main()
