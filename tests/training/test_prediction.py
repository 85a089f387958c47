"""Prediction by any model: of the centre view, with a picture whether the model says where it looks or not."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stat_video.config import Config
from stat_video.data.config import DataConfig
from stat_video.errors import InputError
from stat_video.models.base import Clip, Panel, VideoModel
from stat_video.training import loaded, prediction

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Colours(VideoModel):
    """Logits: twice the mean of each colour."""

    def forward(self, clip):
        assert clip.shape == (1, 3, 4, 32, 32)
        return 2 * clip.mean((2, 3, 4))


class Looking(Colours):
    """Says how much each frame weighs in the sum of the logits, which takes gradients."""

    def look(self, clip):
        clip = clip.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self(clip).sum(), clip)
        shares = gradient.abs().sum((0, 1, 3, 4))
        return [Panel("Gradient", "of the logits", shares / shares.sum())]


@pytest.fixture
def video(tmp_path):
    """Eight pictures, those in the middles of four segments green, in a frame that the centre crop leaves out."""
    folder = tmp_path / "a video"
    folder.mkdir()
    for i in range(8):
        pixels = np.full((40, 64, 3), BLUE, np.uint8)
        pixels[4:36, 16:48] = GREEN if i % 2 else RED
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def predicted(model, video, monkeypatch, tmp_path):
    config = Config(
        clip=Clip(T=4, crop=16, test_crop=32, mean=[0.0], std=[1.0]), data=DataConfig(short_side=40, mean=0.9)
    )
    monkeypatch.setattr(loaded, "rebuild", lambda path: (model.eval(), config, ["red", "green", "blue"]))
    picture = tmp_path / "seen.png"
    return prediction.predict_one(loaded.Loaded.of(tmp_path / "last.ckpt"), video, picture).top, picture


def test_the_centre_view_and_its_classes(video, monkeypatch, tmp_path):
    top, _ = predicted(Colours(), video, monkeypatch, tmp_path)
    likeliest = math.exp(2) / (math.exp(2) + 2)
    assert top[0][0] == "green"
    assert [p for _, p in top] == pytest.approx([likeliest, *[(1 - likeliest) / 2] * 2], abs=1e-6)


@pytest.mark.parametrize("model", [Colours(), Looking()], ids=["blind", "looking"])
def test_a_picture_of_any_model(model, video, monkeypatch, tmp_path):
    _, picture = predicted(model, video, monkeypatch, tmp_path)
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        height = image.height
    assert GREEN in colours  # the frames that the model saw, and neither the others nor what was cropped away
    assert not {RED, BLUE} & colours
    assert (height > 430) == isinstance(model, Looking)


def test_many_are_predicted_and_what_cannot_be_read_is_named(video, monkeypatch, tmp_path):
    config = Config(clip=Clip(T=4, crop=16, test_crop=32, mean=[0.0], std=[1.0]), data=DataConfig(short_side=40))
    monkeypatch.setattr(loaded, "rebuild", lambda path: (Colours().eval(), config, ["red", "green", "blue"]))
    (tmp_path / "list.txt").write_text("a video\nnowhere.mp4\na video 2\n\n")
    videos = prediction.videos_of(tmp_path / "list.txt")
    assert videos == [video, tmp_path / "nowhere.mp4", video]
    found = list(prediction.predict_many(loaded.Loaded.of(tmp_path / "last.ckpt"), videos, tmp_path / "seen"))
    top, _ = predicted(Colours(), video, monkeypatch, tmp_path)
    assert [p.top for p in found] == [top, [], top]
    assert [p.reason for p in found] == ["", "no such video", ""]
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["000000_a video.png", "000002_a video.png"]
    table, lines = prediction.write_predictions(found, tmp_path / "out")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == [str(v) for v in videos]
    assert [(row["class1"], row["class4"], row["reason"]) for row in rows] == [
        ("green", "", ""),
        ("", "", "no such video"),
        ("green", "", ""),
    ]
    assert float(rows[0]["probability1"]) == pytest.approx(top[0][1], abs=1e-6)
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [entry["video"] for entry in read] == [str(v) for v in videos]
    assert [entry["class"] for entry in read[0]["top"]] == [name for name, _ in top]
    assert read[1]["reason"] == "no such video"


def test_which_videos_a_path_stands_for(video, tmp_path):
    assert prediction.videos_of(video) == [video]  # a folder of pictures
    folder = tmp_path / "videos"
    for name in ("b/2.mp4", "a.webm", "notes.txt", ".hidden.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert prediction.videos_of(folder) == [folder / "a.webm", folder / "b/2.mp4"]
    assert prediction.videos_of(folder / "a.webm") == [folder / "a.webm"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no video in the folder"):
        prediction.videos_of(tmp_path / "empty")


def test_pictures_beside_videos_do_not_make_a_folder_one_video(video, tmp_path, capsys):
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    for name in ("thumbnail.jpg", "below/a.mp4"):
        (folder / name).write_bytes(b"x")
    assert prediction.videos_of(folder) == [folder / "below/a.mp4"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "thumbnail.jpg" in said
    (video / "times.csv").write_text("0.0\n0.1\n")  # names no video
    (video / "notes.txt").write_bytes(b"\xff")
    assert prediction.videos_of(video) == [video]


def test_a_list_of_videos_among_pictures_is_refused(video, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (video / "list.txt").write_text("../a.mp4 0\n")
    with pytest.raises(InputError) as caught:
        prediction.videos_of(video)
    assert f"video={video / 'list.txt'}" in caught.value.line
    assert prediction.videos_of(video / "list.txt") == [video / "../a.mp4"]


def test_the_lines_of_a_list_are_unquoted_as_in_csv(tmp_path):
    """With a label after them or not; a name that is there as it stands goes before."""
    names = ["a,b.mp4", "c d.mp4", 'say "hi", 2.mp4', "#20_Rhythm é.mp4", '"q"', "e.mp4 7"]
    for name in names:
        (tmp_path / name).touch()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[name] for name in names])
    csv.writer(text, lineterminator="\n").writerows([[name, 3] for name in names])
    file = tmp_path / "list.csv"
    file.write_text(text.getvalue() + '"q"\nnone "x".mp4\n"no, ne.mp4" 5\n')
    expected = [*names, *names, '"q"', 'none "x".mp4', "no, ne.mp4"]
    assert prediction.videos_of(file) == [tmp_path / name for name in expected]


def test_what_is_made_of_a_video_is_named_after_it(tmp_path, monkeypatch):
    """A folder's name has no ending to cut off, so two of them do not share a file; neither do val/ and val.csv."""
    kept = ("2024.01", ".hidden", "val", "val.csv", "val.TXT")
    for name, made in (("#a=b, é.x.mp4", "#a=b, é.x"), *zip(kept, kept, strict=True)):
        (tmp_path / name).mkdir() if name in ("2024.01", "val") else (tmp_path / name).touch()
        assert prediction.name_of(tmp_path / name) == made
    monkeypatch.chdir(tmp_path / "2024.01")
    assert prediction.name_of(Path()) == "2024.01"
    assert prediction.name_of(Path("..")) == tmp_path.name


def test_a_picture_that_cannot_be_written_is_no_broken_video(video, monkeypatch, tmp_path):
    config = Config(clip=Clip(T=4, crop=16, test_crop=32), data=DataConfig(short_side=40))
    monkeypatch.setattr(loaded, "rebuild", lambda path: (Colours().eval(), config, ["red", "green", "blue"]))
    (tmp_path / "pictures").touch()  # where a folder should be
    with pytest.raises(InputError, match=r"000000_a video\.png: could not be written"):
        list(prediction.predict_many(loaded.Loaded.of(tmp_path / "last.ckpt"), [video], tmp_path / "pictures"))


def test_lines_of_predictions_are_strict_json(tmp_path):
    top = [("red", math.nan), ("green", 0.5)]
    _, lines = prediction.write_predictions([prediction.Prediction(tmp_path / "a\udcff, b", top)], tmp_path / "p")
    said = json.loads(lines.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [one["probability"] for one in said["top"]] == [None, 0.5]
    assert said["video"] == str(tmp_path / "a\udcff, b")


class WithHead(VideoModel):
    """Calls its classifier with a vector of each frame."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, clip):
        return self.head(clip.mean((3, 4)).transpose(1, 2)).mean(1)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_features_of_a_list_are_written_with_their_names(form, video, monkeypatch, tmp_path):
    config = Config(clip=Clip(T=4, crop=16, mean=[0.0], std=[1.0]), data=DataConfig(short_side=40))
    monkeypatch.setattr(loaded, "rebuild", lambda path: (WithHead().eval(), config, ["red", "green", "blue"]))
    of = loaded.Loaded.of(tmp_path / "last.ckpt")
    found = list(prediction.predict_many(of, [video, tmp_path / "nowhere.mp4", video], None))
    path = prediction.write_features(found, tmp_path / "out", form)
    assert path == tmp_path / f"out_features.{form}"
    if form == "npz":
        with np.load(path, allow_pickle=False) as file:
            features, names = torch.from_numpy(file["features"]), file["videos"].tolist()
    else:
        with safe_open(path, "pt") as file:
            features, names = file.get_tensor("features"), json.loads(file.metadata()["videos"])
    assert names == [str(video)] * 2
    assert features.shape == (2, 3)
    green = of.clip(video).mean((0, 2, 3, 4))  # the mean over frames of what the head is given
    torch.testing.assert_close(features[0], green)
    torch.testing.assert_close(of.features(video), green)


def test_a_model_that_does_not_call_its_classifier_has_no_features(video, monkeypatch, tmp_path):
    config = Config(clip=Clip(T=4, crop=16, test_crop=32), data=DataConfig(short_side=40))
    monkeypatch.setattr(loaded, "rebuild", lambda path: (Colours().eval(), config, ["red", "green", "blue"]))
    of = loaded.Loaded.of(tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"Colours\.forward does not call its classifier"):
        of.features(video)
    with pytest.raises(InputError, match="features: there are none"):
        prediction.write_features([prediction.predict_one(of, video)], tmp_path / "out", "npz")
