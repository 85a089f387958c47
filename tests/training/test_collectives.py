"""NCCL gathers no tensor of the CPU, where Lightning puts a module and its metrics when a stage has ended.

gloo, which these tests run on, does; so it is our own calls that are looked at.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from on_ranks import on_ranks
from running import SMALL, Place, only, read_json
from stat_video import compose
from stat_video.config import Config, EvaluateConfig
from stat_video.training.fit import fit
from stat_video.training.module import VideoModule
from stat_video.training.testing import evaluate

COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier", "broadcast",
    "broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter",
)  # fmt: skip
TINY = ["T=4", "crop=32", "views=2x1", "recipe.epochs=1", "trainer=cpu", "trainer.workers=0"]
DDP = ["trainer.devices=2", "trainer.strategy=ddp"]


def refuse_after_teardown() -> list[bool]:
    """Make our own collectives raise RuntimeError while the module is not on its device; return the flag."""
    moved = [False]

    def to_cpu(self: VideoModule) -> Any:
        moved[0] = True
        return cpu(self)

    def to_device(self: VideoModule, *where: Any, **how: Any) -> Any:
        moved[0] = False
        return to(self, *where, **how)

    cpu, to = VideoModule.cpu, VideoModule.to
    VideoModule.cpu, VideoModule.to = to_cpu, to_device  # type: ignore[method-assign]
    for name in COLLECTIVES:
        setattr(torch.distributed, name, guarded(getattr(torch.distributed, name), moved))
    return moved


def guarded(collective: Any, moved: list[bool]) -> Any:
    def call(*arguments: Any, **how: Any) -> Any:
        if moved[0] and called_by_us():
            raise RuntimeError(f"No backend type associated with device type cpu: {collective.__name__}")
        return collective(*arguments, **how)

    return call


def called_by_us() -> bool:
    """Whether the nearest caller that is Lightning's or this project's is this project's."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("stat_video", "lightning")):
            return name.startswith("stat_video")
        frame = frame.f_back  # type: ignore[assignment]
    return False


def test_nothing_is_gathered_after_a_run_or_an_evaluation_has_left_its_device(place: Place, tmp_path: Path) -> None:
    words = [*SMALL, *TINY, *DDP, *place.keys_with(tmp_path)]
    (row,) = compose.rows("train", Config, words)

    def train_and_evaluate(rank: int) -> None:
        moved = refuse_after_teardown()
        fit(row.config)
        moved[0] = False  # another module now
        path = only("last.ckpt", tmp_path)
        evaluate(path, EvaluateConfig(views="3x1", trainer=row.config.trainer, folders=row.config.folders))

    assert on_ranks(train_and_evaluate, 2) == [None, None]
    folder = only("result.json", tmp_path).parent
    alone = tmp_path / "alone"
    (row_alone,) = compose.rows("train", Config, [*SMALL, *TINY, *place.keys_with(alone)])
    assert on_ranks(lambda rank: fit(row_alone.config), 1) == [None]
    one, two = (torch.load(f / "logits_2x1.pt") for f in (only("result.json", alone).parent, folder))
    assert torch.equal(one["labels"], two["labels"])
    assert torch.allclose(one["logits"], two["logits"], atol=1e-4)
    assert read_json(folder / "evaluation_3x1.json")["metrics"].keys() == {"test/top1_3x1", "test/top5_3x1"}
    assert torch.load(folder / "logits_3x1.pt")["logits"].shape == (12, 3, 12)
