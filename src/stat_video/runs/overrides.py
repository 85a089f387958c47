"""The words of a run, for `overrides.yaml` in its folder: what somebody typed, beside the config that they make."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ..files import replacing

FILE = "overrides.yaml"
_words: list[str] | None = None  # of the run that this process is on


def remember(words: Sequence[str] | None) -> None:
    """Keep the words of the run that this process begins; None: they are not known."""
    global _words
    _words = None if words is None else list(words)


def write_overrides(folder: Path) -> None:
    """Write the words into a run's folder, as a list in YAML like Hydra's; nothing if they are not known."""
    if _words is not None:
        with replacing(folder / FILE) as file:
            file.write(
                yaml.safe_dump(_words, default_flow_style=False, allow_unicode=True).encode() if _words else b"[]\n"
            )
