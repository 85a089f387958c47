"""Class folders without a split."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..splits import SPLITS
from .base import Layout, Listing, Split, class_folders, recording


def read(files: Mapping[str, Path], how: Split) -> Listing:
    """Read CLASS/VIDEO; hold a share of each class out for validation, at least one video and never the only one.

    Which ones follows from each name and the seed, so that a video that comes later moves few others. Files of one name
    but for the ending are taken for one recording: they are held out together.
    """
    listing = Listing([], {name: [] for name in SPLITS})
    found = class_folders(files["train"], listing.others)
    listing.classes = list(found)
    for label, videos in enumerate(found.values()):
        recordings: dict[str, list[Path]] = {}
        for video in videos:
            recordings.setdefault(recording(video), []).append(video)
        listing.twins += [video for of_one in recordings.values() if len(of_one) > 1 for video in of_one]
        drawn = sorted(
            recordings.values(),
            key=lambda of_one: hashlib.sha256(
                os.fsencode(f"{how.seed}/{of_one[0].parent.name}/{of_one[0].name}")
            ).digest(),
        )
        number = min(max(1, round(how.held_out * len(drawn))), len(drawn) - 1)
        held_out = {video for of_one in drawn[:number] for video in of_one}
        for video in videos:
            listing.entries["val" if video in held_out else "train"].append((str(video), label))
    return listing


LAYOUT = Layout("class folders, without a split", {"train": (".",)}, read)
