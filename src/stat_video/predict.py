"""One video through a checkpoint: its five likeliest classes and the picture that explains them."""

from pathlib import Path

from .data.reader import PathHandler
from .data.sampling import view_frames
from .data.transforms import Normalize, ViewTransform
from .explain import draw, explain
from .training.evaluate import rebuild


def predict(ckpt: Path, video: Path, picture: str | None = None) -> tuple[list[tuple[str, float]], Path]:
    """Top-5 (class, probability) of the centre view, and where the picture was written."""
    model, config, classes = rebuild(ckpt)
    frames = PathHandler().video_from_path(str(video)).frames(view_frames(config.T, 0, 1))  # (T, H, W, 3)
    clip = ViewTransform(config.data.short_side, config.crop)(frames)  # (T, 3, crop, crop)
    explanation = explain(model, Normalize(config.data.mean, config.data.std)(clip[None]))
    probabilities, indices = explanation.logits.softmax(-1).topk(min(5, len(classes)))
    top = [(classes[i], p) for i, p in zip(indices.tolist(), probabilities.tolist(), strict=True)]
    path = Path(picture) if picture else ckpt.parent / f"predict_{video.stem}.png"
    draw(clip.permute(0, 2, 3, 1), explanation, top, path, title=video.name)
    return top, path
