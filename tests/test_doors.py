"""What is added from outside: a part of each kind below STAT_VIDEO_OWN, used by one sweep, and seen by every script."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
from torchmetrics.classification import MultilabelAveragePrecision

import own_model
from running import SMALL, Place, read_json, refused, script
from stat_video import losses, metrics, paths
from stat_video.data import lists
from stat_video.data.config import DataConfig
from stat_video.data.layouts import multi_label
from stat_video.data.layouts.base import Split
from stat_video.errors import InputError
from stat_video.instantiate import instantiate

AUXILIARY = own_model.MODEL.replace(
    """    def forward(self""",
    """        self.auxiliary = nn.Linear(config.width, num_classes)

    def loss(self, clip, target, criterion):
        x = self.conv(clip).relu().mean((2, 3, 4))
        return criterion(self.head(x), target) + 0.5 * criterion(self.auxiliary(x), target)

    def forward(self""",
)
FILES = {
    "models/mine.py": AUXILIARY,
    "losses/eased.py": """
import torch.nn.functional as F

def loss(logits, target, *, gamma=2.0):
    each = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-each).exp()) ** gamma * each).mean()
""",
    "metrics/never.py": '''
import torch

def metric(logits, labels):
    """The share of videos, percent, that are said to be of a class other than theirs, over all views."""
    return 100 * (logits.softmax(-1).mean(1).argmax(-1) != labels).float().mean()
''',
    "augmentations/black.py": """
from pathlib import Path

def augment(clip):
    Path("BLACK").touch()
    return clip * 0
""",
    "callbacks/notes.py": """
from pathlib import Path
from lightning.pytorch.callbacks import Callback

class Notes(Callback):
    def __init__(self, file, words="done"):
        self.file, self.words = Path(file), words

    def on_fit_end(self, trainer, module):
        self.file.write_text(f"{self.words} {trainer.global_step}")
""",
    "conf/callbacks/notes.yaml": "notes: {_target_: callbacks.notes.Notes, file: NOTES, words: steps}\n",
    "layouts/index.py": """
import json
from stat_video.data.layouts.base import Layout, Listing, labelled

def read(files, how):
    content = json.loads(files["train"].read_text())
    splits = {s: labelled(files["train"], content[s].items(), content["classes"]) for s in ("train", "val")}
    return Listing(content["classes"], splits)

LAYOUT = Layout("index.json", {"train": ("index.json",)}, read)
""",
    "conf/data/indexed.yaml": """
name: indexed
setting: folders.indexed
root: ${folders.indexed}
layout: index
short_side: 48
hflip: false
views: 2x1
motion: null
""",
}
OWN_ROW = ("recipe.loss=eased", "callbacks=notes", "loggers=csv", "data=indexed", "model=mine")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = own_model.write(tmp_path_factory.mktemp("own"))
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("NOTES", str(folder / "notes.txt")).replace("BLACK", str(folder / "black.txt"))
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def videos(trained: Path, place: Place) -> tuple[Path, dict[str, list[tuple[Path, int]]], list[str]]:
    """(folder, the built-in videos with their labels, classes)."""
    folder = place.folder / "data" / read_json(trained / "result.json")["manifest"]
    classes = (folder / "classes.txt").read_text().splitlines()
    lines = {s: [x.rsplit(" ", 1) for x in (folder / f"{s}.csv").read_text().splitlines()] for s in ("train", "val")}
    return folder, {s: [(folder / path, int(label)) for path, label in of] for s, of in lines.items()}, classes


@pytest.fixture(scope="module")
def indexed(videos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in videos as a data set in the form that layouts/index.py reads."""
    _, entries, classes = videos
    root = tmp_path_factory.mktemp("indexed")
    (root / "index.json").write_text(
        json.dumps({"classes": classes, **{s: {str(v): classes[i] for v, i in of} for s, of in entries.items()}})
    )
    return root


@pytest.fixture(scope="module")
def swept(own, indexed, place) -> subprocess.CompletedProcess[str]:
    """A sweep over the loss's own key, with a part of each kind."""
    few = [word for word in SMALL if "motion" not in word]
    words = ["-m", *OWN_ROW, f"folders.indexed={indexed}", "recipe.loss_keys.gamma=0,3", "name=doors"]
    words += ["recipe.augment.more=[black]", "recipe.max_steps=2", "hydra/launcher=basic", *few, *place.keys]
    return script("train", *words, STAT_VIDEO_OWN=str(own))


def test_a_run_takes_all_of_them(swept, own, place):
    assert swept.returncode == 0, swept.stderr
    files = sorted((place.folder / "logs").glob("doors/*/result.json"))
    results = {read_json(file)["config"]["recipe"]["loss_keys"]["gamma"]: read_json(file) for file in files}
    assert sorted(results) == [0, 3]
    for result in results.values():
        found = result["metrics"]
        assert found["test/never_2x1"] == pytest.approx(100 - found["test/top1_2x1"])
        assert "val/never_1x1" in found
        assert result["config"]["data"]["name"] == "indexed"
    assert (own / "notes.txt").read_text() == "steps 2"
    assert (own / "black.txt").exists()
    assert all(file.name.startswith("tiny-indexed-T4-mine-") for file in (f.parent for f in files))
    assert len([*(place.folder / "logs").glob("doors/*/lightning_logs/*/metrics.csv")]) == 2
    table = swept.stdout[swept.stdout.index("doors, scale tiny") :]
    header = next(line for line in table.splitlines() if line.startswith("┃"))
    assert header.split()[1] == "recipe.loss_keys.gamma"
    assert "test/never_2x1" in header


def test_other_scripts_know_them(swept, own, indexed, place):
    keys = [f"folders.indexed={indexed}", *place.keys]
    file = next((place.folder / "logs").glob("doors/*/last.ckpt"))
    done = script("evaluate", f"ckpt={file}", "trainer=cpu", "views=1x1", *place.keys, STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert f"folders.indexed is not set: the videos are in {indexed}, as in training" in done.stdout
    assert "test/never_1x1" in read_json(file.parent / "evaluation_1x1.json")["metrics"]
    done = script("train", "--help", STAT_VIDEO_OWN=str(own))
    assert "callbacks: best, early_stopping, lr_monitor, notes" in done.stdout
    assert "indexed" in done.stdout
    few = [word for word in SMALL if "motion" not in word]
    plan = ["-m", *OWN_ROW, "recipe.loss_keys.gamma=0,3,4", "recipe.augment.more=[black]", "recipe.max_steps=2"]
    done = script("train", *plan, *few, "name=doors", "plan=true", *keys, STAT_VIDEO_OWN=str(own))
    assert "3 runs, 1 not done" in done.stdout, done.stdout + done.stderr


def test_predicting_needs_the_model_alone(swept, own, place, videos, tmp_path):
    """Not the files of its loss, its data set, its layout, its callbacks."""
    file = next((place.folder / "logs").glob("doors/*/last.ckpt"))
    alone = own_model.write(tmp_path / "alone")
    (alone / "models" / "mine.py").write_text(AUXILIARY)
    words = [f"ckpt={file}", f"video={videos[1]['val'][0][0]}", f"picture={tmp_path / 'seen.png'}"]
    done = script("predict", *words, STAT_VIDEO_OWN=str(alone))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("%") == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recipe.loss=focus"], "recipe.loss=focus: allowed are binary_cross_entropy, cross_entropy, eased, focal"),
        (["recipe.loss=eased", "recipe.loss_keys.beta=1"], "recipe.loss_keys.beta: must be one of gamma"),
        (["recipe.loss=eased", "recipe.label_smoothing=0.1"], "recipe.label_smoothing=0.1: must be 0"),
        (["recipe.augment.more=[white]"], "recipe.augment.more=white: allowed are black, trivial_augment"),
        (["data.layout=book"], "data.layout=book: allowed are egogestar, folders, hmdb51, index, kinetics"),
        (["callbacks.x.y=1"], "callbacks.x: needs callbacks.x._target_=CLASS"),
        (["callbacks.x._target_=callbacks.notes.Nots"], "callbacks.x: callbacks.notes.Nots can't be made"),
        (["callbacks=notes", "callbacks.notes.colour=1"], "callbacks.notes: callbacks.notes.Notes can't be made (Type"),
        (["loggers.x._target_=pathlib.Path"], "loggers.x: pathlib.Path is no Logger of Lightning"),
        (["folders.indxed=/x"], "folders.indxed"),
    ],
)
def test_what_is_wrong_is_one_line(words, says, own, place, tmp_path):
    assert says in refused(script("train", *words, *SMALL, *place.keys_with(tmp_path), STAT_VIDEO_OWN=str(own)))
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.parametrize(
    ("file", "text", "words", "says"),
    [
        ("losses/l.py", "def loss(logits): return 1", ["recipe.loss=l"], "its function must be loss(logits, target, *"),
        (
            "losses/l.py",
            "def loss(a, b, *, w): return 1",
            ["recipe.loss=l"],
            "its function must be loss(logits, target",
        ),
        ("losses/l.py", "def loss(a, b): return a.nope", ["recipe.loss=l"], "recipe.loss=l: its file raised Attribute"),
        ("losses/l.py", "def loss(a, b): return a", ["recipe.loss=l"], "recipe.loss=l: returned torch.float32 (2, 3)"),
        ("losses/l.py", "def los(a, b): return a", ["recipe.loss=l"], "recipe.loss=l: its file has no loss"),
        ("losses/cross_entropy.py", "", [], "cross_entropy: the name is taken by "),
        (
            "losses/l.py",
            "raise SystemExit('bye')",
            ["recipe.loss=l"],
            "recipe.loss=l: its file can't be imported (System",
        ),
        ("conf/model/tsm.yaml", "model: {depth: 18}", [], "conf/model/tsm.yaml: the name is taken by "),
        ("conf/data/here.yaml", "data: {name: here}", ["data=here"], "its first line must be # @package _global_"),
        ("metrics/m.py", "def metric(a, b) return", [], "metric=m: its file can't be imported (SyntaxError"),
        ("metrics/m.py", "def metrics(a, b): return 1", [], "metric=m: its file has no metric"),
        ("metrics/m.py", "def metric(a, b): return b", [], "metric=m: returned (6,); must be one figure"),
        ("metrics/m.py", "def metric(a, b): return b.nope", [], "metric=m: its file raised AttributeError"),
        ("metrics/my-metric.py", "def metric(a, b): return 1", [], "metric=my-metric: the name of its file must be"),
        ("metrics/loss.py", "def metric(a, b): return 1", [], "metric=loss: the name of its file must be"),
        (
            "augmentations/a.py",
            "def augment(c): pass",
            ["recipe.augment.more=[a]"],
            "returned a NoneType; must be uint8",
        ),
        (
            "augmentations/a.py",
            "def augment(c): return c / 255",
            ["recipe.augment.more=[a]"],
            "returned torch.float32",
        ),
        ("layouts/y.py", "LAYOUT = 1", ["data.layout=y"], "data.layout=y: its file has no LAYOUT"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_before_any_work(file, text, words, says, tmp_path, place):
    own = own_model.write(tmp_path / "own")
    (own / file).parent.mkdir(exist_ok=True, parents=True)
    (own / file).write_text(text)
    assert says in refused(script("train", *words, *SMALL, *place.keys_with(tmp_path), STAT_VIDEO_OWN=str(own)))


@pytest.mark.parametrize(
    ("read", "says"),
    [
        ("return 42", "data.layout=y: its file returned a int; must be a Listing"),
        ("return Listing(['a', 'b'], {'train': []})", "entries['val'] that are a NoneType; must be a list"),
        ("raise KeyError('activity')", "data.layout=y: its file raised KeyError: 'activity'"),
        ("return Listing(['a', 'b'], {'train': [('x', 'a')], 'val': []})", "the label 'a' of 'x'; must be 0 to 1"),
        ("return Listing(['a', 'b'], {'train': [('x', 7)], 'val': []})", "the label 7 of 'x'; must be 0 to 1"),
    ],
)
def test_a_layout_that_reads_something_else_is_one_line(read, says, tmp_path, monkeypatch):
    text = "from stat_video.data.layouts.base import Layout, Listing\n"
    layout = tmp_path / "layout.py"
    layout.write_text(f"{text}def read(files, how):\n    {read}\nLAYOUT = Layout('a form', {{}}, read)\n")
    monkeypatch.setattr(lists.layouts, "find", lambda name: runpy.run_path(str(layout))["LAYOUT"])
    with pytest.raises(InputError) as caught:
        lists.read_listing(tmp_path, DataConfig(layout="y"))
    assert says in caught.value.line


def test_a_folder_that_is_not_there_is_one_line(tmp_path, place):
    assert "no such folder" in refused(script("train", *SMALL, *place.keys, STAT_VIDEO_OWN=str(tmp_path / "none")))


def test_videos_with_several_labels(videos, place, tmp_path):
    """Lists with several labels: trained, tested by mean average precision, predicted by sigmoid."""
    _, entries, classes = videos
    root = tmp_path / "several"
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(classes))
    for split, of in entries.items():
        lines = [f"{video} {label} {(label + 1) % len(classes)}" for video, label in of]
        (root / f"{split}.csv").write_text("\n".join(lines))
    words = ["data=own", "data.layout=multi_label", f"folders.own={root}", "name=several", "recipe.mixup=0.2"]
    few = [word for word in SMALL if "motion" not in word]
    done = script("train", *words, "data.multi_label=true", *few, *place.keys_with(tmp_path / "logs"))
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "logs").glob("several/*/result.json")
    result = read_json(file)
    assert set(result["metrics"]) == {"val/loss_1x1", "val/mean_ap_1x1", "test/mean_ap_5x1"}
    test = torch.load(file.parent / "logits_5x1.pt", weights_only=True)
    assert test["labels"].shape == (len(entries["val"]), len(classes))
    assert (test["labels"].sum(1) == 2).all()
    scores = test["logits"].sigmoid().mean(1)
    reference = MultilabelAveragePrecision(num_labels=len(classes))(scores, test["labels"].long())
    assert result["metrics"]["test/mean_ap_5x1"] == pytest.approx(100 * float(reference))
    words = [f"ckpt={file.parent / 'last.ckpt'}", f"video={entries['val'][0][0]}", f"picture={tmp_path / 'seen.png'}"]
    done = script("predict", *words)
    assert done.returncode == 0, done.stderr
    line = refused(script("train", "data=own", "data.layout=multi_label", f"folders.own={root}", *few, *place.keys))
    assert "data.layout=multi_label: needs data.multi_label=true" in line


def test_lists_with_several_labels_are_read(tmp_path):
    files = {name: tmp_path / name for name in ("classes", "train", "val")}
    files["classes"].write_text("a\nb\nc\n")
    files["train"].write_text('x/1.mp4 2 0\n"clip 3" 1\ny.mp4,0,2\n')
    files["val"].write_text("z.mp4 1\n")
    listing = multi_label.read(files, Split())
    assert listing.entries["train"] == [("x/1.mp4", (0, 2)), ("clip 3", (1,)), ("y.mp4", (0, 2))]
    assert listing.entries["val"] == [("z.mp4", (1,))]
    for wrong, says in (("x.mp4 3\n", "label 3 is outside"), ("x.mp4 1 1\n", "a label twice"), ("x.mp4\n", "is not")):
        files["val"].write_text(wrong)
        with pytest.raises(InputError, match=says):
            multi_label.read(files, Split())


def test_binary_cross_entropy_is_a_slow_loop():
    logits, target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.eye(4)[:, :3]
    loss = losses.find("binary_cross_entropy")(logits, target, label_smoothing=0.2, positive_weight=3.0)
    total = 0.0
    for row, truth in zip(logits.tolist(), target.tolist(), strict=True):
        for x, t in zip(row, truth, strict=True):
            p, t = 1 / (1 + torch.tensor(-x).exp()), 0.8 * t + 0.1
            total -= float(3 * t * p.log() + (1 - t) * (1 - p).log())
    assert float(loss) == pytest.approx(total / 12, rel=1e-5)
    assert torch.equal(
        losses.find("binary_cross_entropy")(logits, torch.tensor([0, 2, 1, 1])),
        losses.find("binary_cross_entropy")(logits, torch.eye(3)[[0, 2, 1, 1]]),
    )


def test_an_unreadable_video_is_last_in_mean_average_precision():
    logits = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).float()
    scores = logits.sigmoid().mean(1)
    logits[4, 1] = float("nan")
    scores[4] = 0
    expected = []
    for c in (0, 1):  # no video has the third
        order = scores[:, c].argsort(descending=True)
        hits = labels[order, c]
        precision = hits.cumsum(0) / torch.arange(1, 7)
        expected.append(float((precision * hits).sum() / hits.sum()))
    assert float(metrics.figures(logits, labels)["mean_ap"]) == pytest.approx(100 * sum(expected) / 2)


def test_what_is_made_by_target_is_of_the_kind_asked_for(monkeypatch):
    monkeypatch.setattr(paths, "OWN", [])
    settings = {"a": {"_target_": "pathlib.PurePath"}, "b": {"_target_": "pathlib.PurePosixPath"}}
    assert [type(p).__name__ for p in instantiate("k", settings, Path.__mro__[1])] == ["PurePosixPath"] * 2
