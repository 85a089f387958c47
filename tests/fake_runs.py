"""Made-up results whose figures are known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stat_video.files import write_json
from stat_video.runs.run import Run

HOSTILE = "<script>alert('x')</script>&_%"
VIDEOS, CLASSES = 200, 4


def fake_run(
    logs: Path, config: dict[str, Any], correct: np.ndarray, *, manifest: str = "probe-1", sure: float = 5, **more: Any
) -> Run:
    """A finished run whose logits are right where `correct` says so, in three of five views more than enough."""
    run = Run.of(config, logs, manifest)
    clips, crops = (int(n) for n in config["views"].split("x"))
    labels = torch.arange(len(correct)) % CLASSES
    shown = torch.where(torch.as_tensor(correct), labels, (labels + 1) % CLASSES)
    logits = sure * torch.nn.functional.one_hot(shown, CLASSES).float()[:, None].repeat(1, clips * crops, 1)
    logits[:, 0] = 0  # one view knows nothing
    run.folder.mkdir(parents=True)
    torch.save(
        {"logits": logits, "labels": labels, "views": config["views"]}, run.folder / f"logits_{config['views']}.pt"
    )
    (run.folder / "epochs.csv").write_text("epoch,step,val/top1_1x1\n0,100,30\n1,200,40\n")
    top1 = 100 * float(correct.mean())
    metrics = {f"test/top1_{config['views']}": top1, f"test/top5_{config['views']}": 100.0, "val/top1_1x1": 40.0}
    result = {
        "name": config["name"],
        "scale": config["scale"],
        "id": run.id,
        "metrics": metrics,
        "seed": config["seed"],
        "config": config,
        "manifest": manifest,
        "finished": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789" * 4,
        "gmacs": 0.125,
        "parameters": 1_250_000,
    }
    write_json(run.folder / "result.json", {**result, **more})
    return run
