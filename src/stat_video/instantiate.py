"""Make what a config names by `_target_`: callbacks and loggers of Lightning, of another library, or of your own.

Only of configs that somebody composed: nothing here ever sees a checkpoint's config, which could name any code.
"""

import inspect
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import HydraException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate

from . import paths
from .errors import InputError, in_a_line

T = TypeVar("T")
# What Lightning's loggers are built on, where it is not installed with this project.
PACKAGES = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow", "CometLogger": "comet-ml"}


def instantiate(key: str, settings: Mapping[str, Any], kind: type[T], **defaults: Any) -> list[T]:
    """Return the objects that `{NAME: {_target_: CLASS, ...}}` names, in this order.

    ``defaults`` are passed where a class takes them and the settings say nothing. A class may lie in a file below
    STAT_VIDEO_OWN: `callbacks/confetti.py` has `callbacks.confetti.Confetti`. Raises InputError, with one line that
    begins with ``key``, for what can't be made or is no ``kind``.
    """
    sys.path += [str(folder) for folder in paths.OWN if str(folder) not in sys.path]
    return [_one(f"{key}.{name}", one, kind, defaults) for name, one in settings.items()]


def _one(key: str, settings: Any, kind: type[T], defaults: Mapping[str, Any]) -> T:
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        group, _, name = key.partition(".")
        ready = f" {group}={name}, or" if (paths.CONF / group / f"{name}.yaml").is_file() else ""
        raise InputError(f"{key}: needs{ready} {key}._target_=CLASS, such as {kind.__module__}.{kind.__name__}")
    target = settings["_target_"]
    try:
        taken = inspect.signature(get_object(target)).parameters
        found = hydra_instantiate({**{k: v for k, v in defaults.items() if k in taken}, **settings})
    except Exception as error:  # of an import, or of the class itself
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        if isinstance(cause, ModuleNotFoundError) and (package := PACKAGES.get(target.rpartition(".")[2])):
            raise InputError(f"{key}: needs a package that is not installed: pip install {package}") from error
        raise InputError(f"{key}: {target} can't be made ({in_a_line(cause)})") from error
    if not isinstance(found, kind):
        raise InputError(f"{key}: {target} is no {kind.__name__} of Lightning")
    return found
