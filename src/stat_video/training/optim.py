"""The recipe, its AdamW groups and its learning rate."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import AdamW

from ..data.transforms import Augment
from ..errors import InputError

TOKENS_AND_POSITIONS = ("class_token", "video_token", "pos_spatial", "pos_temporal")


@dataclass
class Recipe:
    """How a model is trained. The defaults are the paper's ('AdamW as in DeiT, augmentation as in MViT').

    Where the paper is silent the values are those of MViT's Kinetics recipe.
    """

    epochs: int = 200
    batch_size: int = 512  # clips of one optimizer step, whatever the number of devices
    repeats: int = 2  # clips of a video in a batch (repeated augmentation)
    lr: float = 1.6e-3  # for lr_batch clips, scaled linearly to batch_size
    lr_batch: int = 512
    warmup_epochs: float = 30
    warmup_lr: float = 1e-6  # where the warm-up starts
    min_lr: float = 1e-6  # where the cosine ends
    weight_decay: float = 0.05  # none on biases, norms, tokens and positions
    label_smoothing: float = 0.1
    mixup: float = 0.8  # alpha; 0 = off
    cutmix: float = 1.0
    mix_probability: float = 1.0  # of mixing a batch at all
    mix_switch: float = 0.5  # of CutMix where both are on
    clip_grad_norm: float = 1.0
    ema: float = 0.0  # decay of the averaged weights; 0 = off
    max_steps: int | None = None  # stop after so many optimizer steps
    val_every: int = 1  # epochs
    val_videos: int | None = None  # validate and test on so many videos, evenly spread over the list; for trials
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        from_one = ("epochs", "batch_size", "repeats", "lr_batch", "val_every", "max_steps", "val_videos")
        from_zero = ("warmup_epochs", "warmup_lr", "min_lr", "mixup", "cutmix", "weight_decay", "clip_grad_norm")
        least = dict.fromkeys(from_one, 1) | dict.fromkeys(from_zero, 0)
        for name, allowed in least.items():
            value = getattr(self, name)
            if value is not None and not value >= allowed:  # not <, which lets nan pass
                raise InputError(f"recipe.{name}={value}: allowed is {allowed} or more")
        if not self.lr > 0:
            raise InputError(f"recipe.lr={self.lr}: allowed is more than 0")
        for name in ("label_smoothing", "mix_probability", "mix_switch", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"recipe.{name}={getattr(self, name)}: allowed is 0 to 1")
        if self.warmup_epochs >= self.epochs:
            raise InputError(f"recipe.warmup_epochs={self.warmup_epochs}: allowed is less than epochs={self.epochs}")
        if self.batch_size % self.repeats:
            raise InputError(
                f"recipe.batch_size={self.batch_size}: a multiple of recipe.repeats={self.repeats} is allowed"
            )

    @property
    def scaled_lr(self) -> float:
        """Peak learning rate at batch_size clips."""
        return self.lr * self.batch_size / self.lr_batch


def accumulation(recipe: Recipe, devices: int, per_device: int) -> tuple[int, int]:
    """(clips a device and pass, passes a step) that make up recipe.batch_size on so many devices.

    As many clips a pass as divide a device's share, `per_device` at most: the batch stays that of the recipe.
    """
    if per_device < 1:
        raise InputError(f"trainer.batch_per_device={per_device}: allowed is 1 or more")
    share, left = divmod(recipe.batch_size, devices)
    if left or not share:
        unit = math.lcm(devices, recipe.repeats)
        lower = recipe.batch_size // unit * unit
        near = ", ".join(str(n) for n in (lower, lower + unit) if n)
        raise InputError(
            f"recipe.batch_size={recipe.batch_size}: {devices} devices can't share it evenly; allowed are multiples of "
            f"{unit}, such as {near} (the learning rate goes with it), or another trainer.devices"
        )
    clips = max(n for n in range(1, min(per_device, share) + 1) if share % n == 0)
    return clips, share // clips


def describe_batch(recipe: Recipe, devices: int, clips: int, passes: int) -> dict[str, Any]:
    """What an optimizer step is made of, for the log and the result."""
    return {
        "clips": recipe.batch_size,
        "videos": recipe.batch_size // recipe.repeats,
        "devices": devices,
        "clips_per_device_and_pass": clips,
        "passes": passes,
        "lr": recipe.scaled_lr,
    }


def lr_factor(step: int, *, steps: int, warmup_steps: int, recipe: Recipe) -> float:
    """Learning rate of a step as a share of the peak: linear warm-up, then a cosine."""
    peak = recipe.scaled_lr
    if step < warmup_steps:
        start = min(recipe.warmup_lr / peak, 1.0)
        return start + (1 - start) * step / warmup_steps
    end = min(recipe.min_lr / peak, 1.0)
    done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups, by name: weights of linear and convolution layers decay; all the rest does not."""
    decay: list[tuple[str, nn.Parameter]] = []
    no_decay: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        is_weight = name.endswith("weight") and parameter.dim() > 1 and not name.endswith(TOKENS_AND_POSITIONS)
        (decay if is_weight else no_decay).append((name, parameter))
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, recipe: Recipe, fused: bool | None = None) -> AdamW:
    """AdamW over `parameter_groups` (which carry the parameters' names)."""
    return AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.scaled_lr, fused=fused)
