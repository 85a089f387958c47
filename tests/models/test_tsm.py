"""TSM: the shift, the ResNet around it, its cost, and weights that do not fit."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.tsm import TSM, Config, ShiftedConv2d, shift
from stat_video.models.weights import load_foreign

SMALL = Clip(T=3, crop=32)


def shifted(x):
    """The shift as a loop over frames and channels: an eighth from the next frame, an eighth from the previous one."""
    out = torch.zeros_like(x)
    _, T, C = x.shape[:3]
    for t in range(T):
        for c in range(C):
            source = t + 1 if c < C // 8 else t - 1 if c < 2 * (C // 8) else t
            if 0 <= source < T:
                out[:, t, c] = x[:, source, c]
    return out


@pytest.mark.parametrize("T", [1, 2, 5])
@pytest.mark.parametrize("C", [8, 20, 24])
def test_the_shift_is_the_loop(T, C):
    x = torch.randn(2, T, C, 3, 4)
    before = x.clone()
    assert torch.equal(shift(x), shifted(x))
    assert torch.equal(x, before)


def test_the_shift_is_in_the_residual_branch_alone():
    """Without it the network is torchvision's on every frame; blocks with it change, their shortcuts do not."""
    torch.manual_seed(0)
    network, model = resnet50(num_classes=5).eval(), TSM(Config(), SMALL, 5).eval()
    model.load_state_dict({name.replace("fc.", "head."): t for name, t in network.state_dict().items()})
    x = torch.randn(1, 3, 3, 32, 32)
    frames = x.transpose(1, 2).flatten(0, 1)
    assert (model(x) - network(frames).mean(0)).abs().max() > 1e-3
    convs = [m for m in model.modules() if isinstance(m, ShiftedConv2d)]
    assert len(convs) == 16
    block = model.layer2[0]
    y = torch.randn(3, 256, 8, 8)
    branch = block.bn1(nn.Conv2d.forward(block.conv1, shifted(y[None])[0])).relu()
    branch = block.bn3(block.conv3(block.bn2(block.conv2(branch)).relu()))
    torch.testing.assert_close(block(y), (branch + block.downsample(y)).relu())
    for conv in convs:
        conv.__class__ = nn.Conv2d
    torch.testing.assert_close(model(x), network(frames).mean(0, keepdim=True))


@pytest.mark.parametrize(("depth", "shifts"), [(18, [2, 2, 2, 2]), (50, [3, 4, 6, 3]), (101, [2, 2, 12, 2])])
def test_a_resnet101_shifts_in_every_second_block(depth, shifts):
    with torch.device("meta"):
        model = TSM(Config(depth=depth), SMALL, 5)
    found = [[isinstance(block.conv1, ShiftedConv2d) for block in layer] for layer in model.stages()]
    assert [sum(layer) for layer in found] == shifts
    assert all(layer[0] for layer in found)


def test_first_weights():
    torch.manual_seed(0)
    model = TSM(Config(), SMALL, 400)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.head.bias.abs().max() == 0
    conv = model.layer3[1].conv1.weight  # kaiming, fan out
    assert conv.std().item() == pytest.approx((2 / conv.shape[0]) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("classes", "millions"), [(400, 24.328), (174, 23.865)])
def test_the_printed_cost(classes, millions):
    """Table 7: 390 GFLOPs of 6 views. Parameters: mmaction2's 24,327,632 with 400 classes."""
    clip = Clip(T=16, crop=224)
    assert gmacs(Config(), clip, classes) == pytest.approx(390 / 6, rel=0.01)
    assert parameters(Config(), clip, classes) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="it holds 0% of the model's numbers"):
        load_foreign(TSM(Config(), SMALL, 5), {"transformer.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"do not fit: conv1\.weight \(64, 3, 7, 7\), here \(16, 3, 7, 7\)"):
        load_foreign(TSM(Config(depth=18, width=16), SMALL, 5), resnet18().state_dict())
