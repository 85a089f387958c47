"""Copies of a small data set: the same frames, quicker to reach; made once, whole, and never in an original's place."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from stat_video.data import transcode as module
from stat_video.data.config import DataConfig
from stat_video.data.encoding import Encoding
from stat_video.data.limits import Limits
from stat_video.data.lists import read_lists
from stat_video.data.reader import PathHandler, PyAVVideo
from stat_video.data.transcode import COPIED, TRANSCODED, Copy, copies_config, measure, name_of_copy, transcode
from stat_video.data.verify import verify
from stat_video.errors import InputError

WriteVideo = Callable[..., Path]

CONFIG = DataConfig("kinetics400", setting="folders.kinetics400", max_absent=0.5, max_unreadable=0.5)
QUICK = Encoding(short_side=32, gop=4, preset="veryfast", crf=10)
TRAIN = {"a.mp4": 30, "a.avi": 24, "sub/b.webm": 20, "one.mp4": 1, "frames": 9, "text.mp4": None, "empty.mp4": None}
VAL = {"late.mp4": 24, "turned.mp4": 12}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    root = tmp_path_factory.mktemp("data") / "k400"
    (root / "sub").mkdir(parents=True)
    (root / "frames").mkdir()
    write_video(root / "a.mp4", count=30, size=(64, 96), g="30")
    write_video(root / "a.avi", codec="mpeg4", bf="2", size=(64, 64))
    write_video(root / "sub/b.webm", count=20, codec="libvpx-vp9", deadline="realtime", size=(50, 38), fps=12)
    write_video(root / "one.mp4", count=1, size=(24, 64))
    write_video(root / "late.mp4", times=range(40, 64))
    write_video(root / "turned.mp4", count=12, size=(64, 96), rotation=90)
    (root / "text.mp4").write_text("none")
    (root / "empty.mp4").touch()
    for i in range(9):
        Image.new("RGB", (96, 64), (25 * i, 0, 0)).save(root / "frames" / f"{i}.png")
    (root / "classes.txt").write_text("x\ny\n")
    (root / "train.csv").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate([*TRAIN, "nowhere.mp4"])))
    (root / "val.csv").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(VAL)))
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "k400")


def run(root: Path, out: Path, encoding: Encoding = QUICK, workers: int = 2) -> tuple[dict[str, Copy], str]:
    with redirect_stdout(io.StringIO()) as said:
        copies = transcode(replace(CONFIG, root=str(root)), out, encoding, workers)
    return {made.row.path: made for made in copies}, said.getvalue()


def content(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns, f.stat().st_ino) for f in files}


# ------------------------------------------------------------------------------------------------- what is made


def test_copies_hold_the_frames_of_their_originals(root: Path, tmp_path: Path) -> None:
    before, out = content(root), tmp_path / "copies"
    copies, said = run(root, out)
    assert content(root) == before
    assert copies.keys() == {**TRAIN, **VAL}.keys()
    for name, frames in {**TRAIN, **VAL}.items():
        made = copies[name]
        assert made.state == (COPIED if frames is None else TRANSCODED)
        assert (made.state == COPIED) == (f"{name}: copied as it is (" in said)
        assert made.bytes_after == (out / made.path).stat().st_size
        if frames is None:
            assert (out / made.path).read_bytes() == (root / name).read_bytes()
            continue
        source, copied = (PathHandler().video_from_path(str(path)) for path in (root / name, out / made.path))
        assert copied.frame_count() == source.frame_count() == frames
        a, b = (video.frames(lambda n: list(range(n))).permute(0, 3, 1, 2).float() for video in (source, copied))
        a, b = adaptive_avg_pool2d(a, 8), adaptive_avg_pool2d(b, 8)
        assert (a - b).abs().max() < 60, name  # of 215; whatever the size, bright is bright in each part of each frame
        assert copied.rate == source.rate


def test_copies_are_small_and_made_for_random_access(root: Path, tmp_path: Path) -> None:
    copies, _ = run(root, tmp_path / "copies")
    sizes = {}
    for name, made in copies.items():
        if made.state == TRANSCODED:
            with av.open(str(tmp_path / "copies" / made.path)) as container:
                stream = container.streams.video[0]
                assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
                assert not container.streams.audio
                sizes[name] = (stream.height, stream.width)
                keyframes = [i for i, p in enumerate(p for p in container.demux(stream) if p.size) if p.is_keyframe]
                assert keyframes == list(range(0, stream.frames, 4)), name
    assert sizes["a.mp4"] == (32, 48)  # short side 32
    assert sizes["frames"] == (32, 48)
    assert sizes["sub/b.webm"] == (42, 32)  # portrait
    assert sizes["one.mp4"] == (24, 64)  # never enlarged


def test_a_turned_video_stays_turned(root: Path, tmp_path: Path) -> None:
    copies, _ = run(root, tmp_path / "copies")
    for path in (root / "turned.mp4", tmp_path / "copies" / copies["turned.mp4"].path):
        frames = PathHandler().video_from_path(str(path)).frames(lambda n: [0])
        assert frames.shape[1] > frames.shape[2], path  # upright


def test_the_copies_are_a_data_set_with_the_same_counts_and_labels(root: Path, tmp_path: Path) -> None:
    """What was absent or unreadable is so there, too."""
    out = tmp_path / "copies"
    copies, _ = run(root, out)
    config = copies_config(replace(CONFIG, root=str(root)), out)
    theirs, ours = read_lists(root, replace(CONFIG, root=str(root))), read_lists(out, config)
    assert ours.classes == theirs.classes
    assert ours.counts == theirs.counts == {"train": 7, "val": 2}
    assert {split: len(names) for split, names in ours.absent.items()} == {"train": 1, "val": 0}
    for split, names in (("train", list(TRAIN)), ("val", list(VAL))):
        for i, name in enumerate(names):
            path, info = ours.videos[split][i]
            assert path == str(out / copies[name].path)
            assert info["label"] == i % 2


def test_what_is_damaged_is_said_before_its_copy_hides_it(root: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    assert "The originals are not verified" in run(root, tmp_path / "unverified")[1]
    cut = write_video(root / "one.mp4", count=200, g="10", container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    verify(replace(CONFIG, root=str(root)), 1)
    copies, said = run(root, tmp_path / "verified")
    assert "not verified" not in said
    assert said.count("one.mp4: damaged (") == 1
    assert copies["one.mp4"].state == TRANSCODED


def test_videos_of_other_folders_have_their_copies_in_the_new_one(
    root: Path, tmp_path: Path, write_video: WriteVideo
) -> None:
    """A list may name a file by its whole path, or beside its folder: that is no place for a copy."""
    (tmp_path / "elsewhere").mkdir()
    far, beside = write_video(tmp_path / "elsewhere/far.mp4"), write_video(tmp_path / "beside.mp4")
    (root / "train.csv").write_text(f"{far} 0\n../beside.mp4 1\n../k400/a.mp4 1\na.mp4 0\n")
    out, before = tmp_path / "copies", {f: f.read_bytes() for f in (far, beside, root / "a.mp4")}
    copies, _ = run(root, out)
    assert {f: f.read_bytes() for f in before} == before
    assert all((out / made.path).resolve().is_relative_to(out) for made in copies.values())
    assert all((out / made.path).read_bytes() not in before.values() for made in copies.values())
    assert len({made.path for made in copies.values()}) == 6


# --------------------------------------------------------------------------------------- killed and begun again


def test_a_killed_call_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, encode, made = tmp_path / "copies", module.encode, []

    def until_killed(source: Path, encoding: Encoding, limits: Limits) -> bytes:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(source.name)
        return encode(source, encoding, limits)

    monkeypatch.setattr(module, "encode", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, out, workers=1)
    assert not (out / "train.csv").exists()  # not yet a data set
    before = {f: f.stat().st_ino for f in out.rglob("*.mp4")}
    (out / ".b.mp4.1.new").write_bytes(b"half a copy")

    def note(source: Path, encoding: Encoding, limits: Limits) -> bytes:
        made.append(source.name)
        return encode(source, encoding, limits)

    monkeypatch.setattr(module, "encode", note)
    copies, _ = run(root, out, workers=1)
    assert sorted(made) == sorted(Path(name).name for name in {**TRAIN, **VAL})  # none twice
    assert all(f.stat().st_ino == inode for f, inode in before.items())
    assert [c.state for c in copies.values()].count(TRANSCODED) == 7

    made.clear()
    again, _ = run(root, out)
    assert sorted(made) == ["empty.mp4", "text.mp4"]  # those may have been mended
    assert again == copies
    made.clear()
    shutil.copy(root / "a.mp4", root / "text.mp4")
    os.utime(root / "one.mp4", (1, 1))  # another original in its place
    again, _ = run(root, out)
    assert sorted(made) == ["empty.mp4", "one.mp4", "text.mp4"]
    assert again["text.mp4"].state == TRANSCODED


def test_copies_made_in_another_way_are_not_mixed_in(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "copies")
    before = content(tmp_path / "copies")
    with pytest.raises(InputError, match=r"copies made with short_side=32, gop=4; name another folder"):
        run(root, tmp_path / "copies", replace(QUICK, short_side=48, gop=12))
    for text in ("null", "[1]", "{"):
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / "transcode.json").write_text(text)
        with pytest.raises(InputError, match=r"transcode\.json: not what do=transcode writes"):
            run(root, tmp_path / "odd")
    moved = shutil.copytree(root, tmp_path / "other")
    with pytest.raises(InputError, match=r"copies made with source="):
        run(moved, tmp_path / "copies")
    assert content(tmp_path / "copies") == before


# ----------------------------------------------------------------------------------------------- what is refused


def test_folders_that_are_not_for_copies_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    for out in (root, root / "copies", tmp_path, tmp_path / "link", tmp_path / "link" / "copies"):
        with pytest.raises(InputError, match=r"a folder of their own, outside"):
            run(root, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years")
    (tmp_path / "file").write_text("years")
    for out in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(InputError, match=r"something else at that place"):
            run(root, out)
    with pytest.raises(InputError, match=r"could not be written"):
        run(root, Path("/dev/null/copies"))
    assert not (root / "copies").exists()


def test_a_link_back_to_the_originals_is_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "copies"
    out.mkdir()
    (out / "transcode.json").write_text(json.dumps({"source": str(root), **vars(QUICK)}))
    (out / "sub").symlink_to(root / "sub")
    before = content(root)
    with pytest.raises(InputError, match=r"a link that leads out of"):
        run(root, out)
    assert content(root) == before


@pytest.mark.parametrize(
    ("key", "value"), [("short_side", 33), ("short_side", 0), ("gop", 0), ("crf", 52), ("preset", "quick")]
)
def test_encodings_that_make_no_sense_are_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"encoding.{key}={value}: .*allowed"):
        Encoding(**{key: value})  # type: ignore[arg-type]


def test_names_of_copies() -> None:
    root = Path("/data/k400")
    assert name_of_copy(root, "x/a.mp4") == "x/a.mp4"
    assert name_of_copy(root, "x/a.avi") == "x/a.avi.mp4"
    assert name_of_copy(root, "x/frames") == "x/frames.mp4"
    assert name_of_copy(root, "/other/a.mp4") == "outside/other/a.mp4"
    assert name_of_copy(root, "../a.mp4") == "outside/data/a.mp4"


# ------------------------------------------------------------------------------------------------ what it gains


def test_gain_is_measured(root: Path, tmp_path: Path) -> None:
    copies, _ = run(root, tmp_path / "copies")
    gain = measure(root, tmp_path / "copies", list(copies.values()), 4)
    assert gain is not None
    assert gain.videos == 7
    made = [c for c in copies.values() if c.state == TRANSCODED]
    assert math.isclose(gain.smaller, sum(c.bytes_before for c in made) / sum(c.bytes_after for c in made))
    assert gain.faster > 0
    assert 25 < gain.psnr < 70
    assert measure(root, tmp_path / "copies", [c for c in copies.values() if c.state == COPIED], 4) is None


def test_psnr_is_that_of_the_formula() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    assert module._psnr(a, a + 5) == pytest.approx(20 * math.log10(255 / 5))
    assert module._psnr(a, a) == math.inf


def test_lossless_copies_lose_nothing_but_colour_resolution(tmp_path: Path, write_video: WriteVideo) -> None:
    source = write_video(tmp_path / "a.mp4", size=(64, 96))
    copied = module.encode(source, Encoding(crf=0))
    a = PathHandler().video_from_path(str(source)).frames(lambda n: list(range(n)))
    b = PyAVVideo(io.BytesIO(copied)).frames(lambda n: list(range(n)))
    assert (a == b).all()


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize(("matrix", "words"), [(None, None), (1, "ITU709"), (5, "ITU601"), (9, "BT2020")])
def test_a_copy_is_shown_in_the_colours_of_its_original(
    matrix: int | None, words: str | None, pixels: str, tmp_path: Path
) -> None:
    source, shown = tmp_path / "a.mp4", np.zeros((64, 64, 3), np.uint8)
    shown[:32], shown[32:] = (250, 10, 20), (0, 126, 0)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
        if matrix:
            stream.codec_context.colorspace = matrix
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24").reformat(format=pixels, dst_colorspace=words)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    copied = module.encode(source, Encoding(crf=1))
    a = PathHandler().video_from_path(str(source)).frames(lambda n: list(range(n)))
    b = PyAVVideo(io.BytesIO(copied)).frames(lambda n: list(range(n)))
    inner = [5, 58]  # away from the border of the two colours
    assert (a[:, inner].int() - torch.from_numpy(shown[inner]).int()).abs().max() <= 4
    assert (a[:, inner].int() - b[:, inner].int()).abs().max() <= 2
