"""Open checkpoints as plain data; refuse in one line a file that is damaged or holds something else."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..hardware import rank_zero
from ..progress import say
from ..runs.run import Run

WEIGHTS = "model."  # prefix of the model's tensors in the VideoModule's state
ZIP = b"PK\3\4"  # how files of torch.save begin since torch 1.6; torch.load tells older ones by it, too
WRAPPED = ("state_dict", "model_state", "model_state_dict", "model")  # where other projects' files keep their weights


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

    @property
    def goes_on_at(self) -> tuple[int, int]:
        """(epoch, clips of it that are done) from which training goes on."""
        place = self.place or {"epoch": (self.epoch or 0) + 1, "clips": 0}  # older ones are of an epoch's end
        return place["epoch"], place["clips"]


def damage(path: Path) -> str | None:
    """Return what is wrong with a zip file that torch.save wrote; None if every part has the CRC stored with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
            if packed:
                return f"{packed[0]} is compressed, which torch.save never does"
            part = archive.testzip()
    except Exception as error:  # zipfile and its decompressors raise many kinds for a broken directory
        return str(error) or type(error).__name__
    return None if part is None else f"{part} does not have the CRC that it was written with"


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


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the weights in a file by name, and the class names of a checkpoint of this project; None of another's.

    In another project's file they may be wrapped (WRAPPED) and have DataParallel's prefix `module.`. Raises InputError
    if there are none.
    """
    content = load_plain(path)
    if isinstance(content, dict) and "stat_video" in content:
        ours = _parts(path, content)
        return ours.weights, ours.classes
    for key in WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
        _check_weights(path, tensors)
    if not tensors:
        raise InputError(f"{path}: no weights in it: neither this project's nor a dictionary of tensors by name")
    return tensors, None


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


def _parts(path: Path, content: Any) -> Checkpoint:
    ours = content.get("stat_video") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not {"config", "classes"} <= ours.keys() or "state_dict" not in content:
        raise InputError(f"{path}: a checkpoint, but not one of this project's (no 'stat_video' entry in it)")
    state, config, classes = content["state_dict"], ours["config"], ours["classes"]
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: its state_dict is not a mapping from names")
    if not isinstance(config, dict):
        raise InputError(f"{path}: config is a {type(config).__name__}, where a mapping is expected")
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: classes are not a list of names")
    weights = {k.removeprefix(WEIGHTS): v for k, v in state.items() if k.startswith(WEIGHTS)}
    _check_weights(path, weights)
    where = {"place": ours.get("place"), "epoch": content.get("epoch")}
    return Checkpoint(path, weights, config, list(classes), ours.get("manifest"), **where)


def _check_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Raise InputError unless each is a tensor of plain numbers that lies whole in the file."""
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise InputError(f"{path}: {name} is a {type(weight).__name__}, where a tensor is expected")
        if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized:
            raise InputError(f"{path}: {name} is a tensor without plain values (sparse, meta or quantized)")
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise InputError(f"{path}: {name} is said to have {weight.numel():,} numbers, more than the file holds")
