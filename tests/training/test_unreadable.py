"""Unreadable videos: counted over the whole run, and too many end it in one line."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stat_video.data.sampling import Views
from stat_video.errors import InputError
from stat_video.training.metrics import MultiViewAccuracy, ranks
from stat_video.training.unreadable import UnreadableVideos

ONE: Any = SimpleNamespace(world_size=1)
TWO: Any = SimpleNamespace(world_size=2)


def batch(*paths: str) -> Any:
    return {"unreadable": ["", *paths, ""]}


def test_each_video_is_counted_once() -> None:
    found = UnreadableVideos(100, 0.02)
    for _ in range(3):  # epochs
        found.on_train_batch_end(ONE, ONE, None, batch("b", "a"), 0)
        found.on_validation_batch_end(ONE, ONE, None, batch("c"), 0)
        found.on_test_batch_end(ONE, ONE, None, batch("c", "c", "d"), 0)
    assert found.result(ONE) == {"train": ["a", "b"], "val": ["c", "d"]}


def test_more_than_the_share_ends_the_run_in_one_line() -> None:
    found = UnreadableVideos(100, 0.02)
    found.on_train_batch_end(ONE, ONE, None, batch("b", "a"), 0)
    with pytest.raises(InputError, match=r"3 of 100 training videos .* a; data.max_unreadable=0.02") as caught:
        found.on_train_batch_end(ONE, ONE, None, batch("c"), 1)
    assert "\n" not in str(caught.value)


def test_one_of_several_devices_does_not_stop_alone() -> None:
    found = UnreadableVideos(100, 0.0)
    found.on_train_batch_end(TWO, TWO, None, batch("a"), 0)  # the other would wait for it for ever


def test_a_resumed_run_knows_what_it_met() -> None:
    before, after = UnreadableVideos(100, 0.01), UnreadableVideos(100, 0.01)
    before.on_train_batch_end(ONE, ONE, None, batch("a"), 0)
    after.load_state_dict(before.state_dict())
    assert after.result(ONE)["train"] == ["a"]
    with pytest.raises(InputError, match="2 of 100"):
        after.on_train_batch_end(ONE, ONE, None, batch("b"), 0)


def test_unreadable_videos_are_wrong_and_stay_in_the_denominator() -> None:
    """8 videos of 2 views, all right; then one whole video and one view of another go missing: 6 of 8 remain."""
    views = Views(2, 1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    logits = 9.0 * torch.nn.functional.one_hot(labels, 3)[:, None].repeat(1, 2, 1)
    index, view = torch.arange(8).repeat_interleave(2), torch.arange(2).repeat(8)

    def accuracy() -> dict[str, float]:
        metric = MultiViewAccuracy(views, ["a: x", "a: y", "b: z"])
        metric.update(logits.flatten(0, 1), labels.repeat_interleave(2), index, view)
        return {k: float(v) for k, v in metric.compute().items()}

    assert accuracy() == {"top1": 100, "top5": 100, "top1_a": 100, "top1_b": 100}
    logits[0], logits[5, 1] = math.nan, math.nan
    assert accuracy() == {"top1": 75, "top5": 75, "top1_a": pytest.approx(100 * 5 / 6), "top1_b": 50}
    assert ranks(logits, labels).tolist() == [3, 0, 0, 0, 0, 3, 0, 0]
    logits[:] = math.nan
    assert accuracy() == {"top1": 0, "top5": 0, "top1_a": 0, "top1_b": 0}
