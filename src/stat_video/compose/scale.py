"""The scale that a data set brings: nobody trains a tiny model on Kinetics without having said so."""

import os
from collections.abc import Iterable, Sequence

from ..paths import PROJECT
from ..words import key_of
from .grammar import Grammar
from .local import file_of, read_local


def with_scale(grammar: Grammar, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a row with `scale=` of its data set among them, if nothing else says the scale.

    The configs of other scripts have a scale of their own.
    """
    scale = scale_of_data(words) if grammar.conf == "train" and not _says_scale(words) else None
    if scale is None:
        return tuple(words)
    at = sum(word.startswith("experiment=") for word in words)
    return (*words[:at], f"scale={scale}", *words[at:])


def where_from(rows: Iterable[tuple[Sequence[str], Sequence[str]]], of_machine: bool) -> list[str]:
    """Return a line for each data set that has a scale which no word of the user's chose.

    ``rows``: the words of each row as they were given, and `with_scale`. ``of_machine``: conf/local.yaml says `scale`.
    """
    lines = []
    for given, words in rows:
        scale, data = scale_of_data(given), _data_of(given)
        if len(words) > len(given):
            other = "tiny" if scale == "paper" else "paper"
            lines.append(f"scale={scale}, as data={data} has it; scale={other} chooses the other")
        elif of_machine and scale and f"scale={scale}" not in words:
            file = os.environ.get("STAT_VIDEO_LOCAL", PROJECT / "conf" / "local.yaml")
            lines.append(f"scale={read_local()['scale']}, as {file} has it; data={data} is for scale={scale}")
    return list(dict.fromkeys(lines))


def scale_of_data(words: Sequence[str]) -> str | None:
    """Return the scale that the file of a row's data set has, None if it has none."""
    name = _data_of(words)
    while name:
        content = file_of("data", name)
        if content.get("scale") is not None:
            return str(content["scale"])
        name = next(
            (entry for entry in content.get("defaults") or [] if isinstance(entry, str) and entry[:1] != "_"), None
        )
    return None


def _data_of(words: Sequence[str]) -> str | None:
    """Return the name of the data set that words choose, or a file that they choose."""
    if given := [word.partition("=")[2] for word in words if key_of(word) == "data"]:
        return given[-1]
    for entries in _defaults(words):
        for key, name in entries:
            if key == "data" and isinstance(name, str) and "$" not in name:
                return name
    return None


def _says_scale(words: Sequence[str]) -> bool:
    return "scale" in map(key_of, words) or any(key == "scale" for entries in _defaults(words) for key, _ in entries)


def _defaults(words: Sequence[str]) -> list[list[tuple[str, object]]]:
    """Return (group, choice) of the defaults lists and the keys of the experiment and the search that words name."""
    found = []
    for word in words:
        if key_of(word) in ("experiment", "hparams_search"):
            content = file_of(key_of(word), word.partition("=")[2])
            listed = [entry for entry in content.get("defaults") or [] if isinstance(entry, dict)]
            entries = [(str(key).split()[-1].strip("/"), name) for entry in listed for key, name in entry.items()]
            found.append([*entries, *((key, None) for key in content if key == "scale")])
    return found[::-1]
