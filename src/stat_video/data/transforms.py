"""From the frames of a video to a clip: torchvision v2 on uint8 `tv_tensors.Video`, one draw a clip for all frames."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..errors import InputError
from .sampling import crop_corner


@dataclass
class Augment:
    """Training augmentation. The defaults are 'augmentation as in MViT' (architecture of the recipe: README)."""

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    color_jitter: float = 0.4
    randaugment_ops: int = 4  # 0 = none
    randaugment_magnitude: float = 7.0  # of 10
    randaugment_std: float = 0.5
    erasing: float = 0.25  # probability

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"recipe.augment.{name}={[low, high]}: allowed is [low, high] with 0 < low <= high")
        if self.crop_area[1] > 1:
            raise InputError(f"recipe.augment.crop_area={list(self.crop_area)}: at most 1, the whole frame")
        for name in ("color_jitter", "randaugment_ops", "randaugment_std"):
            if not getattr(self, name) >= 0:
                raise InputError(f"recipe.augment.{name}={getattr(self, name)}: allowed is 0 or more")
        if not 0 <= self.randaugment_magnitude <= 10:
            raise InputError(f"recipe.augment.randaugment_magnitude={self.randaugment_magnitude}: allowed is 0 to 10")
        if not 0 <= self.erasing <= 1:
            raise InputError(f"recipe.augment.erasing={self.erasing}: a probability from 0 to 1 is allowed")


class RandAugment(v2.RandAugment):
    """timm's `rand-m7-n4-mstd0.5`, MViT's: the magnitude is drawn anew for each clip.

    NOTE: as there, each of the operations drawn is applied with probability 1/2, so two of four on average.
    """

    STEPS = 20  # per unit of magnitude, so that a drawn 7.35 is not rounded to 7
    PROBABILITY = 0.5

    def __init__(self, ops: int, magnitude: float, std: float) -> None:
        super().__init__(num_ops=ops, num_magnitude_bins=10 * self.STEPS + 1)
        self.ops, self.mean, self.std = ops, magnitude, std

    def forward(self, *inputs: Tensor) -> Tensor:
        self.num_ops = int((torch.rand(self.ops) < self.PROBABILITY).sum())
        drawn = self.mean + self.std * torch.randn(()).item()
        self.magnitude = round(min(max(drawn, 0.0), 10.0) * self.STEPS)
        return super().forward(*inputs)


class ColorJitter(v2.ColorJitter):
    """torchvision's brightness, contrast and saturation of a uint8 clip (T, 3, H, W), in place on floats.

    It takes a sixth of torchvision's time, which goes back to uint8 after each (docs/log.md).
    """

    LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey

    def __init__(self, strength: float) -> None:
        super().__init__(strength, strength, strength)

    def forward(self, clip: Tensor) -> Tensor:
        drawn = self.make_params([clip])
        pixels = clip.as_subclass(Tensor).permute(0, 2, 3, 1).float()  # (T, H, W, 3)
        luma = torch.tensor(self.LUMA)
        for which in drawn["fn_idx"].tolist():
            match which:
                case 0:
                    pixels.mul_(drawn["brightness_factor"])
                case 1:
                    factor = drawn["contrast_factor"]
                    mean = (pixels @ luma).mean((1, 2))[:, None, None, None]  # of each frame
                    pixels.mul_(factor).add_(mean, alpha=1 - factor)
                case 2:
                    factor = drawn["saturation_factor"]
                    grey = (pixels @ luma)[..., None]
                    pixels.mul_(factor).add_(grey, alpha=1 - factor)
            pixels.clamp_(0, 255)
        return tv_tensors.wrap(pixels.round_().to(torch.uint8).permute(0, 3, 1, 2), like=clip)


class TrainTransform(nn.Module):
    """uint8 (T, H, W, 3) -> uint8 (T, 3, crop, crop), random."""

    def __init__(self, crop: int, augment: Augment, hflip: bool) -> None:
        super().__init__()
        a = augment
        resized_crop = v2.RandomResizedCrop(
            crop, a.crop_area, a.crop_aspect, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        )
        steps: list[nn.Module] = [resized_crop]
        if hflip:
            steps.append(v2.RandomHorizontalFlip())
        if a.color_jitter:
            steps.append(ColorJitter(a.color_jitter))
        if a.randaugment_ops:
            steps.append(RandAugment(a.randaugment_ops, a.randaugment_magnitude, a.randaugment_std))
        self.steps = v2.Compose(steps)

    def forward(self, frames: Tensor) -> Tensor:
        return self.steps(tv_tensors.Video(frames.permute(0, 3, 1, 2))).contiguous()


class ViewTransform(nn.Module):
    """uint8 (T, H, W, 3) -> uint8 (T, 3, size, size): short side resized, then crop `crop` of `crops`."""

    def __init__(self, short_side: int, size: int) -> None:
        super().__init__()
        if size > short_side:
            raise InputError(f"crop={size}: at most data.short_side={short_side} is allowed")
        self.size = size
        self.resize = v2.Resize(short_side, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)

    def forward(self, frames: Tensor, crop: int = 0, crops: int = 1) -> Tensor:
        clip = self.resize(tv_tensors.Video(frames.permute(0, 3, 1, 2)))
        top, left = crop_corner(clip.shape[-2], clip.shape[-1], self.size, crop, crops)
        return clip[..., top : top + self.size, left : left + self.size].contiguous()


class Normalize(nn.Module):
    """uint8 (B, T, 3, H, W) -> float (B, 3, T, H, W) of about mean 0 and std 1, on the model's device."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.scale, self.shift = 1 / (255 * std), mean / std

    def forward(self, video: Tensor) -> Tensor:
        return video.transpose(1, 2) * self.scale - self.shift


class Erase(nn.Module):
    """Random erasing of normalised clips (B, 3, T, H, W), one box a clip for all frames, noise in its place."""

    def __init__(self, probability: float, area: tuple[float, float] = (0.02, 1 / 3)) -> None:
        super().__init__()
        self.probability = probability
        self.draw_box = v2.RandomErasing(p=1, scale=area)

    def forward(self, video: Tensor) -> Tensor:
        if self.probability == 0:
            return video
        video = video.clone()
        for clip in video:
            if torch.rand(()) < self.probability:
                box = self.draw_box.make_params([clip[:, 0]])
                if box["v"] is not None:  # torchvision found a box that fits
                    rows, columns = slice(box["i"], box["i"] + box["h"]), slice(box["j"], box["j"] + box["w"])
                    clip[..., rows, columns].normal_()
        return video
