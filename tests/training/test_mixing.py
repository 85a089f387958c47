"""MixUp and CutMix: what a mixed batch is made of can be read back from its pixels and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from running import SMALL, Place
from stat_video import compose
from stat_video.config import Config, Recipe
from stat_video.data.dataset import TrainSampler
from stat_video.data.loader import BatchLoader, joined
from stat_video.data.partners import partners
from stat_video.training.fit import fit
from stat_video.training.mixing import Mix

B, CLASSES = 6, 10
SHAPE = (B, 3, 4, 12, 16)


def mix(**changes: Any) -> Mix:
    return Mix(Recipe(**{"mixup": 0.0, "cutmix": 0.0, **changes}), CLASSES)


def batch() -> tuple[Tensor, Tensor]:
    """Clips of noise, each of its own class."""
    torch.manual_seed(0)
    return torch.randn(SHAPE), torch.tensor([7, 2, 9, 0, 4, 5])


def test_mixup_is_a_convex_mix_of_two_clips_and_of_their_labels() -> None:
    video, labels = batch()
    basis = video.flatten(1).T.double().numpy()  # (pixels, B)
    pairs, shares = set(), set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, soft = mix(mixup=0.8)(video, labels)
        assert type(mixed) is Tensor
        assert mixed.shape == video.shape
        assert soft.shape == (B, CLASSES)
        found, residual, *_ = np.linalg.lstsq(basis, mixed.flatten(1).T.double().numpy(), rcond=None)  # (B, B)
        assert residual.max() < 1e-6
        assert found.min() > -1e-5
        assert np.allclose(found.sum(0), 1, atol=1e-5)
        assert ((found > 1e-4).sum(0) <= 2).all()
        expected = np.zeros((B, CLASSES))
        expected[:, labels.numpy()] = found.T
        assert np.allclose(soft.numpy(), expected, atol=1e-5)
        pairs |= {tuple(np.argsort(column)[-2:]) for column in found.T}
        shares.add(round(float(soft.max()), 3))
    assert len(pairs) > 15  # of 30: not always the same neighbours
    assert len(shares) > 10


def test_cutmix_takes_a_box_of_another_clip_and_its_share_of_the_label() -> None:
    video = torch.arange(B).float().view(B, 1, 1, 1, 1).expand(SHAPE).contiguous()  # clip i is all i
    labels = batch()[1]
    boxes = 0
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, soft = mix(cutmix=1.0)(video, labels)
        assert type(mixed) is Tensor
        assert torch.allclose(soft.sum(1), torch.ones(B))
        for clip, label in zip(mixed, soft, strict=True):
            assert (clip == clip[:1, :1]).all()  # the same pixels in all channels and frames
            picture = clip[0, 0]
            share = torch.stack([(picture == i).float().mean() for i in range(B)])
            assert share.sum() == pytest.approx(1.0)  # of nothing but whole clips of the batch
            expected = torch.zeros(CLASSES).index_add(0, labels, share)
            assert torch.allclose(label, expected, atol=1e-5)
            present = share.nonzero()[:, 0].tolist()
            assert len(present) <= 2
            if len(present) == 2:
                boxes += 1
                rectangles = [box_is_full(picture == i) for i in present]
                assert any(rectangles)
    assert boxes > 100


def box_is_full(mask: Tensor) -> bool:
    """Whether the pixels are a rectangle."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())


@pytest.mark.parametrize("how", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_soft_labels_sum_to_one_and_the_input_stays(how: dict[str, float]) -> None:
    video, labels = batch()
    before = video.clone(), labels.clone()
    for seed in range(10):
        torch.manual_seed(seed)
        _, soft = mix(**how)(video, labels)
        assert torch.allclose(soft.sum(1), torch.ones(B))
        assert (soft >= 0).all()
    assert torch.equal(video, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    "how",
    [
        {"mixup": 0.0, "cutmix": 0.0},
        {"mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.0},
        {"mixup": 0.8, "mix_probability": 0.0},
    ],
)
def test_off_changes_nothing(how: dict[str, float]) -> None:
    video, labels = batch()
    for seed in range(5):
        torch.manual_seed(seed)
        same_video, same_labels = mix(**how)(video, labels)
        assert torch.equal(same_video, video)
        assert torch.equal(same_labels, labels)


def test_single_clip_stays() -> None:
    video, labels = (x[:1] for x in batch())
    same_video, same_labels = mix(mixup=0.8, cutmix=1.0)(video, labels)
    assert torch.equal(same_video, video)
    assert torch.equal(same_labels, labels)


@pytest.mark.parametrize(("switch", "cut"), [(0.0, range(1)), (1.0, range(200, 201)), (0.25, range(25, 76))])
def test_switch_is_the_share_of_cutmix(switch: float, cut: range) -> None:
    """A cut batch holds nothing but values of the batch, a mixed one other values."""
    video = torch.arange(B).float().view(B, 1, 1, 1, 1).expand(B, 1, 1, 8, 8)
    labels, how = torch.arange(B), mix(mixup=5.0, cutmix=1.0, mix_switch=switch)
    torch.manual_seed(0)
    count = sum(torch.equal(mixed, mixed.round()) for mixed, _ in (how(video, labels) for _ in range(200)))
    assert count in cut


def test_probability_is_the_share_of_mixed_batches() -> None:
    video, labels = batch()
    how = mix(mixup=5.0, mix_probability=0.25)
    torch.manual_seed(0)
    count = sum(how(video, labels)[1].dim() == 2 for _ in range(200))
    assert 25 < count < 75  # four standard deviations around 50


# ------------------------------------------------------------------------------ a step of several passes


@pytest.mark.parametrize("clips", [2, 3, 8, 64])
def test_every_clip_is_once_the_partner_of_another(clips: int) -> None:
    found = [partners(clips, seed) for seed in range(50)]
    for of_step in found:
        assert sorted(of_step) == list(range(clips))
        assert all(partner != clip for clip, partner in enumerate(of_step))
    assert clips < 8 or len({of_step[0] for of_step in found}) > 5


@pytest.mark.parametrize(
    "keys", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}, {"mixup": 0.8, "mix_probability": 0.5}]
)
def test_a_step_is_mixed_alike_in_passes_of_any_size(keys: dict[str, float]) -> None:
    """Each clip of the step with its partner, all by the same draw: a loop over clips that mixes by hand."""
    clips, mixed_steps = 8, 0
    video, labels = torch.randn(clips, *SHAPE[1:]), torch.randperm(CLASSES)[:clips]
    for seed in range(12):
        partner = partners(clips, seed)
        found = []
        for size in (1, 2, 4, 8):
            mixing, parts = mix(**keys), []
            mixing.seed = seed
            for first in range(0, clips, size):
                own = list(range(first, first + size))
                others = [partner[i] for i in own]
                torch.manual_seed(first)  # what else a pass draws changes nothing
                parts.append(mixing(video[own + others], labels[own + others]))
            found.append([torch.cat(of) for of in zip(*parts, strict=True)])
        for mixed, soft in found:
            assert torch.equal(mixed, found[0][0])
            assert torch.equal(soft, found[0][1])
        mixed, soft = found[0]
        if soft.dim() == 1:  # not mixed in this step
            assert torch.equal(mixed, video)
            assert torch.equal(soft, labels)
            continue
        mixed_steps += 1
        share = soft[0, labels[0]].item()
        for i in range(clips):
            expected = torch.zeros(CLASSES)
            expected[labels[i]] += share
            expected[labels[partner[i]]] += 1 - share
            assert torch.allclose(soft[i], expected, atol=1e-5)
            is_own, is_other = mixed[i] == video[i], mixed[i] == video[partner[i]]
            blended = torch.isclose(mixed[i], share * video[i] + (1 - share) * video[partner[i]], atol=1e-5)
            assert (is_own | is_other).all() or blended.all()
    assert mixed_steps == 12 or (keys.get("mix_probability") and 1 < mixed_steps < 12)


class Clips(Dataset[Any]):
    """Items that say which request they are of."""

    def __init__(self, videos: int) -> None:
        self.videos = [(f"{i}.mp4", {}) for i in range(videos)]
        self.given_up: set[str] = set()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: Any) -> Any:
        return self.__getitems__([request])[0]

    def __getitems__(self, requests: Any) -> list[Any]:
        return [
            {"video": torch.full((1,), r.video), "label": r.video, "index": 100 * r.video + r.repeat, "unreadable": ""}
            for r in requests
        ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("size", "repeats"), [(1, 1), (2, 2), (4, 1), (12, 2)])
def test_each_pass_comes_with_the_partners_of_its_clips(size: int, repeats: int, workers: int) -> None:
    """The clips of a rank are those without mixing, and a partner is of the same step."""
    how = {"seed": 3, "repeats": repeats, "rank": 1, "world_size": 2, "step": 48}
    sampler, plain = TrainSampler(72, **how), TrainSampler(72, **how)
    expected = [100 * r.video + r.repeat for r in plain]
    passes = 24 // size
    loader = BatchLoader(Clips(72), sampler, size, drop_last=True, repeats=repeats, workers=workers, mixed=passes)  # type: ignore[arg-type]
    batches = [joined(parts) for parts in loader]
    assert len(batches) == len(loader) == len(expected) // size
    own, others = ([int(i) for b in batches for i in b["index"][half]] for half in (slice(size), slice(size, None)))
    assert own == expected
    for first in range(0, len(own), 24):
        step = slice(first, first + 24)
        assert sorted(others[step]) == sorted(own[step])
        assert all(a != b for a, b in zip(own[step], others[step], strict=True))
    assert others[:24] != own[:24]
    # A run that is resumed in the middle of the epoch gets what it would have had.
    after = TrainSampler(72, **how, start=(0, 24))
    rest = [joined(p) for p in BatchLoader(Clips(72), after, size, drop_last=True, repeats=repeats, mixed=passes)]  # type: ignore[arg-type]
    assert [b["index"].tolist() for b in rest] == [b["index"].tolist() for b in batches[passes:]]


def test_a_pass_of_one_clip_is_mixed(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that holds one clip at a time, and with two clips of one video in a batch."""
    seen: list[tuple[int, Tensor]] = []
    call = Mix.__call__

    def noted(self: Mix, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixed, soft = call(self, video, labels)
        seen.append((len(mixed), soft))
        return mixed, soft

    monkeypatch.setattr(Mix, "__call__", noted)
    words = [*SMALL, *place.keys_with(tmp_path), "T=4", "crop=32", "views=1x1", "trainer=cpu", "recipe.mixup=0.8"]
    words += ["recipe.max_steps=2", "recipe.repeats=2", "trainer.batch_per_device=1"]
    fit(compose.rows("train", Config, words)[0].config)
    assert [n for n, _ in seen] == [1] * 16  # two steps of eight clips
    assert all(soft.dim() == 2 for _, soft in seen)
    of_two = [soft for _, soft in seen if (soft > 1e-6).sum() == 2]
    assert len(of_two) > 8  # most partners are of another class
    assert len({round(float(soft.max()), 4) for soft in of_two}) <= 2  # one draw per step


def test_many_passes_hold_no_shared_memory_of_data_workers() -> None:
    """Each tensor there keeps a file open, and a step may have hundreds."""
    sampler = TrainSampler(64, seed=0, step=64)
    loader = BatchLoader(Clips(64), sampler, 1, drop_last=True, workers=1, mixed=64)  # type: ignore[arg-type]
    parts = next(iter(loader))
    assert not any(value.is_shared() for part in parts for value in part.values() if torch.is_tensor(value))
