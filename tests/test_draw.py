"""The picture against what it has to say, for panels of any model."""

import errno

import pytest
import torch
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from stat_video.draw import _figure, _overlay, draw
from stat_video.errors import InputError
from stat_video.models.base import Panel

TOP = [("moving left", 0.6), ("a class name that never ends " * 5, 0.3), ("$5 vs $6_%", 0.1)]


def make_panels(n, on=True):
    """A map, and two panels of shares that are the same or off."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(n, 6, 6, generator=generator) ** 4
    shares = torch.rand(n, generator=generator)
    shares = shares / shares.sum() if on else None
    return [
        Panel("Map", "where it looks", maps / maps.sum((1, 2), keepdim=True)),
        Panel("First", "weights", shares, off="off: no first"),
        Panel("Second", "weights of $x_{cls}$", shares, off="off: no second"),
    ]


def make_frames(T, size=48):
    return torch.randint(0, 256, (T, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text)}


def bars_of(figure):
    return [bar for ax in figure.axes for container in ax.containers for bar in container]


@pytest.mark.parametrize(("n", "T", "size"), [(1, 2, 48), (8, 16, 224), (11, 11, 48), (16, 32, 48), (32, 64, 48)])
@pytest.mark.parametrize("on", [True, False])
def test_draws_a_png(tmp_path, n, T, size, on):
    path = tmp_path / "picture.png"
    path.write_text("an older one")
    draw(make_frames(T, size), make_panels(n, on), TOP, path, title="a video.mp4 for $2 or $3")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1560
        assert 350 < image.height < 1600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000
    assert list(tmp_path.iterdir()) == [path]


def test_says_what_is_shown_and_what_is_off():
    shown = texts(_figure(make_frames(16), make_panels(8), TOP, "some.mp4"))
    assert {"some.mp4", "Top 3", "60.0%", "moving left", "$5 vs $6_%", "Frames", "1–2", "15–16"} <= shown
    assert {"Map", "First", "Second", "where it looks", "8 of the 16 sampled", "1/$n_t$"} <= shown
    assert not any(text.startswith("off") for text in shown)
    off = texts(_figure(make_frames(8), make_panels(8, on=False), [], ""))
    assert {"Map", "off: no first", "off: no second", "8"} <= off
    assert "1/$n_t$" not in off


@pytest.mark.parametrize("n", [8, 16, 32])
def test_bars_are_the_shares(n):
    panels = make_panels(n)
    bars = [bar.get_height() for bar in bars_of(_figure(make_frames(n), panels, [], ""))]
    # A row of bars a panel, strip by strip
    first, second = torch.tensor(bars, dtype=torch.float32).view(2, n)
    torch.testing.assert_close(first, panels[1].values)
    torch.testing.assert_close(second, panels[2].values)


def test_a_panel_keeps_its_colour_if_the_one_before_is_off():
    on, off = make_panels(8), make_panels(8, on=False)
    second = {to_hex(bar.get_facecolor()) for bar in bars_of(_figure(make_frames(8), [off[1], on[2]], [], ""))}
    both = [to_hex(bar.get_facecolor()) for bar in bars_of(_figure(make_frames(8), on, [], ""))]
    assert second == set(both[8:])
    assert second.isdisjoint(both[:8])


@pytest.mark.parametrize(("T", "shown"), [(8, 8), (16, 16), (40, 16), (64, 16)])
def test_a_model_that_does_not_say_where_it_looks(T, shown, tmp_path):
    """Frames and classes alone: 16 frames at most, from the first on, evenly spread."""
    frames = make_frames(T)
    figure = _figure(frames, [], TOP, "some.mp4")
    pictures = [image for ax in figure.axes for image in ax.images]
    assert len(pictures) == shown
    for i, picture in enumerate(pictures):
        assert (picture.get_array() == frames[i * T // shown].numpy()).all()
    said = texts(figure)
    assert {"Frames", "Top 3", f"{shown} of the {T} sampled"} <= said
    assert "× even attention" not in said
    draw(frames, [], [], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_panels_in_any_number_and_order():
    """Two maps of two resolutions, and shares between them: each map has a scale of its own."""
    maps = torch.rand(4, 3, 5), torch.rand(4, 7, 7)
    panels = [Panel("A", "a", maps[0]), Panel("B", "b", torch.full((4,), 0.25)), Panel("C", "c", maps[1])]
    figure = _figure(make_frames(8), panels, [], "")
    assert {"A", "B", "C"} <= texts(figure)
    assert sum(text.get_text() == "× even attention" for text in figure.findobj(Text)) == 2
    # The frames and two rows of maps; colour bars hold no image of a frame's shape
    assert sum(image.get_array().shape == (48, 48, 3) for ax in figure.axes for image in ax.images) == 12


def test_a_map_is_drawn_in_multiples_of_its_mean():
    """So it does not matter what it sums to; a map of equal values has no colour."""
    maps = make_panels(4)[0].values
    drawn = []
    for values in (maps, 1000 * maps, torch.ones_like(maps)):
        figure = _figure(make_frames(4), [Panel("A", "a", values)], [], "")
        images = [image.get_array() for ax in figure.axes for image in ax.images if image.get_array().ndim == 3]
        drawn.append(torch.stack([torch.as_tensor(image.data) for image in images[4:8]]))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=1e-4)
    assert (drawn[2].amax(3) - drawn[2].amin(3)).max() < 1e-6
    assert (drawn[0].amax(3) - drawn[0].amin(3)).max() > 0.2


def test_heat_colours_what_gets_more_than_even_attention():
    frame = make_frames(1)[0]
    heat = torch.full((48, 48), 0.5)
    heat[:12, 36:] = 3.0
    image = _overlay(frame, heat, Normalize(1, 3, clip=True))
    spread = image.amax(2) - image.amin(2)
    assert image.min() >= 0
    assert image.max() <= 1
    assert spread[:12, 36:].min() > 0.2
    assert spread[12:].max() < 1e-6
    assert spread[:, :36].max() < 1e-6


@pytest.mark.parametrize("frames", [make_frames(12), make_frames(16).float(), make_frames(16)[..., 0]])
def test_refuses_other_frames(tmp_path, frames):
    with pytest.raises(ValueError, match=r"allowed is uint8 \(T, H, W, 3\), T a multiple of 8"):
        draw(frames, make_panels(8), TOP, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([torch.rand(8, 2)], r"panel 0: values \(8, 2\); allowed are \(n, h, w\) and \(n,\)"),
        ([torch.rand(8), torch.rand(4, 2, 2)], "panels of 4 and 8 frames; one number of frames is allowed"),
    ],
)
def test_refuses_other_panels(tmp_path, values, said):
    panels = [Panel(str(i), "", v) for i, v in enumerate(values)]
    with pytest.raises(ValueError, match=said):
        draw(make_frames(8), panels, TOP, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind_and_the_old_picture_alone(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_text("an older one")

    def full_disk(self, file, **_):
        file.write(b"half a pic")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(InputError, match="No space left"):
        draw(make_frames(8), make_panels(8), TOP, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "an older one"


def test_a_path_that_is_a_folder_is_an_error_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="could not be written"):
        draw(make_frames(8), make_panels(8), TOP, tmp_path)
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
