"""A map-style set of labelled videos with a true length, and the samplers that say which clip of which video is next.

A video that cannot be read is named, and nothing is dropped: in training another, drawn one takes its place, in a test
its views count as wrong. Everything random about a clip is seeded by (seed, epoch, video, repeat), so neither the
number of workers nor the order in which they work changes a clip.
"""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..errors import InputError
from .reader import READ_ERRORS, PathHandler, reason_of
from .sampling import ChooseFrames, Views, segment_frames, view_frames
from .transforms import TrainTransform, ViewTransform

log = logging.getLogger(__name__)
TRIES = 10  # videos read in the place of one that cannot be, before it is given up


class Clip(TypedDict):
    """An item; in a batch each value gets a leading B."""

    video: Tensor  # uint8 (T, 3, crop, crop)
    label: Any  # int; in a batch long (B,), like the two below
    index: Any  # in the list, of the video asked for
    view: Any  # of the protocol; 0 in training
    unreadable: Any  # the path asked for where it cannot be read, else ''; in a batch a list


class TrainRequest(NamedTuple):
    """A random clip of a video."""

    video: int  # its index in the list
    epoch: int
    repeat: int  # of the repeated augmentation


class ViewRequest(NamedTuple):
    """A fixed view of a video."""

    video: int
    view: int


class ClipDataset(Dataset[Clip]):
    """Clips of labelled videos, asked for by TrainRequest or ViewRequest; its length is the number of videos."""

    def __init__(
        self,
        videos: LabeledVideoPaths,
        T: int,
        *,
        train: TrainTransform | None = None,
        view: ViewTransform | None = None,
        views: Views = Views(1, 1),
        seed: int = 0,
        reader: str = "pyav",
    ) -> None:
        self.videos, self.T, self.views, self.seed = videos, T, views, seed
        self.train_transform, self.view_transform = train, view
        self.handler = PathHandler(reader)
        self.named: set[str] = set()  # unreadable videos that the log has

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: TrainRequest | ViewRequest) -> Clip:
        return self._view(request) if isinstance(request, ViewRequest) else self._training(request)

    def _view(self, request: ViewRequest) -> Clip:
        """Zeros where the video cannot be read: whoever scores it goes by `unreadable`."""
        assert self.view_transform is not None
        clip, crop = self.views.clip_crop(request.view)
        path, info = self.videos[request.video]
        frames = self._read(path, view_frames(self.T, clip, self.views.clips), "its views count as wrong")
        if frames is None:
            pixels = torch.zeros(self.T, 3, self.view_transform.size, self.view_transform.size, dtype=torch.uint8)
        else:
            pixels = self.view_transform(frames, crop, self.views.crops)
        unreadable = path if frames is None else ""
        return Clip(video=pixels, label=info["label"], index=request.video, view=request.view, unreadable=unreadable)

    def _training(self, request: TrainRequest) -> Clip:
        assert self.train_transform is not None
        rng = np.random.default_rng([self.seed, request.epoch, request.video, request.repeat])
        choose = segment_frames(rng.random(self.T).tolist())
        asked, info = path, _ = self.videos[request.video]
        for _ in range(TRIES):
            frames = self._read(path, choose, "drawn ones take its place")
            if frames is not None:
                break
            path, info = self.videos[int(rng.integers(len(self.videos)))]
        else:
            raise InputError(
                f"{asked}: unreadable, and so are {TRIES - 1} videos drawn in its place; see src/prepare.py"
            )
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            # torch.manual_seed would also queue a call with its stack trace for each kind of device, and keep it.
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            pixels = self.train_transform(frames)
        unreadable = asked if path != asked else ""
        return Clip(video=pixels, label=info["label"], index=request.video, view=0, unreadable=unreadable)

    def _read(self, path: str, choose: ChooseFrames, then: str) -> Tensor | None:
        """The frames; None, and once a line in the log, where they cannot be had."""
        try:
            return self.handler.video_from_path(path).frames(choose)
        except READ_ERRORS as error:
            if path not in self.named:
                self.named.add(path)
                log.warning("%s: %s; %s", path, reason_of(error, path), then)
            return None


class TrainSampler(Sampler[TrainRequest]):
    """Every video once an epoch over all ranks, `repeats` clips of it side by side; the same length on each rank.

    An epoch is of whole optimizer steps of ``step`` clips over all ranks. The clips of a step do not depend on the
    number of ranks. What is left over at the end is left out, another time others. ``start`` is where a resumed run
    takes it up: an epoch, and how many of this rank's clips lie behind in it.
    """

    def __init__(
        self,
        videos: int,
        *,
        seed: int,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
        step: int | None = None,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.videos, self.seed, self.repeats = videos, seed, repeats
        self.rank, self.world_size, self.start = rank, world_size, start
        self.step = step or repeats * world_size
        assert self.step % world_size == 0
        assert self.step % repeats == 0
        self.epoch = start[0]

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.videos * self.repeats // self.step * (self.step // self.world_size)

    def __iter__(self) -> Iterator[TrainRequest]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.videos).tolist()
        clips = [TrainRequest(video, self.epoch, repeat) for video in order for repeat in range(self.repeats)]
        share = self.step // self.world_size
        firsts = range(self.rank * share, len(self) * self.world_size, self.step)
        mine = (clip for first in firsts for clip in clips[first : first + share])
        yield from islice(mine, self.start[1] if self.epoch == self.start[0] else 0, None)


class ViewSampler(Sampler[ViewRequest]):
    """Every view of every video once over all ranks: nothing padded, nothing twice."""

    def __init__(self, videos: int, views: Views, *, rank: int = 0, world_size: int = 1) -> None:
        requests = [ViewRequest(index, view) for index in range(videos) for view in range(len(views))]
        self.requests = requests[rank::world_size]

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[ViewRequest]:
        return iter(self.requests)
