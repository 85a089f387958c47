"""Find what runs differ in, whatever their axes are; tables, pictures and W&B all ask here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..models.base import short
from .identity import definition, updated
from .run import label_of

SHOWN_ALWAYS = ("model", "data", "T", "seed")  # named even if all runs agree in them


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ('recipe.lr', 1) for {'recipe': {'lr': 1}}."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing(configs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the keys that runs differ in, each with every run's value, and the SHOWN_ALWAYS in which they agree.

    Keys are those of the runs' definitions (`runs.run.definition`) by their short names: 'lr' for recipe.lr, 'model'
    for model.name. Between runs of different models 'model' has their labels and stands for all of model.*; what
    follows from the choice of the model and the data set (a recipe, a data set's size) is left out.
    """
    rows = [dict(flat(definition(config))) for config in configs]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for row, config in zip(rows, configs, strict=True):  # a key at its neutral value is no part of a definition
        whole = dict(flat(updated(config)))
        row.update({key: whole[key] for key in keys if key not in row and key in whole})
    labels = _told_apart([label_of(config) for config in configs], rows, keys)
    several = len({row.get("model.name") for row in rows}) > 1
    choice = [(row.get("model.name"), row.get("data.name")) for row in rows]
    varied: dict[str, list[str]] = {"model": labels} if several else {}
    for key in _in_order(keys):
        values = [shown(row.get(key)) for row in rows]
        if len(set(values)) == 1 or (several and key.startswith("model.")):
            continue
        follows = key.partition(".")[0] in ("clip", "data", "recipe", "views") and key not in ("data.name", "clip.T")
        if follows and len(set(choice)) > 1 and len(set(zip(choice, values, strict=True))) == len(set(choice)):
            continue
        varied[short_name(key, keys)] = values
    of_all = {short_name(key, keys): shown(rows[0].get(key)) for key in keys} | {
        "model": labels[0] if len(set(labels)) == 1 else str(rows[0].get("model.name"))
    }
    return varied, {name: of_all[name] for name in SHOWN_ALWAYS if name in of_all and name not in varied}


def _told_apart(labels: list[str], rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return labels with the sizes in which runs of one label and clip length differ: 'i3d_nl-depth101'."""
    found = []
    for label, row in zip(labels, rows, strict=True):
        same = [other for other, its in zip(rows, labels, strict=True) if its == label]
        same = [other for other in same if other.get("clip.T") == row.get("clip.T")]
        sizes = [key for key in keys if key.startswith("model.") and len({shown(other.get(key)) for other in same}) > 1]
        found.append("-".join([label, *(short(key.removeprefix("model."), row.get(key)) for key in sizes)]))
    return found


def searchable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a plain config by which runs are found on W&B: those of clip, model and recipe.

    They have their short names, or full ones if two of these parts share one. A list of words is one word: 'a+b'.
    """
    keys = {
        f"{part}.{key}": value for part in ("clip", "model", "recipe") for key, value in config.get(part, {}).items()
    }
    found = {key: value for key, value in keys.items() if not isinstance(value, Mapping)}
    return {short_name(key, list(found)): shown(v) if _is_words(v) else v for key, v in found.items()}


def in_words(same: Mapping[str, str]) -> str:
    """Return 'model stat-conv1, data motion, T 16'."""
    return ", ".join(f"{name} {value}" for name, value in same.items())


def shown(value: Any) -> str:
    """Return a value as a cell: lists of words joined by '+', '-' for None."""
    if value is None:
        return "-"
    return "+".join(value) if _is_words(value) else str(value)


def _is_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)


def short_name(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key if no other key ends in it, else the whole key; 'model' for 'model.name'."""
    first, _, last = key.rpartition(".")
    if last == "name":
        return first or key
    same = [other for other in keys if other.rpartition(".")[2] == last]
    return last if same == [key] or not first else key


def _in_order(keys: Sequence[str]) -> list[str]:
    """Return the keys with the model's first, then the clip's and the data set's, and the seed last."""
    order = ("model", "clip", "data", "views", "recipe")

    def place(key: str) -> int:
        first = key.partition(".")[0]
        return order.index(first) if first in order else len(order) + (key == "seed")

    return sorted(keys, key=place)
