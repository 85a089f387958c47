"""Write the model of a checkpoint as a program that runs without this project: torch.export's or ONNX."""

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, in_a_line
from ..files import replacing, with_ending, write_json
from ..models.base import VideoModel
from .loaded import Loaded

CLOSE = 1e-4  # by how much a logit may differ from the checkpoint's
Run = Callable[[Tensor], Tensor]


def export(loaded: Loaded, forms: Sequence[str], out: Path) -> list[Path]:
    """Write <out>.<form> for each of `forms`, and <out>.json, which says how a clip is made; return their paths.

    Each program is loaded back and must give the checkpoint's logits on clips that it was not made with; else
    InputError, and nothing is written.
    """
    paths = {form: with_ending(out, f".{form}") for form in forms}
    if "onnx" in forms:
        _check_onnx()
    model, clip = loaded.model, loaded.config.clip
    clips = torch.randn(2, 3, clip.T, clip.view_crop, clip.view_crop, generator=torch.Generator().manual_seed(0))
    program, batch = _program(model, clips)
    contents = {}
    for form, path in paths.items():
        contents[path], again = FORMS[form](program)
        _compare(model, again, clips.flip(0)[: batch or 2], path)
    for path, content in contents.items():
        with replacing(path) as file:
            file.write(content)
    about = with_ending(out, ".json")
    write_json(about, _description(loaded, batch))
    return [*contents, about]


def _check_onnx() -> None:
    """Raise InputError if what writes or runs ONNX is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  what torch.onnx writes with
    except ImportError as error:
        raise InputError(f"to=onnx: {error}; pip install -e '.[onnx]' brings it") from None


def _program(model: VideoModel, clips: Tensor) -> tuple[Any, int | None]:
    """Return the exported program, and the number of clips that it takes at once; None: any.

    InputError if the exporter can't follow the forward pass, as where it goes by the numbers in a tensor.
    """
    with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints how far it came
        warnings.simplefilter("ignore")  # of PyTorch's own exporter
        with suppress(Exception):  # many models cut the frames of a batch apart, which fixes its size for the exporter
            return torch.export.export(model, (clips,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), None
        try:
            return torch.export.export(model, (clips[:1],)), 1
        except Exception as error:
            name = type(model).__name__
            raise InputError(f"torch.export can't follow {name}.forward ({in_a_line(error)})") from error


def _pt2(program: Any) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


def _onnx(program: Any) -> tuple[bytes, Run]:
    import onnxruntime

    written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None  # None comes without dynamo alone
    content = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return content, lambda clips: torch.from_numpy(session.run(None, {name: clips.numpy()})[0])


FORMS: dict[str, Callable[[Any], tuple[bytes, Run]]] = {"pt2": _pt2, "onnx": _onnx}  # the file, and it loaded back


def _compare(model: VideoModel, loaded: Run, clips: Tensor, path: Path) -> None:
    with torch.no_grad():
        apart = (loaded(clips) - model(clips)).abs().max().item()
    if not apart <= CLOSE:
        raise InputError(f"{path}: its logits are {apart:.2g} from the checkpoint's, {CLOSE:g} is allowed; not written")


def _description(loaded: Loaded, batch: int | None) -> dict[str, Any]:
    """Return how a clip is made of a video, and what the logits are of."""
    config = loaded.config
    mean, std, channels = config.normalization
    side = config.clip.view_crop
    sampling = {key: asdict(config.clip)[key] for key in ("T", "sampling", "stride", "snippet", "frames")}
    return {
        "checkpoint": str(loaded.file),
        "model": config.model.label,
        "input": {
            "shape": [batch or "any", 3, config.clip.T, side, side],
            "type": "float32",
            "channels": channels.upper(),
        },
        "frames": sampling,
        "short_side": config.short_side,
        "crop": side,
        "mean": mean,
        "std": std,
        "pixels": "0 to 1, less mean, over std",
        "output": "logits (clips, classes)",
        "classes": loaded.classes,
    }
