"""`init=FILE`: weights that fill a model, of the same classes; anything else is refused before training."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from models.test_every import CLASSES, built, clip_of, config_of, every
from running import SMALL, Place, only, read_json, refused, script
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.models.weights import SHARE, expected, format_of, load_foreign, share_of
from stat_video.training.checkpoint import read_weights
from stat_video.training.first_weights import load_first_weights

WORDS = (*SMALL, "T=4", "crop=32", "recipe.epochs=1", "trainer=cpu", "views=1x1")


@pytest.fixture(scope="module")
def source(place: Place) -> Path:
    """The last checkpoint of a run on four classes."""
    keys = place.keys_with(place.folder / "source")
    done = script("train", *WORDS, "data.motion.classes=[moving left,moving right,moving up,moving down]", *keys)
    assert done.returncode == 0, done.stderr
    return only("last.ckpt", place.folder / "source")


@every
def test_a_file_that_fills_most_of_a_model_is_taken_and_one_that_does_not_is_refused(name: str) -> None:
    old, new = built(name), config_of(name).build(clip_of(name), CLASSES)
    state, asked = old.state_dict(), expected(old, new_parts=False)
    sizes = {n: p.numel() for n, p in old.named_parameters()}
    largest = sorted(asked, key=lambda n: -sizes[n])
    renamed = {f"other_{n}" if n in largest[: len(largest) // 2] else n: t for n, t in state.items()}
    with pytest.raises(ValueError, match=r"it holds [0-9]+% of .*init_share=0.95.*other_|do not fit"):
        load_foreign(new, renamed)
    assert "drawn anew" in " ".join(load_foreign(new, renamed, share=0.0))
    without_smallest = {n: t for n, t in state.items() if n != largest[-1]}
    assert load_foreign(new, without_smallest)


def test_two_tensors_of_one_name_are_refused() -> None:
    """As in a file with a network and its average: neither is taken in silence. Two that are the same are one."""
    model = built("tsm")
    state = model.state_dict()
    load_foreign(model, {**state, **{f"module.{name}": tensor.clone() for name, tensor in state.items()}})
    changed = {**state, **{f"module.{name}": tensor + 1 for name, tensor in state.items()}}
    with pytest.raises(ValueError, match=r"conv1\.weight and module\.conv1\.weight in the file differ"):
        load_foreign(model, changed)


@every
def test_image_weights_lack_the_new_parts_and_nothing_else(name: str) -> None:
    """New parts are excused in a file that holds nothing else; where something is left over, they may be in that."""
    old, new = built(name), config_of(name).build(clip_of(name), CLASSES)
    kept = set(expected(old, new_parts=True))
    parts = [n for n in expected(old, new_parts=False) if n not in kept]
    image = {n: t for n, t in old.state_dict().items() if n not in parts}
    load_foreign(new, image)
    left_over = {**image, **{f"temporal.{n}": old.state_dict()[n] for n in parts}, "a.weight": torch.zeros(3_000_000)}
    if share_of(old, image, new_parts=False) < SHARE:
        with pytest.raises(ValueError, match="init_share"):
            load_foreign(new, left_over)
    else:
        load_foreign(new, left_over)


@pytest.mark.parametrize(
    ("names", "project"),
    [
        (["s1.pathway0_stem.conv.weight", "s2.pathway0_res0.branch2.a.weight", "head.projection.weight"], "PySlowFast"),
        (["patch_embed.proj.weight", "blocks.0.attn.pool_q.weight", "blocks.0.attn.qkv.weight"], "PySlowFast"),
        (["vit.embeddings.cls_token", "vit.encoder.layer.0.attention.attention.query.weight"], "transformers"),
        (["layer1.0.conv1.weight", "layer1.0.bn1.weight", "conv1.weight", "fc.weight"], "ResNet"),
        (["base_model.layer1.0.conv1.net.weight", "new_fc.weight"], "TSN-style"),
        (["res2_0_branch2a_w", "conv1_w", "pred_w"], "Caffe2"),
        (["encoder.rnn.w"], "no known project"),
    ],
)
def test_the_nearest_project_is_named(names: list[str], project: str) -> None:
    assert project in format_of(names)


def test_a_file_that_is_half_of_a_model_is_refused_before_training(place: Place, source: Path, tmp_path: Path) -> None:
    state = torch.load(source)["state_dict"]
    state = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
    odd = {n if i % 2 else f"backbone.{n}": t for i, (n, t) in enumerate(state.items())}
    torch.save({"model_state": odd}, tmp_path / "half.pyth")
    words = (
        *WORDS,
        f"init={tmp_path / 'half.pyth'}",
        "data.motion.classes=[moving left,moving right,moving up,moving down]",
    )
    line = refused(script("train", *words, *place.keys_with(tmp_path)))
    assert "half.pyth" in line
    assert "init_share=0.95" in line
    assert not list(tmp_path.glob("*/*/config.json"))
    done = script("train", *words, "init_share=0.1", *place.keys_with(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "drawn anew" in done.stdout


def test_a_classifier_of_other_classes_is_refused(place: Place, source: Path, tmp_path: Path) -> None:
    words = (*WORDS, f"init={source}", *place.keys_with(tmp_path))
    line = refused(script("train", *words, "data.motion.classes=[moving left,moving right,moving up,going away]"))
    assert "'moving down'" in line
    assert "'going away'" in line
    assert "new_classifier=true" in line
    assert "another order" in refused(
        script("train", *words, "data.motion.classes=[moving right,moving left,moving up,moving down]")
    )
    done = script(
        "train", *words, "data.motion.classes=[moving left,moving right,moving up,going away]", "new_classifier=true"
    )
    assert done.returncode == 0, done.stderr


def test_a_copy_of_a_file_is_the_same_run_and_another_content_is_another(
    place: Place, source: Path, tmp_path: Path
) -> None:
    keys = place.keys_with(tmp_path / "logs")
    words = (*WORDS, "data.motion.classes=[moving left,moving right,moving up,moving down]", *keys)
    files = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for file in files:
        shutil.copy(source, file)
    assert script("train", *words, f"init={files[0]}").returncode == 0
    again = script("train", *words, f"init={files[1]}")
    assert "Finished before" in again.stdout
    content = torch.load(files[1], weights_only=True)
    content["state_dict"]["model.head.bias"] += 1
    torch.save(content, files[1])
    planned = script("train", *words, f"init={files[1]}", "plan=true")
    assert "to do" in planned.stdout, planned.stderr
    assert "Finished before" not in script("train", *words, f"init={files[1]}").stdout
    results = [read_json(file) for file in (tmp_path / "logs").glob("*/*/result.json")]
    assert len({result["id"] for result in results}) == 2
    assert all("@sha256:" in result["config"]["init"] for result in results)
    assert json.dumps(results)


def test_keys_in_which_the_run_of_the_weights_differs_are_named(trained: Path) -> None:
    """CA, SA and LA share their weights, so that a model with CA alone takes those of all three."""
    weights = read_weights(trained / "last.ckpt")
    (row,) = rows("train", Config, ["modules=ca", "new_classifier=true", f"init={trained / 'last.ckpt'}"])
    model = row.config.build(2)
    lines = load_first_weights(model, weights, row.config, ["a", "b"])
    assert "trained with model.modules=['CA', 'SA', 'LA'], here ['CA']" in lines
    (row,) = rows("train", Config, ["new_classifier=true", f"init={trained / 'last.ckpt'}"])
    assert not [
        line for line in load_first_weights(row.config.build(2), weights, row.config, ["a", "b"]) if "here" in line
    ]
