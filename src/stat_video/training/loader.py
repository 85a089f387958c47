"""The script that is written beside an exported program: it predicts as `src/predict.py` does, without this project."""

import json
from string import Template

from ..config import Config
from ..models.base import Clip

# The frames of clip k of so many in a test of a video of n frames, for each `clip.sampling` and `clip.frames`: what
# `data.sampling.view_frames` computes, as Python that needs NumPy alone.
_DENSE = """
    last = max(n - T * STRIDE, 0)
    start = {start}
    return [(start + i * STRIDE) % n for i in range(T)]"""
_MIDDLE = _DENSE.format(start="last // 2 if clips == 1 else int(np.linspace(0, last, clips)[k])")
_TSM = """
    if clips > 2:
        return [i * (n // T) + int((k + 0.5) / clips * (n // T)) for i in range(T)]
    return [int((n / T / 2 if k == 0 else 0.0) + n / T * i) for i in range(T)]"""
_INTERVALS = """
    ends = [round((n - 1) / T * i) for i in range(T + 1)]
    return [a + (2 * k + 1) * (b - a) // (2 * clips) for a, b in zip(ends, ends[1:])]"""
_SPREAD = """
    last = max(n - T * STRIDE, 0)
    first = np.float32({start})  # float32, from both ends, as PyTorch spaces numbers
    end = np.float32({start} + T * STRIDE - 1)
    i, step = np.arange(T, dtype=np.float32), (end - first) / np.float32(max(T - 1, 1))
    places = np.where(i < T // 2, first + step * i, end - step * (T - 1 - i))
    return [int(place) for place in places.clip(0, n - 1)]"""
_RUNS = """
    return [min(start + j, n - 1) for start in starts for j in range(SNIPPET)]"""
FRAMES = {
    ("segments", None): """
    return [min(int((i + (k + 0.5) / clips) * n / T), n - 1) for i in range(T)]""",
    ("segments", "tsm"): _TSM,
    ("segments", "smallbig"): _TSM,
    ("segments", "blvnet"): """
    if n <= T:
        return sorted(np.random.RandomState(k).choice(n, T).tolist())
    half = n / T / 2
    place = half + max(min(k + 1 + -clips // 2, half - 1e-4), -half)
    return [int(place + n / T * i) for i in range(T)]""",
    ("segments", "pyslowfast"): _INTERVALS,
    ("segments", "mvit"): _INTERVALS,
    ("dense", None): """
    last = max(n - (T - 1) * STRIDE, 1) - 1
    start = last // 2 if clips == 1 else k * last // (clips - 1)
    return [min(start + i * STRIDE, n - 1) for i in range(T)]""",
    ("dense", "tsm"): _MIDDLE,
    ("dense", "vivit"): _MIDDLE,
    ("dense", "smallbig"): _DENSE.format(start="int(np.linspace(0, max(last - 1, 0), clips)[k])"),
    ("dense", "vidtr"): """
    window = T * STRIDE
    start = int((n - window + 1) / clips * k) if n >= window else 0
    last = start + (n - 1 - start) // STRIDE * STRIDE
    return [min(start + i * STRIDE, last) for i in range(T)]""",
    ("dense", "pyslowfast"): _SPREAD.format(start="last * k / clips"),
    ("dense", "mvit"): _SPREAD.format(start="(last // 2 if clips == 1 else k * (last // (clips - 1)))"),
    ("snippets", None): f"""
    runs, places = T // SNIPPET, max(n - SNIPPET + 1, 1)
    starts = [min(int((i + (k + 0.5) / clips) * places / runs), places - 1) for i in range(runs)]{_RUNS}""",
    ("snippets", "tdn"): f"""
    runs, places = T // SNIPPET, max(n - SNIPPET + 1, 1)
    if clips == 1:
        length = (n - SNIPPET + 1) / runs if n > runs + SNIPPET - 1 else 0.0
        starts = [int(length / 2 + length * i) for i in range(runs)]
    elif length := places // runs:
        starts = [i * length + int((k + 0.5) / clips * length) for i in range(runs)]
    else:
        starts = [int((k + 0.5) / clips * places) if n > runs else 0] * runs{_RUNS}""",
}

_LIBRARY = {  # of a form: what runs it, how it is loaded, and how it is called
    "pt2": ("torch", "torch.export.load(HERE / {file}).module()", "MODEL(torch.from_numpy(clip)).detach().numpy()"),
    "onnx": (
        "onnxruntime",
        "onnxruntime.InferenceSession(HERE / {file})",
        'MODEL.run(["logits"], {"clip": clip})[0]',
    ),
}
_SCRIPT = Template("""\
\"""Print the likeliest classes of each video, by its centre view: python SCRIPT VIDEO ...

It needs $library, numpy, av and pillow.
\"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import $library
from PIL import Image

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / $about).read_text(encoding="utf-8"))
MODEL = $load
T, STRIDE, SNIPPET, SIDE, CROP = $numbers


def frames_of(n, k=0, clips=1):
    \"""Return the frames of clip k of so many, of a video of n frames.\"""$frames


def clip_of(video, k=0, clips=1):
    \"""Return the centre of a clip of a video as the model takes it: float32 (1, 3, T, CROP, CROP).\"""
    with av.open(video, metadata_errors="replace") as file:
        wanted = frames_of(sum(1 for _ in file.decode(video=0)), k, clips)
    pictures = {}
    with av.open(video, metadata_errors="replace") as file:
        for i, frame in enumerate(file.decode(video=0)):
            if i in wanted:
                image = Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                image = image.resize([int(SIDE * side / min(image.size)) for side in image.size], Image.BICUBIC)
                left, top = (round((side - CROP) / 2) for side in image.size)
                pictures[i] = np.asarray(image.crop((left, top, left + CROP, top + CROP)))
    pixels = (np.stack([pictures[i] for i in wanted]) / 255 - ABOUT["mean"]) / ABOUT["std"]  # (T, CROP, CROP, 3)
    return np.ascontiguousarray(pixels$flip.transpose(3, 0, 1, 2)[None], dtype=np.float32)


def probabilities(video, clips=1):
    \"""Return the probability of each class: the mean over the clips, each by $score.\"""
    scores = []
    for k in range(clips):
        clip = clip_of(video, k, clips)
        logits = $run[0].astype(float)
        scores.append($formula)
    return np.mean(scores, 0)


if __name__ == "__main__":
    for video in sys.argv[1:]:
        found = probabilities(video)
        for i in found.argsort()[::-1][:5]:
            print(f"{video}: {ABOUT['classes'][i]} {found[i]:.6f}")
""")


def frames_source(clip: Clip) -> str:
    """Return the body of a function of (n, k, clips) that returns the frames of a view of a test."""
    return FRAMES[clip.sampling, clip.frames]


def script_for(config: Config, form: str, file: str, about: str) -> str:
    """Return the script that applies the program in `file` to videos, with the description in `about` beside it."""
    clip = config.clip
    library, load, run = _LIBRARY[form]
    several = config.data.multi_label
    return _SCRIPT.substitute(
        library=library,
        about=json.dumps(about),
        load=load.format(file=json.dumps(file)),
        numbers=f"{clip.T}, {clip.stride}, {clip.snippet}, {config.short_side}, {clip.view_crop}",
        frames=frames_source(clip),
        flip="[..., ::-1]" if clip.channels == "bgr" else "",
        score="sigmoid" if several else "softmax",
        run=run,
        formula="1 / (1 + np.exp(-logits))" if several else "np.exp(logits - np.logaddexp.reduce(logits))",
    )
