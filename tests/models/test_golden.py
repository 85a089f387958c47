"""Logits and slopes of each system against those that its authors' code gives for the same weights, in float64.

goldens.json: the systems that STAT is compared with; the file says which code made each entry. stat.json: STAT itself,
computed before its files moved.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from golden.fill import fill, generator, numbers
from stat_video import models
from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.stat import Config

FOLDER = Path(__file__).parents[1] / "golden"
GOLDENS = json.loads((FOLDER / "goldens.json").read_text())
STAT = json.loads((FOLDER / "stat.json").read_text())

MVIT = {
    "fused": {"qkv": 3},
    "raw": {
        "pos_encoding.class_token": "class",
        "pos_encoding.class_pos": "class_position",
        "pos_encoding.spatial_pos": "places",
        "pos_encoding.temporal_pos": "times",
    },
    "ties": ("pool_q", "pool_k", "pool_v"),
}
NONLOCAL = {"ties": ("conv_theta", "conv_phi", "conv_g")}
NONLOCAL_101 = {"depth": 101, "res4_temporal": "all", "time_stride": 1}
VIT = {"width": 48, "depth": 3, "heads": 4}
VIDTR = {
    "fused": {"qkv": 3},
    "raw": {"frame_class": "frame_class", "place_class": "place_class", "position": "position"},
}
TIMESFORMER = {
    "fused": {"qkv": 3},
    "raw": {"cls_token": "class", "pos_embed": "places", "time_embed": "times"},
}
VIVIT = {
    "raw": {"encoder.class_token": "class", "encoder.position": "position"},
    "ties": ("query", "key", "value"),
}
OF_TIME = {"time_encoder.class_token": "time_class", "time_encoder.position": "time_position"}
FACTORISED = VIVIT | {"raw": VIVIT["raw"] | OF_TIME}
# Entry: (model, its keys, its clip, arguments of `fill`).
SYSTEMS = {
    "tsm_r50": ("tsm", {}, {"T": 8, "crop": 64}, {}),
    "tsm_r101": ("tsm", {"depth": 101}, {"T": 8, "crop": 64}, {}),
    "tea": ("tea", {}, {"T": 8, "crop": 64}, {}),
    "tdn_r101_8f": ("tdn", {"depth": 101}, {"T": 40, "crop": 64, "sampling": "snippets"}, {}),
    "tdn_r50_16f": ("tdn", {}, {"T": 80, "crop": 64, "sampling": "snippets"}, {}),
    "stm": ("stm", {}, {"T": 8, "crop": 64}, {}),
    "msnet": ("msnet", {}, {"T": 8, "crop": 96}, {}),
    "blvnet_r50": ("blvnet", {}, {"T": 8, "crop": 64}, {}),
    "blvnet_r101": ("blvnet", {"depth": 101}, {"T": 8, "crop": 64}, {}),
    "smallbig": ("smallbig", {}, {"T": 8, "crop": 64}, {}),
    "smallbig_extra": ("smallbig", {"extra": True}, {"T": 8, "crop": 64}, {}),
    "slowfast_r50": ("slowfast", {}, {"T": 16, "crop": 64}, {"ties": ("fusion",)}),
    "slowfast_r101": ("slowfast", {"depth": 101}, {"T": 16, "crop": 64}, {"ties": ("fusion",)}),
    "slowfast_r50_96px": ("slowfast", {}, {"T": 16, "crop": 64, "test_crop": 96}, {"ties": ("fusion",)}),
    "mvit": ("mvit", {}, {"T": 8, "crop": 64}, MVIT),
    "nl_i3d_r50": ("i3d_nl", {"time_stride": 1}, {"T": 8, "crop": 64}, NONLOCAL),
    "nl_i3d_r101": ("i3d_nl", NONLOCAL_101, {"T": 8, "crop": 64}, NONLOCAL),
    "ip_csn_152": ("csn", {}, {"T": 8, "crop": 64}, {}),
    "vidtr_8f": ("vidtr", VIT, {"T": 8, "crop": 64}, VIDTR),
    "vidtr_16f": ("vidtr", VIT, {"T": 16, "crop": 64}, VIDTR),
    "timesformer": ("timesformer", VIT, {"T": 8, "crop": 64}, TIMESFORMER),
    "vivit_joint": ("vivit", VIT, {"T": 8, "crop": 64}, VIVIT),
    "vivit_factorised": ("vivit", VIT | {"temporal_depth": 2}, {"T": 8, "crop": 64}, FACTORISED),
    "x3d_m": ("x3d", {"width_factor": 2.0, "depth_factor": 2.2}, {"T": 4, "crop": 64}, {}),
    "x3d_xl": ("x3d", {}, {"T": 4, "crop": 64}, {}),
    "x3d_xxl": ("x3d", {"depth_factor": 10.2}, {"T": 4, "crop": 64}, {}),
}
TINY = {"widths": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "heads": [1, 1, 2, 4]}
STATS = {
    "tiny": (TINY, {"crop": 48}),
    "tiny_T32_t_o5": (TINY | {"t_o": 5}, {"T": 32, "crop": 48}),
    "tiny_ca": (TINY | {"modules": ["CA"]}, {"crop": 48}),
    "tiny_avg_pool": (TINY | {"spatial_token": "avg_pool"}, {"crop": 48}),
    "tiny_l_ta_0": (TINY | {"l_ta": 0}, {"crop": 48}),
    "tiny_conv1": (TINY | {"stem": "conv1"}, {"crop": 48}),
    "tiny_conv5": (TINY | {"stem": "conv5"}, {"crop": 48}),
    "full": ({}, {}),
}


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


def test_the_generators_are_those_of_the_file():
    check = GOLDENS["about"]["self_check"]
    assert {role: zlib.crc32(role.encode()) for role in check["crc32"]} == check["crc32"]
    first = generator("weight", 0, 4, 3).standard_normal((4, 3))[0].tolist()
    assert first == pytest.approx(check["weight, index 0, shape (4, 3)"], rel=1e-12)
    assert noise(3).tolist() == pytest.approx(check["input: first three"], rel=1e-12)


DEEP = (  # of the code of another entry; ip_csn_152 takes a minute
    "tsm_r101", "tdn_r50_16f", "tdn_r101_8f", "blvnet_r101", "slowfast_r101", "nl_i3d_r101", "x3d_xl", "x3d_xxl",
    "smallbig_extra", "ip_csn_152",
)  # fmt: skip


@pytest.mark.parametrize("entry", [pytest.param(e, marks=pytest.mark.slow) if e in DEEP else e for e in SYSTEMS])
def test_a_system_is_the_authors(entry):
    name, keys, clip, how = SYSTEMS[entry]
    golden = GOLDENS["models"][entry]
    x = noise(*golden["input_shape"])
    model = models.find(name)(**keys).build(Clip(**clip), golden["classes"]).double()
    fill(model, x, **how, gain=golden["gain"], conv_bias=golden["conv_bias"])
    logits, slope = numbers(model, x)
    expected = torch.tensor(golden["logits"], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-9 * max(1, expected.abs().max())
    assert slope == pytest.approx(golden["slope"], rel=1e-9)
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]


@pytest.mark.parametrize("entry", STATS)
def test_stat_is_what_it_was_before_its_files_moved(entry):
    keys, clip = STATS[entry]
    golden, config, clip = STAT[entry], Config(**keys), Clip(**clip)
    classes = len(golden["logits"])
    model = config.build(clip, classes).double().eval()
    fill_by_name(model)
    x = noise(1, 3, clip.T, clip.crop, clip.crop)
    expected = torch.tensor(golden["logits"], dtype=torch.float64)
    if "slope" in golden:
        logits, slope = numbers(model, x)
        assert slope == pytest.approx(golden["slope"], rel=1e-9)
    else:
        with torch.no_grad():
            logits = model(x)
    assert (logits[0] - expected).abs().max() <= 1e-9 * max(1, expected.abs().max())
    assert parameters(config, clip, classes) == golden["parameters"]
    assert gmacs(config, clip, classes) == pytest.approx(golden["gmacs"], rel=1e-12)
    if golden["tensors"]:
        assert [[name, list(t.shape)] for name, t in model.state_dict().items()] == golden["tensors"]


@torch.no_grad()
def fill_by_name(model: torch.nn.Module) -> None:
    """Fill with values that follow from the names of the tensors."""
    for name, tensor in model.state_dict().items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        if tensor.dim() > 1 and name.endswith("weight"):
            values = values / tensor[0].numel() ** 0.5
        else:
            values = 0.1 * values + name.endswith("weight")
        tensor.copy_(torch.from_numpy(values))
