"""Weights that come with the package, to start from: `init=shipped:NAME`. docs/shipped.md is their card.

Of each NAME there are NAME.safetensors, the weights in half precision, and NAME.json, what their run was;
`make shipped` writes both.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import InputError

PREFIX = "shipped:"
FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of what is shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def is_shipped(init: str | None) -> bool:
    """Return whether a value of `init` names shipped weights."""
    return init is not None and init.startswith(PREFIX)


def file_of(init: str) -> Path:
    """Return the file of weights that `init` names; InputError if there is none of that name."""
    if (name := init.removeprefix(PREFIX)) not in names():
        raise InputError(f"init={init}: must be one of {', '.join(PREFIX + name for name in names())}")
    return FOLDER / f"{name}.safetensors"


@cache
def about(name: str) -> Mapping[str, Any]:
    """Return what is known of shipped weights: command, seed, commit, config, classes and metrics of their run."""
    found: Mapping[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found
