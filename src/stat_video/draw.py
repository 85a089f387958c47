"""The picture of what a model looked at in one clip: classes, frames, and a row for each `models.base.Panel`."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from .files import replacing
from .models.base import Panel
from .models.parts.resize import resize_maps

MOST_FRAMES = 16  # shown of a clip without panels

# Lengths in inches. Inferno and Okabe and Ito's colours are safe for the colour-blind.
_WIDTH, _LEFT, _RIGHT, _DPI = 13.0, 1.5, 0.8, 120
_BAR, _OFF, _CLASS, _GAP, _ABOVE = 0.75, 0.25, 0.25, 0.08, 0.3  # heights: bars, a panel that is off, a class, spaces
_INK, _GREY, _BLUE = "#222222", "#6E6E6E", "#0072B2"
_SHARES = (_BLUE, "#D55E00", "#009E73", "#CC79A7")  # of the first, second, ... panel of shares
_HEAT = ListedColormap(colormaps["inferno"](torch.linspace(0.35, 1, 256).numpy()))


def draw(
    frames: Tensor, panels: Sequence[Panel], top: Sequence[tuple[str, float]], path: Path, *, title: str = ""
) -> None:
    """Write a PNG: the top classes, the frames, and beneath them the panels.

    A panel's n values are of n evenly spread stretches of the clip, each shown by its first frame. Maps are drawn over
    those frames, in multiples of the map's mean over the clip; shares are drawn as bars. Without panels the picture
    has the classes and at most 16 frames. ``path`` is never half a picture: it is written beside and renamed.

    Args:
        frames: uint8 (T, H, W, 3), the pixels that the model saw.
        panels: of `VideoModel.look`; value (i, j) of a map (n, h, w) stands at pixel (i * H / h, j * W / w).
        top: (class name, probability from 0 to 1), best first.

    Raises:
        ValueError: if the frames or panels are of another shape, or panels of one picture have different n.
        InputError: if the file can't be written.
    """
    shape = tuple(frames.shape)
    panels = [
        Panel(p.name, p.what, None if p.values is None else p.values.detach().float().cpu(), p.off) for p in panels
    ]
    for p in panels:
        if p.values is not None and (p.values.dim() not in (1, 3) or not p.values.numel()):
            raise ValueError(f"panel {p.name}: values {tuple(p.values.shape)}; allowed are (n, h, w) and (n,)")
    lengths = sorted({len(p.values) for p in panels if p.values is not None})
    if len(lengths) > 1:
        raise ValueError(f"panels of {' and '.join(map(str, lengths))} frames; one number of frames is allowed")
    n = lengths[0] if lengths else 1
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0] or shape[0] % n:
        raise ValueError(f"frames are {frames.dtype} {shape}; allowed is uint8 (T, H, W, 3), T a multiple of {n}")
    with replacing(path) as file:
        _figure(frames.cpu(), panels, top, title).savefig(file, format="png", dpi=_DPI)


def _figure(frames: Tensor, panels: Sequence[Panel], top: Sequence[tuple[str, float]], title: str) -> Figure:
    T, H, W = frames.shape[:3]
    n_t = next((len(p.values) for p in panels if p.values is not None), min(T, MOST_FRAMES))
    strips = math.ceil(n_t / (8 if n_t <= 16 else 16))
    columns = math.ceil(n_t / strips)
    cell = (_WIDTH - _LEFT - _RIGHT) / max(columns, 8)
    picture = cell * 0.96 * H / W
    rows = [picture, *(_OFF if p.values is None else _BAR if p.values.dim() == 1 else picture for p in panels)]
    strip = _ABOVE + sum(rows) + _GAP * len(rows)
    head = 0.2 + (0.45 if title else 0) + _CLASS * len(top)
    height = head + strip * strips + 0.1
    figure = Figure((_WIDTH, height), facecolor="white")

    def axes(y: float, tall: float, x: float = _LEFT, wide: float = cell * columns) -> Axes:
        """Return bare axes whose upper left corner is x inches from the left and y inches from the top."""
        ax = figure.add_axes((x / _WIDTH, 1 - (y + tall) / height, wide / _WIDTH, tall / height))
        ax.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(0, 1))
        ax.spines[:].set_visible(False)
        return ax

    x, y = _LEFT / _WIDTH, 1 - 0.18 / height
    figure.text(x, y, _cut(title, 95), size=13, weight="bold", color=_INK, va="top", parse_math=False)
    if top:
        _draw_classes(axes(head - _CLASS * len(top), _CLASS * len(top), wide=_WIDTH - _LEFT), top)

    firsts = [i * T // n_t for i in range(n_t)]
    bounds = [*firsts, T]
    colours = iter(_SHARES * len(panels))
    tops = [head + _ABOVE + sum(rows[:r]) + r * _GAP for r in range(len(rows))]  # of the rows of the first strip
    shown = [range(s * columns, min((s + 1) * columns, n_t)) for s in range(strips)]

    for s, part in enumerate(shown):
        ax = axes(tops[0] + s * strip, picture)
        _label(ax, "Frames", f"{n_t} of the {T} sampled")
        for column, i in enumerate(part):
            first, last = firsts[i], bounds[i + 1] - 1
            name = f"{first + 1}" if first == last else f"{first + 1}\N{EN DASH}{last + 1}"
            ax.text(column, 1.02, name, size=8, color=_GREY, ha="center", va="bottom")
            ax.imshow(frames[first], extent=_box(column), aspect="auto")

    for r, panel in enumerate(panels, 1):
        values = panel.values
        strip_axes = [axes(tops[r] + s * strip, rows[r]) for s in range(strips)]
        for ax in strip_axes:
            _label(ax, panel.name, "" if values is None else panel.what)
        if values is None or values.dim() == 1:
            colour = next(colours)  # one that is off takes its colour too, so that the others keep theirs
            for ax, part in zip(strip_axes, shown, strict=True):
                if values is None:
                    ax.text(-0.48, 0.5, panel.off or "off", size=9, color=_GREY, va="center", style="italic")
                else:
                    _draw_shares(ax, values, part, colour)
            continue
        times = values / values.mean().clamp(min=torch.finfo(torch.float32).tiny)
        heat = resize_maps(times, (H, W), (H / values.shape[1], W / values.shape[2]))
        most = max(2.0, float(times.flatten().quantile(0.99)))  # a lone peak does not pale all else
        scale = Normalize(1, most, clip=True)
        for ax, part in zip(strip_axes, shown, strict=True):
            for column, i in enumerate(part):
                ax.imshow(_overlay(frames[firsts[i]], heat[i], scale), extent=_box(column), aspect="auto")
        beside = axes(tops[r], picture, _LEFT + cell * columns + 0.1, 0.1)
        bar = figure.colorbar(ScalarMappable(scale, _HEAT), beside, extend="max" if heat.max() > most else "neither")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2, color=_GREY, labelcolor=_GREY)
        bar.set_label("× even attention", size=7, color=_GREY)
    return figure


def _box(column: int) -> tuple[float, float, float, float]:
    """Return where a frame stands in its row's axes: left, right, bottom, top."""
    return column - 0.48, column + 0.48, 0, 1


def _overlay(frame: Tensor, heat: Tensor, scale: Normalize) -> Tensor:
    """Return a frame uint8 (H, W, 3) as (H, W, 3) in 0..1: grey, and coloured if heat (H, W) is more than even."""
    strength = torch.from_numpy(scale(heat.numpy()).data)
    grey = 0.8 * (frame / 255 @ torch.tensor([0.299, 0.587, 0.114]))[..., None]
    alpha = 0.85 * strength[..., None] ** 0.5
    return (1 - alpha) * grey + alpha * torch.from_numpy(_HEAT(strength.numpy())[..., :3]).float()


def _label(ax: Axes, name: str, what: str = "") -> None:
    """Write the name of a row, and under it what it shows, left of its axes."""
    at, axes, points, va = (0, 0.5), "axes fraction", "offset points", "bottom" if what else "center"
    ax.annotate(name, at, (-8, 0), axes, points, ha="right", va=va, size=11, weight="bold", color=_INK)
    ax.annotate(what, at, (-8, -2), axes, points, ha="right", va="top", size=7.5, color=_GREY)


def _draw_shares(ax: Axes, share: Tensor, shown: range, colour: str) -> None:
    """Draw bars of the frames `shown`, figures under them, and a line at even shares; one scale for all strips."""
    even = 1 / len(share)
    most = 1.05 * max(float(share.max()), 1.2 * even)
    ax.set_ylim(-0.35 * most, most)
    ax.axhline(0, color=_GREY, linewidth=0.8)
    ax.axhline(even, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.text(1.005, even, "1/$n_t$", transform=ax.get_yaxis_transform(), size=8, color=_INK, va="center")
    for column, value in enumerate(share[shown.start : shown.stop].tolist()):
        ax.bar(column, value, 0.6, color=colour)
        ax.text(column, -0.05 * most, f"{value:.1%}", size=7.5, color=_INK, ha="center", va="top")


def _draw_classes(ax: Axes, top: Sequence[tuple[str, float]]) -> None:
    """Draw for each class a bar from 0 to 100 %, the figure and the name."""
    bar, names = 2.2, 2.95  # inches: length of 100 %, where names begin
    ax.set(xlim=(0, _WIDTH - _LEFT), ylim=(len(top) - 0.5, -0.5))
    _label(ax, f"Top {len(top)}", "probability")
    for i, (name, probability) in enumerate(top):
        weight = "bold" if i == 0 else "normal"
        ax.barh(i, bar, 0.62, color="#EEEEEE")
        ax.barh(i, bar * probability, 0.62, color=_BLUE if i == 0 else "#9DB8CC")
        ax.text(names - 0.12, i, f"{probability:.1%}", size=10, color=_INK, weight=weight, ha="right", va="center")
        ax.text(names, i, _cut(name, 100), size=10, color=_INK, weight=weight, va="center", parse_math=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
