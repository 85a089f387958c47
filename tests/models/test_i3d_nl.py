"""Non-local I3D: its blocks against PyTorchVideo's, its head and variants, its cost, and released weights' names."""

import re

import pytest
import torch
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from pytorchvideo.models.hub import i3d_r50
from torch import nn
from torchvision.models import resnet50

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.i3d_nl import I3DNL, Config, NonLocal
from stat_video.models.weights import load_foreign

TINY = {"width": 8, "head_dropout": 0.0}


@pytest.mark.parametrize("size", [(4, 6, 8), (1, 3, 5)])
def test_a_non_local_block_is_pytorchvideos(size):
    """Softmax of theta and phi over half the channels' root, on keys and values pooled 1x2x2."""
    torch.manual_seed(0)
    ours, theirs = NonLocal(24).double(), create_nonlocal(dim_in=24, dim_inner=12, pool_size=(1, 2, 2)).double()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 24, *size, dtype=torch.float64)
    assert (theirs(x) - x).std() > 0.1
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_trained_i3d_stays_what_it_is_at_first():
    """PyTorchVideo's i3d_r50 loads, and new non-local blocks add nothing yet."""
    torch.manual_seed(0)
    network = i3d_r50(head_pool_kernel_size=(4, 2, 2)).eval()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm3d):
            nn.init.uniform_(m.weight, 0.5, 1.0)
    model = I3DNL(Config(time_stride=1), Clip(T=8, crop=64), 400).eval()
    summary = load_foreign(model, network.state_dict())
    n = len(network.state_dict())
    assert summary[0].startswith(f"{n} of {len(model.state_dict())} tensors taken from {n} in the file, 0 of them")
    assert "drawn anew: nonlocal_blocks.3_1.conv_theta.weight" in summary[1]
    assert len(summary) == 2
    x = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
        nn.init.ones_(model.nonlocal_blocks["4_5"].norm.weight)
        assert (model(x) - network(x)).abs().max() > 1e-3


def test_a_still_clip_is_a_picture_to_an_inflated_resnet():
    """torchvision's ResNet-50 goes in but for `fc`; where no frame is padding, still frames give its maps again."""
    torch.manual_seed(0)
    network = resnet50().double().eval()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.0)
            nn.init.uniform_(m.running_mean, -0.1, 0.1)
    model = I3DNL(Config(time_stride=1), Clip(T=32, crop=64), 5).double().eval()
    summary = load_foreign(model, network.state_dict())
    assert summary[0].startswith(f"{len(network.state_dict()) - 2} of {len(model.state_dict())} tensors taken")
    assert summary[1].startswith("made of the file's by inflating")
    assert summary[2] == "left in the file: fc.weight, fc.bias"
    assert "blocks.6.proj.weight" in summary[3] or "nonlocal_blocks" in summary[3]
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    maps = []
    for module in (network.layer4, model.blocks[5]):
        module.register_forward_hook(lambda m, inputs, out: maps.append(out))
    with torch.no_grad():
        network(picture)
        model(picture[:, :, None].expand(-1, -1, 32, -1, -1))
    in_2d, in_3d = maps
    torch.testing.assert_close(in_3d[:, :, in_3d.shape[2] // 2], in_2d)


@pytest.mark.parametrize(
    ("keys", "places"),
    [
        ({}, ["3_1", "3_3", "4_1", "4_3", "4_5"]),
        ({"depth": 101}, ["3_1", "3_3", "4_6", "4_13", "4_20"]),
    ],
)
def test_five_blocks_and_where_they_are(keys, places):
    model = I3DNL(Config(**TINY | keys), Clip(T=16, crop=48), 5).eval()
    assert list(model.nonlocal_blocks) == places
    order = []
    for name, m in model.named_modules():
        if re.fullmatch(r"blocks\.\d\.res_blocks\.\d+|nonlocal_blocks\.\w+", name):
            m.register_forward_hook(lambda *_, name=name: order.append(name))
    model(torch.randn(1, 3, 16, 48, 48))
    for place in places:
        stage, block = place.split("_")
        before = order[order.index(f"nonlocal_blocks.{place}") - 1]
        assert before.startswith(f"blocks.{stage}.res_blocks.{block}")


def test_at_the_tiny_clip_all_blocks_have_something_to_choose_from():
    model = I3DNL(Config(width=16, head_dropout=0.0), Clip(T=16, crop=48), 5)
    for block in model.nonlocal_blocks.values():
        nn.init.ones_(block.norm.weight)
    model(torch.randn(2, 3, 16, 48, 48)).square().sum().backward()
    for block in model.nonlocal_blocks.values():
        assert block.conv_theta.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("keys", "in_res4"),
    [
        ({}, [0, 2, 4]),
        ({"depth": 101}, [0, 2, 4]),
        ({"depth": 101, "res4_temporal": "all"}, list(range(0, 23, 2))),
    ],
)
def test_which_blocks_look_in_time(keys, in_res4):
    model = I3DNL(Config(**TINY | keys), Clip(T=16, crop=48), 5)
    looking = [
        [i for i, b in enumerate(model.blocks[s].res_blocks) if b.branch2.conv_a.kernel_size == (3, 1, 1)]
        for s in (1, 3, 4, 5)
    ]
    assert looking == [[0, 1, 2], [0, 2], in_res4, [1]]


@pytest.mark.parametrize(
    ("keys", "T", "printed", "millions"),
    [
        ({}, 128, 8460 / 30, 35.40),
        ({"depth": 101}, 128, 10800 / 30, 54.39),
        # SlowFast's paper, which counted them first, prints 359.
        ({"depth": 101}, 128, 359.1, 54.39),
        # As the authors' code is: 5 % above the print.
        ({"depth": 101, "res4_temporal": "all"}, 128, 378.4, 59.11),
    ],
)
def test_the_printed_cost(keys, T, printed, millions):
    """Table 6: GFLOPs of 30 views."""
    config, clip = Config(**keys), Clip(T=T, crop=224, test_crop=256)
    assert gmacs(config, clip, 400) == pytest.approx(printed, rel=0.003)
    assert parameters(config, clip, 400) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("keys", "clip", "message"),
    [
        ({}, {"T": 4}, "T=4: 5 or more is allowed"),
        ({"time_stride": 1}, {"T": 1}, "T=1: 2 or more is allowed"),
        ({}, {"crop": 16}, "crop=16: 17 or more is allowed"),
        ({}, {"crop": 64, "test_crop": 48}, "clip.test_crop=48: crop=64 or more is allowed"),
    ],
)
def test_clips_that_are_refused(keys, clip, message):
    with pytest.raises(ValueError, match=message):
        Config(**keys).check(Clip(**clip))


@pytest.mark.parametrize(
    ("keys", "T", "crop", "test_crop"),
    [
        ({}, 5, 17, 33),
        ({}, 12, 33, 70),
        ({}, 9, 40, 40),
        ({"time_stride": 1}, 2, 20, 49),
        ({"time_stride": 1}, 3, 32, 32),
    ],
)
def test_the_smallest_and_odd_clips(keys, T, crop, test_crop):
    """The head's window is the whole map of a training crop."""
    model = I3DNL(Config(**TINY | keys), Clip(T=T, crop=crop, test_crop=test_crop), 5).eval()
    sizes = []
    model.blocks[6].pool.register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape[2:])))
    assert model(torch.randn(2, 3, T, crop, crop)).shape == (2, 5)
    assert sizes == [(1, 1, 1)]
    assert model(torch.randn(2, 3, T, test_crop, test_crop)).shape == (2, 5)
