"""The forms in which people have Kinetics, Something-Something v2, UCF101, HMDB51 and videos of their own.

A layout is a file with a `LAYOUT`, found by its name (`data.layout`). It gives the class names and, for each split,
(name of a video, label); `data.places` then looks for the videos.
"""

from typing import Any

from ...registry import Registry
from .base import Layout


def _is_layout(found: Any) -> bool:
    return isinstance(found, Layout)


_registry: Registry[Layout] = Registry(__name__, __path__, key="data.layout", attribute="LAYOUT", fits=_is_layout)
find, names = _registry.find, _registry.names
