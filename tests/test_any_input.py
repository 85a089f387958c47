"""Whatever a file holds, reading it gives a value or one line: Hypothesis writes the files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stat_video.data import layouts
from stat_video.data.config import DataConfig
from stat_video.data.cut_off import cut_off
from stat_video.data.layouts.base import entry, split_number
from stat_video.data.lists import read_lists
from stat_video.data.manifest import COLUMNS, VideoRow, read_manifest, write_manifest
from stat_video.data.reader import READ_ERRORS, PathHandler
from stat_video.data.verify import Journal
from stat_video.errors import InputError
from stat_video.files import write_json
from stat_video.runs.results import read_results
from stat_video.training.checkpoint import read_checkpoint, read_weights

REFUSED = object()
# Derandomized, so that no run is red by chance; a new case comes with another Hypothesis or another test.
some = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=60)
NAME = st.text(st.sampled_from("ab1_- .,\t\"'%/\\\u00e9\u3000"), min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda part: (
        st.lists(part, max_size=4) | st.dictionaries(TEXT | st.sampled_from(("id", "template")), part, max_size=4)
    ),
    max_leaves=8,
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=8)
    | st.sampled_from((torch.ones(2), torch.ones(2, device="meta"), torch.eye(2).to_sparse(), torch.zeros(0), 1j)),
    lambda part: st.lists(part, max_size=3) | st.tuples(part) | st.sets(st.integers(), max_size=2)
    | st.dictionaries(st.integers() | TEXT | st.sampled_from(("model.a", "name", "seed", "clip")), part, max_size=3),
    max_leaves=8,
)  # fmt: skip


def outcome(read: Callable[[], Any], begins: str = "") -> Any:
    """Return what `read` returns, REFUSED if it refuses; then in one line."""
    try:
        return read()
    except READ_ERRORS as error:
        line = error.line if isinstance(error, InputError) else str(error)
    assert line
    assert line.isprintable()
    assert line.startswith(begins)
    return REFUSED


@some
@given(LINE)
def test_a_line_is_an_entry_or_refused(line: str) -> None:
    path, number = split_number(line)
    assert path in line
    assert number in line
    found = outcome(lambda: entry(Path("list"), 1, line, 10), "list, line 1: ")
    assert found is REFUSED or (found[0] and 0 <= found[1] < 10)


@some
@given(
    NAME.filter(lambda name: name == name.strip() and name.strip('"') == name),
    st.integers(0, 9),
    st.sampled_from((" ", ", ", ",", "\t", "  ")),
)
def test_a_path_and_a_label_come_back(name: str, label: int, between: str) -> None:
    if name.endswith(","):  # a comma is one of the separators
        return
    assert entry(Path("list"), 1, f"{name}{between}{label}", 10) == (name, label)


def files_of(layout: str, root: Path) -> list[Path]:
    if layout == "hmdb51":
        return [root / "testTrainMulti_7030_splits" / f"{name}_test_split1.txt" for name in "ab"]
    return [root / places[0].format(fold=1) for places in layouts.find(layout).files.values()]


@pytest.mark.parametrize("layout", ["lists", "kinetics", "ssv2", "ucf101", "hmdb51", "kth"])
def test_a_list_of_any_content_is_read_or_refused(tmp_path: Path, layout: str) -> None:
    files = files_of(layout, tmp_path)
    table = st.lists(NAME | st.sampled_from(("0", "1", "a/x.mp4 0", "1 a", "x 1", "inf,1e400")), max_size=5)
    head = "label,youtube_id,time_start,time_end\n"
    texts = TEXT | table.map("\n".join) | table.map(lambda rows: head + "\n".join(rows)) | JSON.map(json.dumps)
    content = st.binary(max_size=40) | texts.map(str.encode)

    @some
    @given(st.tuples(*[content] * len(files)))
    def reads(contents: tuple[bytes, ...]) -> None:
        for file, content in zip(files, contents, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        data = DataConfig("some", str(tmp_path), "folders.some", layout, max_absent=0.99, max_unreadable=0.99)
        found = outcome(lambda: read_lists(tmp_path, data))
        assert found is REFUSED or len(found.classes) > 1

    reads()


@some
@given(st.binary(max_size=60) | TEXT.map(str.encode), st.booleans())
def test_a_manifest_and_a_journal_of_any_content(tmp_path: Path, content: bytes, headed: bool) -> None:
    file = tmp_path / "manifest.csv"
    file.write_bytes((",".join(COLUMNS) + "\n").encode() + content if headed else content)
    outcome(lambda: read_manifest(file), f"{file}: ")
    assert Journal(file).read() == {}


@some
@given(TEXT, TEXT, st.none() | st.integers(0, 10**9), st.none() | st.floats(0, 1000))
def test_a_manifest_comes_back_as_it_went(
    tmp_path: Path, path: str, reason: str, frames: int | None, fps: float | None
) -> None:
    row = VideoRow("train", path, 3, "a", "ok", reason, frames, fps, None, None, "h264", "", 5, "ab")
    file = tmp_path / "manifest.csv"
    write_manifest(file, [row])
    text = file.read_bytes()
    assert read_manifest(file) == [row]
    write_manifest(file, read_manifest(file))
    assert file.read_bytes() == text


MAGIC = (b"", b"\x1a\x45\xdf\xa3", b"\0\0\0\x10ftypisom", b"\0\0\0\x01mdat", b"RIFF", b"\x47\x40")


@some
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
def test_a_video_of_any_content_is_refused_in_one_line(tmp_path: Path, magic: bytes, content: bytes) -> None:
    cut_off(magic + content)
    file = tmp_path / "video.mp4"
    file.write_bytes(magic + content)
    for look in (lambda video: video.frames(lambda n: [0]), lambda video: video.inspect(), lambda video: video.rate):
        outcome(lambda look=look: look(PathHandler().video_from_path(str(file))), f"{file}: ")  # type: ignore[misc]


@some
@given(
    st.fixed_dictionaries({"config": VALUE, "classes": VALUE}) | VALUE, VALUE | st.dictionaries(TEXT, VALUE, max_size=3)
)
def test_a_checkpoint_of_any_content_is_read_or_refused(tmp_path: Path, ours: Any, state: Any) -> None:
    file = tmp_path / "some.ckpt"
    torch.save({"stat_video": ours, "state_dict": state}, file)
    for read in (read_checkpoint, read_weights):
        outcome(lambda read=read: read(file), f"{file}: ")  # type: ignore[misc]


@some
@given(st.lists(st.tuples(st.integers(0, 10**4), st.binary(min_size=1, max_size=4)), max_size=4), st.integers(0, 10**4))
def test_a_damaged_checkpoint_is_refused_or_the_same(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    whole = io.BytesIO()
    torch.save({"stat_video": {"config": {}, "classes": ["a"]}, "state_dict": {"model.a": torch.ones(3)}}, whole)
    content = bytearray(whole.getvalue())
    for at, bytes_ in changes:
        content[at % len(content) : at % len(content) + len(bytes_)] = bytes_
    file = tmp_path / "some.ckpt"
    file.write_bytes(content[: len(content) - cut % 50])
    found = outcome(lambda: read_checkpoint(file), f"{file}: ")
    if found is not REFUSED:
        assert found.classes == ["a"]
        assert torch.equal(found.weights["a"], torch.ones(3))
        assert zipfile.is_zipfile(file)


NUMBERS = st.recursive(
    st.floats() | st.integers() | TEXT, lambda part: st.lists(part) | st.dictionaries(TEXT, part), max_leaves=8
)


@some
@given(st.dictionaries(TEXT, NUMBERS, max_size=4))
def test_what_is_written_is_strict_json(tmp_path: Path, content: dict[str, Any]) -> None:
    """With null for what JSON has no number for, and all else as it was."""
    file = tmp_path / "some.json"
    write_json(file, content)
    strict = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == json.loads(json.dumps(content), parse_constant=lambda name: None)


def test_a_result_without_a_figure_is_read(tmp_path: Path) -> None:
    """As null, or as the bare NaN that an earlier version wrote; either has no figure in a table."""
    for n, value in enumerate(("null", "NaN")):
        folder = tmp_path / "some" / f"run{n}"
        folder.mkdir(parents=True)
        text = json.dumps({"name": "some", "scale": "tiny", "id": f"ab{n}", "seed": 0, "finished": "now",
                           "metrics": {"test/top1_1x1": 1.0, "test/top1_1x1_far": "?"},
                           "config": {"views": "1x1"}})  # fmt: skip
        (folder / "result.json").write_text(text.replace('"?"', value))
    found = read_results(tmp_path)
    assert found.broken == []
    assert [result.content["metrics"] for result in found.results] == 2 * [{"test/top1_1x1": 1.0}]
