"""TrivialAugment: one random operation of RandAugment's at a random strength (Mueller, Hutter. ICCV 2021)."""

from torch import Tensor
from torchvision.transforms import v2

_transform = v2.TrivialAugmentWide()


def augment(clip: Tensor) -> Tensor:
    """Return the clip after one operation, the same for all frames."""
    changed: Tensor = _transform(clip)
    return changed
