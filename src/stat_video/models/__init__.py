"""The models: a file each, found by its name. PyTorch only; nothing here knows of Lightning or Hydra."""

from typing import Any, get_type_hints

from ..registry import Registry
from .base import ModelConfig


def _is_config(found: Any) -> bool:
    # The types of its keys, as whoever reads them does: they may name what the file does not import.
    return isinstance(found, type) and issubclass(found, ModelConfig) and get_type_hints(found) is not None


_registry: Registry[type[ModelConfig]] = Registry(__name__, __path__, key="model", attribute="Config", fits=_is_config)
find, names = _registry.find, _registry.names
