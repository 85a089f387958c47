"""A trained model, ready to be applied to videos."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import Config, TrainerKeys
from ..data.reader import PathHandler
from ..data.sampling import view_frames
from ..data.transforms import Normalize, ViewTransform
from ..errors import InputError
from ..hardware import choose_backends
from ..metrics.scores import likeliest
from ..models.base import VideoModel
from .rebuild import rebuild

Top = list[tuple[str, float]]  # (class, probability), best first


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's model in evaluation mode, with the config of its run and its classes.

    The model is on the CPU; `loaded.model.cuda()` moves it, and videos follow it.
    """

    model: VideoModel
    config: Config
    classes: list[str]
    file: Path  # that the weights are of

    @classmethod
    def of(cls, checkpoint: Path) -> "Loaded":
        """Return the model of a checkpoint of this project; InputError if it is none or does not fit together."""
        choose_backends(TrainerKeys(accelerator="cpu"))  # not those of the run, which may have had a GPU
        return cls(*rebuild(checkpoint), checkpoint)

    def pixels(self, video: str | Path) -> Tensor:
        """Return the centre view of a video as the model sees it: uint8 (T, 3, view_crop, view_crop).

        A video is a file, or a folder of pictures. Raises one of `data.reader.READ_ERRORS` if it can't be read.
        """
        frames = self._reader.video_from_path(str(video)).frames(view_frames(self.config.clip, 0, 1))
        return self._view(frames)

    def clip(self, video: str | Path) -> Tensor:
        """Return the centre view of a video as the model's input: (1, 3, T, view_crop, view_crop), normalised."""
        return self.normalized(self.pixels(video))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return the model's input of pixels, on its device."""
        weight = next(self.model.parameters(), torch.empty(0))  # of a model without any: the CPU
        clip: Tensor = self._normalize(pixels[None].to(weight.device))
        return clip.to(weight.dtype)

    def predict(self, video: str | Path, top: int = 5) -> Top:
        """Return the likeliest classes of a video's centre view with their probabilities, best first.

        Of one class a video by softmax, so that all probabilities sum to one; of several (`data.multi_label`) each by
        its own sigmoid.
        """
        return self.seen(self.clip(video), top)[0]

    def features(self, video: str | Path) -> Tensor:
        """Return what the classifier sees of a video's centre view: (D,), on the CPU.

        Of a model that classifies frames or segments and averages, the mean over them.
        """
        features = self.seen(self.clip(video))[1]
        if features is None:
            raise InputError(f"{type(self.model).__name__}.forward does not call its classifier, so it has no features")
        return features

    @torch.no_grad()
    def seen(self, clip: Tensor, top: int = 5) -> tuple[Top, Tensor | None]:
        """Return `predict`'s likeliest classes and `features` of a clip as `clip` returns it, of one forward pass.

        No features of a model that uses its classifier's weights without calling it.
        """
        inputs: list[Tensor] = []
        classifier = dict(self.model.named_modules()).get(self.model.classifier, nn.Identity())
        handle = classifier.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            logits = self.model(clip)[0]
        finally:
            handle.remove()
        several = self.config.data.multi_label
        found = likeliest(logits.float().cpu(), self.classes, top, multi_label=several)
        return found, inputs[0].float().reshape(-1, inputs[0].shape[-1]).mean(0).cpu() if inputs else None

    @cached_property
    def _reader(self) -> PathHandler:
        return PathHandler(self.config.data.limits)

    @cached_property
    def _view(self) -> ViewTransform:
        return ViewTransform(self.config.short_side, self.config.clip.view_crop)

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*self.config.normalization)
