"""Random grayscale, a fifth of the clips, as in contrastive video learning."""

from torch import Tensor
from torchvision.transforms import v2

_transform = v2.RandomGrayscale(p=0.2)


def augment(clip: Tensor) -> Tensor:
    """Return the clip, or its luma in all three channels."""
    changed: Tensor = _transform(clip)
    return changed
