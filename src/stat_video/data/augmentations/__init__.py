"""Augmentations of training clips beside those that have keys of their own: a file each with a function `augment`.

It takes and returns a clip as uint8 (T, 3, crop, crop), a torchvision `tv_tensors.Video`, and draws from PyTorch's
global generator, which is seeded by seed, epoch and video before each clip. `recipe.augment.more=[NAME,...]` chooses
them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import InputError, in_a_line
from ...registry import Registry

Augmentation = Callable[[Tensor], Tensor]

_registry: Registry[Augmentation] = Registry(
    __name__, __path__, key="recipe.augment.more", attribute="augment", fits=callable
)
find, names = _registry.find, _registry.names


class Named(nn.Module):
    """Applies an augmentation; InputError, in one line, if its file raises an error or returns another kind of clip."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.augment = name, find(name)

    def forward(self, clip: Tensor) -> Tensor:
        try:
            found = self.augment(clip)
        except Exception as error:
            raise InputError(f"recipe.augment.more={self.name}: its file raised {in_a_line(error)}") from error
        if isinstance(found, Tensor) and found.dtype == clip.dtype and found.shape == clip.shape:
            return found
        kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"recipe.augment.more={self.name}: returned {kind}; must be uint8 {tuple(clip.shape)}")


def check(name: str) -> None:
    """Raise ValueError if there is no such augmentation, or it can't be applied; tries it on a black clip."""
    from torchvision import tv_tensors  # takes a second to import, which scripts without clips need not wait

    with torch.random.fork_rng(devices=[]):
        Named(name)(tv_tensors.Video(torch.zeros(4, 3, 16, 16, dtype=torch.uint8)))
