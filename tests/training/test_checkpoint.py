"""Checkpoints and other files: refused in one line if damaged or not ours, never half-written, never lost."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from stat_video.config import from_plain
from stat_video.data.sampling import Views
from stat_video.errors import InputError
from stat_video.files import replacing, write_json
from stat_video.runs.result import Key
from stat_video.runs.run import Run
from stat_video.training.checkpoint import Checkpoint, load_plain, read_checkpoint, read_weights
from stat_video.training.saving import AtomicCheckpointIO
from stat_video.weights.read import damage

OURS = {
    "stat_video": {"config": {"seed": 3}, "classes": ["a", "b"], "format": 1},
    "state_dict": {"model.head.weight": torch.arange(6.0).view(2, 3), "normalize.scale": torch.ones(1)},
    "epoch": 7,
}


# --------------------------------------------------------------------------------------- reading a checkpoint


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("epoch,step\n0,12\n" * 100)


def truncated(path: Path) -> None:
    torch.save(OURS, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def foreign(path: Path) -> None:  # another project's
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, "epoch": 3}, path)


def weights_alone(path: Path) -> None:
    torch.save(OURS["state_dict"], path)


def tensor(path: Path) -> None:
    torch.save(torch.ones(3), path)


def evil(path: Path) -> None:
    torch.save({**OURS, "more": Evil(path.with_name("ran"))}, path)


def other_use_of_our_name(path: Path) -> None:
    torch.save({"stat_video": "0.1", "state_dict": {}}, path)


WRONG = (
    missing,
    folder,
    empty,
    text,
    truncated,
    foreign,
    weights_alone,
    tensor,
    evil,
    other_use_of_our_name,
)


def test_what_is_ours_is_read(tmp_path: Path) -> None:
    torch.save(OURS, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert found.config == {"seed": 3}
    assert found.classes == ["a", "b"]
    assert found.epoch == 7
    assert list(found.weights) == ["head.weight"]  # the model's own names, and nothing but the model
    assert torch.equal(found.weights["head.weight"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("write", WRONG, ids=lambda f: f.__name__)
def test_what_is_not_ours_is_named_in_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("read", [load_plain, read_checkpoint], ids=lambda f: f.__name__)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, read: Callable[[Path], Any], zipped: bool) -> None:
    path = tmp_path / "some.pt"
    torch.save({"w": torch.ones(1), "e": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"it holds posix\.mkdir: code or an object") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------- damage

MANY: dict[str, Any] = {
    **OURS,
    "state_dict": {f"model.{i}": torch.randn(50, i + 1) for i in range(8)},
    "loops": list(range(500)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "last.ckpt"
    torch.save(MANY, path)
    return path


def content_of(archive: Path) -> list[tuple[int, int]]:
    """(begin, end) of the bytes of each part of a zip file, by the format's own definition of a local header."""
    raw, parts = archive.read_bytes(), []
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            name, extra = (int.from_bytes(raw[info.header_offset + at :][:2], "little") for at in (26, 28))
            begin = info.header_offset + 30 + name + extra
            parts.append((begin, begin + info.file_size))
    return parts


def check_refused(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250 + len(str(path))


def content_or_refusal(path: Path) -> Checkpoint | str:
    try:
        return read_checkpoint(path)
    except InputError as error:
        return str(error)


def test_a_whole_file_is_not_damaged(whole: Path) -> None:
    assert damage(whole) is None
    assert read_checkpoint(whole).epoch == 7


def test_each_flipped_bit_of_the_content_is_found(whole: Path, tmp_path: Path) -> None:
    """300 of them, and the first and the last of each part. torch itself loads most of these files."""
    raw, parts, draw = whole.read_bytes(), content_of(whole), random.Random(0)
    ends = [(at, bit) for begin, end in parts for at, bit in ((begin, 0), (end - 1, 7))]
    drawn = [
        (draw.randrange(*draw.choices(parts, [e - b for b, e in parts])[0]), draw.randrange(8)) for _ in range(300)
    ]
    loaded = 0
    for at, bit in ends + drawn:
        path = tmp_path / f"{at}-{bit}"  # a file that a tensor is mapped from must not change
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        assert "does not have the CRC" in str(damage(path))
        check_refused(path)
        if at % 7 == 0:
            try:
                torch.load(path, weights_only=True)
                loaded += 1
            except Exception:
                pass
    assert loaded > 10


def test_a_flipped_bit_outside_of_the_content_is_refused_or_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """Of headers, padding and the directory, among them each bit of the last 150 bytes."""
    raw, draw = whole.read_bytes(), random.Random(0)
    outside = sorted(set(range(len(raw))) - {at for part in content_of(whole) for at in range(*part)})
    places = [(at, bit) for at in outside[-150:] for bit in range(8)]
    places += [(draw.choice(outside), draw.randrange(8)) for _ in range(400)]
    refused = 0
    for at, bit in places:
        path = tmp_path / f"{at}-{bit}"
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        content = content_or_refusal(path)
        if isinstance(content, str):
            assert "\n" not in content
            refused += 1
        else:
            assert content.config == {"seed": 3}
            assert all(torch.equal(v, MANY["state_dict"][f"model.{k}"]) for k, v in content.weights.items())
            assert len(content.weights) == 8
        path.unlink()
    assert refused > 300


def test_each_truncation_is_refused(whole: Path, tmp_path: Path) -> None:
    raw, draw = whole.read_bytes(), random.Random(0)
    for left in [0, 1, 3, 4, 5, 30, len(raw) - 1, *(draw.randrange(len(raw)) for _ in range(200))]:
        path = tmp_path / str(left)
        path.write_bytes(raw[:left])
        check_refused(path)
        if left >= 4:
            assert damage(path) is not None


# ------------------------------------------------------------------------------------- weights of other projects

FOREIGN = {"stem.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model_state": w, "optimizer_state": {}},  # SlowFast's
        lambda w: {"model_state_dict": w},
        lambda w: {"model": w, "args": {"lr": 1.0}},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},  # of DataParallel
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {**w, "step": 3},  # what is no tensor is left out
    ],
    ids=["plain", "state_dict", "model_state", "model_state_dict", "model", "both", "module", "more"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_of_another_project(tmp_path: Path, wrapped: Callable[[Any], Any], zipped: bool) -> None:
    torch.save(wrapped(FOREIGN), tmp_path / "some.pyth", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "some.pyth") == zipped
    found = read_weights(tmp_path / "some.pyth")
    assert found.classes is None
    assert {name.removeprefix("module.") for name in found.tensors} == FOREIGN.keys()
    assert all(
        torch.equal(found.tensors.get(name, found.tensors.get(f"module.{name}")), t) for name, t in FOREIGN.items()
    )


def test_weights_of_a_checkpoint_of_ours(tmp_path: Path) -> None:
    torch.save(OURS, tmp_path / "last.ckpt")
    found = read_weights(tmp_path / "last.ckpt")
    assert found.classes == OURS["stat_video"]["classes"]
    assert list(found.tensors) == ["head.weight"]


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {}}, {"epoch": 3}, 5], ids=str)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "some.pt")
    with pytest.raises(InputError, match="no weights in it") as caught:
        read_weights(tmp_path / "some.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'some.pt'}: ")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- writing files


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def save(path: Path, number: int) -> None:
    AtomicCheckpointIO().save_checkpoint({"epoch": number}, str(path))


def dump(path: Path, number: int) -> None:
    write_json(path, {"epoch": number})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WRITERS = pytest.mark.parametrize("writer", [save, dump])


@WRITERS
def test_files_are_replaced_and_leave_nothing_beside(tmp_path: Path, writer: Callable[[Path, int], None]) -> None:
    path = tmp_path / "a" / "b" / "file"  # folders are made
    for number in (1, 2):
        writer(path, number)
        content = torch.load(path) if writer is save else json.loads(path.read_text())
        assert content == {"epoch": number}
        assert names(path.parent) == ["file"]


@WRITERS
@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("before", [b"whole", None])
def test_full_disk_is_named_and_the_old_file_kept(
    tmp_path: Path, writer: Callable[[Path, int], None], before: bytes | None
) -> None:
    path = tmp_path / "last.ckpt"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(InputError, match="No space left on device") as caught:
        writer(path, 1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ([] if before is None else ["last.ckpt"])
    assert before is None or path.read_bytes() == before


def test_error_in_the_block_keeps_the_old_file_and_passes_through(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"whole")

    def fill() -> None:
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"whole"  # until the end
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fill()
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["file"]


@WRITERS
def test_folder_that_is_a_file_is_named(tmp_path: Path, writer: Callable[[Path, int], None]) -> None:
    (tmp_path / "logs").write_text("mine")
    for path in (tmp_path / "logs" / "file", tmp_path / "logs" / "run" / "file"):
        with pytest.raises(InputError) as caught:
            writer(path, 1)
        assert str(path) in str(caught.value)
    assert (tmp_path / "logs").read_text() == "mine"


@WRITERS
def test_file_that_is_a_folder_is_named(tmp_path: Path, writer: Callable[[Path, int], None]) -> None:
    (tmp_path / "file" / "in").mkdir(parents=True)
    with pytest.raises(InputError, match="file"):
        writer(tmp_path / "file", 1)
    assert names(tmp_path) == ["file"]


def test_refused_write_of_a_checkpoint_leaves_one_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OURS, path)

    def replace(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        for owner in (os, Path):  # whichever of the two renames
            patch.setattr(owner, "replace", replace)
        with pytest.raises(InputError, match="Read-only file system"):
            AtomicCheckpointIO().save_checkpoint({**OURS, "epoch": 8}, path)
    assert read_checkpoint(path).epoch == 7
    assert names(tmp_path) == ["last.ckpt"]


# --------------------------------------------------------------------------------------------------------- runs


def definition() -> dict[str, Any]:
    return copy.deepcopy(asdict(from_plain({"model": {"name": "stat"}})))


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}2"
        case list() | tuple():
            return [*value, value[0] if value else 1.0]
        case dict():
            return {**value, "head": 5.0}
        case _:
            return "something"


def run_id(config: dict[str, Any]) -> str:
    return Run.of(config, Path("logs"), None).id


def test_same_definition_is_the_same_run() -> None:
    one, two = Run.of(definition(), Path("logs"), None), Run.of(definition(), Path("logs"), None)
    assert one == two
    backwards = dict(reversed(definition().items()))
    backwards["model"] = dict(reversed(backwards["model"].items()))
    assert Run.of(backwards, Path("logs"), None) == one
    through_json = json.loads(json.dumps(definition()))  # as a config read back from its file is
    assert Run.of(through_json, Path("logs"), None) == one


def test_a_folder_names_a_model_whose_file_is_gone() -> None:
    config = definition()
    config["model"] = {"name": "gone/../x", "depth": 3}
    assert Run.of(config, Path("logs"), None).folder.name.startswith("tiny-motion-T16-gone_.._x-seed0-")


@pytest.mark.parametrize("group", ["folders", "trainer", "logger"])
def test_where_and_how_it_runs_is_no_other_run(group: str) -> None:
    config = definition()
    config[group] = {key: changed(value) for key, value in config[group].items() if key != "more"}
    assert run_id(config) == run_id(definition())


def test_name_place_of_the_data_and_fresh_are_no_other_run() -> None:
    config = definition() | {"fresh": True, "plan": True, "name": "another table's"}
    config["data"] |= {"root": "/elsewhere", "setting": "folders.other"}
    assert run_id(config) == run_id(definition())


@pytest.mark.parametrize("key", ["scale", "seed", "views", "init", "new_classifier"])
def test_another_value_at_the_top_is_another_run(key: str) -> None:
    config = definition()
    config[key] = changed(config[key])
    assert run_id(config) != run_id(definition())


@pytest.mark.parametrize(
    ("group", "key"),
    [(group, key) for group in ("clip", "model", "recipe", "data") for key in definition()[group]],
)
def test_another_value_of_clip_model_recipe_and_data_is_another_run(group: str, key: str) -> None:
    config = definition()
    config[group][key] = changed(config[group][key])
    said_elsewhere = {"clip": {"views"}, "recipe": {"tiny_lr"}}  # as config.views and recipe.lr
    where = {"root", "setting", "layout", "classes", "train", "val", "videos", "manifest", "fold", "views", "scale"}
    if_late = {"hold_until", "hold_epochs"}
    allowed = {"max_absent", "max_unreadable", "max_shared", "wait_seconds"}
    same = {**said_elsewhere, "data": where | allowed | {"first_weights"}}  # as config.init
    assert (run_id(config) == run_id(definition())) == (key in same.get(group, set()) or key in if_late)


def test_result_is_none_until_it_is_whole(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", "id")
    assert run.result() is None
    run.folder.mkdir()
    file = run.folder / "result.json"
    for broken in (b"", b'{"metrics": {"val/', b"\xff\xfe\x00broken"):
        file.write_bytes(broken)
        assert run.result() is None
    whole = {"name": "a", "views": "1x1", "metrics": {"val/top1_1x1": 95.0}}
    write_json(file, whole)
    found = run.result()
    assert found is not None
    assert found.content == whole
    assert found.metrics == {Key("val", "top1", Views(1, 1)): 95.0}


def test_setting_aside_never_overwrites(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", "id")
    run.set_aside()  # nothing there
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.old-2").mkdir()  # someone's
    for content in ("first", "second", "third"):
        run.folder.mkdir()
        (run.folder / "result.json").write_text(content)
        run.set_aside()
        assert not run.folder.exists()
    kept = {p.name: [f.read_text() for f in p.iterdir()] for p in tmp_path.iterdir()}
    assert kept == {"run.old-1": ["first"], "run.old-2": [], "run.old-3": ["second"], "run.old-4": ["third"]}
