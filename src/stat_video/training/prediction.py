"""Predict the classes of one video by a checkpoint, and draw what the model looked at."""

from pathlib import Path

import torch

from ..data.reader import PathHandler
from ..data.sampling import view_frames
from ..data.transforms import Normalize, ViewTransform
from ..draw import draw
from .metrics import likeliest
from .testing import rebuild


def predict(ckpt: Path, video: Path, picture: str | None = None) -> tuple[list[tuple[str, float]], Path]:
    """Return the top-5 (class, probability) of a video's centre view, and the path of the picture that was written."""
    model, config, classes = rebuild(ckpt)
    choose = view_frames(config.clip, 0, 1)
    frames = PathHandler().video_from_path(str(video)).frames(choose)  # (T, H, W, 3)
    pixels = ViewTransform(config.short_side, config.clip.view_crop)(frames)  # (T, 3, view_crop, view_crop)
    clip = Normalize(*config.normalization)(pixels[None])
    with torch.no_grad():
        logits = model(clip)[0]
    top = likeliest(logits, classes)
    path = Path(picture) if picture else ckpt.parent / f"predict_{video.stem}.png"
    draw(pixels.permute(0, 2, 3, 1), model.look(clip), top, path, title=video.name)
    return top, path
