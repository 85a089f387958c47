"""Mix the clips of a batch by torchvision's MixUp and CutMix."""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..config import Recipe


class Mix:
    """Maps clips (B, 3, T, H, W) and labels (B,) to mixed clips and soft labels (B, num_classes), or to themselves."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.probability, self.switch = recipe.mix_probability, recipe.mix_switch
        self.mixup = v2.MixUp(alpha=recipe.mixup, num_classes=num_classes) if recipe.mixup else None
        self.cutmix = v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes) if recipe.cutmix else None

    def __call__(self, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        how = self.mixup or self.cutmix
        if how is None or len(video) < 2 or torch.rand(()) >= self.probability:
            return video, labels
        if self.mixup and self.cutmix:
            how = self.cutmix if torch.rand(()) < self.switch else self.mixup
        # torchvision mixes each clip with the one before it; with repeated augmentation that is often the same video.
        order = torch.randperm(len(video), device=video.device)
        video, soft = how(tv_tensors.Video(video[order]), labels[order])
        return video.as_subclass(Tensor), soft
