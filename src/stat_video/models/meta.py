"""Answers operations on the meta device from memory: most models repeat one block many times."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Remembered(TorchDispatchMode):
    """Runs each operation once for arguments of the same shapes, strides, types and values.

    PyTorch works out the shapes of a result in Python, which takes most of the time of counting a model. Operations
    whose results share memory with an argument or with each other are always run.
    """

    known: ClassVar[dict[Any, Any]] = {}  # an operation and its arguments: (the shape, stride, type of each result)
    never: ClassVar[set[Any]] = set()  # operations that are always run

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in self.never:
            return function(*args, **kwargs)
        key = (function, _form(args), *((name, _form(value)) for name, value in kwargs.items()))
        if (forms := self.known.get(key)) is not None:
            return _made(forms[0]) if len(forms) == 1 else tuple(map(_made, forms))
        out = function(*args, **kwargs)
        results = [out] if isinstance(out, Tensor) else out
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if not all(x.is_meta for x in tensors):
            return out  # it has numbers
        if isinstance(results, list | tuple) and _all_new(results, tensors):
            self.known[key] = [(x.shape, x.stride(), x.dtype) for x in results]
        else:
            self.never.add(function)
        return out


def _form(x: Any) -> Any:
    """Return all of an argument that a result's form depends on, as something that can be a key."""
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype, x.device
    if isinstance(x, list | tuple):
        return tuple(map(_form, x))
    return type(x), x  # 1, 1.0 and True are equal, and give results of other types


def _all_new(results: Sequence[Any], tensors: Sequence[Tensor]) -> bool:
    """Return whether results are tensors as `_made` makes them, sharing memory with none of all `tensors`."""
    if not results or not all(isinstance(x, Tensor) for x in results):
        return False
    fits = all(_bytes(x) == _bytes(_made((x.shape, x.stride(), x.dtype))) for x in results)
    places = [x.untyped_storage()._cdata for x in tensors]
    return fits and all(places.count(x.untyped_storage()._cdata) == 1 for x in results)


def _bytes(x: Tensor) -> int:
    return x.untyped_storage().nbytes()


def _made(form: tuple[Any, Any, torch.dtype]) -> Tensor:
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
