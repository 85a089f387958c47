"""Makes clips of frames: torchvision v2 on uint8 `tv_tensors.Video`, where all frames of a clip share each draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..errors import InputError
from . import augmentations
from .augment import Augment
from .randaugment import Drawn, RandAugment
from .sampling import crop_corner

BICUBIC: Any = {"interpolation": v2.InterpolationMode.BICUBIC, "antialias": True}
BILINEAR: Any = {"interpolation": v2.InterpolationMode.BILINEAR, "antialias": False}  # of SlowFast's and MViT's crops


class Window(v2.Transform):
    """Cuts a window out of all frames of a clip and resizes it to a square; a subclass draws which."""

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.crop = crop

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        return F.resized_crop(inpt, **params, size=[self.crop, self.crop], **BILINEAR)


class ShortSideCrop(Window):
    """Draws what a crop shows, anywhere in a frame whose short side was resized to a length drawn before (SlowFast's).

    Cuts before it resizes: a crop's pixels instead of a frame's.
    """

    def __init__(self, crop: int, short_side: Sequence[int]) -> None:
        super().__init__(crop)
        self.short_side = short_side  # crop or more

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        height, width = flat_inputs[0].shape[-2:]
        side = round(min(height, width) * self.crop / _integer(*self.short_side))
        return {"top": _integer(0, height - side), "left": _integer(0, width - side), "height": side, "width": side}


class MultiScaleCrop(Window):
    """Draws sides of two `scales` of the short side, equal or next to each other, at one of 13 places (TSN's).

    The places lie on a grid of quarters: its corners, its middle, the middles of its edges and of its quadrants.
    """

    PLACES = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))

    def __init__(self, crop: int, scales: Sequence[float]) -> None:
        super().__init__(crop)
        self.sides = [(a, b) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 1]

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        frame = flat_inputs[0].shape[-2:]
        shares, place = self.sides[_integer(0, len(self.sides) - 1)], self.PLACES[_integer(0, len(self.PLACES) - 1)]
        height, width = (max(1, int(min(frame) * share)) for share in shares)
        top, left = (frame[0] - height) // 4 * place[0], (frame[1] - width) // 4 * place[1]
        return {"top": top, "left": left, "height": height, "width": width}


def _integer(low: int, high: int) -> int:
    """Draw an integer from low to high."""
    return int(torch.randint(low, high + 1, ()))


class ColorJitter(v2.ColorJitter):
    """torchvision's brightness, contrast and saturation of a uint8 clip (T, 3, H, W), in place on floats.

    Takes a sixth of the time of torchvision's, which goes back to uint8 after each of them (docs/log.md).
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


class ColorDrop(nn.Module):
    """Makes a share of the uint8 clips (T, 3, H, W) grey; torchvision's RandomGrayscale does nothing to a `Video`."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, clip: Tensor) -> Tensor:
        if torch.rand(()) >= self.share:
            return clip
        return tv_tensors.wrap(F.rgb_to_grayscale(clip.as_subclass(Tensor), 3), like=clip)


class TrainTransform(nn.Module):
    """Makes a random training clip of frames: uint8 (T, H, W, 3) -> uint8 (T, 3, crop, crop).

    With ``augment.device`` RandAugment's operators are only drawn, by `draw_left`, and left to the device.

    NOTE: crops first, and changes the crop's pixels only. MViT's release runs RandAugment on the whole frames.
    """

    def __init__(self, crop: int, augment: Augment, hflip: bool) -> None:
        super().__init__()
        a = augment
        steps: list[nn.Module] = []
        if a.crop_area:
            steps.append(v2.RandomResizedCrop(crop, a.crop_area, a.crop_aspect, **BILINEAR))
        if a.crop_short_side:
            steps.append(ShortSideCrop(crop, a.crop_short_side))
        if a.crop_scales:
            steps.append(MultiScaleCrop(crop, a.crop_scales))
        if hflip:
            steps.append(v2.RandomHorizontalFlip())
        if a.color_jitter:
            steps.append(ColorJitter(a.color_jitter))
        if a.color_drop:
            steps.append(ColorDrop(a.color_drop))
        self.left: RandAugment | None = None
        if a.randaugment_ops:
            randaugment = RandAugment(a.randaugment_ops, a.randaugment_magnitude, a.randaugment_std)
            if a.device:
                self.left = randaugment
            else:
                steps.append(randaugment)
        steps += [augmentations.Named(name) for name in a.more]
        self.steps = v2.Compose(steps)

    def forward(self, frames: Tensor) -> Tensor:
        clip = self.steps(tv_tensors.Video(frames.permute(0, 3, 1, 2)))
        return torch.from_numpy(np.ascontiguousarray(clip.numpy()))  # in half the time of torch's contiguous()

    def draw_left(self) -> Drawn:
        """Draw the operators left to the device for the clip just made: those that it would have had here."""
        return self.left.draw() if self.left else Drawn()


class ViewTransform(nn.Module):
    """Resizes the short side and cuts crop `crop` of `crops`: uint8 (T, H, W, 3) -> uint8 (T, 3, size, size)."""

    def __init__(self, short_side: int, size: int) -> None:
        super().__init__()
        if size > short_side:
            raise InputError(f"crop={size}: at most {short_side} is allowed, the short side of the resized frame")
        self.size = size
        self.to_short_side = v2.Resize(short_side, **BICUBIC)

    def forward(self, frames: Tensor, crop: int = 0, crops: int = 1) -> Tensor:
        return self.cut(self.resize(frames), crop, crops)

    def resize(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3) -> (T, 3, H', W'), the shorter of H' and W' the short side; what all crops are cut from."""
        resized: Tensor = self.to_short_side(tv_tensors.Video(frames.permute(0, 3, 1, 2)))
        return resized

    def cut(self, clip: Tensor, crop: int = 0, crops: int = 1) -> Tensor:
        """(T, 3, H', W') -> (T, 3, size, size)."""
        top, left = crop_corner(clip.shape[-2], clip.shape[-1], self.size, crop, crops)
        return clip[..., top : top + self.size, left : left + self.size].contiguous()


class Normalize(nn.Module):
    """Makes clips the model's input: uint8 (B, T, 3, H, W) -> float (B, 3, T, H, W) of about mean 0 and std 1."""

    scale: float | Tensor
    shift: float | Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: str = "rgb") -> None:
        """Take mean and std of pixels in 0 to 1: one number for all channels, or three (red, green, blue).

        ``channels``: order of the colours in the model's input, 'rgb' or 'bgr'.
        """
        super().__init__()
        self.blue_first = channels == "bgr"
        if len(mean) == len(std) == 1:
            self.scale, self.shift = 1 / (255 * std[0]), mean[0] / std[0]
        else:
            means, stds = (torch.tensor(n, dtype=torch.float64).expand(3).view(3, 1, 1, 1) for n in (mean, std))
            # Not persistent: they belong to the config, not to a checkpoint.
            self.register_buffer("scale", (1 / (255 * stds)).float(), persistent=False)
            self.register_buffer("shift", (means / stds).float(), persistent=False)

    def forward(self, video: Tensor) -> Tensor:
        clips = video.transpose(1, 2) * self.scale - self.shift
        return clips.flip(1) if self.blue_first else clips


class Erase(nn.Module):
    """Puts noise in one random box of a clip, the same box in all its frames; on normalised clips (B, 3, T, H, W)."""

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
