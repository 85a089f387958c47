"""Unpickle tensors, arrays and plain containers; nothing that a file names is imported, and none of its code runs.

Authors' files hold their own classes beside the tensors (configs, namespaces, loggers). Each becomes a `StandIn`, which
knows the class's name and forgets its content. The pickle module's own unpickler in Python is used, not that in C: a
few bytes can make the latter allocate gigabytes for its memo.
"""

import io
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

ENCODING = "latin1"  # of Python 2's byte strings, as in Caffe2's files: one character a byte
OLD_TORCH = 0x1950A86A20F9469CFC6C  # the number that a file of torch.save began with before torch 1.6
MOST_PARTS = 64  # of a key that is a tuple; dimensions of a tensor
LARGEST_BITS = 64  # of a key that is a number
NUMBERS = "biufc"  # kinds of NumPy's types that a tensor can have


class StandIn(dict[Any, Any]):
    """In the place of an object that is not built; takes whatever a pickle puts into it.

    It keeps items alone, so that a kind of dictionary that is not known here can be read.
    """

    dump_patches = False  # which torch.load asks of a pickled module
    of = "an object"

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class Array:
    """A NumPy array whose bytes are in the file; `tensor` reads them."""

    state: Any = None

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> torch.Tensor | None:
        """Return the numbers; None if the array holds anything else. ValueError if they are not those of its shape."""
        if not isinstance(self.state, tuple) or len(self.state) != 5 or not isinstance(self.state[2], Kind):
            return None
        _, shape, kind, column_major, content = self.state
        dtype = kind.dtype()
        content = content.encode(ENCODING) if isinstance(content, str) else content
        if dtype is None or not isinstance(content, bytes):
            return None
        flat = np.frombuffer(content, dtype).reshape(shape, order="F" if column_major else "C")
        return torch.from_numpy(
            np.array(flat, dtype.newbyteorder("="), order="C")
        )  # a copy: those bytes can't be written


class Kind:
    """The type of a NumPy array's numbers: a code such as f4, and the order of its bytes."""

    order = "="

    def __init__(self, code: Any = None, *args: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    def dtype(self) -> "np.dtype[Any] | None":
        """Return NumPy's type; None if it is not of numbers."""
        code = self.code.lstrip("<>=|") if isinstance(self.code, str) else ""
        if not code or code[0] not in NUMBERS or len(code) > 3:
            return None
        return np.dtype(code).newbyteorder(self.order)  # type: ignore[arg-type]


def _scalar(kind: Any, content: Any = b"") -> Any:
    array = Array()
    array.state = (1, (), kind, False, content)
    number = array.tensor()
    return StandIn() if number is None else number.item()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, *_: Any) -> Array:
    array = Array()
    array.state = (1, shape, kind, order == "F", bytes(content) if isinstance(content, bytes | bytearray) else None)
    return array


def _rebuilt(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if all(size) and last >= storage._size():  # PyTorch would enlarge the storage, by what lies in memory
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    tensor: torch.Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    return tensor


def _rebuilt_before_0_4(storage: Any, offset: int, size: Any, stride: Any) -> torch.Tensor:
    return _rebuilt(storage, offset, size, stride)


def _storage(content: bytes) -> Any:
    """Return the storage that a tensor in a plain pickle holds as a file of torch.save of its own, of the older form.

    Others are refused: torch.load would run a TorchScript program in a zip.
    """
    if load(io.BytesIO(content)) != OLD_TORCH:
        raise pickle.UnpicklingError("a storage is no file of torch.save")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])


def _refuse_key(key: Any) -> None:
    """Raise UnpicklingError unless a key can be hashed at once: of a nested tuple that can take for ever."""
    parts = key if type(key) is tuple and len(key) <= MOST_PARTS else (key,)
    for part in parts:
        known = part is None or isinstance(part, str | bytes | float | StandIn)
        if not known and not (isinstance(part, int) and part.bit_length() <= LARGEST_BITS):
            raise pickle.UnpicklingError("a key of a dictionary is neither a name nor a number")


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    for key, _ in pairs:
        _refuse_key(key)
    return OrderedDict(pairs)


def _set(members: Any = ()) -> set[Any]:
    for member in members:
        _refuse_key(member)
    return set(members)


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    if len(lengths) > MOST_PARTS:
        raise pickle.UnpicklingError("a shape of more dimensions than tensors have")
    return tuple(lengths)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _encoded(text: Any, *_: Any) -> Any:
    return text.encode(ENCODING) if isinstance(text, str) else text


def _by_copyreg(kind: Any, base: Any, state: Any) -> Any:
    return StandIn()


BUILT: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *_: {},
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor"): _rebuilt_before_0_4,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("_codecs", "encode"): _encoded,
    ("copy_reg", "_reconstructor"): _by_copyreg,
    ("copyreg", "_reconstructor"): _by_copyreg,
    ("numpy", "dtype"): Kind,
    ("numpy", "ndarray"): Array,
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{
        (f"numpy.{core}.multiarray", name): what
        for core in ("core", "_core")
        for name, what in (("_reconstruct", Array), ("scalar", _scalar))
    },
}


_InPython: Any = vars(pickle)["_Unpickler"]  # type checkers take it for the one in C


class Unpickler(_InPython):
    """Python's own unpickler, which finds nothing but `BUILT` and stand-ins for all else."""

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def __init__(self, file: BinaryIO, **kwargs: Any) -> None:
        super().__init__(file, **{**kwargs, "encoding": ENCODING})

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the file; nothing is imported."""
        return BUILT.get((module, name)) or type("StandIn", (StandIn,), {"of": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what only torch.load can resolve, which sets its own function here."""
        raise pickle.UnpicklingError("it refers to parts that are not in it")

    def load_build(self) -> None:
        """Hand a state to arrays, types and stand-ins alone."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn | Array | Kind):
            self.stack[-1].__setstate__(state)

    def load_setitem(self) -> None:
        """Refuse a key before it is hashed."""
        _refuse_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Refuse keys before they are hashed."""
        for key in self.stack[::2]:
            _refuse_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        """Refuse keys before they are hashed."""
        for key in self.stack[::2]:
            _refuse_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        """Refuse members of a set before they are hashed."""
        for member in self.stack:
            _refuse_key(member)
        super().load_additems()

    def load_frozenset(self) -> None:
        """Refuse members of a set before they are hashed."""
        for member in self.stack:
            _refuse_key(member)
        super().load_frozenset()

    def load_bytearray8(self) -> None:
        """Read what there is, and not make room for what a file says first."""
        (size,) = struct.unpack("<Q", self.read(8))
        if size > sys.maxsize or len(content := self.read(size)) < size:
            raise pickle.UnpicklingError("it ends within an array of bytes")
        self.append(bytearray(content))

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


# torch.load asks these of a pickle module.
UnpicklingError = pickle.UnpicklingError


def load(file: BinaryIO, **kwargs: Any) -> Any:
    """Return what a pickle holds."""
    return Unpickler(file, **kwargs).load()
