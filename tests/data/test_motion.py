"""The motion data set: what its videos show, what they must not tell, and how they get onto the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from running import HANGS
from stat_video.data import built_in, motion, pictures
from stat_video.data.built_in import encode, ensure
from stat_video.data.motion import CLASSES, MotionConfig, MotionScene, draw, poses, render
from stat_video.data.pictures import Crop
from stat_video.errors import InputError
from stat_video.files import locked

SRC = Path(motion.__file__).parents[2]
SMALL = MotionConfig(height=32, width=40, frames=9, train_videos=24, val_videos=12)


def decode(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("motion"), SMALL, workers=1)


# ------------------------------------------------------------------------------------------------- the files


def test_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    other = ensure(tmp_path, SMALL, workers=2)
    assert other.name == folder.name
    assert contents(other) == contents(folder)


def test_a_video_that_slips_is_made_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, coded = built_in.encode, iter([b"slip", None, b"slip", None])
    monkeypatch.setattr(built_in, "encode", lambda *a: next(coded, None) or true(*a))
    assert contents(ensure(tmp_path, SMALL, workers=1)) == contents(folder)
    count = iter(range(100))
    monkeypatch.setattr(built_in, "encode", lambda *a: b"%d" % next(count))
    with pytest.raises(InputError, match=r"train/000000\.mp4 came out otherwise 16 times"):
        ensure(tmp_path, replace(SMALL, seed=1), workers=1)


def test_another_seed_gives_another_folder_and_other_videos(folder: Path) -> None:
    other = replace(SMALL, seed=1)
    assert other.folder_name != SMALL.folder_name
    assert not np.array_equal(render(draw(other, "train", 0)), render(draw(SMALL, "train", 0)))
    assert not np.array_equal(render(draw(SMALL, "val", 0)), render(draw(SMALL, "train", 0)))


def test_raised_version_gives_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SMALL.folder_name
    monkeypatch.setattr(MotionConfig, "VERSION", MotionConfig.VERSION + 1)
    assert SMALL.folder_name != before


def test_lists_have_the_form_of_kinetics(folder: Path) -> None:
    assert (folder / "classes.txt").read_text().splitlines() == list(CLASSES)
    for split, count in (("train", 24), ("val", 12)):
        paths = LabeledVideoPaths.from_path(str(folder / f"{split}.csv"))
        paths.path_prefix = str(folder)
        assert len(paths) == count
        items = [paths[i] for i in range(count)]
        assert all(Path(path).is_file() and " " not in Path(path).name for path, _ in items)
        assert [path for path, _ in items] == sorted(str(p) for p in (folder / split).iterdir())
        labels = [info["label"] for _, info in items]
        assert labels == [draw(SMALL, split, i).label for i in range(count)]
        assert np.bincount(labels).tolist() == [count // 12] * 12  # balanced
    about = json.loads((folder / "motion.json").read_text())
    assert about["version"] == MotionConfig.VERSION
    assert about["config"]["frames"] == 9
    assert about["videos"]["train"] == dict.fromkeys(CLASSES, 2)


def test_videos_decode_to_what_was_rendered(folder: Path) -> None:
    for index, path in enumerate(sorted((folder / "train").iterdir())):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == 24
            assert stream.frames == 9
            assert stream.start_time == 0
            assert len(container.streams) == 1
        frames = decode(path)
        assert frames.shape == (9, 32, 40, 3)
        difference = frames.astype(float) - render(draw(SMALL, "train", index))
        assert abs(difference.mean()) < 2  # no shift in brightness
        assert np.sqrt((difference**2).mean()) < 8  # of 255, most of it colour at half resolution


def test_default_size_is_small_and_even_classes_can_be_left_out(tmp_path: Path) -> None:
    scene = draw(MotionConfig(), "val", 3)
    frames = render(scene)
    assert frames.shape == (48, 48, 64, 3)
    assert frames.dtype == np.uint8
    assert len(encode(frames, 24)) < 40_000
    two = MotionConfig(classes=("going away", "moving up"), height=32, width=32, frames=8, train_videos=2, val_videos=2)
    path = ensure(tmp_path, two, workers=1)
    assert (path / "classes.txt").read_text() == "going away\nmoving up\n"
    assert (path / "train.csv").read_text() == "train/000000.mp4 0\ntrain/000001.mp4 1\n"
    assert draw(two, "train", 1).motion == "moving up"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 47),
        ("width", 0),
        ("width", "64"),
        ("frames", 2),
        ("fps", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("train_videos", 100),
        ("val_videos", 0),
        ("val_videos", True),
        ("classes", ()),
        ("classes", "moving left"),
        ("classes", None),
        ("classes", ("moving left", "moving left")),
        ("classes", ("jumping",)),
        ("classes", ([],)),
    ],
)
def test_bad_config_is_named_in_one_line(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        MotionConfig(**{field: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert repr(value) in message
    assert f"data.motion.{field}=" in message
    assert ": allowed is " in message


# --------------------------------------------------------------------------------- what training may not see


def test_no_object_and_no_background_is_shared_between_the_splits() -> None:
    config = MotionConfig()
    train = [draw(config, "train", i) for i in range(3000)]
    val = [draw(config, "val", i) for i in range(480)]
    train_objects, val_objects = ({s.texture if s.digit is None else s.digit for s in of} for of in (train, val))
    assert not train_objects & val_objects
    assert sum(s.digit is not None for s in val) > 150
    assert sum(s.digit is None for s in val) > 150

    def crops(
        scenes: list[MotionScene],
    ) -> set[Crop]:  # of both uses: no object is a piece of a background
        return {crop for s in scenes for crop in (s.background, s.texture)}

    # Boxes that lie wholly beside each other do not overlap.
    for photo in {crop.photo for crop in crops(train) | crops(val)}:
        right_end = max(c.left + c.width for c in crops(train) if c.photo == photo)
        left_end = min(c.left for c in crops(val) if c.photo == photo)
        assert right_end <= left_end, photo
    height, width = pictures.photos()["china"].shape[:2]
    for crop in crops(train) | crops(val):
        assert crop.left >= 0
        assert crop.top >= 0
        assert min(crop.width, crop.height) > 8
        if crop.photo == "china":
            assert crop.left + crop.width <= width
            assert crop.top + crop.height <= height


# ------------------------------------------------------------------------------------ motion tells the class


def bare(scene: MotionScene) -> MotionScene:
    """The object alone: no noise, on a plain dark background."""
    return replace(scene, contrast=0.0, noise=0.0, brightness=0.0)


def measured_class(scene: MotionScene) -> str:
    """Name the class from pixels alone: centroid on the torus, area, and axis of inertia, frame by frame."""
    period = scene.config.period
    mass = render(bare(scene))[:, :period, :period].max(axis=3) > 60  # one period of the plane
    wave = np.exp(2j * np.pi * np.arange(period) / period)
    shift = np.empty((len(mass) - 1, 2))  # per frame and axis, pixels
    centre = np.empty((len(mass), 2))
    for axis, other in ((0, 1), (1, 2)):  # x, y
        phases = np.angle((mass.sum(axis=other) * wave).sum(axis=1))
        shift[:, axis] = np.diff(np.unwrap(phases)) * period / (2 * np.pi)
        centre[:, axis] = phases * period / (2 * np.pi)
    area = np.log(mass.sum(axis=(1, 2)))
    grid = np.arange(period)
    dx = (grid - centre[:, :1] + period / 2) % period - period / 2
    dy = (grid - centre[:, 1:] + period / 2) % period - period / 2
    xx, yy = ((mass * d**2).sum(axis=(1, 2)) for d in (dx[:, None, :], dy[:, :, None]))
    xy = (mass * dx[:, None, :] * dy[:, :, None]).sum(axis=(1, 2))
    angle = np.unwrap(np.arctan2(2 * xy, xx - yy)) / 2

    third = len(shift) // 3
    first, last = shift[:third].mean(axis=0), shift[-third:].mean(axis=0)
    if max(abs(first)) > 0.4:
        axis = int(abs(first[1]) > abs(first[0]))
        names = (("left", "right"), ("up", "down"))[axis]
        begin, end = names[int(first[axis] > 0)], names[int(last[axis] > 0)]
        return f"moving {begin}" if begin == end else f"moving {begin} then {end}"
    if abs(np.median(np.diff(area))) > 0.025:
        return "coming closer" if np.median(np.diff(area)) > 0 else "going away"
    return "turning clockwise" if np.median(np.diff(angle)) > 0 else "turning counter-clockwise"


def test_measured_motion_agrees_with_the_label() -> None:
    config = MotionConfig()
    wrong = [s for s in (draw(config, "train", i) for i in range(240)) if measured_class(s) != s.motion]
    assert not wrong, [(s.index, s.motion, measured_class(s)) for s in wrong]


def test_reversal_comes_in_the_middle_and_goes_back_at_the_same_speed() -> None:
    for index in range(96):
        scene = draw(MotionConfig(), "train", index)
        steps = np.diff(poses(scene)[:, :2], axis=0).sum(axis=1)
        if "then" in scene.motion:
            turned = np.flatnonzero(np.sign(steps) != np.sign(steps[0]))[0]
            assert 19 <= turned <= 29  # of 48 frames
            assert np.isclose(steps[0], -steps[-1])
        if "moving" in scene.motion:
            assert 0.7 <= abs(steps[0]) <= 1.6  # pixels a frame


def test_any_square_crop_holds_the_whole_object() -> None:
    for index in range(12):
        frames = render(bare(draw(MotionConfig(), "val", index)))[24].astype(float).sum(axis=2)
        sums = [frames[:, left : left + 48].sum() for left in (0, 5, 16)]
        assert np.allclose(sums, sums[0], rtol=1e-3)
        assert sums[0] > 0


# ------------------------------------------------------------------------------------- and nothing else does

MOMENTS = (0, 4, 8)  # first, middle, last of nine frames: motion is a share of the video, however many frames
PROBED = MotionConfig(frames=9)


def centred(scene: MotionScene) -> MotionScene:
    """The leak: all start at the centre, so that position tells the way travelled."""
    return replace(scene, x=24.0, y=24.0)


@pytest.mark.parametrize(("leak", "alike"), [(None, True), (centred, False)])
def test_each_moment_looks_alike(leak: Callable[[MotionScene], MotionScene] | None, alike: bool) -> None:
    change = leak or (lambda scene: scene)
    scenes = [change(draw(PROBED, "train", i)) for i in range(3000)]
    pose = np.stack([poses(s)[list(MOMENTS)] for s in scenes])  # (3000, 3, 4)
    labels = np.array([s.label for s in scenes])
    low, high = (share * PROBED.period for share in motion._SIZE)
    uniform = {  # each should be uniform on [0, 1] in every class
        "x": pose[..., 0] / PROBED.period % 1,
        "y": pose[..., 1] / PROBED.period % 1,
        "angle": pose[..., 2] / (2 * np.pi) % 1,
        "size": np.log(pose[..., 3] / low) / np.log(high / low),
    }
    p = [
        stats.kstest(values[group, moment], "uniform").pvalue
        for values in uniform.values()
        for group in (labels >= 0, *(labels == label for label in range(12)))  # all, and each class
        for moment in range(3)
    ]
    assert (min(p) > 1e-4) == alike  # the least of 156 would be about 0.006


def test_appearance_does_not_depend_on_the_label() -> None:
    scenes = [draw(PROBED, "train", i) for i in range(3000)]
    labels = np.array([s.label for s in scenes])
    names = ("texture_contrast", "brightness", "contrast", "noise", "travel", "turns", "ramps", "reversal")
    for name in names:
        values = np.array([getattr(s, name) for s in scenes])
        assert stats.kruskal(*(values[labels == label] for label in range(12))).pvalue > 1e-3, name
    for one, two in combinations(range(12), 2):
        digits = [np.mean([s.digit is not None for s in scenes if s.label == label]) for label in (one, two)]
        assert abs(digits[0] - digits[1]) < 0.2


def probe(change: Callable[[MotionScene], MotionScene]) -> list[float]:
    """Validation accuracy of a linear classifier on the pixels of the first, middle and last frame."""

    def pixels(split: str, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        scenes = [change(draw(PROBED, split, i)) for i in range(count)]
        frames = np.stack([render(s)[list(MOMENTS)] for s in scenes])  # (N, 3, 48, 64, 3)
        small = frames.reshape(count, 3, 12, 4, 16, 4, 3).mean(axis=(3, 5))  # means of 4 x 4 pixels
        return small.reshape(count, 3, -1), np.array([s.label for s in scenes])

    (x, y), (x_val, y_val) = pixels("train", 1200), pixels("val", 480)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return [model.fit(x[:, m], y).score(x_val[:, m], y_val) for m in range(3)]


def test_single_frame_does_not_tell_the_class() -> None:
    accuracy = probe(lambda scene: scene)
    assert max(accuracy) <= 2 / 12, accuracy


def test_the_same_classifier_finds_a_leak() -> None:
    accuracy = probe(centred)
    assert min(accuracy[1:]) > 2 / 12, accuracy


# ----------------------------------------------------------------------------- nothing half-done that counts

MANY = MotionConfig(height=32, width=32, frames=8, train_videos=360, val_videos=12)  # time enough to kill it


def start(tmp_path: Path, config: MotionConfig, before: str = "") -> subprocess.Popen[str]:
    """Generate below tmp_path / "data" with two workers from a script of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from stat_video.data.motion import MotionConfig\n"
        "from stat_video.data.built_in import ensure\n"
        "if __name__ == '__main__':\n"
        f"    {before or 'pass'}\n"
        f"    ensure(Path({str(tmp_path / 'data')!r}), {config!r}, workers=2)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    return subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_killed_generation_does_not_count_and_the_next_succeeds(tmp_path: Path) -> None:
    root = tmp_path / "data"

    def written() -> int:
        return len(list(root.glob(".motion-*/train/*.mp4")))

    process = start(tmp_path, MANY)
    wait_until(lambda: written() >= 20, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends when the workers have closed their ends too: they don't outlive the parent
    left = written()
    assert 20 <= left < 360
    assert not (root / MANY.folder_name).exists()
    folder = ensure(root, MANY, progress=False)
    assert sorted(p.name for p in root.iterdir()) == [folder.name]  # what the killed one left is gone
    assert written() == 0
    assert len(list(folder.glob("train/*.mp4"))) == 360


def test_of_two_at_once_one_generates(tmp_path: Path) -> None:
    processes = [start(tmp_path, SMALL) for _ in range(2)]
    said = [line for process in processes for line in process.communicate(timeout=HANGS)[1].splitlines()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len([line for line in said if line.startswith("motion: generating 36 videos")]) == 1, said
    assert [path.name for path in (tmp_path / "data").iterdir()] == [SMALL.folder_name]


def test_who_waits_says_so(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with locked(root / f".{SMALL.folder_name}.lock", pytest.fail):
        process = start(tmp_path, SMALL)
        assert process.stderr is not None
        said = process.stderr.readline().rstrip("\n")
        assert not list(root.glob("*/train"))
    words = rf"motion: process {os.getpid()} on \S+ generates the videos in {root}; waiting for it"
    assert re.fullmatch(words, said)
    process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert (root / SMALL.folder_name / "train.csv").is_file()


@pytest.mark.slow
def test_who_waited_for_a_killed_one_generates(tmp_path: Path) -> None:
    root = tmp_path / "data"
    first = start(tmp_path, MANY)
    wait_until(lambda: len(list(root.glob(".motion-*/train/*.mp4"))) >= 20, 60)
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the second has started
    second = start(tmp_path, MANY)
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    first.kill()
    first.communicate()
    second.communicate(timeout=HANGS)
    assert second.returncode == 0
    assert len(list((root / MANY.folder_name).glob("train/*.mp4"))) == 360


def test_where_locks_do_not_work_both_end_with_a_whole_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def overtaken(self: Path, target: Path) -> Path:  # a process of another machine finishes just before
        shutil.copytree(folder, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert contents(ensure(tmp_path, SMALL, workers=1)) == contents(folder)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_running_generation_of_another_process_is_left_alone(folder: Path, tmp_path: Path) -> None:
    host = socket.gethostname()
    alive = tmp_path / f".motion-00000000.partial-{host}-{os.getppid()}-aaaaaa"
    elsewhere = tmp_path / ".motion-00000000.partial-elsewhere-4194304-aaaaaa"
    dead = tmp_path / f".motion-00000000.partial-{host}-{4194304}-aaaaaa"  # above the largest process id of Linux
    for path in (alive, elsewhere, dead):
        path.mkdir()
    ensure(tmp_path, SMALL, workers=1)
    assert alive.exists()
    assert elsewhere.exists()
    assert not dead.exists()


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device while generating the motion videos") as caught:
        ensure(tmp_path, SMALL, workers=1)
    assert caught.value.errno == errno.ENOSPC
    assert SMALL.folder_name in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(list(ensure(tmp_path, SMALL, workers=1).glob("train/*.mp4"))) == 24


def test_error_in_a_worker_process_reaches_the_caller(tmp_path: Path) -> None:
    # A limit on the size of files, which the lists keep to and no video does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1800, 1800))"
    process = start(tmp_path, SMALL, before=limit)
    _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 1
    assert "OSError: [Errno 27] File too large while generating the motion videos in" in err
    assert list((tmp_path / "data").iterdir()) == []


def test_worker_that_dies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_in, "_work", print)  # a worker that ends without a video or an error
    with pytest.raises(RuntimeError, match="a worker process died after 0 of 36 videos"):
        ensure(tmp_path, SMALL, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_folder_with_files_missing_is_named_and_not_touched(tmp_path: Path) -> None:
    folder = ensure(tmp_path, SMALL, workers=1)
    (folder / "val" / "000003.mp4").unlink()
    before = contents(folder)
    with pytest.raises(FileExistsError, match=f"{folder.name} has files missing; delete it"):
        ensure(tmp_path, SMALL, workers=1)
    assert contents(folder) == before


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(OSError, match="while generating the motion videos in"):
        ensure(tmp_path / "data", SMALL, workers=1)
    assert (tmp_path / "data").read_text() == "mine"


def test_plain_lines_without_a_terminal_and_silence_on_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ensure(tmp_path / "a", SMALL, workers=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert err.splitlines()[0] == f"motion: generating 36 videos in {tmp_path / 'a'}"
    assert err.splitlines()[1].startswith("motion: done in ")
    assert len(err.splitlines()) == 2
    ensure(tmp_path / "b", SMALL, workers=1, progress=False)
    assert capfd.readouterr() == ("", "")
