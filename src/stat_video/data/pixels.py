"""Mean and standard deviation of the pixels of a data set: `data.mean=null` and `data.std=null`."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import replacing
from ..paths import cache_folder
from ..progress import shown
from .config import DataConfig
from .limits import Limits
from .lists import find_root, layout_of, read_listing
from .places import find
from .reader import READ_ERRORS, PathHandler, reason_of

MOST_VIDEOS = 200
PLACES = (1 / 6, 1 / 2, 5 / 6)  # of the frames that are looked at, as shares of a video


def measured(config: DataConfig) -> tuple[float, float, int]:
    """Return (mean, standard deviation, number of videos) of pixels, 0 to 1, over three frames of up to 200 videos.

    They are training videos, of folds all, evenly spread over the list by name. What was measured is kept in the user's
    cache, by the videos' paths, sizes and times. InputError if none of them can be read.
    """
    root = find_root(config)
    entries = read_listing(root, config).entries
    names = sorted({name for name, _ in entries["train"] + (entries["val"] if config.folds > 1 else [])})
    chosen = [names[i * len(names) // MOST_VIDEOS] for i in range(MOST_VIDEOS)] if len(names) > MOST_VIDEOS else names
    places = find(root / config.videos, chosen, layout_of(config).by_stem)
    videos = sorted(path for path in places.values() if path is not None)
    stamps = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in videos]
    file = cache_folder() / f"pixels-{hashlib.sha256(repr((PLACES, stamps)).encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):
        mean, std, number = json.loads(file.read_text(encoding="utf-8"))
        return float(mean), float(std), int(number)
    found = _measure(videos, config.limits)
    with suppress(InputError), replacing(file) as opened:
        opened.write(json.dumps(found).encode())
    return found


def in_words(mean: float, std: float, number: int) -> str:
    """Return the line that says what was measured."""
    return f"data.mean={mean} data.std={std}: measured on {number} training videos"


def _measure(videos: list[Path], limits: Limits) -> tuple[float, float, int]:
    handler, first_error = PathHandler(limits), "there is none"
    sums: list[tuple[int, float, float]] = []  # of each video: pixels, their sum, the sum of their squares
    for path in shown(videos, "data.mean: videos", len(videos)):
        try:
            frames = handler.video_from_path(str(path)).frames(lambda n: [int(share * n) for share in PLACES])
        except READ_ERRORS as error:
            first_error = first_error if sums else reason_of(error, str(path))
            continue
        pixels = frames.numpy().astype(np.float64) / 255
        sums.append((pixels.size, pixels.sum(), np.square(pixels).sum()))
    if not sums:
        raise InputError(f"data.mean=null: none of {len(videos)} training videos can be read: {first_error}")
    count, total, squares = np.sum(sums, 0)
    mean = total / count
    std = max(float(np.sqrt(max(squares / count - mean**2, 0))), 0.01)  # of videos of one colour
    return round(float(mean), 3), round(std, 3), len(sums)
