"""`weights=FILE`: a file of weights is tested, applied and exported without a training, and never half loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from running import PROBE, SMALL, Place, read_json, refused, script, skip_without_library
from stat_video import compose, models
from stat_video.config import Config, WeightsConfig
from stat_video.data.lists import find_root
from stat_video.errors import InputError
from stat_video.models.base import VideoModel
from stat_video.training.published import of_weights
from stat_video.training.testing import evaluate_weights

TESTED = [word for word in SMALL if not word.startswith("recipe")]


def words_of(name: str, place: Place, *more: str) -> list[str]:
    T = "T=10" if name == "tdn" else "T=8"  # two of its runs of five frames
    return [f"model={name}", *(w for w in TESTED if not w.startswith(("T=", "crop="))), T, *place.keys, *more]


def composed(words: list[str]) -> WeightsConfig:
    (row,) = compose.rows("evaluate", WeightsConfig, words, conf="weights")
    config: WeightsConfig = row.config
    return config


def untrained(config: Config, classes: int = 12) -> VideoModel:
    """Return a model whose weights and statistics are far from their first values."""
    torch.manual_seed(0)
    model = config.build(classes).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return model


USUALLY = ("mvit", "slowfast", "stat", "tsm")  # the others take seconds each


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in USUALLY else [pytest.mark.slow]) for n in models.names()]
)
def test_a_file_of_each_system_is_tested_as_it_is(name: str, place: Place, tmp_path: Path) -> None:
    """The logits of a test are those of the network that the file is of, video by video."""
    skip_without_library(name)
    file = tmp_path / f"{name}.pyth"
    words = words_of(name, place, f"weights={file}", "classes=data", "views=1x1", f"folders.logs={tmp_path}")
    config = composed(words)
    model = untrained(config)
    torch.save({"model_state": model.state_dict(), "epoch": 1}, file)
    result = evaluate_weights(config)
    tested = torch.load(result.folder / "logits_1x1.pt")
    loaded = of_weights(config)
    root = find_root(config.data)
    lines = (root / "val.csv").read_text().splitlines()
    for i in (0, 5):
        video, label = lines[i].rsplit(" ", 1)
        with torch.no_grad():
            logits = model(loaded.clip(root / video))[0]
        torch.testing.assert_close(tested["logits"][i, 0].float(), logits, atol=1e-3, rtol=1e-3)
        assert tested["labels"][i] == int(label)
    assert result.config["weights"].startswith(f"{file}@sha256:")
    assert read_json(result.folder / "result.json")["metrics"] == result.content["metrics"]


@pytest.fixture(scope="module")
def tsm(place: Place) -> tuple[Path, VideoModel]:
    """A file of weights of a tiny TSM, and the model."""
    file = place.folder / "tsm.pth.tar"
    config = composed(words_of("tsm", place, f"weights={file}"))
    model = untrained(config)
    names = {f"module.base_model.{n}": t for n, t in model.state_dict().items() if not n.startswith("head.")}
    head = {f"module.new_fc.{n}": t for n, t in model.head.state_dict().items()}  # type: ignore[operator, union-attr]
    torch.save({"state_dict": names | head, "best_prec1": 50.0}, file)
    return file, model


def test_logits_go_into_the_order_of_the_data_sets_classes(
    tsm: tuple[Path, VideoModel], place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = composed(words_of("tsm", place, f"weights={tsm[0]}")).data.built_in
    assert made is not None
    own = list(made.classes)
    order = own[3:] + own[:3]
    (tmp_path / "order.txt").write_text("\n".join(name.title() for name in order))
    words = words_of("tsm", place, f"weights={tsm[0]}", "views=1x1", f"folders.logs={tmp_path}")
    logits = {}
    for classes in ("data", tmp_path / "order.txt"):
        result = evaluate_weights(composed([*words, f"classes={classes}"]))
        logits[str(classes)] = torch.load(result.folder / "logits_1x1.pt")["logits"]
    said = capsys.readouterr().out
    assert said.count("the weights' order is not that of data=motion") == 1
    assert torch.equal(logits["data"][..., [order.index(name) for name in own]], logits[str(tmp_path / "order.txt")])


def test_data_with_some_of_the_classes_is_tested_among_all(
    tsm: tuple[Path, VideoModel], place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights know 14 classes, two of which no video is of; their logits are those of the file, and come last."""
    made = composed(words_of("tsm", place, f"weights={tsm[0]}")).data.built_in
    assert made is not None
    own = list(made.classes)
    order = ["waltz", *own[6:], *own[:6], "yodel"]
    (tmp_path / "order.txt").write_text("\n".join(order))
    words = words_of("tsm", place, f"weights={tmp_path / 'tsm.pth'}", "views=1x1", f"folders.logs={tmp_path}")
    config = composed([*words, f"classes={tmp_path / 'order.txt'}"])
    model = untrained(config, classes=14)
    torch.save(model.state_dict(), tmp_path / "tsm.pth")
    result = evaluate_weights(config)
    assert "has 12 of the weights' 14; an answer may be any of all" in capsys.readouterr().out
    assert result.content["classes"] == [*own, "waltz", "yodel"]
    logits = torch.load(result.folder / "logits_1x1.pt")["logits"][0, 0].float()
    root = find_root(config.data)
    video = (root / "val.csv").read_text().splitlines()[0].rsplit(" ", 1)[0]
    with torch.no_grad():
        expected = model(of_weights(config).clip(root / video))[0]
    torch.testing.assert_close(
        logits, expected[[order.index(n) for n in [*own, "waltz", "yodel"]]], atol=1e-3, rtol=1e-3
    )


def test_the_words_of_weights(tsm: tuple[Path, VideoModel], trained: Path, place: Place, tmp_path: Path) -> None:
    """By the scripts: what is missing, wrong or of something else is one line; what is right runs."""
    words = words_of("tsm", place, f"weights={tsm[0]}")
    assert "the order of its classes is not known; classes=FILE" in refused(script("evaluate", *words))
    (tmp_path / "other.txt").write_text("\n".join(f"class {i}" for i in range(12)))
    line = refused(script("evaluate", *words, f"classes={tmp_path / 'other.txt'}"))
    assert "only the weights have 'class 0'" in line
    (tmp_path / "more.txt").write_text("\n".join(f"class {i}" for i in range(13)))
    assert "head.weight (12, " in (line := refused(script("evaluate", *words, f"classes={tmp_path / 'more.txt'}")))
    assert "as many as" not in line
    assert "has 13" in line
    assert "init=x: is of training" in refused(script("evaluate", *words, "classes=data", "init=x"))
    assert "there is no such" in refused(script("predict", *words, "classes=data", "video=/nowhere.mp4"))
    assert "ckpt" in refused(script("evaluate", *words, f"ckpt={trained / 'last.ckpt'}"))
    video = next((place.folder / "data").glob("motion-*/val/*.mp4"))
    done = script("predict", *words, "classes=data", f"video={video}", f"picture={tmp_path / 'p.png'}", "features=true")
    assert done.returncode == 0, done.stderr
    assert "122 of 122 tensors taken from 122 in the file" in done.stdout
    done = script("export", *words, "classes=data", f"out={tmp_path / 'tsm'}")
    assert done.returncode == 0, done.stderr
    assert len(read_json(tmp_path / "tsm.json")["classes"]) == 12
    assert "122 of 122" in script("cost", *words, "classes=data").stdout


def test_a_checkpoint_of_ours_is_a_file_of_weights_too(trained: Path, place: Place, tmp_path: Path) -> None:
    """It gives the figures of `ckpt=`, and its classes are known."""
    words = ["model=stat", *TESTED, *place.keys, "views=1x1"]
    done = script("evaluate", *words, f"weights={trained / 'last.ckpt'}", f"folders.logs={tmp_path}")
    assert done.returncode == 0, done.stderr
    again = script("evaluate", f"ckpt={trained / 'last.ckpt'}", "views=1x1", *place.keys, "trainer.workers=0")
    assert again.returncode == 0, again.stderr
    (of_weights_,) = tmp_path.glob("weights/stat-motion-*/result.json")
    assert read_json(of_weights_)["metrics"] == read_json(trained / "evaluation_1x1.json")["metrics"]


def test_a_checkpoint_of_ours_keeps_its_classes_and_its_network(trained: Path, place: Place, tmp_path: Path) -> None:
    """Keys that change no shape would change its logits in silence."""
    file = trained / "last.ckpt"
    words = ["model=stat", *TESTED, *place.keys, f"weights={file}", f"folders.logs={tmp_path}"]
    with pytest.raises(InputError, match="is a checkpoint of this project, which has its own"):
        of_weights(composed([*words, "classes=kinetics400"]))
    with pytest.raises(InputError, match=r"its run has model.t_o=\d+; give the same, or ckpt="):
        of_weights(composed([*words, "t_o=1"]))


@pytest.mark.parametrize(
    ("tensor", "value", "line"),
    [
        ("module.base_model.conv1.weight", 1e39, "weights that are not finite: conv1.weight"),  # in float32
        ("module.base_model.bn1.running_var", -1.0, "a variance below 0: bn1.running_var"),
    ],
)
def test_weights_that_give_no_number_are_refused(
    tensor: str, value: float, line: str, tsm: tuple[Path, VideoModel], place: Place, tmp_path: Path
) -> None:
    content: Any = torch.load(tsm[0], weights_only=False)
    content["state_dict"][tensor] = content["state_dict"][tensor].double().fill_(value)
    content["state_dict"]["module.base_model.mask"] = torch.full((3,), -torch.inf)  # which no model here takes
    torch.save(content, tmp_path / "tsm.pth")
    config = composed(words_of("tsm", place, f"weights={tmp_path / 'tsm.pth'}", "classes=data"))
    with pytest.raises(InputError, match=line):
        of_weights(config)


@pytest.mark.parametrize("lacking", ["bn1.running_var", "layer3.0.conv2.weight", "new_fc.bias"])
def test_no_figure_is_of_weights_that_are_not_in_the_file(
    lacking: str, tsm: tuple[Path, VideoModel], place: Place, tmp_path: Path
) -> None:
    """A single tensor is enough: what `init=` draws anew, a test refuses."""
    content: Any = torch.load(tsm[0], weights_only=False)
    for wrapper in ("module.", "module.base_model."):
        content["state_dict"].pop(f"{wrapper}{lacking}", None)
    assert len(content["state_dict"]) == 121
    torch.save(content, tmp_path / "tsm.pth")
    config = composed(words_of("tsm", place, f"weights={tmp_path / 'tsm.pth'}", "classes=data"))
    with pytest.raises(InputError) as caught:
        of_weights(config)
    here = lacking.replace("new_fc", "head")
    assert f"without {here}; init=" in caught.value.line or f"Missing: {here};" in caught.value.line


def test_published_files_are_compared_in_the_report(tsm: tuple[Path, VideoModel], place: Place, tmp_path: Path) -> None:
    """As an experiment of their own, with intervals; they fill no row and are no run to train on from."""
    keys = [*(w for w in place.keys if not w.startswith("folders.logs")), f"folders.logs={tmp_path}"]
    other = tmp_path / "other.pth"
    content: Any = torch.load(tsm[0], weights_only=False)
    content["state_dict"]["module.new_fc.bias"] += torch.arange(12.0)
    torch.save(content, other)
    for file in (tsm[0], other):
        words = words_of("tsm", place, f"weights={file}", "classes=data", "views=1x1", *keys)
        evaluate_weights(composed(words))
    done = script("report", *keys, "scales=[tiny]")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report" / "experiments.md").read_text()
    assert "## weights, scale tiny" in text
    assert "tsm.pth.tar@" in text
    planned = script("train", "model=tsm", *TESTED, *keys, "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "other.pth@" in text
    assert "is no key here" not in (tmp_path / "report" / "index.html").read_text()
    probe = [w for w in PROBE if not w.startswith(("T=", "crop="))]
    line = refused(script("train", "model=tsm", "T=8", *probe, *keys, "data=probe", "init=trained_on=motion"))
    assert "no finished run" in line
