"""Augmentations of training clips beside those that have keys of their own: a file each with a function `augment`.

It takes and returns a clip as uint8 (T, 3, crop, crop), a torchvision `tv_tensors.Video`, and draws from PyTorch's
global generator, which is seeded by seed, epoch and video before each clip. `recipe.augment.more=[NAME,...]` chooses
them.
"""

from collections.abc import Callable

from torch import Tensor

from ...registry import Registry

Augmentation = Callable[[Tensor], Tensor]

_registry: Registry[Augmentation] = Registry(
    __name__, __path__, key="recipe.augment.more", attribute="augment", fits=callable
)
find, names = _registry.find, _registry.names
