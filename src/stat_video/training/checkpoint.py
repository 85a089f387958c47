"""Open checkpoints as plain data; refuse in one line a file that is damaged or holds something else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..hardware import rank_zero
from ..progress import say
from ..runs.identity import updated
from ..runs.run import Run
from ..weights.read import ZIP, WeightFile, check_tensors, damage, found_in, load

WEIGHTS = "model."  # prefix of the model's tensors in the VideoModule's state


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint of this project carries, in plain containers."""

    path: Path
    weights: dict[str, Tensor]  # of the model, by name
    config: dict[str, Any]  # as the file has it: `config.from_plain` checks it
    classes: list[str]
    manifest: str | None  # state of the data set that it was trained on
    place: Mapping[str, int] | None = None  # inside an epoch: the epoch, and the clips of it that are done
    epoch: int | None = None
    best: Mapping[str, Any] | None = None  # of which validation the weights are, if they are not the last (best.py)

    @property
    def which(self) -> str:
        """Of which validation the weights are: 'of epoch 3, best val/top1_1x1 (61.25)'; '' of a run's last."""
        best = self.best
        return f"of epoch {best['epoch']}, best {best['metric']} ({best['value']:.6g})" if best else ""

    @property
    def goes_on_at(self) -> tuple[int, int]:
        """(epoch, clips of it that are done) from which training goes on."""
        place = self.place or {"epoch": (self.epoch or 0) + 1, "clips": 0}  # older ones are of an epoch's end
        return place["epoch"], place["clips"]


def load_plain(path: Path) -> Any:
    """Return what a file of torch.save holds; InputError if it is missing, damaged, or holds more than plain data.

    torch reads it with weights_only, so that no code in it can run.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if zipped and (wrong := damage(path)) is not None:
        raise InputError(f"{path}: damaged or truncated ({wrong.splitlines()[0]:.120})")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises many kinds: of zip, of pickle, at the file's end
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            what = f"{found[1]}: code or an object that is neither a tensor nor a plain value, and is not run"
            raise InputError(f"{path}: it holds {what:.200}") from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({reason[:120]})") from None


def read_weights(path: Path) -> WeightFile:
    """Return the weights in a file of any form, with the class names if it is a checkpoint of this project.

    Raises InputError if there are none.
    """
    content, container = load(path)
    if isinstance(content, dict) and "stat_video" in content:
        ours = _parts(path, content)
        model = ours.config.get("model")
        keys = updated({"model": model})["model"] if isinstance(model, dict) else {}
        return WeightFile(ours.weights, "a checkpoint of this project", ours.classes, model=keys)
    return found_in(path, content, container)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint of this project; InputError if it is missing, damaged, or not written by this project."""
    return _parts(path, load_plain(path))


def newest_whole(run: Run) -> Checkpoint | None:
    """Return the newest checkpoint of a run that can be read, None if it has none.

    Renames broken ones to `.broken` and prints a line for each. Raises InputError if there are checkpoints and none can
    be read: only the user may decide to start over.
    """
    begun = run.checkpoints
    for path in begun:
        try:
            found = read_checkpoint(path)
        except InputError as error:
            say(f"{error.line}; going on from the one before")
        else:
            if rank_zero():
                for broken in begun[: begun.index(path)]:
                    broken.replace(broken.with_suffix(".broken"))
            return found
    if begun:
        raise InputError(f"{run.folder}: none of its checkpoints can be read; fresh=true sets it aside and starts over")
    return None


def _is_best(best: Any) -> bool:
    kinds = {"metric": str, "value": float, "epoch": int}
    return isinstance(best, Mapping) and all(type(best.get(key)) is kind for key, kind in kinds.items())


def _parts(path: Path, content: Any) -> Checkpoint:
    ours = content.get("stat_video") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not {"config", "classes"} <= ours.keys() or "state_dict" not in content:
        ours_only = "a checkpoint, but not one of this project's (no 'stat_video' entry in it)"
        raise InputError(f"{path}: {ours_only}; weights=FILE model=NAME takes such files")
    state, config, classes = content["state_dict"], ours["config"], ours["classes"]
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: its state_dict is not a mapping from names")
    if not isinstance(config, dict):
        raise InputError(f"{path}: config is a {type(config).__name__}, where a mapping is expected")
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: classes are not a list of names")
    weights = {k.removeprefix(WEIGHTS): v for k, v in state.items() if k.startswith(WEIGHTS)}
    check_tensors(path, weights)
    if (best := ours.get("best")) is not None and not _is_best(best):
        raise InputError(f"{path}: its entry 'best' is not as a run writes it")
    where = {"place": ours.get("place"), "epoch": content.get("epoch"), "best": best}
    return Checkpoint(path, weights, config, list(classes), ours.get("manifest"), **where)
