"""One folder of odd files: verification, training, tests and transcoding agree on each, and each is named or read."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from stat_video.data.augment import Augment
from stat_video.data.config import DataConfig
from stat_video.data.cut_off import cut_off
from stat_video.data.dataset import ClipDataset, TrainRequest, ViewRequest
from stat_video.data.encoding import Encoding
from stat_video.data.limits import Limits
from stat_video.data.lists import read_lists
from stat_video.data.manifest import DAMAGED, OK, UNREADABLE, VideoRow, read_manifest
from stat_video.data.reader import READ_ERRORS, PathHandler
from stat_video.data.sampling import Views, segment_frames
from stat_video.data.transcode import TRANSCODED, transcode
from stat_video.data.transforms import TrainTransform, ViewTransform
from stat_video.data.verify import inspect, verify
from stat_video.errors import InputError, printable
from stat_video.models.base import Clip

WriteVideo = Callable[..., Path]
VP8 = {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8"}
MATRICES = {  # a, b, c, d of a display matrix, and what it does to a picture (H, W, 3)
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "zeros": ((0, 0, 0, 0), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "half a turn": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "a quarter counter-clockwise": ((0, -1, 1, 0), np.rot90),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed along the other diagonal": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
}


def shorter(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a matrix into the track header of an mp4."""
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4
    at += 4 + (20 if content[at] == 0 else 32) + 16
    a, b, c, d = (n << 16 for n in matrix)
    path.write_bytes(content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :])
    return path


def joined(path: Path, write_video: WriteVideo) -> Path:
    """Every frame a keyframe; the second half begins before the first one ends, and they take turns."""
    source = write_video(path.with_name("source.mkv"), g="1", bf="0")
    with av.open(str(source)) as whole, av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        for i, packet in enumerate(packets):
            packet.stream, packet.dts = stream, 40 * i
            packet.pts = 40 * (24 + 2 * (i % 12) + i // 12)
            container.mux(packet)
    source.unlink()
    return path


def pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> tuple[Path, dict[str, tuple[str, str]]]:
    """Two class folders of odd videos; the status and a part of the reason of each."""
    root = tmp_path_factory.mktemp("odd")
    a, b = root / "a", root / "b"
    a.mkdir()
    b.mkdir()
    good = write_video(a / "good.mp4", bf="2")
    (a / "unknown_codec.mp4").write_bytes(good.read_bytes().replace(b"avc1", b"zzzz"))
    for name, how in {
        "cut.webm": VP8, "cut.mkv": {"bf": "2"},
        "cut_fragments.mp4": {"g": "4", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    }.items():  # fmt: skip
        shorter(write_video(a / name, count=48, **how), 0.6)
    parts = [write_video(a / f"{h}.ts", size=(h, 64), count=12) for h in (48, 32)]
    (a / "sizes.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    joined(a / "joined.mkv", write_video)
    with_matrix(write_video(a / "mirrored.mp4"), (-1, 0, 0, 1))
    with_matrix(write_video(a / "zeros.mp4"), (0, 0, 0, 0))
    pictures(b / "frames", (40, 30), (40, 30), (40, 30))
    (b / "frames" / "@eaDir").mkdir()
    pictures(b / "frames_of_two_sizes", (40, 30), (30, 40), (40, 30))
    (pictures(b / "a_bad_frame", (40, 30), (40, 30), (40, 30)) / "1.png").write_text("none")
    (pictures(b / "no_good_frame", (40, 30)) / "0.png").write_text("none")
    pictures(b / "bomb")
    Image.new("1", (9000, 9000)).save(b / "bomb" / "0.png")
    for name, size in {"long.mkv": (2, 400), "pixel.mkv": (1, 1), "huge.mkv": (8000, 6000)}.items():
        write_video(b / name, size=size, count=1 if name == "huge.mkv" else 4, codec="ffv1", pixels="gray")
    with (b / "sparse.mp4").open("wb") as file:
        file.truncate(2**40)
    os.mkfifo(b / "pipe.mp4")
    (b / "endless.mp4").symlink_to("/dev/zero")
    (b / "empty.mp4").touch()
    for name in (b"\xff\xfe.mp4", b"two\nlines.mp4", b"\x1b[31mred.mp4"):
        Path(os.fsdecode(os.fsencode(b) + b"/" + name)).write_bytes(good.read_bytes())
    return root, {
        "a/good.mp4": (OK, ""),
        "a/unknown_codec.mp4": (UNREADABLE, "no decoder"),
        "a/cut.webm": (DAMAGED, "cut off"),
        "a/cut.mkv": (DAMAGED, "cut off"),
        "a/cut_fragments.mp4": (DAMAGED, "cut off"),
        "a/sizes.ts": (DAMAGED, "frames of 2 sizes, 64x48, 64x32"),
        "a/joined.mkv": (OK, ""),
        "a/mirrored.mp4": (OK, ""),
        "a/zeros.mp4": (OK, ""),
        "b/frames": (OK, ""),
        "b/frames_of_two_sizes": (DAMAGED, "frames of 2 sizes"),
        "b/a_bad_frame": (DAMAGED, "1 pictures can't be read, first"),
        "b/no_good_frame": (UNREADABLE, "unreadable picture"),
        "b/bomb": (UNREADABLE, "9000x9000 pixels; data.limits.megapixels=36 is allowed"),
        "b/huge.mkv": (UNREADABLE, "6000x8000 pixels; data.limits.megapixels=36 is allowed"),
        "b/long.mkv": (UNREADABLE, "400x2 pixels; data.limits.aspect=16 is allowed"),
        "b/pixel.mkv": (OK, ""),
        "b/sparse.mp4": (UNREADABLE, "has 1,024.0 GiB; data.limits.gib=4 is allowed"),
        "b/pipe.mp4": (UNREADABLE, "not a file"),
        "b/endless.mp4": (UNREADABLE, "not a file"),
        "b/empty.mp4": (UNREADABLE, "the file is empty"),
        "b/\udcff\udcfe.mp4": (OK, ""),
        "b/two\nlines.mp4": (OK, ""),
        "b/\x1b[31mred.mp4": (OK, ""),
    }


@pytest.fixture(scope="module")
def config(odd: tuple[Path, dict[str, tuple[str, str]]]) -> DataConfig:
    root = odd[0]
    return DataConfig("own", str(root), "folders.own", "own", max_absent=0.9, max_unreadable=0.9)


@pytest.fixture(scope="module")
def rows(odd: tuple[Path, dict[str, tuple[str, str]]], config: DataConfig) -> dict[str, VideoRow]:
    with redirect_stdout(io.StringIO()):
        found = {row.path: row for row in verify(config, 2)}
    assert {row.path: row for row in read_manifest(odd[0] / "manifest.csv")} == found
    return found


def test_each_odd_file_is_found_as_it_is(
    odd: tuple[Path, dict[str, tuple[str, str]]], rows: dict[str, VideoRow]
) -> None:
    root, expected = odd
    assert rows.keys() == expected.keys()
    for path, (status, reason) in expected.items():
        assert rows[path].status == status, rows[path]
        assert reason in rows[path].reason, rows[path]
        assert bool(reason) == bool(rows[path].reason), rows[path]
        assert str(root) not in rows[path].reason or "picture" in reason
        assert printable(rows[path].reason) == rows[path].reason


def test_training_and_tests_read_what_verification_reads(
    odd: tuple[Path, dict[str, tuple[str, str]]], config: DataConfig, rows: dict[str, VideoRow]
) -> None:
    root, expected = odd
    lists = read_lists(root, config)
    assert {str(Path(path).relative_to(root)) for split in lists.videos.values() for path, _ in split} == {*expected}
    videos = LabeledVideoPaths([(str(root / path), 0) for path in expected])
    train, view = TrainTransform(32, Augment(), hflip=False), ViewTransform(32, 32)
    data = ClipDataset(videos, Clip(T=4, crop=32), train=train, view=view, views=Views(2, 1), limits=config.limits)
    for i, (path, (status, _)) in enumerate(expected.items()):
        for request in (ViewRequest(i, 0), ViewRequest(i, 1), TrainRequest(i, 0, 0)):
            assert (data[request]["unreadable"] == "") == (status != UNREADABLE), path


def test_transcoding_reads_what_verification_reads(
    odd: tuple[Path, dict[str, tuple[str, str]]], config: DataConfig, tmp_path: Path, rows: dict[str, VideoRow]
) -> None:
    root, expected = odd
    with redirect_stdout(io.StringIO()) as said:
        copies = {copy.row.path: copy for copy in transcode(config, tmp_path / "out", Encoding(short_side=32), 2)}
    assert copies.keys() == expected.keys()
    assert {path for path, copy in copies.items() if copy.state == TRANSCODED} == {
        path for path, (status, _) in expected.items() if status != UNREADABLE
    }
    assert "\x1b" not in said.getvalue()
    again = DataConfig("own", str(tmp_path / "out"), "folders.own", max_unreadable=0.9)
    with redirect_stdout(io.StringIO()):
        found = verify(again, 2)
    unreadable = sum(status == UNREADABLE for status, _ in expected.values())
    assert sum(row.status == UNREADABLE for row in found) == unreadable
    assert sum(row.status == OK for row in found) == len(expected) - unreadable
    frames = {row.path: row.frames for row in rows.values() if row.frames}
    assert sorted(frames.values()) == sorted(row.frames for row in found if row.frames)
    assert read_lists(Path(again.root or ""), again).counts == read_lists(root, config).counts


def test_frames_that_overlap_in_time_come_as_they_are_decoded(odd: tuple[Path, object]) -> None:
    path = odd[0] / "a/joined.mkv"
    with av.open(str(path)) as container:
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    choose = segment_frames([0.5] * 16)
    frames = PathHandler().video_from_path(str(path)).frames(choose)
    assert np.array_equal(frames.numpy(), everything[choose(len(everything))])


@pytest.mark.parametrize("what", MATRICES)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, write_video: WriteVideo, what: str) -> None:
    """The same for the copy, whose frames are upright without a matrix."""
    matrix, expected = MATRICES[what]
    path = write_video(tmp_path / "video.mp4", count=4, crf="0", pixels="yuv444p")
    lying = PathHandler().video_from_path(str(path)).frames(lambda n: list(range(n))).numpy()
    with_matrix(path, matrix)
    shown = PathHandler().video_from_path(str(path)).frames(lambda n: list(range(n))).numpy()
    assert np.array_equal(shown, np.stack([expected(frame) for frame in lying]))  # type: ignore[no-untyped-call]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for video in ("a/again.mp4", "a/video.mp4", "b/again.mp4", "b/video.mp4"):
        (tmp_path / video).write_bytes(path.read_bytes())
    data = DataConfig("own", str(tmp_path), "folders.own", "own")
    with redirect_stdout(io.StringIO()):
        transcode(data, tmp_path.with_name(f"{tmp_path.name}_out"), Encoding(crf=1), 1)
    copy = tmp_path.with_name(f"{tmp_path.name}_out") / "a" / "video.mp4"
    copied = PathHandler().video_from_path(str(copy)).frames(lambda n: list(range(n))).numpy()
    assert copied.shape == shown.shape
    assert np.abs(copied.astype(int) - shown).mean() < 8  # its colours have half the resolution
    with av.open(str(copy)) as container:
        assert next(container.decode(video=0)).side_data.get("DISPLAYMATRIX") is None


@pytest.mark.parametrize(
    ("name", "how"),
    {
        "a.webm": VP8, "b.mkv": {"bf": "2"}, "e.mp4": {},
        "f.mov": {"codec": "mjpeg", "pixels": "yuvj420p"}, "g.avi": {}, "h.ts": {},
        "i.mkv": {"container_options": {"live": "1"}},
        "j.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    }.items(),
)  # fmt: skip
def test_a_whole_file_is_not_cut_off(tmp_path: Path, write_video: WriteVideo, name: str, how: dict[str, str]) -> None:
    """And each shorter one either is said to be, or is of a kind that can't tell."""
    content = write_video(tmp_path / name, **how).read_bytes()
    assert cut_off(content) == ""
    tells = name not in ("g.avi", "h.ts", "i.mkv")  # an AVI's frames are counted in its header
    lengths = range(len(content) * 2 // 3, len(content))
    told = sum(bool(cut_off(content[:length])) for length in lengths)
    # An MP4 may break off between two of its boxes.
    assert told == 0 if not tells else len(lengths) - 12 < told <= len(lengths)
    assert not tells or name in ("f.mov", "j.mp4") or told == len(lengths)
    for junk in (b"", b"\0" * 40, os.urandom(99), *(content[:n] for n in range(200))):
        cut_off(junk)  # no error


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(gib=1e-6), "has 0.0 GiB; data.limits.gib=1e-06 is allowed"),
        (Limits(megapixels=0.001), "frames of 64x48 pixels; data.limits.megapixels=0.001 is allowed"),
        (Limits(aspect=1.2), "frames of 64x48 pixels; data.limits.aspect=1.2 is allowed"),
        (Limits(seconds=1e-6), "takes longer to decode than data.limits.seconds=1e-06 allows"),
    ],
)
def test_each_limit_is_named_by_all_readers(
    tmp_path: Path, write_video: WriteVideo, limits: Limits, reason: str
) -> None:
    path = write_video(tmp_path / "video.mp4", count=48)
    row = inspect(tmp_path, VideoRow("train", "video.mp4", 0, "a", ""), limits)
    assert (row.status, row.reason) == (UNREADABLE, reason)
    handler = PathHandler(limits)
    for read in (
        lambda: handler.video_from_path(str(path)).frames(segment_frames([0.5] * 8)),
        lambda: list(handler.video_from_path(str(path)).decoded()),
    ):
        with pytest.raises(READ_ERRORS) as caught:
            read()  # type: ignore[no-untyped-call]
        assert str(caught.value) == f"{path}: {reason}"


def test_limits_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.limits\.aspect=0: allowed is 1 or more"):
        Limits(aspect=0)


def test_a_list_that_counts_a_folders_pictures_is_held_to_it(tmp_path: Path) -> None:
    """MMAction2's lists: 'folder frames label'."""
    for name in ("some", "others"):
        pictures(tmp_path / name, (40, 30), (40, 30), (40, 30))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "train.csv").write_text("some 3 0\nothers 50 1\n")
    (tmp_path / "val.csv").write_text("some 3 0\n")
    with redirect_stdout(io.StringIO()):
        some, others, _ = verify(DataConfig("own", str(tmp_path), "folders.own"), 1)
    assert (some.status, some.frames) == (OK, 3)
    assert (others.status, others.frames) == (DAMAGED, 3)
    assert others.reason == "its list says 50 frames, 3 are there"
