"""The STAT model. Torch only: nothing here knows of Lightning or Hydra."""

from .attention import MODULES, STA
from .stat import SPATIAL_TOKENS, STAT, STEMS, STATConfig
from .stem import Conv

__all__ = ["MODULES", "SPATIAL_TOKENS", "STA", "STAT", "STEMS", "Conv", "STATConfig"]
