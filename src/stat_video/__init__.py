"""STAT and fifteen other systems for action recognition: build, load, train, test and apply them.

The names below are the whole interface (docs/api.md); what else is in the package may change between versions. They are
imported when they are first used, so `import stat_video` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import create_model, evaluate, load, predict, train
    from .errors import InputError
    from .runs.result import Key, Result
    from .training.loaded import Loaded

__version__ = "0.1.0"
__all__ = ["InputError", "Key", "Loaded", "Result", "create_model", "evaluate", "load", "predict", "train"]
_PLACES = {"InputError": "errors", "Key": "runs.result", "Result": "runs.result", "Loaded": "training.loaded"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES.get(name, 'api')}", __name__), name)


def __dir__() -> list[str]:
    return __all__
