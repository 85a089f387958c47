"""The door: a model comes in by its own files alone, and the framework asks for no model by name."""

import re
import subprocess
from pathlib import Path

import pytest

import own_model
from running import ROOT, SMALL, only, read_json, refused, script
from stat_video.training.checkpoint import read_checkpoint

# Names of the paper's model and of its axes. The environment variable STAT_VIDEO_OWN and its like are not meant.
OF_STAT = re.compile(r"\bSTAT\b|t_o\b|l_ta\b|t_o\d|l_ta\d")
# Where the framework may speak of it: (file, what stands in the line, why).
ALLOWED = [
    ("data/sampling.py", "segments (TSN; STAT's 'Implementation Details')", "the source of this kind of sampling"),
    ("paper.py", "", "what the paper prints"),
    ("__init__.py", "STAT and fifteen other systems", "what the package is"),
    ("commands/train.py", "`python src/train.py experiment=ablation_window t_o=5`", "an example in a docstring"),
    ("api.py", '`train("experiment=ablation_window", "t_o=5")`', "an example in a docstring"),
]


def named(file: Path) -> list[tuple[str, str]]:
    """Return (file below stat_video/, line) of each line that names it."""
    name = file.relative_to(ROOT / "src" / "stat_video").as_posix()
    return [(name, line.strip()) for line in file.read_text().splitlines() if OF_STAT.search(line)]


def test_the_framework_names_no_model() -> None:
    files = [f for f in (ROOT / "src" / "stat_video").rglob("*.py") if "models" not in f.parts]
    assert len(files) > 50
    found = [hit for file in files for hit in named(file)]
    places = [(name, text) for name, text, _ in ALLOWED]
    assert [hit for hit in found if not any(hit[0] == name and text in hit[1] for name, text in places)] == []


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_model.write(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("door_logs")


@pytest.fixture(scope="module")
def swept(own, logs, place) -> subprocess.CompletedProcess[str]:
    """Two rows of the model, its own axis swept, two steps each."""
    words = ["-m", "model=mine", "pool=mean,max", "name=door", "recipe.max_steps=2", "hydra/launcher=basic"]
    return script("train", *words, *SMALL, *place.keys_with(logs), STAT_VIDEO_OWN=str(own))


def test_it_is_trained_and_its_axis_shows(swept, logs):
    assert swept.returncode == 0, swept.stderr
    folders = sorted(file.parent for file in logs.glob("door/*/result.json"))
    assert [re.sub("-[0-9a-f]{8}$", "", f.name) for f in folders] == [
        "tiny-motion-T4-mine-max-seed0",
        "tiny-motion-T4-mine-seed0",
    ]
    for folder in folders:
        result = read_json(folder / "result.json")
        assert (result["steps"], result["parameters"], result["config"]["model"]["width"]) == (2, 388, 4)
        assert result["gmacs"] == pytest.approx((4 * 3 * 27 * 2 * 8 * 8 + 4 * 12) / 1e9)  # convolution, head
    table = swept.stdout[swept.stdout.index("door, scale tiny") :]
    header, *rows = [line for line in table.splitlines() if line.startswith(("┃", "│"))]
    assert header.split()[1] == "pool"
    assert [row.split()[1] for row in rows] == ["mean", "max"]
    assert "model mine" in table


def test_it_is_evaluated(swept, own, logs, place):
    folder = only("*-mine-max-*/result.json", logs).parent
    ckpt = f"ckpt={folder / 'last.ckpt'}"
    done = script("evaluate", ckpt, *place.keys_with(logs), "trainer=cpu", STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    again = read_json(folder / "evaluation_5x1.json")["metrics"]
    assert again["test/top1_5x1"] == read_json(folder / "result.json")["metrics"]["test/top1_5x1"]
    # Where its file is not, it is missed by name.
    assert "model=mine: allowed are" in refused(script("evaluate", ckpt, *place.keys_with(logs), "trainer=cpu"))


def test_it_predicts(swept, own, logs, place, tmp_path):
    """A picture of the frames: the model does not say where it looks."""
    ckpt = only("*-mine-max-*/last.ckpt", logs)
    video = sorted((place.folder / "data").rglob("val/*.mp4"))[0]
    words = [f"ckpt={ckpt}", f"video={video}", f"picture={tmp_path / 'seen.png'}"]
    done = script("predict", *words, STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("%") == 5
    assert (tmp_path / "seen.png").stat().st_size > 1000


def test_it_is_counted_and_planned(own, tmp_path, place):
    done = script("cost", "model=mine", "scale=tiny", STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert "conv" in done.stdout
    words = ["-m", "model=mine,stat", "name=planned", "plan=true", *SMALL, *place.keys_with(tmp_path)]
    done = script("train", *words, STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert "2 runs, 2 not done" in done.stdout
    rows = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == ["mine", "stat"]


def test_it_is_resumed_and_gives_weights_to_the_next(swept, own, logs, place):
    """Its checkpoint goes on, and starts a run on other classes."""
    ckpt = only("*-mine-max-*/last.ckpt", logs)
    words = ["model=mine", "pool=max", "name=next", "data.motion.classes=[moving left,moving right]", f"init={ckpt}"]
    words += ["recipe.max_steps=1", *SMALL, *place.keys_with(logs)]
    assert "new_classifier=true" in refused(script("train", *words, STAT_VIDEO_OWN=str(own)))
    done = script("train", *words, "new_classifier=true", STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert "head: drawn anew" in done.stdout
    weights = read_checkpoint(only("last.ckpt", logs / "next")).weights
    assert weights["head.weight"].shape == (2, 4)


def test_a_file_that_is_wrong_is_one_line(own, tmp_path, place):
    """Of whoever writes a model: what is wrong with it, and where."""
    for text, says in (
        ("def f(:\n", "model=mine: its file can't be imported (SyntaxError"),
        (own_model.MODEL.replace("import Tensor", "import Tensors"), "model=mine: its file can't be imported (Impo"),
        ("x = 1\n", "model=mine: its file has no Config"),
    ):
        folder = own_model.write(tmp_path / str(hash(text)))
        (folder / "models" / "mine.py").write_text(text)
        words = ["model=mine", *SMALL, *place.keys_with(tmp_path / "logs")]
        assert says in refused(script("train", *words, STAT_VIDEO_OWN=str(folder)))


def test_a_forward_pass_that_asks_for_numbers_is_trained_without_a_count(swept, logs, tmp_path, place):
    """Such a pass does not run on the meta device; that shows before training, and takes nothing from a run."""
    folder = own_model.write(tmp_path / "own")
    text = own_model.MODEL.replace("return self.head(x", "return self.head((1 + (x.mean().item() > 0)) * x")
    (folder / "models" / "mine.py").write_text(text)
    words = ["model=mine", "name=uncounted", "recipe.max_steps=1", *SMALL, *place.keys_with(logs)]
    done = script("train", *words, STAT_VIDEO_OWN=str(folder))
    assert done.returncode == 0, done.stderr
    said = "model=mine: its cost can't be counted (RuntimeError: Tensor.item() cannot be called on meta tensors)"
    assert said in done.stdout
    assert done.stdout.index(said) < done.stdout.index("Training ")
    result = read_json(only("result.json", logs / "uncounted"))
    assert (result["gmacs"], result["parameters"]) == (None, 388)
    assert said in refused(script("cost", "model=mine", "scale=tiny", STAT_VIDEO_OWN=str(folder)))
    sweep = ["-m", "model=mine", "plan=true", "pool=mean,max", *words[1:]]
    done = script("train", *sweep, STAT_VIDEO_OWN=str(folder))
    assert done.returncode == 0, done.stderr
    assert "2 runs, 1 not done; device hours left: -" in done.stdout


@pytest.mark.slow
def test_it_is_reported_in_a_section_of_its_own(swept, own, logs):
    done = script("report", "scales=[tiny]", f"folders.logs={logs}", STAT_VIDEO_OWN=str(own))
    assert done.returncode == 0, done.stderr
    assert "door, scale tiny: 2 rows of 2 runs" in done.stdout
    page = (logs / "report" / "index.html").read_text()
    assert "Nothing is run" not in page
    assert "mine-max" in page
    assert all(read_json(file)["id"] in page for file in logs.glob("*/*/result.json"))


def test_what_is_no_logits_is_refused_at_the_first_step(tmp_path, place):
    folder = own_model.write(tmp_path / "own")
    (folder / "models" / "mine.py").write_text(own_model.MODEL.replace("return self.head(x", "return 2, self.head(x"))
    words = ["model=mine", *SMALL, *place.keys_with(tmp_path / "logs")]
    line = refused(script("train", *words, STAT_VIDEO_OWN=str(folder)))
    assert re.search(r"Mine.forward returned a tuple for (\d) clips; logits \(\1, 12\) are asked for", line), line
