"""The scripts as a user types them: train, resume, evaluate, predict, sweep, cost, report."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from running import ROOT, SMALL, only, read_json, refused, script
from stat_video.errors import of_the_machine
from stat_video.training.checkpoint import read_checkpoint


def test_a_run_writes_all_that_it_should(trained):
    result, config = read_json(trained / "result.json"), read_json(trained / "config.json")
    assert set(result["metrics"]) == {"val/loss_1x1", "val/top1_1x1", "val/top5_1x1", "test/top1_5x1", "test/top5_5x1"}
    assert result["config"] == config
    assert result["scale"] == "tiny"
    assert result["seed"] == 0
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    assert result["commit"] is None or len(result["commit"]) == 40
    assert 0 < result["train_seconds"] <= result["wall_seconds"]
    assert (result["epochs"], result["steps"]) == (2, 12)  # 48 videos in batches of 8
    with (trained / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["0", "1"]
    assert float(rows[-1]["val/top1_1x1"]) == pytest.approx(result["metrics"]["val/top1_1x1"], rel=1e-5)
    assert trained.name.startswith("tiny-motion-T4-stat-seed0-")
    assert not list(trained.glob(".*"))  # nothing half-written


def test_the_checkpoint_holds_plain_containers(trained):
    assert torch.serialization.get_unsafe_globals_in_checkpoint(trained / "last.ckpt") == []
    assert len(read_checkpoint(trained / "last.ckpt").classes) == 12


def test_a_finished_run_is_not_run_again(trained, place):
    before = (trained / "result.json").stat().st_mtime_ns
    done = script("train", *SMALL, *place.keys, "name=trained")
    assert done.returncode == 0, done.stderr
    assert "Finished before" in done.stdout
    assert "test/top1_5x1" in done.stdout
    assert (trained / "result.json").stat().st_mtime_ns == before


def test_lines_in_a_log_are_plain(trained, place):
    done = script("train", *SMALL, *place.keys, "name=log", "recipe.epochs=1")
    assert "\r" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "epoch 1/1: train/loss" in done.stdout
    assert done.stderr == "", done.stderr


def test_evaluate_gives_the_figures_of_training(trained, place):
    """To the last digit, for both protocols that training reports."""
    result = read_json(trained / "result.json")
    for views, part in (("1x1", "val"), ("5x1", "test")):
        done = script("evaluate", f"ckpt={trained / 'last.ckpt'}", f"views={views}", *place.keys, "trainer=cpu")
        assert done.returncode == 0, done.stderr
        again = read_json(trained / f"evaluation_{views}.json")["metrics"]
        for top in ("top1", "top5"):
            assert again[f"test/{top}_{views}"] == result["metrics"][f"{part}/{top}_{views}"]
        logits = torch.load(trained / f"logits_{views}.pt", weights_only=True)
        assert logits["logits"].shape == (12, int(views[0]), 12)
        scores = logits["logits"].softmax(-1).mean(1)
        top1 = 100 * (scores.argmax(-1) == logits["labels"]).double().mean().item()
        assert again[f"test/top1_{views}"] == pytest.approx(top1, abs=1e-4)
    one, five = (torch.load(trained / f"logits_{views}.pt", weights_only=True)["logits"] for views in ("1x1", "5x1"))
    assert torch.allclose(one[:, 0], five[:, 2], atol=1e-4)  # the single clip is the middle one of five


def test_an_ensemble_is_evaluated(trained, place, tmp_path):
    """Two runs of other models, their scores averaged; runs that do not belong together are refused."""
    words = [*SMALL, *place.keys, "name=member", "modules=ca", "recipe.max_steps=1", "seed=1"]
    assert script("train", *words).returncode == 0
    member = only("result.json", place.folder / "logs" / "member").parent
    done = script("evaluate", f"ensemble=[{trained},{member / 'last.ckpt'}]", "views=1x1", *place.keys, "trainer=cpu")
    assert done.returncode == 0, done.stderr
    result = read_json(trained / "ensemble_1x1.json")
    saved = [torch.load(folder / "logits_1x1.pt", weights_only=True) for folder in (trained, member)]
    scores = sum(test["logits"].softmax(-1).mean(1) for test in saved)
    top1 = 100 * (scores.argmax(-1) == saved[0]["labels"]).double().mean().item()
    assert result["metrics"]["test/top1_1x1"] == pytest.approx(top1, abs=1e-4)
    assert [one["metrics"] for one in result["members"]] == [
        read_json(folder / "evaluation_1x1.json")["metrics"] for folder in (trained, member)
    ]
    for runs, says in (
        ([trained], "allowed are two or more different runs"),
        ([trained, trained / "last.ckpt"], "allowed are two or more different runs"),
        ([trained, tmp_path / "none"], "there is no such file"),
    ):
        line = refused(script("evaluate", f"ensemble=[{','.join(map(str, runs))}]", *place.keys, "trainer=cpu"))
        assert says in line


def test_evaluate_with_three_crops(trained, place):
    done = script("evaluate", f"ckpt={trained / 'last.ckpt'}", "views=3x3", *place.keys, "trainer=cpu")
    assert done.returncode == 0, done.stderr
    logits = torch.load(trained / "logits_3x3.pt", weights_only=True)["logits"]
    views = logits.unflatten(1, (3, 3))
    assert (views[:, 0] != views[:, 1]).any()  # clips differ
    assert (views[:, :, 0] != views[:, :, 2]).any()  # crops differ


def test_predict_prints_the_top_5_and_writes_a_picture(trained, place, tmp_path):
    """By the command that a run prints at its end."""
    done = script("train", *SMALL, *place.keys, "name=trained")
    offered = [shlex.split(line, comments=True) for line in done.stdout.splitlines() if line.startswith("python src/")]
    assert [words[1] for words in offered] == ["src/predict.py", "src/evaluate.py", "src/report.py"]
    video = sorted((place.folder / "data").rglob("val/*.mp4"))[0]
    picture = tmp_path / "seen.png"
    ckpt = offered[0][2]
    assert Path(ckpt.removeprefix("ckpt=")).samefile(trained / "last.ckpt")
    assert offered[1][2] == ckpt
    done = script("predict", ckpt, f"video={video}", f"picture={picture}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("%") == 5
    with Image.open(picture) as image:
        assert min(image.size) > 300


def test_predict_takes_a_folder_and_goes_on_after_a_broken_video(trained, place, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for video in sorted((place.folder / "data").rglob("val/*.mp4"))[:3]:
        shutil.copy(video, folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    words = [f"ckpt={trained / 'last.ckpt'}", f"video={folder}", f"out={tmp_path / 'found'}"]
    done = script("predict", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 1 of 4 videos can't be read, first ")
    assert "broken.mp4" in done.stderr
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["class5"]) for row in rows] == [True, True, True, False]
    (folder / "broken.mp4").unlink()
    done = script("predict", *words, "pictures=true")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "found").glob("*.png"))) == 3
    assert "pictures=true" in refused(script("predict", *words, "picture=x.png"))


def test_the_same_run_twice_gives_the_same_weights(trained, place, tmp_path):
    done = script("train", *SMALL, *place.keys_with(tmp_path), "trainer.workers=2")
    assert done.returncode == 0, done.stderr
    again = only("last.ckpt", tmp_path)
    first, second = (read_checkpoint(p).weights for p in (trained / "last.ckpt", again))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_killed_before_its_result_gets_the_same_one(trained, place):
    """The checkpoint of the last epoch is there, result.json is not: nothing is trained again."""
    copy = place.folder / "other_logs" / "trained" / trained.name
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("result.json", "logits*"))
    done = script("train", *SMALL, *place.keys, "name=trained", f"folders.logs={place.folder / 'other_logs'}")
    assert done.returncode == 0, done.stderr
    first, second = (read_json(folder / "result.json") for folder in (trained, copy))
    for key in ("metrics", "epochs", "steps", "train_seconds"):
        assert first[key] == second[key], key


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["recipe.ema=0.9", "trainer.gradient_checkpointing=true"], marks=pytest.mark.slow),
        ["trainer.precision=bf16-mixed", "recipe.repeats=2", "trainer.batch_per_device=4"],  # two passes a step
        ["recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.label_smoothing=0.1", "recipe.augment.erasing=0.5",
         "recipe.augment.randaugment_ops=2", "recipe.augment.color_jitter=0.4", "data.hflip=true"],
        pytest.param(["trainer.compile=true"], marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param(["trainer.devices=2", "trainer.strategy=ddp"], marks=pytest.mark.slow),
    ],
    ids=["ema", "bf16", "mixing", "compile", "ddp"],
)  # fmt: skip
def test_options_run_and_can_be_evaluated(words, place, request):
    """Two steps, and the checkpoint gives the figures again (in fp32, so but for bf16)."""
    name = request.node.callspec.id
    # Logs of its own: with other hardware it is the same run, which would be found finished.
    keys = place.keys_with(place.folder / f"logs_{name}")
    done = script("train", *SMALL, *keys, f"name={name}", "recipe.max_steps=2", *words)
    assert done.returncode == 0, done.stderr
    folder = only("result.json", place.folder / f"logs_{name}").parent
    result = read_json(folder / "result.json")
    assert result["steps"] == 2
    done = script("evaluate", f"ckpt={folder / 'last.ckpt'}", *place.keys, "trainer=cpu")
    assert done.returncode == 0, done.stderr
    if name != "bf16":
        again = read_json(folder / "evaluation_5x1.json")["metrics"]
        assert again["test/top1_5x1"] == result["metrics"]["test/top1_5x1"]


def test_weights_go_over_to_a_longer_clip(trained, place):
    words = [*SMALL, *place.keys, "name=longer", "T=8", "recipe.max_steps=1", f"init={trained / 'last.ckpt'}"]
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert "pos_temporal: interpolated from (1, 2, 1, 48) to (1, 4, 1, 48)" in done.stdout


def test_checkpoints_that_are_none_are_refused(trained, place, tmp_path):
    whole = (trained / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    video = f"video={sorted((place.folder / 'data').rglob('val/*.mp4'))[0]}"
    for name in ("cut", "foreign", "missing"):
        path = tmp_path / f"{name}.ckpt"
        assert str(path) in refused(script("evaluate", f"ckpt={path}", *place.keys))
    assert "ckpt is not given" in refused(script("predict", video))


def test_a_run_is_tested_on_the_same_data_in_another_layout(trained, place, tmp_path):
    motion = place.folder / "data" / read_json(trained / "result.json")["manifest"]
    for folder, stem in (("own", "my_"), ("copies", "")):
        (tmp_path / folder).mkdir()
        shutil.copy(motion / "classes.txt", tmp_path / folder)
        for split in ("train", "val"):
            lines = (motion / f"{split}.csv").read_text().splitlines(keepends=True)
            (tmp_path / folder / f"{stem}{split}.csv").write_text("".join(f"{motion}/{line}" for line in lines))
    words = ["data=kinetics400", "data.train=my_train.csv", "data.val=my_val.csv", "data.short_side=48", "name=layout"]
    small = [word for word in SMALL if "motion" not in word]
    own, copies = (f"folders.kinetics400={tmp_path / folder}" for folder in ("own", "copies"))
    done = script("train", *small, *words, own, *place.keys, "recipe.epochs=1")
    assert done.returncode == 0, done.stderr
    file = only("result.json", place.folder / "logs" / "layout")
    ask = ["evaluate", f"ckpt={file.parent / 'last.ckpt'}", *place.keys, "trainer=cpu", copies]
    assert "my_train.csv" in refused(script(*ask))
    assert "data.layout=tar: allowed are" in refused(script(*ask, "layout=tar"))
    done = script(*ask, "layout=lists")
    assert done.returncode == 0, done.stderr
    again = read_json(file.parent / "evaluation_5x1.json")["metrics"]
    assert again["test/top1_5x1"] == read_json(file)["metrics"]["test/top1_5x1"]


def test_a_checkpoint_of_another_class_list_is_not_evaluated(trained, place, tmp_path):
    content = torch.load(trained / "last.ckpt", weights_only=True)
    content["stat_video"]["classes"][0] = "standing still"
    torch.save(content, tmp_path / "other.ckpt")
    assert "they have to be the same" in refused(script("evaluate", f"ckpt={tmp_path / 'other.ckpt'}", *place.keys))


def test_an_unreadable_video_is_named(trained, place, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video" * 100)
    assert str(bad) in refused(script("predict", f"ckpt={trained / 'last.ckpt'}", f"video={bad}"))


def test_an_unreadable_video_stops_training_in_one_line(place, tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    paths = set()
    for split in ("train", "val"):
        names = [f"{split}{i}.mp4" for i in range(16)]
        (tmp_path / f"{split}.csv").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
        for name in names:
            (tmp_path / name).write_bytes(f"{name} is not a video".encode() * 100)  # no two alike
            paths.add(str(tmp_path / name))
    words = ["data=kinetics400", f"folders.kinetics400={tmp_path}", "data.short_side=48", *place.keys, "name=bad"]
    small = [w for w in SMALL if "motion" not in w and "workers" not in w]
    for workers in (0, 1):  # an error out of a worker process comes wrapped in its trace
        done = script("train", *small, *words, f"trainer.workers={workers}")
        *warnings, last = done.stderr.strip().splitlines()
        assert done.returncode == 2, done.stderr
        named = [line.partition(": not a readable video")[0].removeprefix("WARNING: ") for line in warnings]
        assert named, done.stderr
        assert len(set(named)) == len(named), done.stderr
        assert {*named} <= paths, done.stderr
        path, _, rest = last.removeprefix("error: ").partition(": ")
        assert path in paths, done.stderr
        assert rest.startswith("unreadable, and so are "), done.stderr


def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_lost(trained, place):
    """The checkpoint of the third epoch does not fit; that of the second stays whole, and the run goes on from it."""
    words = [*SMALL, *place.keys, "name=full_disk", "recipe.epochs=3"]
    size = (trained / "last.ckpt").stat().st_size
    line = refused(script("train", *words, largest_file=size // 2))
    assert "last.ckpt: could not be written (File too large)" in line
    folder = only("config.json", place.folder / "logs" / "full_disk").parent
    assert not (folder / "last.ckpt").exists()
    shutil.copy(trained / "last.ckpt", folder)  # as if it had happened an epoch later
    assert "last.ckpt: could not be written" in refused(script("train", *words, largest_file=size // 2))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "last.ckpt", "overrides.yaml"]
    assert (folder / "last.ckpt").read_bytes() == (trained / "last.ckpt").read_bytes()
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert "Resuming" in done.stdout
    assert "epoch 3/3" in done.stdout
    assert "epoch 2/3" not in done.stdout


def test_a_folder_that_cannot_be_made_is_one_line(place):
    assert "folders.built_in=/dev/null/data" in refused(script("train", *SMALL, "folders.built_in=/dev/null/data"))


ODD = "#20 (clap), é=動画 [x] {y:1} it's ${z} & %s ;!~\\"  # what grammars, shells and pictures give a meaning to


@pytest.fixture(scope="module")
def odd(trained, place) -> Path:
    """A data set of two classes whose folders and videos have such names."""
    root = place.folder / ODD
    videos = sorted((place.folder / "data").rglob("val/*.mp4"))[:8]
    for i, video in enumerate(videos):
        (root / f"{ODD}{i % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(video, root / f"{ODD}{i % 2}" / f"{ODD}{i}$x_1$.mp4")
    return root


def test_paths_of_any_name_go_through_the_scripts(odd, tmp_path):
    """In a process of a sweep, too, which starts from a file."""
    logs, out = tmp_path / f"logs {ODD}", tmp_path / f"out {ODD}"
    small = [word for word in SMALL if "motion" not in word]
    done = script("train", "-m", *small, "data=own", f"folders.own={odd}", f"folders.logs={logs}", "name=odd",
                  "recipe.epochs=1", "recipe.batch_size=4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = only("result.json", logs)
    folders = read_json(result)["config"]["folders"]
    assert (folders["own"], folders["logs"]) == (str(odd), str(logs))
    ckpt = f"ckpt={result.with_name('last.ckpt')}"
    offered = [shlex.split(line, comments=True)[2] for line in done.stdout.splitlines() if "src/predict.py" in line]
    assert offered == [ckpt]
    video = sorted(odd.rglob("*.mp4"))[0]
    done = script("predict", ckpt, f"video={video}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (result.parent / f"predict_{video.stem}.png").exists()
    done = script("predict", ckpt, f"video={odd}", f"out={out}")
    assert done.returncode == 0, done.stderr
    with out.with_name(f"{out.name}.csv").open(newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == [str(path) for path in sorted(odd.rglob("*.mp4"))]
    done = script("evaluate", ckpt, f"folders.own={odd}", "trainer=cpu", "views=1x1")
    assert done.returncode == 0, done.stderr


def test_ones_own_videos_are_verified_and_transcoded(odd, tmp_path):
    """By the line that transcode prints, its copies are trained on."""
    done = script("prepare", "do=verify", "data=own", f"folders.own={odd}", f"data.manifest={tmp_path / 'm, é.csv'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m, é.csv").exists()
    out = tmp_path / f"copies {ODD}"
    done = script("prepare", "do=transcode", "data=own", f"folders.own={odd}", f"out={out}", "encoding.short_side=48")
    assert done.returncode == 0, done.stderr
    assert len(list(out.rglob("*.mp4"))) == 8
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Use them with ")]
    words = shlex.split(line.removeprefix("Use them with "))
    assert words == [f"folders.own={out}", "data.layout=lists"]
    done = script("prepare", "do=verify", "data=own", *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", [*SMALL, "folders.logs={}", "-m"]),
        ("train", [*SMALL, "folders.logs=/proc/x"]),
        ("train", ["data=own", "folders.own={}", "folders.logs={}"]),
        ("evaluate", ["ckpt={}"]),
        ("predict", ["{ckpt}", "{video}", "out={}", "pictures=true"]),
        pytest.param("export", ["{ckpt}", "out={}"], marks=pytest.mark.slow),
        ("prepare", ["do=verify", "data=own", "folders.own={odd}", "data.manifest={}"]),
        ("prepare", ["do=transcode", "data=own", "folders.own={odd}", "out={}"]),
        ("dashboard", ["folders.logs={}", "dry_run=true"]),
        pytest.param("cost", ["T=16", "measured={}"], marks=pytest.mark.slow),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(name, words, trained, odd, tmp_path):
    (tmp_path / "afile").touch()
    bad = str(tmp_path / "afile" / "x")
    known = {"ckpt": f"ckpt={trained / 'last.ckpt'}", "video": f"video={min(odd.rglob('*.mp4'))}", "odd": odd}
    line = refused(script(name, *(word.format(bad, bad, **known) for word in words)))
    assert any(part in line for part in (bad, bad.removesuffix("/x"), "/dev/null", "/proc/x"))


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode != 0,
    reason="needs mounts of its own",
)
@pytest.mark.parametrize(
    ("options", "begin", "says"),
    [
        ("ro", "", "Read-only file system"),
        ("size=16k", "head -c 16k /dev/zero > /mnt/fill;", "No space left on device"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(options, begin, says, place, trained):
    words = [*SMALL, *place.keys_with(Path("/mnt/logs")), "recipe.max_steps=1"]
    command = shlex.join([sys.executable, str(ROOT / "src" / "train.py"), *words])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o {options} tmpfs /mnt; {begin} {command}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = refused(done)
    assert line.startswith("error: /mnt/logs")
    assert says in line


def test_what_a_machine_refuses_is_told_from_what_is_wrong_in_the_code():
    """The shared memory of data workers, in PyTorch's words, and a name of any bytes."""
    worker = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    for said in (
        "unable to write to file </torch_7_8_9>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_7>: Resource temporarily unavailable (11)",
    ):
        line = of_the_machine(RuntimeError(f"{worker}RuntimeError: {said}"))
        assert line is not None
        assert line.startswith("/dev/shm")
    assert of_the_machine(OSError(28, "No space left on device", b"/a/\xff")) == "/a/\udcff: No space left on device"
    assert of_the_machine(ConnectionResetError()) == "ConnectionResetError"
    for bug in (KeyError("a"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), AssertionError()):
        assert of_the_machine(bug) is None


def test_the_trace_of_what_a_disk_refuses_can_be_had(tmp_path):
    (tmp_path / "afile").touch()
    done = script("train", *SMALL, f"folders.logs={tmp_path / 'afile'}", STAT_VIDEO_TRACE="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_the_model_of_the_readme_is_trained_as_it_is_printed(place, tmp_path):
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## A model of your own") :]
    for language, name in (("python", "models/mine.py"), ("yaml", "conf/model/mine.yaml")):
        code = section.partition(f"```{language}\n")[2].partition("```")[0]
        assert f"# {name}" in code.splitlines()[:2]
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(code)
    words = ["model=mine", "width=8", *SMALL, *place.keys_with(tmp_path / "logs"), "recipe.max_steps=1"]
    done = script("train", *words, STAT_VIDEO_OWN=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert read_json(only("result.json", tmp_path / "logs"))["config"]["model"] == {"name": "mine", "width": 8}


def test_half_precision_is_not_swapped_on_a_cpu(place):
    line = refused(script("train", *SMALL, *place.keys, "seed=5", "trainer.precision=16-mixed", "trainer=cpu"))
    assert "trainer.precision=16-mixed" in line


def test_wandb_offline_and_without_an_account(place):
    """The first logs offline. The second is told online, has no key, and goes on offline, with a line that says so."""
    words = [*SMALL, *place.keys, "recipe.max_steps=1"]
    offline = script("train", *words, "seed=1", "logger=offline", "name=offline")
    assert offline.returncode == 0, offline.stderr
    assert only("offline-run-*", place.folder / "logs" / "offline").is_dir()
    env = {"WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(place.folder), "NETRC": "/nowhere"}
    online = script("train", *words, "seed=2", "logger=online", "name=online", **env)
    assert online.returncode == 0, online.stderr
    assert only("offline-run-*", place.folder / "logs" / "online").is_dir()
    assert "going on offline" in online.stderr
    assert only("result.json", place.folder / "logs" / "online")


@pytest.mark.slow
def test_cost_prints_the_ten_rows():
    done = script("cost")
    assert done.returncode == 0, done.stderr
    for printed, ours in [("58.2", "58.15"), ("123.0", "122.84"), ("241.3", "240.98")]:
        assert printed in done.stdout
        assert ours in done.stdout
    assert all(figure in done.stdout for figure in ("58.89", "58.31", "59.05", "118.40", "243.95"))


@pytest.mark.slow
def test_two_full_size_steps(place):
    """The paper's model and recipe on a Kinetics-like folder, on the CPU."""
    assert script("train", *SMALL, *place.keys, "name=make_videos", "recipe.max_steps=1").returncode == 0
    folder = only("motion-*", place.folder / "data")
    done = script("train", "scale=paper", "experiment=ablation_window", "t_o=5", "debug=two_steps",
                  f"folders.kinetics400={folder}", f"folders.logs={place.folder / 'logs'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_json(only("result.json", place.folder / "logs" / "debug"))["steps"] == 2
