"""Predict the classes of videos by a checkpoint, and draw what the model looked at."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

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


def predictor(ckpt: Path) -> Callable[[Path], tuple[Top, Callable[[Path], None]]]:
    """Return what gives the top 5 of a video's centre view, and what draws that into a file."""
    loaded = Loaded.of(ckpt)

    def predict_one(video: Path) -> tuple[Top, Callable[[Path], None]]:
        pixels = loaded.pixels(video)  # (T, 3, view_crop, view_crop)
        clip = loaded.normalized(pixels)
        with torch.no_grad():
            top = loaded.top(loaded.model(clip)[0])

        def draw_into(picture: Path) -> None:
            draw(pixels.permute(0, 2, 3, 1), loaded.model.look(clip), top, picture, title=video.name)

        return top, draw_into

    return predict_one


def predict(ckpt: Path, video: Path, picture: str | None = None) -> tuple[Top, Path]:
    """Return the top 5 of a video, and the path of the picture that was written."""
    path = Path(picture) if picture else ckpt.parent / f"predict_{name_of(video)}.png"
    top, draw_into = predictor(ckpt)(video)
    draw_into(path)
    return top, path


def name_of(video: Path) -> str:
    """Return the name for what is made of a video: its own without the ending; of a folder, which has none, whole."""
    video = video.absolute()
    return video.resolve().name if video.name in ("", "..") else video.name if video.is_dir() else video.stem


def predict_many(ckpt: Path, videos: Sequence[Path], pictures: Path | None) -> Iterator[Prediction]:
    """Yield what the model says of each video; one that can't be read is named, and the others go on.

    ``pictures`` is a folder for the pictures, which are numbered as the videos are; None: none are drawn.
    """
    predict_one = predictor(ckpt)
    for i, video in enumerate(videos):
        try:
            top, draw_into = predict_one(video)
        except READ_ERRORS as error:
            yield Prediction(video, [], reason_of(error, str(video)))
            continue
        picture = pictures / f"{i:06d}_{name_of(video)}.png" if pictures else None
        if picture:
            draw_into(picture)
        yield Prediction(video, top, picture=picture)


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
