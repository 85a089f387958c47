"""A model as a program of its own: its logits are the checkpoint's, or there is no file."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from running import ROOT, Place, refused, script
from stat_video.config import Config
from stat_video.data.config import DataConfig
from stat_video.data.formulas import FORMULAS
from stat_video.data.sampling import view_frames
from stat_video.errors import InputError
from stat_video.models.base import SAMPLING, Clip, VideoModel
from stat_video.training import export as module
from stat_video.training import loaded as of_a_checkpoint
from stat_video.training.export import export
from stat_video.training.loaded import Loaded
from stat_video.training.loader import frames_source, script_for
from stat_video.training.rebuild import rebuild

ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


class AnyNumber(VideoModel):
    """Takes clips of any number at once."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, clip: Tensor) -> Tensor:
        logits: Tensor = self.head(clip.mean((2, 3, 4)))
        return logits


class One(AnyNumber):
    """Cuts the frames of a batch apart, by its size as a number."""

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.transpose(1, 2).reshape(int(clip.shape[0]) * 8, 3, 16, 16)
        return super().forward(frames.unflatten(0, (len(clip), 8)).transpose(1, 2))


class Branching(AnyNumber):
    """Goes by the numbers of a clip."""

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip if clip.mean().item() > 0 else -clip)


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make a model that of any checkpoint."""
    clip = Clip(T=8, crop=16, frames="tsm", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    config = Config(clip=clip, data=DataConfig(short_side=20))

    (tmp_path / "last.ckpt").touch()

    def use(model: VideoModel) -> VideoModel:
        monkeypatch.setattr(of_a_checkpoint, "rebuild", lambda path: (model.eval(), config, list("abcd")))
        return model

    return use


@pytest.mark.parametrize(("model", "batch"), [(AnyNumber(), "any"), (One(), 1)])
def test_a_program_gives_the_models_logits(model: VideoModel, batch: object, of: Any, tmp_path: Path) -> None:
    of(model)
    program, script_, about = export(Loaded.of(tmp_path / "last.ckpt"), ["pt2"], tmp_path / "out" / "model")
    said = json.loads(about.read_text())
    assert said["input"]["shape"] == [batch, 3, 8, 16, 16]
    assert (said["mean"], said["std"], said["short_side"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 20)
    assert (
        said["frames"].items() >= {"T": 8, "sampling": "segments", "stride": 1, "snippet": 5, "frames": "tsm"}.items()
    )
    assert (said["resize"]["interpolation"], said["resize"]["antialias"]) == ("bicubic", True)
    assert (said["one_clip_because"] is None) == (batch == "any")
    assert said["classes"] == list("abcd")
    loaded = torch.export.load(program).module()
    for number in (1,) if batch == 1 else (1, 2, 5):
        clips = torch.randn(number, 3, 8, 16, 16)
        torch.testing.assert_close(loaded(clips), model(clips))
    assert sorted(p.name for p in program.parent.iterdir()) == ["model.json", "model.pt2", script_.name]


def test_a_program_that_gives_other_logits_is_not_written(
    of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(AnyNumber())
    (tmp_path / "out").mkdir()
    write = module.FORMS["pt2"]
    for wrong in (2e-4, float("nan")):

        def changed(program: Any, wrong: float = wrong) -> Any:
            content, loaded = write(program)
            return content, lambda clips: loaded(clips) + wrong

        monkeypatch.setitem(module.FORMS, "pt2", changed)
        with pytest.raises(InputError, match=r"model\.pt2: its logits are .* from the checkpoint's.*not written"):
            export(Loaded.of(tmp_path / "last.ckpt"), ["pt2"], tmp_path / "out" / "model")
        assert list((tmp_path / "out").iterdir()) == []


def test_a_forward_pass_that_cannot_be_followed_is_one_line(
    of: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of(Branching())
    with pytest.raises(InputError, match=r"^torch.export can't follow Branching.forward \([A-Za-z]+: .+\)$"):
        export(Loaded.of(tmp_path / "last.ckpt"), ["pt2"], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert capfd.readouterr().err == ""


def test_a_trained_model_is_exported(trained: Path, place: Place, tmp_path: Path) -> None:
    ckpt = trained / "last.ckpt"
    done = script("export", f"ckpt={ckpt}", f"out={tmp_path / 'stat.pt2'}")
    assert done.returncode == 0, done.stderr
    model, config, _ = rebuild(ckpt)
    loaded = torch.export.load(tmp_path / "stat.pt2").module()
    for number in (1, 2, 5):
        clips = torch.randn(number, 3, config.clip.T, config.clip.crop, config.clip.crop)
        with torch.no_grad():
            torch.testing.assert_close(loaded(clips), model(clips), atol=1e-4, rtol=0)
    video = next((place.folder / "data").rglob("*.mp4"))
    alone = [sys.executable, "-I", str(tmp_path / "stat_predict.py"), str(video)]  # -I: no PYTHONPATH
    said = subprocess.run(alone, capture_output=True, text=True, check=True).stdout.splitlines()
    top = Loaded.of(ckpt).predict(video)
    assert [line.removeprefix(f"{video}: ").rpartition(" ")[0] for line in said] == [name for name, _ in top]
    for line, (_, probability) in zip(said, top, strict=True):
        assert float(line.rpartition(" ")[2]) == pytest.approx(probability, abs=1e-3)
    assert "allowed are pt2, onnx, [pt2,onnx]" in refused(script("export", f"ckpt={ckpt}", "to=torchscript"))


@pytest.mark.skipif(ONNX, reason="the extra is installed")
def test_a_library_that_is_missing_is_named_with_the_extra(of: Any, tmp_path: Path) -> None:
    of(AnyNumber())
    with pytest.raises(InputError, match=r"to=onnx: No module named .*pip install -e '\.\[onnx\]' brings it"):
        export(Loaded.of(tmp_path / "last.ckpt"), ["onnx"], tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_is_written_if_one_of_two_forms_cannot_be(
    of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(AnyNumber())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"to=onnx: .*brings it"):
        export(Loaded.of(tmp_path / "last.ckpt"), ["pt2", "onnx"], tmp_path / "model")
    monkeypatch.setattr(module, "check_libraries", lambda forms: None)
    monkeypatch.setitem(module.FORMS, "onnx", lambda program: (b"", lambda clips: torch.full((len(clips), 4), 9.0)))
    with pytest.raises(InputError, match=r"model\.onnx: its logits are"):
        export(Loaded.of(tmp_path / "last.ckpt"), ["pt2", "onnx"], tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("out", ["/", ".", ".."])
def test_a_path_without_a_name_is_refused(out: str, of: Any, tmp_path: Path) -> None:
    of(AnyNumber())
    with pytest.raises(InputError, match=r"out="):
        export(Loaded.of(tmp_path / "last.ckpt"), ["pt2"], Path(out))


@pytest.mark.skipif(not ONNX, reason="needs pip install -e '.[onnx]'")
@pytest.mark.parametrize("model", [AnyNumber(), One()])
def test_onnx_gives_the_models_logits(model: VideoModel, of: Any, tmp_path: Path) -> None:
    import onnxruntime

    of(model)
    file, _ = export(Loaded.of(tmp_path / "last.ckpt"), ["onnx"], tmp_path / "model")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    clip = torch.randn(1, 3, 8, 16, 16)
    (logits,) = session.run(None, {session.get_inputs()[0].name: clip.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(clip), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------- the script beside it

SAMPLINGS = [*((sampling, None) for sampling in SAMPLING), *FORMULAS]


@pytest.mark.parametrize(("sampling", "frames"), SAMPLINGS)
def test_the_scripts_frames_are_those_of_a_test(sampling: str, frames: str | None) -> None:
    for T, stride, snippet in ((8, 8, 4), (15, 2, 5), (16, 4, 4)):
        clip = Clip(T=T, stride=stride, snippet=snippet, sampling=sampling, frames=frames)
        written: dict[str, Any] = {"np": np, "T": T, "STRIDE": stride, "SNIPPET": snippet}
        exec(f"def frames_of(n, k, clips):{frames_source(clip)}", written)
        for clips, numbers in ((1, range(1, 400)), (2, range(1, 200, 7)), (5, range(1, 200, 7)), (10, range(1, 99, 9))):
            for n in numbers:
                for k in range(clips):
                    ours = written["frames_of"](n, k, clips)
                    right = view_frames(clip, k, clips)(n)
                    # PyTorch spaces eight or sixteen numbers at a time, which rounds a place between two frames anew.
                    away = 1 if (sampling, frames, clips > 1) == ("dense", "pyslowfast", True) else 0
                    assert np.abs(np.subtract(ours, right)).max() <= away, (n, k, clips)


def test_the_page_shows_the_script() -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert script_for(Config(clip=Clip(T=16)), "onnx", "model.onnx", "model.json") in page
