"""Write the weights of a run into the package: python -m stat_video.weights.shipped.write RUN NAME (make shipped)."""

import json
import sys
from pathlib import Path

from safetensors.torch import save

from ...files import replacing
from ..read import read
from . import FOLDER


def write(run: Path, name: str) -> None:
    """Write the last weights of a finished run in half precision, and what its result file says of it."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    weights = read(run / "last.ckpt")
    tensors = {key.removeprefix("model."): tensor.half().contiguous() for key, tensor in weights.tensors.items()}
    keys = ("id", "commit", "finished", "parameters", "train_seconds", "metrics", "manifest", "config")
    about = {"command": f"python src/train.py seed={result['seed']}", "seed": result["seed"]}
    about |= {key: result[key] for key in keys} | {"classes": weights.classes}
    about["config"] = {
        key: about["config"][key] for key in ("scale", "seed", "init", "clip", "model", "data", "recipe")
    }
    about["config"]["data"] = {**about["config"]["data"], "root": None}  # of the machine
    for ending, content in ((".safetensors", save(tensors)), (".json", json.dumps(about, indent=1).encode())):
        with replacing(FOLDER / f"{name}{ending}") as file:
            file.write(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
