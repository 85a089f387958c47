"""Mix the clips of a device's share of a step by torchvision's MixUp and CutMix."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..config import Recipe


class Mix:
    """Maps clips (B, 3, T, H, W) and labels (B,) to mixed clips and soft labels (B, num_classes), or to themselves.

    If a step has several passes, `seed` is set to the step's. The second half of a batch then holds the partner of each
    clip of the first half (data/partners.py), the mixed first half is returned, and the draws, of whether and how much
    to mix, are the same in all passes of the step.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.probability, self.switch = recipe.mix_probability, recipe.mix_switch
        self.mixup = v2.MixUp(alpha=recipe.mixup, num_classes=num_classes) if recipe.mixup else None
        self.cutmix = v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes) if recipe.cutmix else None
        self.seed: int | None = None

    def __call__(self, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with nullcontext() if self.seed is None else torch.random.fork_rng(devices=[]):
            if self.seed is not None:
                torch.default_generator.manual_seed(self.seed)
            return self._mixed(video, labels)

    def _mixed(self, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own = len(video) if self.seed is None else len(video) // 2
        how = self.mixup or self.cutmix
        if how is None or len(video) < 2 or torch.rand(()) >= self.probability:
            return video[:own], labels[:own]
        if self.mixup and self.cutmix:
            how = self.cutmix if torch.rand(()) < self.switch else self.mixup
        # torchvision mixes each clip with the one before it.
        if self.seed is None:  # with repeated augmentation that is often the same video, so in a random order
            order = torch.randperm(len(video), device=video.device)
        else:  # a partner before each clip
            order = torch.arange(2 * own, device=video.device).view(2, own).flip(0).T.flatten()
        # As pictures of 3 T channels: a box of CutMix is of height and width alone.
        pictures, soft = how(video[order].flatten(1, 2), labels[order])
        video = pictures.reshape(video.shape)
        return (video, soft) if self.seed is None else (video[1::2].contiguous(), soft[1::2])
