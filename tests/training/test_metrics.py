"""Multi-view accuracy against a slow loop, in any order, over ranks, and where views are missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from on_ranks import on_ranks
from stat_video.config import Recipe
from stat_video.data.dataset import ViewSampler
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.metrics import figures
from stat_video.metrics.scores import ensemble_of
from stat_video.models.base import VideoModel
from stat_video.training.metrics import MeanLoss, MultiViewAccuracy
from stat_video.training.module import VideoModule

Floats = npt.NDArray[np.float64]


def slow(logits: Floats, labels: npt.NDArray[np.int64], k: int) -> float:
    """Percent of videos whose class is among the k of the largest mean softmax over its views."""
    right = 0
    for video, label in zip(logits, labels, strict=True):
        mean = np.zeros(video.shape[1])
        for view in video:
            powers = np.exp(view - view.max())
            mean += powers / powers.sum() / len(video)
        right += int(label in np.argsort(-mean)[:k])
    return 100 * right / len(labels)


def test_an_ensemble_is_the_mean_of_scores() -> None:
    """Of all views of all tests, by a slow loop; and tests that do not belong together are told apart."""
    (a, labels), noise = example(40, 3, 8), torch.randn(40, 3, 8)
    b = 0.3 * a + noise
    both_figures = figures(*ensemble_of([(a, labels), (b, labels)]))
    both = np.concatenate([a.double().numpy(), b.double().numpy()], 1)
    for k in (1, 5):
        assert float(both_figures[f"top{k}"]) == pytest.approx(slow(both, labels.numpy(), k), abs=1e-4)
    for other in ((b[:, :2], labels), (b, labels.flip(0))):
        with pytest.raises(ValueError, match="not tested on the same videos, views and classes"):
            ensemble_of([(a, labels), other])


def example(videos: int, views: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits (videos, views, classes) that lean to the labels (videos,), so that neither top-k is 0 or 100."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=videos)
    logits = 2 * rng.standard_normal((videos, views, classes))
    logits[np.arange(videos), :, labels] += 1
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


def fed(protocol: Views, logits: Tensor, labels: Tensor, order: Any = None, batch: int = 7) -> MultiViewAccuracy:
    """A metric that has seen the (video, view) pairs in some order, in batches."""
    metric = MultiViewAccuracy(protocol)
    pairs = torch.cartesian_prod(torch.arange(len(labels)), torch.arange(len(protocol))).view(-1, 2)
    pairs = pairs if order is None else pairs[torch.as_tensor(order)]
    for part in pairs.split(batch):
        index, view = part.unbind(1)
        metric.update(logits[index, view], labels[index], index, view)
    return metric


@pytest.mark.parametrize("views", ["1x1", "5x1", "3x3"])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_accuracy_is_that_of_a_slow_loop_in_any_order(views: str, batch: int) -> None:
    protocol = Views.parse(views)
    logits, labels = example(40, len(protocol), 12)
    expected = {f"top{k}": slow(logits.double().numpy(), labels.numpy(), k) for k in (1, 5)}
    assert 10 < expected["top1"] < expected["top5"] < 100
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(40 * len(protocol))
        metric = fed(protocol, logits, labels, order, batch)
        assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(expected)
        in_order, in_order_labels = metric.gathered()
        assert torch.equal(in_order, logits)  # (videos, views, classes) in the order of the list
        assert torch.equal(in_order_labels, labels)


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param([[0.0, 8, 0], [0, 8, 0], [0, 9, 30]], id="mean logits would say 2"),
        pytest.param([[1.0, 0.9, 0], [1, 0.9, 0], [-9, 9, 0]], id="votes would say 0"),
    ],
)
def test_it_is_the_scores_that_are_averaged(logits: list[list[float]]) -> None:
    metric = MultiViewAccuracy(Views(3, 1))
    metric.update(torch.tensor(logits), torch.ones(3).long(), torch.zeros(3).long(), torch.arange(3))
    assert metric.compute()["top1"] == 100  # class 1


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_top5_of_five_classes_or_fewer_is_everything(classes: int) -> None:
    logits, labels = example(30, 2, classes)
    result = fed(Views(2, 1), logits, labels).compute()
    assert result["top5"] == 100
    assert float(result["top1"]) == pytest.approx(slow(logits.double().numpy(), labels.numpy(), 1))


def test_half_precision_is_kept_as_float() -> None:
    logits, labels = example(8, 1, 4)
    kept, _ = fed(Views(1, 1), logits.bfloat16(), labels).gathered()
    assert kept.dtype == torch.float32
    assert torch.equal(kept, logits.bfloat16().float())


def test_reset_forgets() -> None:
    protocol = Views(2, 1)
    metric = fed(protocol, *example(8, 2, 4))
    metric.compute()
    metric.reset()
    logits, labels = example(5, 2, 4)
    for view in range(2):
        metric.update(logits[:, view], labels, torch.arange(5), torch.full((5,), view))
    assert float(metric.compute()["top1"]) == pytest.approx(slow(logits.double().numpy(), labels.numpy(), 1))
    assert len(metric.gathered()[1]) == 5


FULL = list(range(12))  # of 4 videos with 3 views: (video, view) = divmod(n, 3)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(FULL[:-1], id="last view missing"),
        pytest.param(FULL[1:], id="first view missing"),
        pytest.param([*FULL, 5], id="a view twice"),
        pytest.param([*FULL[:-1], 5], id="one missing, another twice"),
        pytest.param([0, 0, 0, *FULL[3:]], id="one view for three"),
        pytest.param([0, 4, 8], id="three videos, one view of each"),
        pytest.param([*FULL, *FULL], id="everything twice"),
    ],
)
def test_views_that_are_missing_or_doubled_are_refused(order: list[int]) -> None:
    metric = fed(Views(3, 1), *example(4, 3, 5), order=order)
    for look in (metric.compute, metric.gathered):
        with pytest.raises(RuntimeError, match="are not 3x1 of each"):
            look()


def test_a_video_seen_twice_in_one_view_each_is_refused() -> None:
    metric = fed(Views(1, 1), *example(4, 1, 5), order=[0, 1, 2, 3, 3])
    with pytest.raises(RuntimeError, match="are not 1x1 of each"):
        metric.compute()


def test_whole_videos_that_are_missing_are_refused() -> None:
    """Each that came has all of its views, but not all came."""
    logits, labels = example(4, 1, 5)
    for videos, fits in ((4, True), (5, False), (3, False)):
        metric = MultiViewAccuracy(Views(1, 1))
        metric.expect(videos, 5)
        metric.update(logits[:, 0], labels, torch.arange(4), torch.zeros(4).long())
        if fits:
            assert torch.equal(metric.gathered()[0], logits)
        else:
            with pytest.raises(RuntimeError, match=f"4 views of 4 videos are not 1x1 of {videos}"):
                metric.compute()


# ------------------------------------------------------------------------------------------------ over ranks


def work(rank: int, folder: Path, views: str) -> None:
    """A rank of two: sees its share of the views, as ViewSampler deals them, and saves what it makes of all."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    protocol = Views.parse(views)
    logits, labels = example(9, len(protocol), 6)
    share = [v * len(protocol) + w for v, w in ViewSampler(9, protocol, rank=rank, world_size=2)]
    metric = fed(protocol, logits, labels, share, batch=4)
    result: dict[str, Any] = {"accuracy": {k: float(v) for k, v in metric.compute().items()}}
    try:
        result["logits"], result["labels"] = metric.gathered()
    except RuntimeError as error:
        result["error"] = str(error)
    torch.save(result, folder / f"{rank}.pt")


@pytest.mark.parametrize("views", ["1x1", "5x1"])
def test_two_ranks_make_the_same_of_their_shares_as_one_of_all(tmp_path: Path, views: str) -> None:
    assert on_ranks(lambda rank: work(rank, tmp_path, views), 2) == [None, None]
    protocol = Views.parse(views)
    logits, labels = example(9, len(protocol), 6)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert result["accuracy"] == {k: float(v) for k, v in fed(protocol, logits, labels).compute().items()}
        assert "error" not in result, result["error"]
        assert torch.equal(result["logits"], logits)  # what is saved with a result is that of all ranks too
        assert torch.equal(result["labels"], labels)


def test_states_stay_on_their_device() -> None:
    """NCCL gathers nothing from the CPU: torchmetrics' compute_on_cpu fails there (Lightning-AI/torchmetrics#2477)."""
    assert not MultiViewAccuracy(Views(1, 1)).compute_on_cpu


# --------------------------------------------------------------------------------------------------------- mean loss


def test_a_mean_loss_counts_clips() -> None:
    """Passes of 16 and of 2 clips with losses of 1 and 3."""
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 16)
    mean.update(torch.tensor(3.0, dtype=torch.bfloat16, requires_grad=True), 2)
    assert mean.compute().item() == pytest.approx((16 * 1 + 2 * 3) / 18)
    assert not mean.compute().requires_grad
    mean.reset()
    mean.update(torch.tensor(5.0), 1)
    assert mean.compute().item() == 5


def of_a_run(rank: int, world_size: int) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, world_size=world_size, is_global_zero=rank == 0)


def test_a_mean_loss_goes_on_with_other_clips_a_pass() -> None:
    """A checkpoint of 4 passes of 16 clips, gone on from in passes of 2."""
    before, after = (
        VideoModule(VideoModel(), Recipe(), Normalize([0.45], [0.225]), ["a"], Views(1, 1)) for _ in range(2)
    )
    for _ in range(4):
        before.epoch_loss.update(torch.tensor(1.0), 16)
    checkpoint: dict[str, Any] = {}
    before._trainer = after._trainer = of_a_run(0, 1)  # type: ignore[assignment]
    before.on_save_checkpoint(checkpoint)
    checkpoint["stat_video"]["place"] = {"epoch": 0, "clips": 64}
    after.on_load_checkpoint(checkpoint)
    for _ in range(16):
        after.epoch_loss.update(torch.tensor(3.0), 2)
    assert after.epoch_loss.compute().item() == pytest.approx((64 * 1 + 32 * 3) / 96)


@pytest.mark.parametrize(("ranks", "expected"), [(2, [(1.0, 2.0), (3.0, 4.0)]), (3, [(4.0, 6.0), (0.0, 0.0)])])
def test_each_rank_goes_on_from_its_own_loss(ranks: int, expected: list[tuple[float, float]]) -> None:
    """Of two ranks; with another number of them the first has the sum, as from a checkpoint of an older version."""
    saved = {"mean_value": torch.tensor(4.0), "weight": torch.tensor(6.0)}
    of_ranks = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for ours in ({**saved, "of_ranks": of_ranks}, *([saved] if ranks == 3 else [])):
        for rank, (value, weight) in enumerate(expected):
            module = VideoModule(VideoModel(), Recipe(), Normalize([0.45], [0.225]), ["a"], Views(1, 1))
            module._trainer = of_a_run(rank, ranks)  # type: ignore[assignment]
            module.on_load_checkpoint({"stat_video": {"place": {"epoch": 0, "clips": 64}, "epoch_loss": ours}})
            assert (module.epoch_loss.mean_value.item(), module.epoch_loss.weight.item()) == (value, weight)
