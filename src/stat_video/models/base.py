"""What the framework asks of a model.

A model is a file of this folder (or of `$STAT_VIDEO_OWN/models`) with two classes: a dataclass `Config` that says what
it is made of, and a `VideoModel` that `Config.build` returns. The framework knows a model by its file's name and asks
the rest here; only `forward` has to be written. PyTorch alone is imported at the top of such a file: a library that a
model is built from is imported in `build`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError, any_value, check_ranges, one_of, ranged
from .published import differences, reshaped

SAMPLING = ("segments", "dense", "snippets")
FRAMES = {  # of each sampling, whose formulas there are (data/formulas.py)
    "segments": ("tsm", "smallbig", "blvnet", "pyslowfast", "mvit"),
    "dense": ("tsm", "smallbig", "pyslowfast", "mvit", "vidtr", "vivit"),
    "snippets": ("tdn",),
}
Resize = Callable[[Tensor, torch.Size], Tensor]  # a weight, the shape that it gets -> the weight in that shape
Criterion = Callable[[Tensor, Tensor], Tensor]  # logits (B, num_classes), target -> a mean over the clips, ()


@dataclass
class Clip:
    """What a model sees of a video: keys `clip.*`. data/sampling.py draws the frames, data/transforms.py the pixels."""

    T: int = ranged(16, 1, 4096)  # frames
    crop: int = ranged(224, 1, 4096)  # height and width in training, pixels
    test_crop: int | None = ranged(None, 1, 4096)  # in validation and test; null: crop
    short_side: int | None = ranged(
        None, 1, 4096
    )  # of the frame that a test's crops are cut from, pixels; null: data.short_side
    sampling: str = one_of("segments", SAMPLING)
    stride: int = ranged(1, 1, 4096)  # dense: from one frame to the next
    snippet: int = ranged(5, 1)  # snippets: consecutive frames of each of the T / snippet segments
    # The authors whose code says which frames these are exactly (data/formulas.py); null: data/sampling.py.
    frames: str | None = any_value(None, neutral=None)
    views: str | None = None  # clips x crops of the test; null: data.views
    channels: str = one_of("rgb", ("rgb", "bgr"), neutral="rgb")  # order of the colours that the model gets
    mean: list[float] = ranged([], 0, 1)  # of the pixels, 0 to 1, one or three; none: data.mean
    std: list[float] = ranged(
        [], 0, above=True
    )  # none, not null: OmegaConf 2.3 can't choose a list or null by the scale

    def __post_init__(self) -> None:
        check_ranges(self, "clip.")
        if self.sampling == "snippets" and self.T % self.snippet:
            raise ValueError(
                f"T={self.T}: a multiple of clip.snippet={self.snippet} is allowed with clip.sampling=snippets"
            )
        if self.frames is not None and self.frames not in FRAMES[self.sampling]:
            names = ", ".join(FRAMES[self.sampling])
            raise ValueError(
                f"clip.frames={self.frames}: must be one of {names}, with clip.sampling={self.sampling}, or null"
            )
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) not in (0, 1, 3):
                raise ValueError(f"clip.{key}={values}: one number or three are allowed")

    @property
    def view_crop(self) -> int:
        """Height and width of a view of the test, pixels."""
        return self.crop if self.test_crop is None else self.test_crop

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless x is (B, 3, T, crop, crop) or, in a test, (B, 3, T, test_crop, test_crop)."""
        allowed = [(3, self.T, size, size) for size in (self.crop, self.view_crop)]
        if tuple(x.shape[1:]) not in allowed:
            sizes = " or ".join(map(str, dict.fromkeys(allowed)))
            raise ValueError(f"a clip of {tuple(x.shape[1:])}; this model takes {sizes}")


@dataclass
class ModelConfig:
    """What a model is made of: keys `model.*`, and the schema that they are checked against.

    Each model's file has a subclass `Config`. Ranges stand beside the fields (`errors.ranged`, `errors.one_of`).
    """

    released: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # keys of the networks in published files, for a message

    name: str = ""  # that of the model's file

    def __post_init__(self) -> None:
        if not self.name:
            self.name = type(self).__module__.rpartition("models.")[2].partition(".")[0]
        check_ranges(self)

    def check(self, clip: Clip) -> None:
        """Raise ValueError, with one line, if the model can't take such a clip; asked before any work."""

    def build(self, clip: Clip, num_classes: int) -> "VideoModel":
        """Return the model for such clips, with weights drawn anew."""
        raise NotImplementedError(f"models/{self.name}.py: its Config has no build")

    @property
    def label(self) -> str:
        """The name, and each key that is not at its default: 'stat-CA+SA-t_o5'. Sizes (`errors.sized`) are left out."""
        return "-".join([self.name, *(short(name, value) for name, value in self.changed().items())])

    def changed(self) -> dict[str, Any]:
        """Return the keys that are not at their defaults, but for the name and sizes."""
        found = {}
        for f in fields(self):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if f.name != "name" and not f.metadata.get("size") and getattr(self, f.name) != default:
                found[f.name] = getattr(self, f.name)
        return found


def check_logits(model: nn.Module, logits: Any, clips: int, num_classes: int) -> Tensor:
    """Return what a forward pass returned; raise InputError unless it is a floating-point (clips, num_classes)."""
    if isinstance(logits, Tensor) and logits.shape == (clips, num_classes) and logits.is_floating_point():
        return logits
    kind = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    asked = f"for {clips} clips; logits ({clips}, {num_classes}) are asked for"
    raise InputError(f"{type(model).__name__}.forward returned {kind} {asked}")


def short(key: str, value: Any) -> str:
    """Return a key and its value in a word: 't_o5', 'conv1', 'CA+SA', for labels, folders and tags."""
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return "+".join(value) or f"no_{key}"
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return f"{key}{value}"
    return f"{key}_custom"


@dataclass(frozen=True)
class Panel:
    """What a model looked at in one clip, as a row of the picture that `draw.py` makes."""

    name: str
    what: str  # in a few words, beneath the name
    values: Tensor | None  # (n, h, w): a map over each of n evenly spread frames; or (n,): a share of each; None: off
    off: str = ""  # said in the place of values


class VideoModel(nn.Module):
    """A network from clips to logits. Only `forward` has to be written."""

    classifier: ClassVar[str] = (
        "head"  # the module that makes logits: fp32 under autocast, drawn anew for other classes
    )
    no_decay: ClassVar[tuple[str, ...]] = ()  # parameters without weight decay, beside biases and norms
    lr_scale: Mapping[str, float] = {}  # module or parameter -> factor on the learning rate
    positions: Mapping[str, Resize] = {}  # weights that belong to a clip's size -> how they move to another
    renames: ClassVar[
        tuple[tuple[str, str], ...]
    ] = ()  # (pattern, replacement): names of the library's weights -> ours

    new_parts: ClassVar[tuple[str, ...]] = ()  # modules or parameters that image weights it starts from don't have

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of normalised clips (B, 3, T, crop, crop), in training and in evaluation."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def loss(self, clip: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
        """Return what training minimises, (), by the recipe's loss: ``criterion(logits, target)`` is a mean over clips.

        A model with an auxiliary head adds that of its logits here. ``target`` is (B,), or (B, num_classes) with a
        share of each class.
        """
        return criterion(self(clip), target)

    def units(self) -> Iterable[nn.Module]:
        """Return the modules that gradient checkpointing recomputes one by one; none: it can't be had."""
        return ()

    def layers(self) -> Iterable[nn.Module]:
        """Return the modules that `recipe.layer_decay` counts, in order of depth; none: the model has no such order.

        By default the `units`. They have to be registered in this order, with stem and positions before them and norm
        and classifier after them (`trained.depths`).
        """
        return self.units()

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of another project, named as here after `renames`, with tensors put into this model's shapes.

        May take tensors away and make new ones. Weights of such a model itself are returned as they are. A subclass
        that overrides it ends in ``super().adapt(state)``; it may raise ValueError, with a line, for another network.
        """
        return reshaped(state, self.state_dict())

    def check_network(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError if weights from `adapt` are of another network, by numbers of blocks, shapes and parts.

        One line, with the keys of `ModelConfig.released` that fit.
        """
        apart = (self.classifier, *self.positions)
        if found := differences(state, self.state_dict(), apart):
            more = f" and {len(found) - 1} more such differences" if len(found) > 1 else ""
            raise ValueError(f"these weights do not fit: {found[0]}{more}{self._fitting(state, apart)}")

    def _fitting(self, state: Mapping[str, Tensor], apart: Sequence[str]) -> str:
        """Return which released network has weights of these shapes, for a message; '' if none or if unknown."""
        config, clip = getattr(self, "config", None), getattr(self, "clip", None)
        if not isinstance(config, ModelConfig) or not isinstance(clip, Clip):
            return ""
        for keys in config.released:
            others = {key: value for key, value in keys.items() if getattr(config, key) != value}
            try:
                with torch.device("meta"):
                    other = replace(config, **others).build(clip, 2).state_dict() if others else {}
            except ValueError:  # such a network does not take these clips
                continue
            if other and not differences(reshaped(state, other), other, apart):
                return "; the file is of " + " ".join(f"model.{key}={value}" for key, value in others.items())
        return ""

    def counted(self) -> "VideoModel":
        """Return the model whose multiply-adds are those of the paper; may change itself: it is built for this."""
        return self

    def look(self, clip: Tensor) -> list[Panel]:
        """Return where the model looks in a normalised clip (1, 3, T, crop, crop), in evaluation mode; else []."""
        return []

    def __setattr__(self, name: str, value: Any) -> None:
        # Python would find the class's attribute first, and the layer never.
        if isinstance(value, nn.Module | nn.Parameter) and hasattr(VideoModel, name):
            raise AttributeError(
                f"{type(self).__name__}.{name}: the framework asks for {name}; name this layer otherwise"
            )
        super().__setattr__(name, value)
