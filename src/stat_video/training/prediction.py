"""Predict the classes of videos by a checkpoint, and draw what the model looked at."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..data.frame_folder import PICTURES
from ..data.layouts.base import is_video, read_lines, split_number
from ..data.reader import READ_ERRORS, reason_of
from ..draw import draw
from ..errors import InputError
from ..files import finite, replacing, with_ending
from ..progress import say
from .loaded import Loaded, Top

LISTS = {".txt", ".csv"}  # the files that name videos


@dataclass(frozen=True)
class Prediction:
    """What a model says of a video."""

    video: Path
    top: Top  # empty if the video can't be read
    reason: str = ""  # why it can't
    picture: Path | None = None
    features: Tensor | None = None  # (D,): what the classifier saw


def predict_one(loaded: Loaded, video: Path, picture: Path | None = None) -> Prediction:
    """Return what a model says of a video, and draw what it looked at into a picture.

    Raises one of `data.reader.READ_ERRORS` if the video can't be read.
    """
    return _of_pixels(loaded, video, loaded.pixels(video), picture)


def _of_pixels(loaded: Loaded, video: Path, pixels: Tensor, picture: Path | None) -> Prediction:
    clip = loaded.normalized(pixels)
    top, features = loaded.seen(clip)
    if picture is not None:
        draw(pixels.permute(0, 2, 3, 1), loaded.model.look(clip), top, picture, title=video.name)
    return Prediction(video, top, picture=picture, features=features)


def name_of(video: Path) -> str:
    """Return the name of what is made of a video: its own without the ending.

    A folder and a list keep theirs, so that the predictions of val/ and of val.csv are two files.
    """
    video = video.absolute()
    if video.name in ("", ".."):
        return video.resolve().name
    return video.name if video.is_dir() or video.suffix.lower() in LISTS else video.stem


def predict_many(loaded: Loaded, videos: Sequence[Path], pictures: Path | None) -> Iterator[Prediction]:
    """Yield what the model says of each video; one that can't be read is named, and the others go on.

    ``pictures`` is a folder for the pictures, which are numbered as the videos are; None: none are drawn.
    """
    for i, video in enumerate(videos):
        try:
            pixels = loaded.pixels(video)
        except READ_ERRORS as error:
            yield Prediction(video, [], reason_of(error, str(video)))
            continue
        yield _of_pixels(loaded, video, pixels, pictures / f"{i:06d}_{name_of(video)}.png" if pictures else None)


def videos_of(path: Path) -> list[Path]:
    """Return the videos that a path stands for: itself, those below a folder, or those that a list names.

    A folder of pictures, without a video in it or below, is one video. A list has a path a line, relative to its own
    folder; a label after it is left out.
    """
    if path.is_dir():
        pictures = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICTURES)
        found = sorted(file for file in path.rglob("*") if file.is_file() and is_video(file))
        if not found and not pictures:
            raise InputError(f"{path}: no video in the folder")
        if not found:
            _refuse_list_among_pictures(path)
            return [path]
        if pictures:
            say(f"{path}: {len(found)} videos; {len(pictures)} pictures are skipped, first {pictures[0]}")
        return found
    if path.suffix.lower() not in LISTS:
        return [path]
    return [path.parent / _name_in(path.parent, line) for line in read_lines(path)]


def _refuse_list_among_pictures(folder: Path) -> None:
    """Raise InputError if a folder of pictures also holds a list of videos: it is not clear which of them is meant."""
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in LISTS and file.is_file()):
        named: list[Path] = []
        with suppress(InputError):  # not a text file
            named = [folder / _name_in(folder, line) for line in read_lines(file)]
        if named and all(video.is_dir() or (video.is_file() and is_video(video)) for video in named):
            raise InputError(f"{folder}: it holds pictures and a list of videos; video={file} reads the list")


def _name_in(folder: Path, line: str) -> str:
    """Return the path that a line of a list names: all of it or what stands before a label, quoted as in CSV or not."""
    names = dict.fromkeys((line, split_number(line)[0]))
    for name in [*names, *map(_unquoted, names)]:
        with suppress(OSError):  # of a name that is too long
            if (folder / name).exists():
                return name
    return _unquoted([*names][-1])


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if len(name) > 1 and name[0] == name[-1] == '"' else name


def write_predictions(predictions: Sequence[Prediction], out: Path) -> list[Path]:
    """Write <out>.csv, a row a video, and <out>.jsonl, a line a video; return their paths."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", *(f"{what}{k}" for k in range(1, 6) for what in ("class", "probability")), "reason"])
    lines = []
    for p in predictions:
        cells = [cell for name, probability in p.top for cell in (name, f"{probability:.6f}")]
        table.writerow([p.video, *cells, *[""] * (10 - len(cells)), p.reason])
        top = [{"class": name, "probability": round(probability, 6)} for name, probability in p.top]
        about = {"video": str(p.video), "top": top, "reason": p.reason or None}
        lines.append(json.dumps(finite(about), allow_nan=False) + "\n")
    paths = [with_ending(out, ".csv"), with_ending(out, ".jsonl")]
    for path, content in zip(paths, (text.getvalue(), "".join(lines)), strict=True):
        with replacing(path) as file:
            file.write(content.encode("utf-8", "surrogateescape"))
    return paths


def write_features(predictions: Sequence[Prediction], out: Path, form: str) -> Path:
    """Write <out>_features.npz or .safetensors with what the classifier saw of each video that could be read.

    ``features`` (N, D) and the paths of the videos as they were given: the array ``videos`` (N,) of an npz file, a JSON
    list under ``videos`` in the metadata of a safetensors file.
    """
    seen = [(str(p.video), p.features) for p in predictions if p.features is not None]
    if not seen:
        raise InputError("features: there are none: no video could be read, or the model does not call its classifier")
    names, features = [name for name, _ in seen], torch.stack([tensor for _, tensor in seen])
    path = with_ending(out, f"_features.{form}")
    if form == "npz":
        file = io.BytesIO()
        np.savez(file, features=features.numpy(), videos=np.array(names))
        content = file.getvalue()
    else:
        content = save({"features": features}, metadata={"videos": json.dumps(names)})
    with replacing(path) as file_:
        file_.write(content)
    return path
