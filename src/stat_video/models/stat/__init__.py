"""STAT: the model of the paper whose tables this project reruns."""

from .attention import MODULES, STA
from .stat import SPATIAL_TOKENS, STAT, STEMS, Config
from .stem import Conv

__all__ = ["MODULES", "SPATIAL_TOKENS", "STA", "STAT", "STEMS", "Config", "Conv"]
