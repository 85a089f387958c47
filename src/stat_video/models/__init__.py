"""The models: a file each, found by its name. PyTorch only; nothing here knows of Lightning or Hydra.

Files of your own lie in `models/` below the folders that the environment variable STAT_VIDEO_OWN names.
"""

import os
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_type_hints

from .base import ModelConfig

OWN = [Path(folder) for folder in os.environ.get("STAT_VIDEO_OWN", "").split(os.pathsep) if folder]
__path__ += [str(folder / "models") for folder in OWN]


def find(name: str) -> type[ModelConfig]:
    """Return the `Config` of a model's file; ValueError names the models there are, or why the file can't be used."""
    if name not in {module.name for module in iter_modules(__path__)}:
        raise ValueError(f"model={name}: allowed are {', '.join(names())}, and those below $STAT_VIDEO_OWN")
    try:
        config = getattr(import_module(f"{__name__}.{name}"), "Config", None)
        if isinstance(config, type):
            get_type_hints(config)  # as whoever reads its keys does
    except Exception as error:
        raise ValueError(f"model={name}: its file can't be imported ({type(error).__name__}: {error})") from error
    if not (isinstance(config, type) and issubclass(config, ModelConfig)):
        raise ValueError(f"model={name}: allowed are {', '.join(names())}")
    return config


def names() -> list[str]:
    """Return the names of the models: the files with a `Config` of their own."""
    found = []
    for module in iter_modules(__path__):
        try:
            config = getattr(import_module(f"{__name__}.{module.name}"), "Config", None)
            if isinstance(config, type) and issubclass(config, ModelConfig) and get_type_hints(config) is not None:
                found.append(module.name)
        except Exception:  # `find` says why
            continue
    return sorted(found)
