"""A model of the tests' own: the two files that whoever adds a model writes, in a folder that STAT_VIDEO_OWN names."""

from pathlib import Path

MODEL = '''
"""A convolution, and the mean or maximum of its pixels."""

from dataclasses import dataclass

from torch import Tensor, nn

from stat_video.errors import one_of, sized
from stat_video.models.base import Clip, ModelConfig, VideoModel


@dataclass
class Config(ModelConfig):
    name: str = "mine"
    width: int = sized(8)
    pool: str = one_of("mean", ("mean", "max"))  # its axis

    def build(self, clip: Clip, num_classes: int) -> VideoModel:
        return Mine(self, num_classes)


class Mine(VideoModel):
    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.pool = config.pool
        self.conv = nn.Conv3d(3, config.width, 3, stride=(2, 4, 4), padding=1)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.conv(clip).relu().flatten(2)
        return self.head(x.mean(-1) if self.pool == "mean" else x.amax(-1))
'''
YAML = """# @package _global_
# The model of the tests.
defaults:
  - /pooling: mean
  - _self_

model:
  width: ${by:${scale},{tiny:4,paper:8}}
clip:
  crop: ${by:${scale},{tiny:48,paper:224}}
recipe:
  optimizer: sgd
  lr: 0.3
"""


def write(folder: Path) -> Path:
    """Write models/mine.py, conf/model/mine.yaml and its group conf/pooling/ below `folder`, and return it."""
    files = {"models/mine.py": MODEL, "conf/model/mine.yaml": YAML}
    for name in ("mean", "max"):
        files[f"conf/pooling/{name}.yaml"] = f"# @package model\npool: {name}\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
