"""What a command says of the changes to training clips; transforms.py makes them."""

from dataclasses import dataclass

from ..errors import InputError, any_value, check_ranges, ranged


@dataclass
class Augment:
    """How training clips are changed at random: keys `recipe.augment.*`. The defaults only crop."""

    # The window of a clip is drawn in one of three ways; the keys of the others are [].
    crop_area: tuple[float, ...] = ranged((0.08, 1.0), 0, 1, above=True)  # share of the frame, from and to
    crop_aspect: tuple[float, float] = ranged((0.75, 4 / 3), 0, above=True)  # width / height, from and to; of crop_area
    crop_short_side: tuple[int, ...] = ranged((), 1)  # pixels that a frame is resized to first, from and to
    crop_scales: tuple[float, ...] = ranged((), 0, 1, above=True)  # shares of the short side
    color_jitter: float = ranged(0.0, 0)  # strength of brightness, contrast and saturation; 0: off
    color_drop: float = ranged(0.0, 0, 1, neutral=0.0)  # share of the clips that become grey
    randaugment_ops: int = ranged(0, 0)  # operations drawn for a clip; 0: off
    randaugment_magnitude: float = ranged(7.0, 0, 10)  # their mean strength
    randaugment_std: float = ranged(0.5, 0)  # of the strength
    device: bool = False  # RandAugment by batch on the model's device, in the place of by clip in the data workers
    erasing: float = ranged(0.0, 0, 1)  # probability
    more: list[str] = any_value([], neutral=[])  # files of augmentations/, in this order, after all others but erasing

    def __post_init__(self) -> None:
        check_ranges(self, "recipe.augment.")
        for name in ("crop_area", "crop_aspect", "crop_short_side"):
            ends = getattr(self, name)
            if (ends or name == "crop_aspect") and (len(ends) != 2 or ends[0] > ends[1]):
                raise InputError(f"recipe.augment.{name}={list(ends)}: allowed is [low, high] with low <= high")
        ways = [name for name in ("crop_area", "crop_short_side", "crop_scales") if getattr(self, name)]
        if len(ways) != 1:
            given = " ".join(f"recipe.augment.{name}={list(getattr(self, name))}" for name in ways)
            one = "one of crop_area, crop_short_side and crop_scales, the others []"
            raise InputError(f"{given or 'recipe.augment.crop_area=[]'}: allowed is {one}")
