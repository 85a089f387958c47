"""Files of weights of any form: tensors come out of them, and nothing that they name is imported or run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stat_video.errors import InputError
from stat_video.weights.read import read

WEIGHTS = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.ones(3, dtype=torch.float16)}


class Ordered(collections.OrderedDict[str, Any]):
    """As some authors' state dict."""


class Settings(dict[str, Any]):
    """As yacs' CfgNode: a dictionary with a state of its own."""

    frozen = False


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (WEIGHTS, ""),
        ({"state_dict": collections.OrderedDict(WEIGHTS), "best_prec1": np.float64(3.5)}, "its state_dict"),
        ({"model_state": WEIGHTS, "cfg": "MODEL: {ARCH: i3d}", "args": argparse.Namespace(lr=0.1)}, "its model_state"),
        ({"model": WEIGHTS, "cfg": Settings(A=Settings(B=(1, 2)))}, "its model"),
        ({"module": WEIGHTS, "optimizer": None, "ds_config": Settings()}, "its module"),  # DeepSpeed's
        ({"state_dict_ema": WEIGHTS, "epoch": 3}, "its state_dict_ema"),
        ({"model_ema": {"state_dict": WEIGHTS}}, "its model_ema, its state_dict"),
        ({"model": WEIGHTS, "model_ema": {"a.weight": torch.zeros(1)}}, "its model"),
        ({"model": {n: torch.nn.Parameter(t) for n, t in WEIGHTS.items()}}, "its model"),
        ({"state_dict": Ordered(WEIGHTS), "model_ema": {"a.weight": torch.zeros(1)}}, "its state_dict"),
        ({"params": {"lr": 0.1}, "model": {}, "state_dict_ema": WEIGHTS}, "its state_dict_ema"),
        ({"params": argparse.Namespace(lr=0.1), "model_ema": WEIGHTS}, "its model_ema"),
        ({"state_dict": WEIGHTS, "random": np.random.default_rng(0), "when": time.localtime()}, "its state_dict"),
    ],
)
def test_weights_are_found_beside_what_is_not_built(tmp_path: Path, content: Any, where: str, zipped: bool) -> None:
    torch.save(content, tmp_path / "some.pth", _use_new_zipfile_serialization=zipped)
    before = set(sys.modules)
    found = read(tmp_path / "some.pth")
    assert same(found.tensors)
    assert found.container.endswith(where)
    assert found.classes is None
    assert set(sys.modules) == before
    assert found.settings == ({"MODEL.ARCH": "i3d"} if "its model_state" in where else {})


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_a_pickle_are_read_as_numpy_wrote_them(tmp_path: Path, protocol: int) -> None:
    """Caffe2's files are such pickles, most of them of Python 2."""
    blobs = {
        "conv1_w": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32),
        "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i8"),
        "one": np.float32(1.5),
        "text": np.array(["a", "b"]),
        "objects": np.array([None, {}], dtype=object),
    }
    with (tmp_path / "some.pkl").open("wb") as file:
        pickle.dump({"blobs": blobs}, file, protocol=protocol)
    found = read(tmp_path / "some.pkl")
    assert found.container == "a pickle, its blobs"
    assert found.tensors.keys() == {"conv1_w", "by_columns", "big_endian"}
    for name, tensor in found.tensors.items():
        assert np.array_equal(tensor.numpy(), blobs[name])


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its arrays hold their bytes as text, and names are its byte strings."""
    values = np.array([1.5, -200.0], np.float32)
    state = b"(I1\n(I2\ntp5\n" + b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb" + b"I00\nS"
    content = (
        b"(dS'blobs'\n(dS'conv1_w'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        + state + repr(values.tobytes())[1:].encode() + b"\ntbss."
    )  # fmt: skip
    (tmp_path / "some.pkl").write_bytes(content)
    assert np.array_equal(read(tmp_path / "some.pkl").tensors["conv1_w"].numpy(), values)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    found = read(tmp_path / "model.safetensors")
    assert same(found.tensors)
    assert found.container == "safetensors"


class Evil:
    """Unpickled by any other reader it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


class ByState:
    """Likewise, but by what is set after it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return argparse.Namespace, (), {"x": Evil(self.folder)}


@pytest.mark.parametrize("kind", [Evil, ByState])
@pytest.mark.parametrize("how", ["zip", "older", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path: Path, kind: type, how: str) -> None:
    for content in ({"state_dict": WEIGHTS, "x": kind(tmp_path / "ran")}, kind(tmp_path / "ran")):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pth"
        if how == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
        if isinstance(content, dict):
            assert same(read(path).tensors)
        else:
            with pytest.raises(InputError, match=r"an object that is not built|no weights in it"):
                read(path)
        assert not (tmp_path / "ran").exists()


HOSTILE = {
    "lists in lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "wrappers in wrappers": b"\x80\x02" + b"}U\x05blobs" * 100_000 + b"}" + b"s" * 100_000 + b".",
    "a memo of gigabytes": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a text of terabytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",
    "an array of terabytes": b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    b"U\x01b\x87R(K\x01J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R\x89U\x04abcdtbs.",
    "a header of terabytes": (10**12).to_bytes(8, "little") + b"{}",
    "a list by extension": b"\x80\x02\x82\x01.",
    "attributes of a module": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.path\x93.",
    "cut off": pickle.dumps({"blobs": {"w": np.ones(1000)}})[:500],
    "nothing": b"",
    "a text": b"This is no file of weights.\n",
    "noise": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(HOSTILE[name])
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.line.startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250 + len(str(path))
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"model": torch.nn.Linear(2, 2)}, "its model is torch.nn.modules.linear.Linear, an object that is not built"),
        (torch.nn.Linear(2, 2), "it holds torch.nn.modules.linear.Linear, an object that is not built"),
        ({"state_dict": {"w": torch.ones(1).expand(10**12)}}, "w is said to have 1,000,000,000,000 numbers"),
        ({"state_dict": {"w": torch.eye(2).to_sparse()}}, ""),
        ({"model": torch.nn.Linear(2, 2), "model_ema": WEIGHTS}, "its model is torch.nn.modules.linear.Linear"),
        ({"epoch": 3}, "no weights in it"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_holds_no_plain_tensors_is_refused(tmp_path: Path, content: Any, line: str) -> None:
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(InputError, match=line) as caught:
        read(tmp_path / "some.pth")
    assert "\n" not in str(caught.value)


def test_a_program_is_refused(tmp_path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning)):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "some.pt")
    with pytest.raises(InputError, match="a TorchScript program, which is not run"):
        read(tmp_path / "some.pt")


def nested(depth: int, twice: bool = False) -> bytes:
    """Return a pickle of a dictionary whose key is a tuple in a tuple; of the same one twice, hashing doubles."""
    return b"\x80\x04})" + (b"2\x86" if twice else b"\x85") * depth + b"K\x01s."


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        nested(60, twice=True),
        nested(200_000),
        b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b"x.",  # bytes of 3 GB that are not there
        b"\x80\x04}\x8b" + struct.pack("<i", 4000) + b"\x01" * 4000 + b"K\x01s.",  # a number of 9,600 digits
        b"\x80\x04ctorch\nSize\n(" + b"N" * 100 + b"l\x85R.",
    ],
    ids=["key that doubles", "key that is deep", "bytes", "number", "size"],
)
def test_a_small_file_takes_no_time_and_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.pkl").write_bytes(content)
    program = f"""
import resource, sys
from pathlib import Path
from stat_video.weights.read import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path({str(tmp_path / "some.pkl")!r}))
except ValueError as error:
    print(error, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024 < 300)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "not a readable checkpoint" in done.stdout
    assert done.stdout.endswith(" True\n")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [f"{LAUGHS}MODEL: {{ARCH: *h}}", "MODEL: {ARCH: 2021-02-30}", f"MODEL: {'9' * 5000}"])
def test_settings_that_are_none_are_left_out(tmp_path: Path, text: str) -> None:
    torch.save({"model_state": WEIGHTS, "cfg": text}, tmp_path / "some.pyth")
    found = read(tmp_path / "some.pyth")
    assert same(found.tensors)
    assert found.settings == {}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model-00001-of-00002.safetensors", "a part of weights in several files"),
        ("model.safetensors.index.json", "a part of weights in several files"),
        ("some.npz", "a zip, but not one that torch.save wrote"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, line: str) -> None:
    np.savez(tmp_path / "some.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=line):
        read(tmp_path / name)


def test_numbers_of_8_bits_are_refused(tmp_path: Path) -> None:
    """Their scales are tensors of their own, which no model here has."""
    save_file({"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "some.safetensors")
    with pytest.raises(InputError, match=r"is of torch\.float8_e4m3fn, whose scales are not known"):
        read(tmp_path / "some.safetensors")


def test_names_in_bytes_and_numbers_that_repeat_are_read(tmp_path: Path) -> None:
    torch.save({b"a.weight": torch.ones(1).expand(3, 4)}, tmp_path / "some.pth")
    assert torch.equal(read(tmp_path / "some.pth").tensors["a.weight"], torch.ones(3, 4))


def repacked(content: bytes, parts: int, longest: int = 0) -> tuple[bytes, bytes]:
    """Return the parts of a zip, filled up with empty ones to so many, and its directory."""
    source, file = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
        root = source.namelist()[0].split("/")[0]
        for i in range(parts - len(source.namelist())):
            archive.writestr(f"{root}/{str(i) * (max(longest, 1) if i == 0 else 1)}", b"")
    size, start = struct.unpack("<II", file.getvalue()[-10:-2])
    return file.getvalue()[:start], file.getvalue()[start : start + size]


@pytest.mark.filterwarnings("ignore")
def test_a_program_behind_a_second_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two directories zipfile reads the last one, torch.load the one at the offset that the file's end says."""
    program, plain = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), program)
    torch.save({"a": torch.zeros(1)}, plain)
    count = len(zipfile.ZipFile(program).namelist())
    body, directory = repacked(program.getvalue(), count)
    short = len(directory) - len(repacked(plain.getvalue(), count)[1])
    seen_body, seen = repacked(plain.getvalue(), count, 1 + short)
    assert len(seen) == len(directory)
    fixed, at, shift = bytearray(seen), 0, len(body) - len(seen_body)
    while at < len(fixed):
        lengths, (offset,) = struct.unpack_from("<HHH", fixed, at + 28), struct.unpack_from("<I", fixed, at + 42)
        struct.pack_into("<I", fixed, at + 42, offset + shift)
        at += 46 + sum(lengths)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    (tmp_path / "some.pth").write_bytes(body + directory + seen_body + bytes(fixed) + end)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="a TorchScript program, which is not run"):
        read(tmp_path / "some.pth")


class Nested:
    """A tensor's storage, as a pickle holds it, that is something else."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.content,)


class Beyond:
    """A tensor of more numbers than its storage has."""

    def __init__(self, how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (torch.ones(4).storage(), *self.how, False, collections.OrderedDict())


@pytest.mark.filterwarnings("ignore")
def test_a_program_in_the_place_of_a_storage_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.load would hand it to TorchScript, which runs what a program does when it is loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    (tmp_path / "some.pkl").write_bytes(pickle.dumps({"state_dict": WEIGHTS, "x": Nested(file.getvalue())}))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read(tmp_path / "some.pkl")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (3, 2)), (0, (2**40,), (1,))])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, how: Any) -> None:
    """PyTorch enlarges some storages, and takes what lies in memory."""
    content = {"state_dict": {**WEIGHTS, "w": Beyond(how)}}
    for old in (True, False):
        torch.save(content, tmp_path / "some.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            read(tmp_path / "some.pth")
