"""Whether a command applies a file of weights or a checkpoint of a run, which decides what else it is told."""

import sys
from pathlib import Path

from ..errors import InputError
from ..words import key_of
from .frozen import FROZEN, read_frozen

CONF = "weights"  # conf/weights.yaml


def names_weights() -> bool:
    """Return whether the words of this process, or the config that it starts from, say `weights=FILE`."""
    words = sys.argv[1:]
    if len(words) == 1 and words[0].startswith(FROZEN):
        try:
            return "weights" in read_frozen(Path(words[0].removeprefix(FROZEN)))
        except InputError:
            return False  # `script` says what is wrong with it
    return "weights" in map(key_of, words)
