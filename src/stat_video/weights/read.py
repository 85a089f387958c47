"""Read the tensors out of any file of weights: torch's (zip and older), a pickle such as Caffe2's, or safetensors.

`read` does not know what a file is of: `models.weights` matches names with a model.
"""

import re
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..errors import InputError
from . import plain_pickle
from .plain_pickle import ENCODING, OLD_TORCH, Array, StandIn

ZIP = b"PK\3\4"  # how files of torch.save begin since torch 1.6; torch.load tells older ones by it, too
# Where files keep their weights. An average of the weights is taken where there is nothing else.
WRAPPED = (
    "state_dict", "model_state", "model_state_dict", "model", "module", "net", "network", "params", "weights", "blobs",
)  # fmt: skip
ARGUMENTS = ("params", "weights")  # which name settings in some files
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "model_ema_state_dict")
DEEPEST = 4  # of one inside another
EXPANDED = 2**26  # bytes of a tensor that repeats its numbers
LONGEST = 200_000  # characters of a text with settings that is read
SETTINGS = ("MODEL.ARCH", "RESNET.DEPTH", "DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TRAIN_CROP_SIZE")  # PySlowFast


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds."""

    tensors: dict[str, Tensor]  # by the names in the file
    container: str  # form of the file, in words
    classes: list[str] | None = None  # of a checkpoint of this project
    settings: dict[str, Any] = field(default_factory=dict)  # that PySlowFast writes into its files
    model: Mapping[str, Any] = field(default_factory=dict)  # keys of the model, of a checkpoint of this project


def read(path: Path) -> WeightFile:
    """Return the tensors in a file, wherever in it they are.

    Raises InputError, with one line, if it is missing or damaged, or there are none.
    """
    return found_in(path, *load(path))


def found_in(path: Path, content: Any, container: str) -> WeightFile:
    """Return the tensors in what `load` returned of a file; InputError if there are none."""
    part, where = _innermost(path, content)
    tensors = {}
    for key, value in part.items():
        number = _tensor_of(path, key, value) if isinstance(value, Array) else value
        if isinstance(number, Tensor):
            tensors[key.decode(ENCODING) if isinstance(key, bytes) else str(key)] = number
    check_tensors(path, tensors)
    if not tensors:
        raise InputError(f"{path}: no weights in it: neither this project's nor a dictionary of tensors by name")
    return WeightFile(tensors, f"{container}{where}", settings=_settings(content))


def load(path: Path) -> tuple[Any, str]:
    """Return what a file holds, and its form in words.

    It holds tensors, arrays, plain containers and stand-ins for all else; no code in it runs. Raises InputError if it
    is missing, damaged or of no known form.
    """
    if re.search(r"-\d+-of-(?!0*1\b)\d+\.\w+$|\.index\.json$", path.name):
        raise InputError(f"{path}: a part of weights in several files: save them as one")
    if not path.is_file():
        what = "a folder, where a file is needed" if path.is_dir() else "there is no such checkpoint"
        address = re.match(r"\w+:/", str(path)) is not None
        raise InputError(f"{path}: {'an address: fetch the file first' if address else what}")
    try:
        return _loaded(path)
    except InputError:
        raise
    except OSError:
        raise
    except Exception as error:  # of many kinds: of zip, of pickle, of a tensor that the file does not hold
        reason = "cut off, or neither torch's, a pickle nor safetensors"
        if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":  # which say what is wrong
            reason = next(iter(str(error).strip().splitlines()), reason)
        raise InputError(f"{path}: not a readable checkpoint ({reason[:120]})") from None


def _loaded(path: Path) -> tuple[Any, str]:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        from safetensors.torch import load_file

        return load_file(path), "safetensors"
    if start.startswith(ZIP):
        _check_zip(path)
        return _torch_load(path, mmap=True), "a file of torch.save"
    if tarfile.is_tarfile(path):
        raise InputError(f"{path}: a file of torch before 0.1.10: save its state_dict() again with a torch of its time")
    with path.open("rb") as file:
        content = plain_pickle.load(file)
    if isinstance(content, int) and content == OLD_TORCH:
        return _torch_load(path), "an older file of torch.save"
    return content, "a pickle"


def _torch_load(path: Path, mmap: bool = False) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=plain_pickle, mmap=mmap)


def _check_zip(path: Path) -> None:
    names: list[str] = []
    # torch.load's own reader: in a file with two directories zipfile may see the other one. Of a broken one `damage`
    # says what is wrong.
    with suppress(Exception):
        names = torch._C.PyTorchFileReader(str(path)).get_all_records()
    if any(name == "constants.pkl" or name.startswith("code/") for name in names):
        raise InputError(f"{path}: a TorchScript program, which is not run: save its state_dict()")
    if (wrong := damage(path)) is not None:
        raise InputError(f"{path}: damaged or truncated ({wrong.splitlines()[0]:.120})")
    if "data.pkl" not in names:
        raise InputError(f"{path}: a zip, but not one that torch.save wrote: unpack it, or save a state_dict()")


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


def check_tensors(path: Path, weights: Mapping[str, Any]) -> None:
    """Raise InputError unless each is a tensor of plain numbers that lies whole in the file."""
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise InputError(f"{path}: {name} is a {type(weight).__name__}, where a tensor is expected")
        if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized:
            raise InputError(f"{path}: {name} is a tensor without plain values (sparse, meta or quantized)")
        if weight.is_floating_point() and weight.element_size() < 2:
            raise InputError(f"{path}: {name} is of {weight.dtype}, whose scales are not known: save it as float16")
        if weight.numel() * weight.element_size() > max(weight.untyped_storage().nbytes(), EXPANDED):
            raise InputError(f"{path}: {name} is said to have {weight.numel():,} numbers, more than the file holds")


def _innermost(path: Path, content: Any) -> tuple[Mapping[Any, Any], str]:
    """Return the dictionary that holds the weights, and where in the file it is, in words."""
    found = _holding(content, DEEPEST)
    if found is None or any(f", its {key}" in found[1] for key in AVERAGED):
        _refuse_objects(path, content)
    return found or ({}, "")


def _holding(content: Any, deepest: int) -> tuple[Mapping[Any, Any], str] | None:
    """Return the first dictionary with numbers in it by the keys of WRAPPED, then of AVERAGED, and where it is."""
    if not isinstance(content, Mapping):
        return None
    for key in (*WRAPPED, *AVERAGED) if deepest else ():
        if (found := _holding(content.get(key), deepest - 1)) is not None:
            return found[0], f", its {key}{found[1]}"
    return (content, "") if any(isinstance(value, Tensor | Array) for value in content.values()) else None


def _refuse_objects(path: Path, content: Any) -> None:
    """Raise InputError if an object is in the place of weights, such as a whole model."""
    if isinstance(content, StandIn):
        raise InputError(f"{path}: it holds {content.of}, an object that is not built: save its state_dict()")
    for key in (*WRAPPED, *AVERAGED) if isinstance(content, Mapping) else ():
        if key not in ARGUMENTS and isinstance(kept := content.get(key), StandIn):
            raise InputError(f"{path}: its {key} is {kept.of}, an object that is not built: save its state_dict()")


def _tensor_of(path: Path, key: Any, array: Array) -> Tensor | None:
    try:
        return array.tensor()
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {key} is no array of numbers ({str(error).splitlines()[0]:.80})") from None


class WithoutAliases(yaml.SafeLoader):
    """Refuses aliases, by which few lines stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Raise YAMLError for an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _settings(content: Any) -> dict[str, Any]:
    """Return of the settings that PySlowFast writes beside its weights those of the network."""
    text = content.get("cfg") if isinstance(content, Mapping) else None
    if not isinstance(text, str) or len(text) > LONGEST:
        return {}
    try:
        config = yaml.load(text, WithoutAliases)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date, or a number of too many digits
        return {}
    found: dict[str, Any] = {}
    for name in SETTINGS:
        part, _, key = name.partition(".")
        keys = config.get(part) if isinstance(config, dict) else None
        if isinstance(keys, dict) and isinstance(value := keys.get(key), str | int | float):
            found[name] = value
    return found
