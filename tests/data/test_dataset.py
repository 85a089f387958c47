"""Clips that depend on nothing but seed, epoch, video and repeat, and samplers that leave nothing out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import DataLoader

from stat_video.data.augment import Augment
from stat_video.data.dataset import ClipDataset, TrainRequest, TrainSampler, ViewRequest, ViewSampler
from stat_video.data.limits import Limits
from stat_video.data.reader import PathHandler
from stat_video.data.sampling import Views, training_frames
from stat_video.data.transforms import TrainTransform, ViewTransform
from stat_video.errors import InputError
from stat_video.models.base import Clip

T, CROP = 4, 24
CLIP = Clip(T=T, crop=CROP)


@pytest.fixture(scope="module")
def videos(motion_folder: Path) -> LabeledVideoPaths:
    paths = LabeledVideoPaths.from_path(str(motion_folder / "train.csv"))
    paths.path_prefix = str(motion_folder)
    return paths


def train_set(videos: LabeledVideoPaths, seed: int = 0) -> ClipDataset:
    return ClipDataset(videos, CLIP, train=TrainTransform(CROP, Augment(), hflip=False), seed=seed)


def load(
    videos: LabeledVideoPaths, epochs: int = 1, workers: int = 0, batch: int = 8, seed: int = 0
) -> dict[tuple[int, int, int], Tensor]:
    """(epoch, video, how many-eth of it) -> clip, through a loader with two repeats."""
    data = train_set(videos, seed)
    sampler = TrainSampler(len(data), seed=seed, repeats=2)
    loader = DataLoader(data, batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    clips: dict[tuple[int, int, int], Tensor] = {}
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        seen: Counter[int] = Counter()
        for items in loader:
            for clip, index in zip(items["video"], items["index"].tolist(), strict=True):
                clips[epoch, index, seen[index]] = clip
                seen[index] += 1
    return clips


def same(a: dict[tuple[int, int, int], Tensor], b: dict[tuple[int, int, int], Tensor]) -> list[bool]:
    assert a.keys() == b.keys()
    return [torch.equal(a[key], b[key]) for key in a]


# ----------------------------------------------------------------------------------------------------- clips


def test_clips_do_not_depend_on_workers_batches_order_or_the_global_generators(videos: LabeledVideoPaths) -> None:
    torch.manual_seed(1)
    alone = load(videos, epochs=2)
    assert len(alone) == 2 * 24 * 2
    torch.manual_seed(2)
    for workers in (2, 4):
        assert all(same(alone, load(videos, epochs=2, workers=workers, batch=5)))
    data, keys = train_set(videos), list(alone)
    for i in np.random.default_rng(0).permutation(len(keys))[:40]:
        epoch, index, repeat = keys[i]
        assert torch.equal(data[TrainRequest(index, epoch, repeat)]["video"], alone[epoch, index, repeat])


def test_another_seed_epoch_or_repeat_is_another_clip(videos: LabeledVideoPaths) -> None:
    clips = load(videos, epochs=2)
    assert not any(same(clips, load(videos, epochs=2, seed=1)))
    for index in range(24):
        four = [clips[epoch, index, repeat] for epoch in range(2) for repeat in range(2)]
        assert not any(torch.equal(a, b) for i, a in enumerate(four) for b in four[:i])


def test_a_draw_leaves_the_global_generator_alone(videos: LabeledVideoPaths) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    train_set(videos)[TrainRequest(0, 0, 0)]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_items_of_both_kinds(videos: LabeledVideoPaths) -> None:
    data = ClipDataset(
        videos, CLIP, train=TrainTransform(CROP, Augment(), False), view=ViewTransform(28, CROP), views=Views(2, 3)
    )
    assert len(data) == 24
    for request, view in ((TrainRequest(17, 3, 1), 0), (ViewRequest(17, 4), 4)):
        item = data[request]
        assert item["video"].shape == (T, 3, CROP, CROP)
        assert item["video"].dtype == torch.uint8
        assert (item["label"], item["index"], item["view"]) == (17 % 12, 17, view)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the videos that are opened, each as often as it is."""
    paths: list[str] = []
    read = PathHandler.video_from_path
    monkeypatch.setattr(PathHandler, "video_from_path", lambda self, path: paths.append(path) or read(self, path))
    return paths


def test_repeats_share_their_frames_and_nothing_else(videos: LabeledVideoPaths) -> None:
    """What a clip is does not depend on which was asked for before."""
    whole = TrainTransform(32, Augment((1.0, 1.0), (1.0, 1.0)), hflip=False)  # the middle, so frames alone differ
    cropped = TrainTransform(CROP, Augment(), hflip=False)
    for share in (True, False):
        data = ClipDataset(videos, CLIP, train=cropped, share_frames=share)
        pairs = [[data[TrainRequest(i, e, r)]["video"] for r in (0, 1)] for e in (0, 1) for i in (3, 4)]
        assert not any(torch.equal(*pair) for pair in pairs)  # other crops
        alone = ClipDataset(videos, CLIP, train=cropped, share_frames=share)
        for pair, (e, i) in zip(pairs, ((0, 3), (0, 4), (1, 3), (1, 4)), strict=True):
            assert torch.equal(alone[TrainRequest(i, e, 1)]["video"], pair[1])
        data = ClipDataset(videos, CLIP, train=whole, share_frames=share)
        same = [torch.equal(*(data[TrainRequest(i, 0, r)]["video"] for r in (0, 1))) for i in range(8)]
        assert all(same) if share else not all(same)
        assert not torch.equal(*(data[TrainRequest(0, e, 0)]["video"] for e in (0, 1)))


@pytest.mark.parametrize("share", [True, False])
def test_a_video_is_read_once_for_neighbours_of_a_batch(
    videos: LabeledVideoPaths, reads: list[str], share: bool
) -> None:
    data = ClipDataset(videos, CLIP, train=TrainTransform(CROP, Augment(), hflip=False), share_frames=share)
    sampler = TrainSampler(len(data), seed=0, repeats=2, start=(0, 1))  # a resumed run may begin at a second repeat
    for batch, expected in ((8, 24 + 5), (47, 24), (1, 47)):  # where a batch ends between two repeats, once for each
        reads.clear()
        assert sum(len(items["label"]) for items in DataLoader(data, batch, sampler=sampler)) == 47
        assert len(reads) == expected
    views = Views(2, 3)
    data = ClipDataset(videos, CLIP, view=ViewTransform(28, CROP), views=views)
    reads.clear()
    for _ in DataLoader(data, 6, sampler=ViewSampler(len(data), views)):
        pass
    assert len(reads) == 24


def as_one_by_one(
    videos: LabeledVideoPaths, clip: Clip, transform: TrainTransform, request: TrainRequest
) -> tuple[Tensor, int, str]:
    """The clip, label and unreadable path of a request, read by itself."""
    rng = np.random.default_rng([0, request.epoch, request.video, request.repeat])
    choose = training_frames(clip, rng)
    asked, info = path, _ = videos[request.video]
    while True:
        try:
            frames = PathHandler().video_from_path(path).frames(choose)
            break
        except InputError:
            path, info = videos[int(rng.integers(len(videos)))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return transform(frames), info["label"], "" if path == asked else asked


@pytest.fixture(scope="module")
def odd_videos(tmp_path_factory: pytest.TempPathFactory) -> LabeledVideoPaths:
    """Sound files with several keyframes, an AVI, damaged ones, a folder with a bad picture, and a text."""
    folder = tmp_path_factory.mktemp("odd")
    sound = [
        write_moving(folder / "sound.mp4", g="12", bf="3"),
        write_moving(folder / "few.mp4", frames=3),
        write_moving(folder / "old.avi", codec="mpeg4", bf="2"),
        write_moving(folder / "long.mp4", g="250", bf="3"),
    ]
    content = sound[0].read_bytes()
    rng = np.random.default_rng(0)
    for i in range(4):
        flipped = bytearray(content)
        for place in rng.integers(content.index(b"mdat") + 1000, len(content) - 3000, 4):
            flipped[place] ^= 0xFF
        (folder / f"flipped {i}.mp4").write_bytes(flipped)
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, frame in enumerate(moving(20)):
        Image.fromarray(frame).save(pictures / f"{i}.png")
    (pictures / "7.png").write_text("none")
    (folder / "text.mp4").write_text("none")
    paths = [*sound, *sorted(folder.glob("flipped*")), pictures, folder / "text.mp4"]
    return LabeledVideoPaths([(str(path), i) for i, path in enumerate(paths)])


def moving(frames: int) -> npt.NDArray[np.uint8]:
    """Blocks that move over noise, (frames, 48, 64, 3)."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 236, (16, 20, 3)).repeat(8, 0).repeat(8, 1)
    cut = [blocks[i % 70 :][:48, i % 90 :][:, :64] for i in range(frames)]
    return (np.stack(cut) + rng.integers(0, 20, (frames, 48, 64, 3))).astype(np.uint8)


def write_moving(path: Path, frames: int = 60, codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = 48, 64, "yuv420p", 1
        for picture in moving(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("sampling", ["segments", "dense", "snippets"])
def test_clips_read_at_once_are_those_read_one_by_one(odd_videos: LabeledVideoPaths, sampling: str) -> None:
    """To the bit, of damaged videos too: what a clip shows does not depend on which others are in its batch."""
    clip = Clip(T=8, crop=CROP, sampling=sampling, stride=3, snippet=4)
    transform = TrainTransform(CROP, Augment(), hflip=True)
    data = ClipDataset(odd_videos, clip, train=transform)
    for epoch in range(3):
        requests = [TrainRequest(video, epoch, repeat) for video in range(len(odd_videos)) for repeat in range(3)]
        for request, item in zip(requests, data.__getitems__(requests), strict=True):
            pixels, label, unreadable = as_one_by_one(odd_videos, clip, transform, request)
            assert torch.equal(item["video"], pixels), request
            assert (item["label"], item["unreadable"], item["index"]) == (label, unreadable, request.video)


def test_views_are_the_frames_and_crops_they_should_be(videos: LabeledVideoPaths) -> None:
    """16 frames, T = 4, two clips: offsets 1/4 and 3/4 of segments of 4 frames; 32 x 40 pixels, crops of 32."""
    data = ClipDataset(videos, CLIP, view=ViewTransform(32, 32), views=Views(2, 3))
    whole = PathHandler().video_from_path(videos[5][0]).frames(lambda n: list(range(n))).permute(0, 3, 1, 2)
    views = [data[ViewRequest(5, view)]["video"] for view in range(6)]
    for view, (first, left) in enumerate((first, left) for first in (1, 3) for left in (0, 4, 8)):
        assert torch.equal(views[view], whole[first::4, :, :, left : left + 32])
    assert not any(torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])


@pytest.mark.parametrize("sampling", ["segments", "dense", "snippets"])
@pytest.mark.parametrize(("frames", "readings"), [(40, 1), (39, 2), (23, 3), (1, 5)])
def test_views_read_at_once_are_those_read_one_by_one(
    odd_videos: LabeledVideoPaths, sampling: str, frames: int, readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, of damaged videos too; five clips of 8 frames in as few readings as `limits.frames` allows."""
    clip, views = Clip(T=8, crop=CROP, sampling=sampling, stride=3, snippet=4), Views(5, 3)
    how: dict[str, Any] = {"view": ViewTransform(CROP + 4, CROP), "views": views}
    data = ClipDataset(odd_videos, clip, limits=Limits(frames=frames), **how)
    one_by_one = ClipDataset(odd_videos, clip, limits=Limits(frames=1), **how)
    opened = Counter[str]()
    read = data.handler.video_from_path
    monkeypatch.setattr(data.handler, "video_from_path", lambda path: opened.update([path]) or read(path))
    for video in range(len(odd_videos)):
        requests = [ViewRequest(video, view) for view in range(15)]
        for request, item in zip(requests, data.__getitems__(requests), strict=True):
            expected = one_by_one[request]
            assert torch.equal(item["video"], expected["video"]), request
            assert {k: v for k, v in item.items() if k != "video"} == {
                k: v for k, v in expected.items() if k != "video"
            }
    assert min(opened.values()) == readings  # more of a damaged one, whose clips are read each by itself


# -------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("videos", "repeats"), [(12, 1), (12, 2), (13, 2), (14, 3)])
def test_each_video_once_an_epoch_over_all_ranks(world_size: int, videos: int, repeats: int) -> None:
    ranks = [TrainSampler(videos, seed=0, repeats=repeats, rank=r, world_size=world_size) for r in range(world_size)]
    left_out: Counter[int] = Counter()
    for epoch in range(30):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])} == {videos // world_size * repeats}
        requests = [request for share in shares for request in share]
        assert all(request[1] == epoch for request in requests)
        seen = Counter((request[0], request[2]) for request in requests)
        assert set(seen.values()) == {1}
        taken = {video for video, _ in seen}
        assert set(seen) == {(video, repeat) for video in taken for repeat in range(repeats)}
        assert taken <= set(range(videos))
        assert len(taken) == videos - videos % world_size  # fewer than one a rank are left out, another time others
        left_out.update(set(range(videos)) - taken)
        for share in shares:  # repeats of a video come one after another
            assert all(request[2] == i % repeats for i, request in enumerate(share))
    assert not left_out or len(left_out) > videos // 2


def test_order_changes_with_epoch_and_seed_and_comes_back() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return [request[0] for request in sampler]

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(o) for o in orders}) == 9
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert all(o != sorted(o) for o in orders)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(("videos", "views"), [(7, "1x1"), (7, "5x1"), (4, "3x3"), (3, "1x1")])
def test_each_view_of_each_video_exactly_once_over_all_ranks(world_size: int, videos: int, views: str) -> None:
    protocol = Views.parse(views)
    shares = [list(ViewSampler(videos, protocol, rank=r, world_size=world_size)) for r in range(world_size)]
    lengths = [len(ViewSampler(videos, protocol, rank=r, world_size=world_size)) for r in range(world_size)]
    assert lengths == [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    everything = sorted(tuple(request) for share in shares for request in share)
    assert everything == [(video, view) for video in range(videos) for view in range(len(protocol))]


def test_loader_gives_each_view_once(videos: LabeledVideoPaths) -> None:
    views = Views(2, 1)
    data = ClipDataset(videos, CLIP, view=ViewTransform(28, CROP), views=views)
    loader = DataLoader(data, 7, sampler=ViewSampler(len(data), views), num_workers=2)
    seen = [pair for items in loader for pair in zip(items["index"].tolist(), items["view"].tolist(), strict=True)]
    assert seen == [(video, view) for video in range(24) for view in range(2)]
    labels = np.concatenate([items["label"] for items in loader])
    assert np.array_equal(labels, np.arange(48) // 2 % 12)


# -------------------------------------------------------------------------------------- what cannot be read


@pytest.fixture
def damaged(videos: LabeledVideoPaths, tmp_path: Path) -> tuple[LabeledVideoPaths, dict[int, str]]:
    """The motion videos with four of the 24 replaced by what is none; and which."""
    entries = [(str(videos[i][0]), videos[i][1]["label"]) for i in range(len(videos))]
    contents = {2: b"", 3: b"a text", 9: Path(entries[9][0]).read_bytes()[:900], 17: None}
    for i, content in contents.items():
        path = tmp_path / f"{i}.mp4"
        if content is not None:
            path.write_bytes(content)
        entries[i] = (str(path), entries[i][1])
    return LabeledVideoPaths(entries), {i: entries[i][0] for i in contents}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_takes_drawn_videos_for_unreadable_ones(
    damaged: tuple[LabeledVideoPaths, dict[int, str]], videos: LabeledVideoPaths, workers: int
) -> None:
    """Same length, same other clips, each lack said by its path; who stands in brings its own label."""
    broken, lacking = damaged
    whole = load(videos)
    data = train_set(broken)
    sampler = TrainSampler(len(data), seed=0, repeats=2)
    seen: Counter[int] = Counter()
    said: dict[int, set[str]] = {}
    for batch in DataLoader(data, 8, sampler=sampler, num_workers=workers):
        for i, index in enumerate(batch["index"].tolist()):
            said.setdefault(index, set()).add(batch["unreadable"][i])
            if index not in lacking:
                assert torch.equal(batch["video"][i], whole[0, index, seen[index]])
            else:
                assert batch["video"][i].any()
            seen[index] += 1
    assert seen == Counter(dict.fromkeys(range(24), 2))
    assert said == {i: {lacking.get(i, "")} for i in range(24)}


def test_the_stand_in_has_its_own_label_and_stays_the_same(damaged: tuple[LabeledVideoPaths, dict[int, str]]) -> None:
    broken, lacking = damaged
    labels = {i: broken[i][1]["label"] for i in range(24)}
    items = [train_set(broken)[TrainRequest(3, epoch, 0)] for epoch in range(30)]
    assert len({item["label"] for item in items}) > 4  # drawn anew each epoch, from all classes
    again = train_set(broken)[TrainRequest(3, 7, 0)]
    assert torch.equal(again["video"], items[7]["video"])
    assert again["label"] == items[7]["label"]
    readable = [i for i in range(24) if i not in lacking]
    assert {item["label"] for item in items} <= {labels[i] for i in readable}


def test_a_test_view_of_an_unreadable_video_is_there_and_says_so(
    damaged: tuple[LabeledVideoPaths, dict[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    broken, lacking = damaged
    data = ClipDataset(broken, CLIP, view=ViewTransform(28, 28), views=Views(2, 3))
    batches = list(DataLoader(data, 8, sampler=ViewSampler(len(data), Views(2, 3))))
    assert all(batch["video"].shape[1:] == (T, 3, 28, 28) for batch in batches)  # the view's size, not the clip's crop
    unreadable = [path for batch in batches for path in batch["unreadable"]]
    assert len(unreadable) == 24 * 6
    assert unreadable == [lacking.get(i, "") for i in range(24) for _ in range(6)]
    for path in lacking.values():
        assert sum(path in record.getMessage() for record in caplog.records) == 1  # once, not once a view


def test_nothing_readable_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_text("none")
    with pytest.raises(InputError, match=r"0.mp4: unreadable, and so are 9 videos"):
        train_set(LabeledVideoPaths([(str(tmp_path / "0.mp4"), 0)]))[TrainRequest(0, 0, 0)]
