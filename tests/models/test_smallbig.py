"""SmallBigNet: its larger views, its blindness for the order of frames, and its cost."""

import pytest
import torch
from torchvision.models import resnet50

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.smallbig import Block, Config, GlobalView, SmallBigNet
from stat_video.models.tsm import ShiftedConv2d
from stat_video.models.weights import load_foreign

SMALL = Clip(T=3, crop=32)
TINY = {"depth": 17, "width": 16}


def built(**keys):
    """A network whose larger views are not at zero."""
    torch.manual_seed(0)
    model = SmallBigNet(Config(**TINY, **keys), SMALL, 5).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


def test_at_first_it_is_a_resnet_on_every_frame():
    torch.manual_seed(0)
    network, model = resnet50(num_classes=5).eval(), SmallBigNet(Config(extra=True), SMALL, 5).eval()
    load_foreign(model, network.state_dict())
    assert torch.equal(model.head.weight, network.fc.weight)
    x = torch.randn(1, 3, 3, 32, 32)
    torch.testing.assert_close(model(x), network(x[0].transpose(0, 1)).mean(0, keepdim=True))


@pytest.mark.parametrize("T", [1, 2, 4])
def test_a_larger_view_is_the_maximum_of_what_lies_round(T):
    block, x = Block(8, 8, 1, T, extra=False), torch.randn(T, 8, 4, 5)
    y = block.pooled(x)
    for t in range(T):
        for i in range(4):
            for j in range(5):
                box = x[max(t - 1, 0) : t + 2, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                assert torch.equal(y[t, :, i, j], box.amax((0, 2, 3)))


def test_the_last_view_is_of_all_frames():
    torch.manual_seed(0)
    block, seen = Block(16, 8, 1, 4, extra=False).eval(), []
    block.conv3.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    block(torch.randn(4, 16, 5, 5))
    small, big = seen
    assert big.shape == (1, 8, 5, 5)
    for i in range(5):
        box = small[:, :, max(i - 1, 0) : i + 2, :2]
        assert torch.equal(big[0, :, i, 0], box.amax((0, 2, 3)))


def test_a_block_by_hand():
    torch.manual_seed(0)
    block, x = Block(16, 8, 2, 2, extra=False).train(), torch.randn(2, 16, 5, 5)
    for norm in block.big:
        torch.nn.init.normal_(norm.weight)
    y = (block.bn1(block.conv1(x)) + block.big[0](block.conv1(block.pooled(x)))).relu()
    y = (block.bn2(block.conv2(y)) + block.big[1](block.conv2(block.pooled(y)))).relu()
    whole = torch.nn.functional.max_pool2d(y.amax(0), 3, 1, 1)
    expected = block.bn3(block.conv3(y)) + block.big[2](block.conv3(whole[None])) + block.downsample(x)
    torch.testing.assert_close(block(x), expected.relu())


def test_the_global_view():
    torch.manual_seed(0)
    view, x = GlobalView(8, 3).train(), torch.randn(6, 8, 4, 4)
    torch.nn.init.ones_(view.expand[1].weight)
    gated = []
    for clip in x.split(3):
        gate = view.squeeze(clip.amax((0, 2, 3))[None, :, None, None]).sigmoid()
        gated.append(view.squeeze(clip) * gate)
    torch.testing.assert_close(view(x), x + view.expand(torch.cat(gated)))


@pytest.mark.parametrize("extra", [False, True])
def test_the_released_network_can_not_tell_a_clip_from_its_reverse(extra):
    x = torch.randn(1, 3, 3, 32, 32, dtype=torch.float64)
    swapped = x[:, :, [1, 0, 2]]  # other neighbours: that it does see
    model = built(extra=extra)
    assert (model(x) - model(x.flip(2))).abs().max() < 1e-12
    assert (model(x) - model(swapped)).abs().max() > 1e-6
    model = built(extra=extra, shift=True)
    assert (model(x) - model(x.flip(2))).abs().max() > 1e-6
    assert sum(isinstance(m, ShiftedConv2d) for m in model.modules()) == len(model.units())


def test_first_weights():
    torch.manual_seed(0)
    model = SmallBigNet(Config(extra=True), SMALL, 400)
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    assert len(blocks) == 13
    assert not any(norm.weight.any() for block in blocks for norm in [*block.big, block.extra.expand[1]])
    assert model.head.weight.abs().max().item() == pytest.approx(2048**-0.5, rel=0.01)  # PyTorch's


@pytest.mark.parametrize(
    ("keys", "T", "classes", "giga", "millions"),
    [
        ({}, 16, 174, 103.262, 23.908),
        ({"shift": True}, 16, 174, 103.262, 23.908),
        ({"extra": True}, 8, 174, 62.657, 31.830),
    ],
)
def test_the_cost_of_the_released_network(keys, T, classes, giga, millions):
    """No table prints it: the authors' network, counted."""
    clip = Clip(T=T, crop=224)
    assert gmacs(Config(**keys), clip, classes) == pytest.approx(giga, rel=1e-3)
    assert parameters(Config(**keys), clip, classes) / 1e6 == pytest.approx(millions, abs=5e-4)
