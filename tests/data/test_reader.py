"""The reader against full decodes of odd and ordinary files; each frame also carries its number in its pixels."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.stream import Disposition
from PIL import ExifTags, Image, ImageOps
from pytorchvideo.data.encoded_video import EncodedVideo

from stat_video.data.reader import PathHandler, PyAVVideo
from stat_video.data.sampling import segment_frames
from stat_video.data.streams import has_video
from stat_video.errors import InputError

WriteVideo = Callable[..., Path]

REAL = sorted(f for f in Path(os.environ.get("STAT_VIDEO_TEST_VIDEOS", "/nowhere")).glob("*") if f.suffix != ".md")
FILES = {
    "h264.mp4": {"bf": "0"},
    "h264_b.mp4": {"bf": "3", "g": "12"},
    "h264_b.avi": {"bf": "2"},
    "h264_b.mkv": {"bf": "2", "g": "250"},
    "h264.ts": {"bf": "2"},
    "h264_late.mp4": {"times": range(40, 64)},
    "h264_uneven.mkv": {"times": [i * i // 3 + i for i in range(24)]},
    "mpeg4.avi": {"codec": "mpeg4", "q": "2"},
    "mpeg4_b.avi": {"codec": "mpeg4", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "small.mp4": {"size": (38, 50)},
    "odd.mkv": {"size": (37, 51), "codec": "ffv1", "pixels": "yuv444p"},
    "short.mp4": {"count": 5},
    "one.mp4": {"count": 1},
    "ten_bit.mkv": {"codec": "ffv1", "pixels": "yuv420p10le"},
    "no_duration.mkv": {"bf": "2", "container_options": {"live": "1"}},
    "no_frame_count.mp4": {"bf": "2", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mp4": {"bf": "2", "g": "8", "x264-params": "open-gop=1"},
}


def number(frame: npt.NDArray[np.uint8]) -> int:
    """The number that the bars of a frame spell."""
    middles = ((np.arange(8) + 0.5) * frame.shape[1] / 8).astype(int)
    return sum(1 << bit for bit, x in enumerate(middles) if frame[:, x].mean() > 127)


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """All frames, in the order of their numbers: the time stamps of an AVI with B-frames are not to be trusted."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(sorted(frames, key=number))


def decodable(path: Path) -> int:
    """How many frames there are, bad packets skipped."""
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):
                count += len(packet.decode())
    return count


def whole(path: Path) -> npt.NDArray[np.uint8]:
    """All frames in the order in which a full decode gives them, bad packets skipped, each upright."""
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):
                frames += [np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90) for f in packet.decode()]
    return np.stack(frames)


def open_video(path: Path) -> PyAVVideo:
    return PathHandler().video_from_path(str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, **how) for name, how in FILES.items()}


# ---------------------------------------------------------------------------------------- files that are read


def test_the_b_frame_files_have_b_frames(files: dict[str, Path]) -> None:
    for name in ("h264_b.mp4", "h264_b.avi", "h264_b.mkv", "mpeg4_b.avi"):
        with av.open(str(files[name])) as container:
            kinds = [frame.pict_type for frame in container.decode(video=0)]
        assert av.video.frame.PictureType.B in kinds, name


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_full_decode(files: dict[str, Path], name: str) -> None:
    everything = decode(files[name])
    count = int(FILES[name].get("count", 24))  # type: ignore[call-overload]
    assert [number(frame) for frame in everything] == list(range(count))
    video = open_video(files[name])
    assert video.frame_count() == count
    rng = np.random.default_rng(0)
    for T in (1, 8, 16):
        choose = segment_frames(rng.random(T).tolist())
        frames = video.frames(choose)
        assert frames.dtype == torch.uint8
        assert frames.shape == (T, *everything.shape[1:])
        assert np.array_equal(frames.numpy(), everything[choose(count)])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_upright(tmp_path: Path, write_video: WriteVideo, degrees: int) -> None:
    """As a phone writes it: the frames lie, and the file says how far to turn them, counter-clockwise."""
    path = write_video(tmp_path / "turned.mp4", rotation=degrees)
    lying = decode(path)
    frames = open_video(path).frames(lambda n: list(range(n))).numpy()
    assert np.array_equal(frames, np.rot90(lying, degrees // 90, axes=(1, 2)))
    assert (frames.shape[1] > frames.shape[2]) == (degrees != 180)


@pytest.mark.parametrize("start", [3, 11, 17])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_frames_of_a_video_corrupt_in_the_middle_are_a_full_decodes_or_it_is_reported(
    tmp_path: Path, write_video: WriteVideo, name: str, start: int
) -> None:
    path = write_video(tmp_path / name, g="8", codec="mpeg4" if name.endswith("avi") else "libx264")
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][start]
    content, spot = bytearray(path.read_bytes()), packet.pos + packet.size // 2
    content[spot : spot + 12] = np.random.default_rng(start).bytes(12)
    path.write_bytes(content)
    everything, video, rng = whole(path), open_video(path), np.random.default_rng(0)
    assert len(everything) > 20
    for _ in range(4):
        choose = segment_frames(rng.random(8).tolist())
        frames = video.frames(choose).numpy()
        assert np.array_equal(frames, everything[choose(len(everything))]) or video.inspect().trouble


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_give_the_frames_of_a_full_decode_or_are_reported(path: Path) -> None:
    try:
        everything = whole(path)
    except (av.FFmpegError, IndexError, ValueError):
        with pytest.raises(InputError, match=re.escape(str(path))):
            open_video(path).frames(segment_frames([0.5] * 16))
        return
    video, rng = open_video(path), np.random.default_rng(0)
    for T in (1, 16, 16, 64):
        choose = segment_frames(rng.random(T).tolist())
        frames = video.frames(choose).numpy()
        expected = everything[choose(len(everything))]
        assert frames.shape == expected.shape
        assert np.array_equal(frames, expected) or video.inspect().trouble


def test_there_are_real_files() -> None:
    if not REAL:
        pytest.skip("STAT_VIDEO_TEST_VIDEOS names no folder of videos: only files made here were read")


def test_frames_come_in_the_order_asked_for(files: dict[str, Path]) -> None:
    frames = open_video(files["h264_b.mp4"]).frames(lambda n: [n - 1, 3, 3, 0])
    assert [number(frame) for frame in frames.numpy()] == [23, 3, 3, 0]


def test_metadata_in_another_encoding_do_no_harm(files: dict[str, Path], tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mkv"
    content = files["h264_b.mkv"].read_bytes()
    assert content.count(b"Lavf") > 0  # the name of the program that wrote it
    tagged.write_bytes(content.replace(b"Lavf", b"\xe9\xff\xfef"))
    with pytest.raises(UnicodeDecodeError), av.open(str(tagged)):
        pass
    assert torch.equal(
        open_video(tagged).frames(lambda n: [0, n - 1]), torch.from_numpy(decode(files["h264_b.mkv"])[[0, -1]])
    )


@pytest.mark.parametrize("name", ["cut.avi", "cut.mkv", "cut.ts"])
def test_truncated_video_gives_the_frames_that_are_left(tmp_path: Path, write_video: WriteVideo, name: str) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    cut = write_video(tmp_path / name, count=200, codec=codec, g="10")
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    left = decodable(cut)
    assert 50 < left < 200
    frames = open_video(cut).frames(segment_frames([0.0] * 8)).numpy()
    numbers = [number(frame) for frame in frames]
    assert np.allclose(numbers, [i * left / 8 for i in range(8)], atol=2)  # a damaged last packet may count or not
    assert max(numbers) < left


def test_packets_that_do_not_decode_are_reported(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(files["mjpeg.mov"].read_bytes())
    with av.open(str(files["mjpeg.mov"])) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    begin = packets[16].pos
    content[begin : packets[-1].pos + packets[-1].size] = bytes(packets[-1].pos + packets[-1].size - begin)
    damaged = tmp_path / "damaged.mov"
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING, "stat_video.data.reader"):
        frames = open_video(damaged).frames(lambda n: [i * n // 8 for i in range(8)])
    assert [number(frame) for frame in frames.numpy()] == list(range(0, 16, 2))
    assert "damaged.mov: 16 of 24 frames decode" in caplog.text


# ------------------------------------------------------------------------------------ as a PyTorchVideo video


@pytest.mark.parametrize("name", ["h264.mp4", "h264_b.mp4"])
def test_clips_and_duration_are_pytorchvideos(files: dict[str, Path], name: str) -> None:
    theirs = EncodedVideo.from_path(str(files[name]), decode_audio=False, decoder="pyav")
    ours = open_video(files[name])
    assert float(ours.duration) == pytest.approx(float(theirs.duration)) == 24 / 25
    times = [(Fraction(a, 25), Fraction(b, 25)) for a, b in ((0, 24), (0, 1), (5, 9), (20, 40))]
    times += [(0.0, 0.43), (0.13, 0.5), (0.25, 0.31), (0.38, 5.0)]  # between two frames
    for begin, end in times:
        expected, clip = theirs.get_clip(begin, end), ours.get_clip(begin, end)
        assert clip.keys() == expected.keys()
        assert clip["audio"] is None
        assert clip["video"] is not None
        assert clip["video"].dtype == torch.float32
        assert torch.equal(clip["video"], expected["video"]), (begin, end)


def test_clip_without_a_frame_is_none_as_with_pytorchvideo(files: dict[str, Path]) -> None:
    theirs = EncodedVideo.from_path(str(files["h264.mp4"]), decode_audio=False, decoder="pyav")
    ours = open_video(files["h264.mp4"])
    for begin, end in ((3.0, 4.0), (0.25, 0.27)):  # beyond the end, and between two frames
        assert theirs.get_clip(begin, end)["video"] is None
        assert ours.get_clip(begin, end)["video"] is None


# ------------------------------------------------------------------------------------- files that are refused


def missing(path: Path, good: Path) -> None:
    pass


def empty(path: Path, good: Path) -> None:
    path.touch()


def text(path: Path, good: Path) -> None:
    path.write_text("This is a list of shopping items, not a video.\n" * 20)


def folder(path: Path, good: Path) -> None:
    path.mkdir()


def truncated(path: Path, good: Path) -> None:  # without the index at the end of an mp4
    content = good.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def noise(path: Path, good: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def audio(path: Path, good: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def undecodable(path: Path, good: Path) -> None:  # headers are whole, no packet is
    with av.open(str(good)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    content = bytearray(good.read_bytes())
    for packet in packets:
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)


def unknown_codec(path: Path, good: Path) -> None:  # its packets are there, but nothing is known that decodes them
    path.write_bytes(good.read_bytes().replace(b"avc1", b"zzzz"))


def cover(path: Path, good: Path) -> None:  # sound with a picture of the record beside it
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
        picture.height, picture.width, picture.pix_fmt = 32, 32, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


WRONG = {
    f.__name__: f for f in (missing, empty, text, folder, truncated, noise, audio, undecodable, unknown_codec, cover)
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_video_is_named_in_one_line(files: dict[str, Path], tmp_path: Path, what: str) -> None:
    path = tmp_path / f"{what}.mp4"
    WRONG[what](path, files["h264.mp4"])
    for look in (lambda video: video.frames(segment_frames([0.5] * 8)), lambda video: video.inspect()):
        with pytest.raises(InputError) as caught:
            look(open_video(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_only_what_holds_moving_pictures_has_a_video(files: dict[str, Path], tmp_path: Path) -> None:
    for make in (audio, cover, text, noise):
        make(tmp_path / make.__name__, files["h264.mp4"])
        assert not has_video(tmp_path / make.__name__), make.__name__
    assert has_video(files["h264.mp4"])


# ------------------------------------------------------------------------------------------ folders of pictures


def pictures(folder: Path, names: Sequence[str]) -> Path:
    """A folder of pictures whose red is their place in `names`."""
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.png" for i in (1, 2, 9, 10, 11, 100)],
        [f"img_{i:05d}.png" for i in range(6)],
        [f"shot{a}-{b}.png" for a in (1, 2, 10) for b in (8, 9, 10)],
        ["a.png", "b.png", "c.png"],
    ],
)
def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    folder = pictures(tmp_path / "video", names)
    for name in ("flow_x_00001.png", "flow_y_00001.png", "._1.png"):  # not of the video
        Image.new("RGB", (8, 6), (200, 0, 0)).save(folder / name)
    (folder / "@eaDir").mkdir()
    frames = open_video(folder).frames(lambda n: list(range(n)))
    assert frames[:, 0, 0, 0].tolist() == list(range(len(names)))
    assert open_video(folder).inspect().frames == len(names)


def test_pictures_of_two_series_are_named(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "video", ["left_1.png", "left_2.png", "right_1.png"])
    with pytest.raises(InputError, match=r"pictures of several series, left_N, right_N"):
        open_video(folder)


def test_a_picture_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    folder = pictures(tmp_path / "video", ["1.png", "2.png"])
    with pytest.raises(InputError, match=r"1\.png: unreadable picture"):
        open_video(folder).frames(lambda n: [0, 1])


def test_frames_of_another_size_are_resized_to_the_first(tmp_path: Path, write_video: WriteVideo) -> None:
    parts = [write_video(tmp_path / f"{h}.ts", size=(h, 64), count=12) for h in (48, 32)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = open_video(both).frames(lambda n: [11, 12]).numpy()
    assert [number(frame) for frame in frames] == [11, 0]
    first, second = (open_video(part) for part in parts)
    assert np.array_equal(frames[0], first.frames(lambda n: [11])[0])
    resized = Image.fromarray(second.frames(lambda n: [0])[0].numpy()).resize((64, 48))
    assert np.array_equal(frames[1], resized)
    assert open_video(both).frames(lambda n: [12, 11]).shape == (2, 32, 64, 3)
    assert "64x48, 64x32; those of a clip are resized to its first" in open_video(both).inspect().trouble


@pytest.mark.parametrize(
    ("mode", "stored", "expected"),
    [
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 300, (1, 1, 1)),
        ("I;16B", 257 * 100, (100, 100, 100)),
        ("I", 257 * 100, (100, 100, 100)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 7), (100, 100, 100)),
        ("P", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
    ],
)
def test_pictures_of_any_mode_have_8_bits_a_channel(
    tmp_path: Path, mode: str, stored: Any, expected: tuple[int, int, int]
) -> None:
    """16 bits are scaled by 65535 / 255 = 257, not cut off."""
    picture = Image.new("RGB", (8, 6), stored).quantize(4) if mode == "P" else Image.new(mode, (8, 6), stored)
    assert picture.mode == mode
    (tmp_path / "video").mkdir()
    picture.save(tmp_path / "video" / "1.png", format="tiff" if mode == "I" else "png")  # told by its content
    frames = open_video(tmp_path / "video").frames(lambda n: [0])
    assert frames.dtype == torch.uint8
    assert frames.shape == (1, 6, 8, 3)
    assert frames.flatten(0, 2).unique(dim=0).tolist() == [list(expected)]


def test_pictures_of_16_bits_a_channel_are_scaled(tmp_path: Path) -> None:
    """FFmpeg writes what Pillow can't: RGB of 16 bits."""
    (tmp_path / "video").mkdir()
    for form, name in (("rgb48be", "1.png"), ("gray16be", "2.png")):
        pixels = np.full((6, 8, 3) if form == "rgb48be" else (6, 8), 257 * 100, ">u2")
        frame = av.VideoFrame(8, 6, form)
        plane = np.zeros((6, frame.planes[0].line_size // 2), ">u2")
        plane[:, : pixels[0].size] = pixels.reshape(6, -1)
        frame.planes[0].update(plane.tobytes())
        codec: Any = av.CodecContext.create("png", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base = 8, 6, form, Fraction(1, 25)
        frame.pts = 0
        (tmp_path / "video" / name).write_bytes(b"".join(bytes(p) for p in [*codec.encode(frame), *codec.encode(None)]))
    frames = open_video(tmp_path / "video").frames(lambda n: [0, 1])
    assert frames.unique().tolist() == [100]


def test_floating_point_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    Image.new("F", (8, 6), 0.5).save(tmp_path / "video" / "1.png", format="tiff")
    with pytest.raises(InputError, match=r"1\.png: unreadable picture"):
        open_video(tmp_path / "video").frames(lambda n: [0])


def test_cmyk_pictures_are_read_as_pillow_converts_them(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    picture = Image.new("CMYK", (8, 8), (0, 200, 100, 50))
    picture.save(tmp_path / "video" / "1.jpg", quality=100)
    (frame,) = open_video(tmp_path / "video").frames(lambda n: [0])
    expected = np.asarray(Image.open(tmp_path / "video" / "1.jpg").convert("RGB"))
    assert np.array_equal(frame, expected)
    assert np.ptp(expected.reshape(-1, 3).mean(0)) > 50


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_pictures_are_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    """As Pillow's own `exif_transpose` turns them; numbers that EXIF does not know turn nothing."""
    (tmp_path / "video").mkdir()
    path = tmp_path / "video" / f"1.{ending}"
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    (frame,) = open_video(tmp_path / "video").frames(lambda n: [0])
    turned = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(frame, np.asarray(turned.convert("RGB")))
    assert frame.shape == ((24, 16, 3) if 5 <= orientation <= 8 else (16, 24, 3))


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "video" / "1.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffjunk")
    assert open_video(tmp_path / "video").frames(lambda n: [0]).shape == (1, 6, 8, 3)


@pytest.mark.parametrize(
    "names",
    [["img_00001.jpg", "img_00001.png"], ["1.jpg", "1.jpeg"], ["img_1.jpg", "img_00001.jpg"], ["a.png", "a.jpg"]],
)
def test_one_frame_in_two_formats_is_named(tmp_path: Path, names: list[str]) -> None:
    folder = pictures(tmp_path / "video", [*names, names[0].replace("1", "2").replace("a", "b")])
    with pytest.raises(InputError, match="are the same frame") as caught:
        open_video(folder)
    assert all(name in caught.value.line for name in [str(folder), *names])


def test_times_in_names_are_not_taken_for_one_frame(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "video", ["t_0.04.png", "t_0.4.png"])
    assert open_video(folder).frame_count() == 2
