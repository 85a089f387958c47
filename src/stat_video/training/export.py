"""Write the model of a checkpoint as a program that runs without this project: torch.export's or ONNX."""

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, in_a_line
from ..files import replacing, with_ending, write_json
from ..models.base import VideoModel
from ..progress import say
from ..runs.identity import digest_of
from .loaded import Loaded
from .loader import frames_source, script_for

CLOSE = 1e-4  # by how much a logit may differ from the checkpoint's
Run = Callable[[Tensor], Tensor]


def export(loaded: Loaded, forms: Sequence[str], out: Path) -> list[Path]:
    """Write a program <out>.<form> for each of `forms`, <out>.json, which says all of a clip, and a script for videos.

    The script is <out>_predict.py, of the first form. Returns their paths. Each program is loaded back and must give
    the checkpoint's logits on clips that it was not made with; else InputError, and nothing is written.
    """
    if out.suffix in [f".{form}" for form in FORMS]:  # out=model.pt2 is what one types
        out = out.with_suffix("")
    paths = {form: with_ending(out, f".{form}") for form in forms}
    check_libraries(forms)
    model, clip = loaded.model, loaded.config.clip
    clips = torch.randn(3, 3, clip.T, clip.view_crop, clip.view_crop, generator=torch.Generator().manual_seed(0))
    program, why_one = _program(model, clips[:2])
    if why_one:
        say(f"batch: a program takes one clip at once, since {why_one}")
    contents = {}
    for form, path in paths.items():
        contents[path], again = FORMS[form](program)
        for number in (1,) if why_one else (1, 3):
            _compare(model, again, clips.flip(0)[:number], path)
    about, script = with_ending(out, ".json"), with_ending(out, "_predict.py")
    first = forms[0]
    contents[script] = script_for(loaded.config, first, paths[first].name, about.name).encode()
    for path, content in contents.items():
        with replacing(path) as file:
            file.write(content)
    write_json(about, _description(loaded, why_one))
    return [*contents, about]


def check_libraries(forms: Sequence[str]) -> None:
    """Raise InputError if what writes or runs one of the forms is not installed."""
    if "onnx" not in forms:
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  what torch.onnx writes with
    except ImportError as error:
        raise InputError(f"to=onnx: {error}; pip install -e '.[onnx]' brings it") from None


def _program(model: VideoModel, clips: Tensor) -> tuple[Any, str | None]:
    """Return the exported program, and why it takes one clip at once; None: it takes any number.

    InputError if the exporter can't follow the forward pass, as where it goes by the numbers in a tensor.
    """
    with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints how far it came
        warnings.simplefilter("ignore")  # of PyTorch's own exporter
        try:
            return torch.export.export(model, (clips,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), None
        except Exception as error:
            any_number = error
        name = type(model).__name__
        try:
            one = torch.export.export(model, (clips[:1],))
        except Exception as error:
            raise InputError(f"torch.export can't follow {name}.forward ({in_a_line(error)})") from error
        return one, f"torch.export can't follow {name}.forward with another number ({in_a_line(any_number)})"


def _pt2(program: Any) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


def _onnx(program: Any) -> tuple[bytes, Run]:
    import onnxruntime

    names: dict[str, Any] = {"input_names": ["clip"], "output_names": ["logits"]}
    written = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert written is not None  # None comes without dynamo alone
    content = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda clips: torch.from_numpy(session.run(["logits"], {"clip": clips.numpy()})[0])


FORMS: dict[str, Callable[[Any], tuple[bytes, Run]]] = {"pt2": _pt2, "onnx": _onnx}  # the file, and it loaded back


def _compare(model: VideoModel, loaded: Run, clips: Tensor, path: Path) -> None:
    with torch.no_grad():
        apart = (loaded(clips) - model(clips)).abs().max().item()
    if not apart <= CLOSE:
        raise InputError(f"{path}: its logits are {apart:.2g} from the checkpoint's, {CLOSE:g} is allowed; not written")


def _description(loaded: Loaded, why_one: str | None) -> dict[str, Any]:
    """Return how a clip is made of a video, and what the logits are of."""
    config, clip = loaded.config, loaded.config.clip
    mean, std, channels = config.normalization
    side = clip.view_crop
    sampling = {key: asdict(clip)[key] for key in ("T", "sampling", "stride", "snippet", "frames")}
    score = "sigmoid" if config.data.multi_label else "softmax"
    return {
        "checkpoint": str(loaded.file),
        "weights": {"file": str(loaded.file), "sha256_begins": digest_of(loaded.file), "begun_from": config.init},
        "model": config.model.label,
        "trained_on": config.data.name,
        "input": {
            "name": "clip",
            "shape": [1 if why_one else "any", 3, clip.T, side, side],
            "layout": "N, C, T, H, W",
            "type": "float32",
            "channels": channels.upper(),
        },
        "one_clip_because": why_one,
        "frames": {
            **sampling,
            "of_view": f"def frames_of(n, k, clips):  # clip k of so many, of a video of n frames{frames_source(clip)}",
        },
        "short_side": config.short_side,
        "resize": {
            "short_side": config.short_side,
            "long_side": "int(short_side * long / short)",
            "interpolation": "bicubic",
            "antialias": True,
            "of": "uint8 RGB pictures, turned as the file's display matrix says",
        },
        "crop": side,
        "crop_place": "centre, round((height - crop) / 2) and round((width - crop) / 2); of 3 crops the first and the "
        "last are at the ends of the longer side",
        "mean": mean,
        "std": std,
        "pixels": "0 to 1, less mean, over std",
        "output": "logits (clips, classes)",
        "views": {
            "predict": "1x1",
            "test": config.views,
            "scores": f"mean over the views of the {score} of the logits",
        },
        "multi_label": config.data.multi_label,
        "classes": loaded.classes,
    }
