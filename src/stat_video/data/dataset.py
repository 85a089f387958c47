"""A map-style data set of labelled videos, and the samplers that say which clip of which video is next.

A video that cannot be read is named in the log and never dropped: in training a randomly drawn video replaces it, in a
test its views count as wrong. (One that the disk does not return may come back: storage.py.) Everything random about a
clip is seeded by (seed, epoch, video, repeat), so neither the number of data workers nor their order changes a clip.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..errors import InputError
from ..models.base import Clip
from ..paths import program
from .decode_plan import Doubt
from .layouts.base import Label
from .limits import Limits
from .partners import seed_of_step
from .reader import READ_ERRORS, PathHandler, reason_of
from .sample import Sample
from .sampling import ChooseFrames, Views, training_frames, view_frames
from .storage import Lost
from .transforms import TrainTransform, ViewTransform

log = logging.getLogger(__name__)
TRIES = 10  # videos tried, the one asked for among them, before training gives up


class TrainRequest(NamedTuple):
    """Asks for a random clip of a video."""

    video: int  # its index in the list
    epoch: int
    repeat: int  # 0 to repeats - 1: which of the video's clips of this epoch


class ViewRequest(NamedTuple):
    """Asks for a fixed view of a video."""

    video: int
    view: int


class ClipDataset(Dataset[Sample]):
    """Returns a clip of a labelled video for each TrainRequest or ViewRequest; its length is the number of videos."""

    def __init__(
        self,
        videos: LabeledVideoPaths,
        clip: Clip,
        *,
        train: TrainTransform | None = None,
        view: ViewTransform | None = None,
        views: Views = Views(1, 1),
        seed: int = 0,
        limits: Limits | None = None,
        share_frames: bool = False,
        raise_lost: bool = False,
        num_classes: int | None = None,
    ) -> None:
        """``train`` is needed for TrainRequests, ``view`` for ViewRequests of the protocol ``views``.

        With ``share_frames`` all repeats of a video in an epoch are of the same frames. With ``raise_lost`` a video
        that the disk does not return raises Lost, unless it is among `given_up`; else it counts as unreadable.
        ``num_classes`` is needed if labels are tuples, of videos with several classes.
        """
        self.videos, self.clip, self.views, self.seed = videos, clip, views, seed
        self.train_transform, self.view_transform = train, view
        self.limits, self.share_frames = limits or Limits(), share_frames
        self.handler = PathHandler(self.limits)
        self.raise_lost, self.num_classes = raise_lost, num_classes
        self.named: set[str] = set()  # unreadable videos that this process has logged
        self.given_up: set[str] = set()  # lost videos that are not waited for any more

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: TrainRequest | ViewRequest) -> Sample:
        return self.__getitems__([request])[0]

    def __getitems__(self, requests: Sequence[TrainRequest | ViewRequest]) -> list[Sample]:
        """Return the items of a batch, as PyTorch's loaders ask for them; neighbours of one video are read at once.

        What an item is does not depend on those beside it.
        """
        samples: list[Sample] = []
        for _, neighbours in groupby(requests, self._read_at_once):
            of_video = list(neighbours)
            views = [request for request in of_video if isinstance(request, ViewRequest)]
            clips = [request for request in of_video if isinstance(request, TrainRequest)]
            samples += self._views(views) if views else self._training(clips)
        return samples

    def _read_at_once(self, request: TrainRequest | ViewRequest) -> tuple[int, int]:
        """Return what requests have in common that are read at once: views of a video, its repeats in an epoch."""
        if isinstance(request, ViewRequest):
            return request.video, self.views.clip_crop(request.view)[0] // max(1, self.limits.frames // self.clip.T)
        return request.video, request.epoch

    def _views(self, requests: list[ViewRequest]) -> list[Sample]:
        """Return views of one video; zeros of a clip that cannot be read, and the test goes by `unreadable`."""
        assert self.view_transform is not None
        index, size = requests[0].video, self.view_transform.size
        path, info = self.videos[index]
        label = self._target(info["label"])
        crops: dict[int, list[ViewRequest]] = {}  # of each temporal clip
        for request in requests:
            crops.setdefault(self.views.clip_crop(request.view)[0], []).append(request)
        choices = [view_frames(self.clip, number, self.views.clips) for number in crops]
        samples = []
        for of_clip, frames in zip(crops.values(), self._read(path, choices, "its views count as wrong"), strict=True):
            resized = None if frames is None else self.view_transform.resize(frames)
            for request in of_clip:
                if resized is None:
                    pixels = torch.zeros(self.clip.T, 3, size, size, dtype=torch.uint8)
                else:
                    crop = self.views.clip_crop(request.view)[1]
                    pixels = self.view_transform.cut(resized, crop, self.views.crops)
                unreadable = path if frames is None else ""
                samples.append(Sample(video=pixels, label=label, index=index, view=request.view, unreadable=unreadable))
        return samples

    def _training(self, requests: list[TrainRequest]) -> list[Sample]:
        """Return random clips of one video, of one epoch."""
        video, epoch, _ = requests[0]
        draws = [np.random.default_rng([self.seed, epoch, video, request.repeat]) for request in requests]
        if self.share_frames:
            choices = [training_frames(self.clip, np.random.default_rng([self.seed, epoch, video]))] * len(requests)
        else:
            choices = [training_frames(self.clip, rng) for rng in draws]
        read = self._read(self.videos[video][0], choices, "drawn ones take its place")
        return [self._clip(video, *of_clip) for of_clip in zip(draws, choices, read, strict=True)]

    def _clip(self, video: int, rng: Generator, choose: ChooseFrames, frames: Tensor | None) -> Sample:
        """Return a random clip of the frames; if they cannot be read, of the first readable video of those drawn."""
        assert self.train_transform is not None
        asked, info = path, _ = self.videos[video]
        for _ in range(TRIES - 1):
            if frames is not None:
                break
            path, info = self.videos[int(rng.integers(len(self.videos)))]
            (frames,) = self._read(path, [choose], "drawn ones take its place")
        if frames is None:
            raise InputError(
                f"{asked}: unreadable, and so are {TRIES - 1} videos drawn in its place; see {program('prepare')}"
            )
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            # torch.manual_seed would also queue a call with its stack trace for each kind of device, and keep it.
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            pixels, operators = self.train_transform(frames), self.train_transform.draw_left()
        unreadable = asked if path != asked else ""
        return Sample(
            video=pixels,
            label=self._target(info["label"]),
            index=video,
            view=0,
            unreadable=unreadable,
            operators=operators,
        )

    def _target(self, label: Label) -> Any:
        if not isinstance(label, tuple):
            return label
        assert self.num_classes is not None
        return torch.zeros(self.num_classes).index_fill(0, torch.tensor(label), 1)

    def _read(self, path: str, choices: list[ChooseFrames], then: str) -> list[Tensor | None]:
        """Return the frames of each choice, None if they cannot be read; the first failure of a video is logged."""
        several = list(dict.fromkeys(choices))  # repeats that share their frames have one choice
        try:
            video = self.handler.video_from_path(path)
            clips = video.clips(several) if len(several) > 1 else [video.frames(several[0])]
        except (Doubt, *READ_ERRORS) as error:
            if isinstance(error, Lost) and self.raise_lost and path not in self.given_up:
                error.video = path
                raise
            if len(several) > 1:  # each by itself, as if it were asked for alone
                return [frames for choose in choices for frames in self._read(path, [choose], then)]
            if path not in self.named:
                self.named.add(path)
                log.warning("%s: %s; %s", path, reason_of(error, path), then)
            return [None] * len(choices)
        of = dict(zip(several, clips, strict=True))
        return [of[choose] for choose in choices]


class TrainSampler(Sampler[TrainRequest]):
    """Asks for every video once an epoch over all ranks, `repeats` neighbouring clips of it; each rank has as many.

    An epoch has whole optimizer steps of ``step`` clips over all ranks; the clips of a step do not depend on the number
    of ranks. The clips that do not fill a step at the end are left out; each epoch shuffles anew, so others another
    time. A resumed run continues at ``start``: (epoch, number of this rank's clips of it that were trained on).
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
        """Take the order of that epoch; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.videos * self.repeats // self.step * (self.step // self.world_size)

    def seeds_of_steps(self) -> Iterator[int]:
        """Yield the seed of what this rank draws once for each step, from the one that a resumed run begins with."""
        share = self.step // self.world_size
        first = self.start[1] // share if self.epoch == self.start[0] else 0
        for step in range(first, len(self) // share):
            yield seed_of_step(self.seed, self.epoch, step, self.rank)

    def __iter__(self) -> Iterator[TrainRequest]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.videos).tolist()
        clips = [TrainRequest(video, self.epoch, repeat) for video in order for repeat in range(self.repeats)]
        share = self.step // self.world_size
        firsts = range(self.rank * share, len(self) * self.world_size, self.step)
        mine = (clip for first in firsts for clip in clips[first : first + share])
        yield from islice(mine, self.start[1] if self.epoch == self.start[0] else 0, None)


class ViewSampler(Sampler[ViewRequest]):
    """Asks for every view of every video exactly once over all ranks; nothing is padded."""

    def __init__(self, videos: int, views: Views, *, rank: int = 0, world_size: int = 1) -> None:
        requests = [ViewRequest(index, view) for index in range(videos) for view in range(len(views))]
        self.requests = requests[rank::world_size]

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[ViewRequest]:
        return iter(self.requests)
