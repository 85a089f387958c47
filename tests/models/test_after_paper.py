"""The systems that came after the paper: equal to the libraries that publish them, with files as these publish them."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import video as tv

from running import skip_without_library
from stat_video import create_model, models, paper
from stat_video.compose import rows
from stat_video.config import Config
from stat_video.errors import InputError
from stat_video.models.base import Clip, VideoModel
from stat_video.models.count import gmacs, parameters
from stat_video.models.weights import load_foreign
from stat_video.training.optim import make_optimizer, parameter_groups

CLASSES = 7


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what draws first weights, half of the time of a test that loads others in their place."""
    for name in ("trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


def filled(network: nn.Module) -> Any:
    """In evaluation mode and float64, with weights and running statistics that keep activations near one."""
    torch.manual_seed(0)
    network = network.double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("weight"):
                tensor.normal_(std=math.prod(tensor.shape[1:]) ** -0.5)
            else:
                tensor.normal_(std=0.3)
    return network


def swin3d(**keys: Any) -> nn.Module:
    """torchvision's, of the tiny size."""
    patch, depths, heads, window = [2, 4, 4], [2, 2, 2, 1], [1, 2, 4, 8], [4, 3, 3]
    return tv.swin_transformer.SwinTransformer3d(patch, 32, depths, heads, window, num_classes=CLASSES, **keys)


def mvit_v2() -> nn.Module:
    """torchvision's at full size, whose tables of positions are of 16 frames of 224 pixels, for 6 frames of 64."""
    network = tv.mvit_v2_s(num_classes=CLASSES)
    network.pos_encoding.temporal_size, network.pos_encoding.spatial_size = 3, (16, 16)
    return network


def s3d() -> nn.Module:
    """torchvision's, whose head takes maps of 7 x 7 places, for 2 x 2."""
    network = tv.s3d(num_classes=CLASSES)
    network.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)
    return network


@dataclass
class Case:
    """The library's network with some clip, and ours for it."""

    name: str
    theirs: Callable[[], nn.Module]
    clip: Clip
    keys: dict[str, Any] = field(default_factory=dict)

    def ours(self) -> VideoModel:
        return models.find(self.name)(**self.keys).build(self.clip, CLASSES)


TINY_SWIN = {"size": "tiny", "window_size": [4, 3, 3]}
CASES = {
    "swin3d": Case("swin3d", swin3d, Clip(T=16, crop=96), TINY_SWIN),
    "swin3d, filled up": Case("swin3d", swin3d, Clip(T=5, crop=70), TINY_SWIN),
    "mvit_v2": Case("mvit_v2", mvit_v2, Clip(T=6, crop=64)),
    "s3d": Case("s3d", s3d, Clip(T=24, crop=64)),
    "r2plus1d": Case("r2plus1d", lambda: tv.r2plus1d_18(num_classes=CLASSES), Clip(T=5, crop=33)),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logits_are_the_librarys(case: Case) -> None:
    network, model = filled(case.theirs()), case.ours().double().eval()
    state = network.state_dict()
    summary, *moved = load_foreign(model, state)
    assert summary.startswith(f"{len(state)} of {len(state)} tensors taken from {len(state)} in the file")
    assert all(": interpolated from " in line for line in moved)
    x = torch.randn(2, 3, case.clip.T, case.clip.crop, case.clip.crop, dtype=torch.float64)
    with torch.no_grad():
        logits, expected = model(x), network(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


PUBLISHED = [
    ("swin3d", {"size": "t"}, tv.swin3d_t, tv.Swin3D_T_Weights.KINETICS400_V1),
    ("swin3d", {"size": "s"}, tv.swin3d_s, tv.Swin3D_S_Weights.KINETICS400_V1),
    ("swin3d", {"size": "b"}, tv.swin3d_b, tv.Swin3D_B_Weights.KINETICS400_V1),
    ("mvit_v2", {}, tv.mvit_v2_s, tv.MViT_V2_S_Weights.KINETICS400_V1),
    ("s3d", {}, tv.s3d, tv.S3D_Weights.KINETICS400_V1),
    ("r2plus1d", {}, tv.r2plus1d_18, tv.R2Plus1D_18_Weights.KINETICS400_V1),
]


def published(name: str, **keys: Any) -> Config:
    """The config of a system as it is published."""
    (row,) = rows("train", Config, [f"model={name}", "scale=paper", *(f"{key}={value}" for key, value in keys.items())])
    return row.config


@pytest.mark.parametrize(("name", "keys", "library", "weights"), PUBLISHED, ids=[p[2].__name__ for p in PUBLISHED])
def test_the_published_network(name: str, keys: dict[str, Any], library: Any, weights: Any) -> None:
    """Parameters and cost are those that torchvision prints, of 16 frames; a file with its names holds all of ours."""
    config = published(name, **keys)
    assert parameters(config.model, config.clip, 400) == weights.meta["num_params"]
    assert gmacs(config.model, replace(config.clip, T=16), 400) == pytest.approx(weights.meta["_ops"], abs=0.003)
    transforms = weights.transforms()
    assert config.clip.crop == transforms.crop_size[0]
    assert config.normalization[:2] == (list(transforms.mean), list(transforms.std)) or name == "mvit_v2"
    with torch.device("meta"):
        state = library().state_dict()
        summary = load_foreign(config.model.build(config.clip, 400), state)
    assert summary[0].startswith(f"{len(state)} of {len(state)} tensors taken from {len(state)} in the file")
    assert [line for line in summary[1:] if "rel_pos_t: interpolated" not in line] == []


def test_a_file_as_torchvision_publishes_it(tmp_path: Path) -> None:
    network = filled(s3d()).float()
    torch.save(network.state_dict(), tmp_path / "s3d.pth")
    model = create_model("s3d", T=24, crop=64, num_classes=CLASSES, weights=tmp_path / "s3d.pth").eval()
    x = torch.randn(1, 3, 24, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
    for name in ("r2plus1d", "swin3d", "mvit_v2"):
        with pytest.raises(InputError, match=r"s3d\.pth: .*(it holds 0% of|these weights do not fit)"):
            create_model(name, weights=tmp_path / "s3d.pth")


# --------------------------------------------------------------------------------------------------------- VideoMAE


@pytest.fixture(scope="module")
def videomae() -> Any:
    """transformers' classifier, small, with the authors' epsilon."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=48, num_frames=6, hidden_size=64, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=256, layer_norm_eps=1e-6, num_labels=CLASSES,
    )  # fmt: skip
    network = filled(transformers.VideoMAEForVideoClassification(config))
    network.fc_norm.eps = 1e-6
    return network


@pytest.fixture
def small(videomae: Any) -> VideoModel:
    config = models.find("videomae")(depth=3, width=64, heads=2)
    return config.build(Clip(T=6, crop=48), CLASSES).double().eval()


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As in files on the hub, from before transformers 5."""
    return {n.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): t for n, t in state.items()}


def authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As in the authors' files after fine-tuning: queries, keys and values have one weight and two biases."""
    parts = {
        "videomae.embeddings.patch_embeddings.projection": "patch_embed.proj", "videomae.encoder.layer": "blocks",
        "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "classifier": "head",
        "attention.attention.q_bias": "attn.q_bias", "attention.attention.v_bias": "attn.v_bias",
    }  # fmt: skip
    renamed = {}
    for name, tensor in older(state).items():
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    for i in range(3):
        qkv = [renamed.pop(f"blocks.{i}.attention.attention.{part}.weight") for part in ("query", "key", "value")]
        renamed[f"blocks.{i}.attn.qkv.weight"] = torch.cat(qkv)
    return renamed


@pytest.mark.parametrize("form", [dict, older, authors], ids=["transformers", "hub", "authors"])
def test_videomae_is_transformers(form: Any, videomae: Any, small: VideoModel) -> None:
    state = form(videomae.state_dict())
    n = len(small.state_dict())
    summary, *made = load_foreign(small, state)
    assert len(made) == (form is authors)  # queries, keys and values, split
    assert summary.startswith(f"{n} of {n} tensors taken from {len(state)} in the file")
    x = torch.randn(2, 3, 6, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        logits, expected = small(x), videomae(x.transpose(1, 2)).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", [dict, older], ids=["transformers", "hub"])
def test_videomae_starts_from_its_pre_training(form: Any, videomae: Any, small: VideoModel) -> None:
    """All but the classifier and the norm before it."""
    transformers = pytest.importorskip("transformers")
    state = form(filled(transformers.VideoMAEForPreTraining(videomae.config)).state_dict())
    summary = load_foreign(small, state)
    assert summary[2] == "drawn anew: fc_norm.weight, fc_norm.bias, head.weight and 1 more"
    assert torch.equal(
        small.get_parameter("patches.weight"), state["videomae.embeddings.patch_embeddings.projection.weight"]
    )


def test_the_published_videomae() -> None:
    """The paper's 180 GFLOPs and 87 M parameters."""
    pytest.importorskip("transformers")
    config = published("videomae")
    assert gmacs(config.model, config.clip, 400) == pytest.approx(180, abs=0.5)
    assert parameters(config.model, config.clip, 400) == pytest.approx(87e6, abs=0.5e6)


def test_videomae_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (lambda: create_model("videomae"), lambda: gmacs(models.find("videomae")(), Clip(T=2, crop=16), 5)):
        with pytest.raises(
            InputError, match=r"model=videomae: needs transformers; pip install 'stat-video\[videomae\]'$"
        ):
            call()


# ---------------------------------------------------------------------------------------------------- what is ours


def tiny(name: str) -> Config:
    """The config of `model=NAME` at scale=tiny; skips if a library is missing."""
    skip_without_library(name)
    (row,) = rows("train", Config, [f"model={name}", "scale=tiny"])
    return row.config


AFTER = ("swin3d", "mvit_v2", "s3d", "r2plus1d", "videomae")


def test_they_are_none_of_the_papers() -> None:
    assert set(AFTER).isdisjoint(paper.load().others())
    assert sorted([*AFTER, *paper.load().others(), "stat"]) == models.names()


@pytest.mark.parametrize("name", AFTER)
def test_a_tiny_one_trains_a_step(name: str) -> None:
    """As `scale=tiny` has it, and costs about what the paper's systems cost there (0.02 to 0.16 GMACs)."""
    config = tiny(name)
    assert gmacs(config.model, config.clip, 12) == pytest.approx(0.12, abs=0.04)
    assert parameters(config.model, config.clip, 12) < 2e6
    torch.manual_seed(0)
    model = config.build(12).train()
    optimizer = make_optimizer(model, config.recipe)
    x, y = torch.randn(2, 3, 16, 48, 48), torch.tensor([0, 7])
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("name", "clip", "says"),
    [
        ("s3d", {"T": 4}, "T=4: 5 or more is allowed"),
        ("s3d", {"crop": 16}, "crop=16: 17 or more is allowed"),
        ("s3d", {"crop": 64, "test_crop": 32}, "clip.test_crop=32: crop=64 or more is allowed"),
        ("videomae", {"T": 5}, "T=5: multiples of 2 are allowed"),
        ("videomae", {"crop": 40}, "crop=40: multiples of 16 are allowed"),
        ("videomae", {"crop": 48, "test_crop": 64}, "clip.test_crop=64: .*crop=48 alone is allowed"),
    ],
)
def test_clips_that_are_refused(name: str, clip: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        models.find(name)().check(Clip(**clip))


@pytest.mark.parametrize("clip", [Clip(T=5, crop=17), Clip(T=7, crop=50, test_crop=70)])
@pytest.mark.parametrize("name", ["swin3d", "mvit_v2", "s3d", "r2plus1d"])
def test_odd_clips(name: str, clip: Clip) -> None:
    model = tiny(name).model.build(clip, CLASSES).eval()
    assert model(torch.randn(1, 3, clip.T, clip.view_crop, clip.view_crop)).shape == (1, CLASSES)


def test_the_window_of_s3ds_head_is_the_training_crops() -> None:
    """The last map of a larger crop has several, whose logits are averaged: a loop over the windows."""
    model = models.find("s3d")(width=8).build(Clip(T=24, crop=64, test_crop=96), CLASSES).double().eval()
    filled(model)
    x = torch.randn(1, 3, 24, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        x_map = model.features(x)
        windows = [x_map[..., t : t + 2, h : h + 2, w : w + 2] for t in range(2) for h in range(2) for w in range(2)]
        expected = torch.stack([model.head(window.mean((2, 3, 4))) for window in windows]).mean(0)
        assert x_map.shape[2:] == (3, 3, 3)
        torch.testing.assert_close(model(x), expected)


def test_relative_positions_in_slow_motion() -> None:
    """What MViTv2 adds for a query and a key is the query's product with three rows of its tables."""
    model = filled(tiny("mvit_v2").model.build(Clip(T=6, crop=48), CLASSES))
    attention = model.blocks[1].attn  # whose queries are pooled, 12 x 12 -> 6 x 6
    grid, k_grid = (3, 6, 6), (3, 12, 12)
    q = torch.randn(1, 2, 1 + 3 * 36, attention.rel_pos_t.shape[1], dtype=torch.float64)
    got = attention.relative(q, grid, k_grid)
    assert got.shape == (1, 2, 109, 1 + 3 * 144)
    assert not got[:, :, 0].any()
    assert not got[..., 0].any()
    for query, key in (((0, 0, 0), (0, 0, 0)), ((2, 1, 5), (0, 11, 2)), ((1, 4, 3), (2, 0, 7))):
        n, m = 1 + torch.tensor(query) @ torch.tensor([36, 6, 1]), 1 + torch.tensor(key) @ torch.tensor([144, 12, 1])
        expected = sum(
            q[:, :, n] @ table[a * (size // shorter) - b + size - 1]
            for a, b, size, shorter, table in zip(
                query, key, k_grid, grid, (attention.rel_pos_t, attention.rel_pos_h, attention.rel_pos_w), strict=True
            )
        )
        torch.testing.assert_close(got[:, :, n, m], expected)


def test_rates_and_decay_are_the_authors() -> None:
    """Video Swin: a tenth of the classifier's rate, no decay of its tables. VideoMAE: 0.75 from block to block."""

    def groups(name: str) -> dict[str, tuple[float, float]]:
        recipe = published(name).recipe
        model = models.find(name)().build(Clip(T=2, crop=32), CLASSES)
        found = parameter_groups(model, recipe)
        return {n: (g["lr"] / recipe.scaled_lr, g["weight_decay"]) for g in found for n, _ in g["params"]}

    swin = groups("swin3d")
    assert swin["head.weight"] == (10, 0.02)
    assert swin["features.0.1.attn.qkv.weight"] == (1, 0.02)
    assert swin["features.0.1.attn.relative_position_bias_table"] == (1, 0)
    pytest.importorskip("transformers")
    mae = groups("videomae")
    assert (mae["head.weight"], mae["fc_norm.weight"]) == ((1, 0.05), (1, 0))
    assert mae["blocks.11.output.dense.weight"] == (0.75, 0.05)
    assert mae["blocks.0.layernorm_before.weight"] == (pytest.approx(0.75**12), 0)
    assert mae["patches.weight"] == (pytest.approx(0.75**13), 0.05)
