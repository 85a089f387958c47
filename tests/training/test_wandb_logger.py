"""What goes wrong with W&B is a warning, said once; the run, and the rest of what it logs, are not touched."""

import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from torch import nn

from stat_video.config import Config, LoggerKeys
from stat_video.errors import ranged, sized
from stat_video.metrics.scores import class_accuracy, ranks
from stat_video.models import stat
from stat_video.models.base import Clip, ModelConfig, Panel, VideoModel
from stat_video.runs.result import Result
from stat_video.runs.run import Run
from stat_video.training import wandb_logger
from stat_video.training.wandb_logger import RunLogger, flat_config, log_result, make_logger, tags


@dataclass
class MeansConfig(ModelConfig):
    """A model whose file is not in the tree."""

    name: str = "means"
    depth: int = ranged(50, 1)
    stride: int = ranged(2, 1)  # the clip has one too
    kinds: tuple[str, ...] = ("a", "b")
    width: int = sized(3)

    def build(self, clip, num_classes):
        return Means(num_classes)


class Means(VideoModel):
    """Logits from the mean of each colour; with `eyes` it looks at the first frame."""

    eyes = False

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, clip):
        return self.head(clip.mean((2, 3, 4)))

    def look(self, clip):
        return [Panel("Frames", "the first", torch.tensor([1.0, 0, 0, 0]))] if self.eyes else []


RESULT = {"name": "a", "scale": "tiny", "seed": 0, "commit": None, "metrics": {"test/top1_5x1": 50.0}}


class Working:
    """A W&B run that keeps what it is told."""

    def __init__(self):
        self.summary, self.logged, self.artifacts, self.heights = {}, {}, [], []

    def log(self, values):
        self.logged |= values
        self.heights += [picture.image.height for picture in values.get("pictures", [])]  # whose files then go

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)


class Broken(Working):
    """A W&B run whose disk is full."""

    def log(self, *_):
        raise OSError("no space left\non the disk")

    finish = log_artifact = log


def finished_run(folder, classes=3):
    """Return a Run, its module and its result as they are at the end of a run, as far as W&B is told of them."""
    logits = torch.randn(7, 5, classes, generator=torch.Generator().manual_seed(0))
    torch.save({"logits": logits, "labels": torch.arange(7) % 2, "views": "5x1"}, folder / "logits_5x1.pt")
    (folder / "last.ckpt").write_bytes(b"weights")
    names = [f"class {c}" for c in range(classes)]
    module = SimpleNamespace(views="5x1", classes=names, model=Means(classes), device="cpu", normalize=as_floats)
    module.multi_label = False
    return Run(folder, "12345678"), module, Result(folder, RESULT)


def as_floats(video):
    """uint8 (B, T, 3, H, W) -> (B, 3, T, H, W)."""
    return video.transpose(1, 2) / 255


def config_of(artifact=False, mode="offline", **keys):
    return Config(model=MeansConfig(**keys), clip=Clip(T=4, crop=8), logger=LoggerKeys(mode=mode, artifact=artifact))


class Videos:
    """A validation set of seven videos, as the data module's loader has it."""

    def __init__(self):
        self.videos = [(f"/some/where/{i}.mp4", {}) for i in range(7)]

    def __len__(self):
        return 7

    def __getitem__(self, request):
        return {"video": torch.full((4, 3, 8, 8), request.video, dtype=torch.uint8), "label": request.video % 3}


DATA = SimpleNamespace(val_dataloader=lambda: SimpleNamespace(dataset=Videos()))


def test_errors_are_said_once(caplog):
    logger = RunLogger(experiment=Broken())
    for _ in range(3):
        logger.log_metrics({"train/loss_step": 1.0}, 1)
    logger.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: logging failed (no space left); the run goes on"
    ]


def test_what_fails_leaves_the_rest(tmp_path, caplog):
    """Without a data module there are no pictures."""
    logger = RunLogger(experiment=Working())
    run, module, result = finished_run(tmp_path)
    log_result(logger, result, config_of(artifact=True), module, None, run)
    assert logger.experiment.summary == RESULT["metrics"]
    assert [row[:2] for row in logger.experiment.logged["test/classes"].data] == [["class 0", 4], ["class 1", 3]]
    (artifact,) = logger.experiment.artifacts
    assert (artifact.name, artifact.type) == ("means-12345678", "model")
    assert list(artifact.manifest.entries) == ["last.ckpt"]
    (record,) = caplog.records
    assert "pictures failed" in record.getMessage()


def test_all_failing_does_not_raise(tmp_path, caplog):
    run, module, result = finished_run(tmp_path)
    log_result(RunLogger(experiment=Broken()), result, config_of(), module, None, run)
    assert len(caplog.records) == 1


def test_the_checkpoint_is_logged_only_when_asked(tmp_path):
    logger = RunLogger(experiment=Working())
    run, module, result = finished_run(tmp_path)
    log_result(logger, result, config_of(), module, None, run)
    assert logger.experiment.artifacts == []


@pytest.mark.parametrize("eyes", [True, False])
def test_pictures_of_any_model_with_its_own_weights(eyes, tmp_path, caplog, monkeypatch):
    """Of three videos spread over the set, captioned with the class that the trained weights find likeliest."""
    monkeypatch.setattr(Means, "eyes", eyes)
    logger = RunLogger(experiment=Working())
    run, module, result = finished_run(tmp_path)
    with torch.no_grad():
        module.model.head.weight.zero_()
        module.model.head.bias.copy_(torch.tensor([0.0, 5.0, 1.0]))
    log_result(logger, result, config_of(), module, DATA, run)
    pictures = logger.experiment.logged["pictures"]
    assert [p._caption for p in pictures] == [f"class {c}; likeliest: class 1" for c in (0, 2, 1)]  # videos 0, 2, 4
    assert [height > 430 for height in logger.experiment.heights] == 3 * [eyes]  # with the panel's row
    assert not caplog.records


@pytest.mark.parametrize(("mode", "lines"), [("offline", ["off"]), ("online", ["going on offline", "off"])])
def test_a_start_that_fails_turns_it_off(mode, lines, tmp_path, caplog, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("no route\nto the host")

    monkeypatch.setattr(wandb, "init", init)
    config = config_of(mode=mode)
    assert make_logger(config, asdict(config), Run(Path(tmp_path), "12345678"), 3) is None
    assert [record.getMessage().split("; ")[1] for record in caplog.records] == lines
    assert all("(no route)" in record.getMessage() for record in caplog.records)


def test_keys_of_any_model_for_filters_and_axes(tmp_path):
    """Short names, but for `stride`, which clip and model share."""
    config = config_of(depth=101, kinds=("b", "c"))
    flat = flat_config(config, asdict(config), Run(tmp_path, "12345678"), 12)
    assert flat | {
        "T": 4, "crop": 8, "sampling": "segments", "depth": 101, "kinds": "b+c", "width": 3,
        "clip.stride": 1, "model.stride": 2, "model": "means-depth101-b+c", "seed": 0, "scale": "tiny",
        "data": "motion", "id": "12345678", "table": None, "gflops": 0.0, "parameters": 48,
    } == flat  # fmt: skip
    assert "stride" not in flat
    assert tags(config) == ["tiny", "motion", "means", "T4", "depth=101", "b+c"]
    assert tags(config_of()) == ["tiny", "motion", "means", "T4"]


def test_keys_of_the_papers_model(tmp_path):
    """By its experiment a run belongs to a table of the paper; the cost is the published 59 GFLOPs."""
    config = Config(name="ablation_window", seed=2, model=stat.Config(modules=["CA", "SA"], t_o=5, stem="conv1"))
    flat = flat_config(config, asdict(config), Run(tmp_path, "12345678"), 400)
    assert (flat["modules"], flat["t_o"], flat["stem"], flat["T"]) == ("CA+SA", 5, "conv1", 16)
    assert (flat["table"], flat["seed"]) == (2, 2)
    assert tags(config) == ["tiny", "motion", "stat", "T16", "CA+SA", "t_o=5", "conv1"]
    whole = Config()
    whole.model = stat.Config()
    assert flat_config(whole, asdict(whole), Run(tmp_path, "1"), 400)["gflops"] == pytest.approx(59.05, abs=0.01)


def test_tags_that_wandb_takes():
    """It refuses tags without a letter and those of more than 64."""
    long = config_of(kinds=tuple(f"kind{i}" for i in range(20)))
    assert [len(tag) for tag in tags(long)] == [4, 6, 5, 2, 64]
    assert tags(config_of(kinds=())) == ["tiny", "motion", "means", "T4", "no_kinds"]


def test_class_accuracy_counts_whole_videos():
    """Against a count by hand: the mean of the views' probabilities decides; a class without videos is left out."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(40, 3, 5, generator=generator), torch.randint(0, 4, (40,), generator=generator)
    expected = []
    for c in range(4):
        mine = [i for i in range(40) if labels[i] == c]
        right = sum(int(sum(logits[i, v].softmax(0) for v in range(3)).argmax()) == c for i in mine)
        expected.append((c, len(mine), pytest.approx(100 * right / len(mine), abs=1e-4)))
    found = class_accuracy(ranks(logits, labels), labels)
    assert found == expected
    assert 0 < sum(accuracy for _, _, accuracy in found) < 400


@pytest.fixture
def forever():
    """A call that gives no answer."""
    answer = threading.Event()
    yield lambda **_: answer.wait()
    answer.set()


def test_a_start_that_hangs_is_left_to_itself(tmp_path, caplog, monkeypatch, forever):
    monkeypatch.setattr(wandb, "init", forever)
    monkeypatch.setattr(wandb, "teardown", forever)
    monkeypatch.setattr(wandb_logger, "START_TIMEOUT", 0.2)
    config = config_of(mode="online")
    assert make_logger(config, asdict(config), Run(tmp_path, "12345678"), 3) is None
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "W&B online failed (no answer within 0.2 s); going on offline",
        "W&B offline failed (no answer within 0.2 s); off",
    ]


def test_an_end_that_hangs_is_left_to_itself(caplog, monkeypatch, forever):
    monkeypatch.setattr(wandb_logger, "END_TIMEOUT", 0.2)
    RunLogger(experiment=SimpleNamespace(finish=forever)).finish()
    assert "finishing failed (no answer within 0.2 s); the run goes on" in caplog.text
