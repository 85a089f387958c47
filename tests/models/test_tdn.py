"""TDN: what it sees of a run of frames, its fusions and gates, its cost, and ImageNet weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.tdn import TDN, Config, LongTermDifference
from stat_video.models.weights import load_foreign

TINY = {"depth": 17, "width": 16}


def clip(segments=2, crop=64, **keys):
    return Clip(**{"T": 5 * segments, "crop": crop, "sampling": "snippets"} | keys)


def test_without_differences_it_is_a_resnet_on_the_middle_frames():
    torch.manual_seed(0)
    network, model = resnet50().eval(), TDN(Config(), clip(), 1000).eval()
    load_foreign(model, network.state_dict())
    model.share = 0.0
    for block in model.units()[3:16]:
        block.gate = nn.Identity()
        nn.init.zeros_(block.time.weight)
        nn.init.ones_(block.time.weight[:, :, 1])
    x = torch.randn(1, 3, 10, 64, 64)
    with torch.no_grad():
        expected = (network(x[:, :, 2]) + network(x[:, :, 7])) / 2
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_the_stem_of_the_differences_sees_each_run_alone():
    model = TDN(Config(**TINY), clip(), 5).eval()
    seen = []
    model.motion_stem.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    x = torch.randn(1, 3, 10, 64, 64)
    model(x)
    half = F.avg_pool2d(x[0].transpose(0, 1), 2)
    expected = [torch.cat([half[s + i + 1] - half[s + i] for i in range(4)]) for s in (0, 5)]
    torch.testing.assert_close(seen[0], torch.stack(expected))


@pytest.mark.parametrize(("segments", "share"), [(2, 0.25), (8, 0.5), (16, 0.25)])
def test_the_share_of_the_differences(segments, share):
    with torch.device("meta"):
        model = TDN(Config(**TINY), clip(segments), 5)
    assert model.share == share
    motion = torch.tensor([[[[1.0, 2.0]]]])
    fused = model.fused(torch.full((1, 1, 2, 4), 10.0), motion)
    expected = torch.tensor([1.0, 1.0, 2.0, 2.0]).expand(2, 4)
    torch.testing.assert_close(fused[0, 0], (1 - share) * 10 + share * expected)


def test_the_gate_by_hand():
    torch.manual_seed(0)
    gate, x = LongTermDifference(32, segments=3).eval(), torch.randn(3, 32, 5, 5)
    s = gate.bn1(gate.conv1(x))
    m = gate.conv2(s)
    zero = torch.zeros_like(s[:1])
    directions = torch.cat([m[1:] - s[:-1], zero]), torch.cat([zero, m[:-1] - s[1:]])
    total = 0
    for d in directions:
        pooled = torch.stack([d[..., i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)], -1)
        coarse = gate.coarse_bn(gate.coarse_conv(pooled.unflatten(-1, (2, 2))))
        rows = torch.tensor([0, 0, 0, 1, 1])  # nearest: floor(i * 2 / 5)
        coarse = coarse[:, :, rows][..., rows]
        fine = gate.fine_bn(gate.fine_conv(d))
        total = total + gate.bn3(gate.conv3(d / 3 + coarse / 3 + fine / 3)).sigmoid() - 0.5
    torch.testing.assert_close(gate(x), x * (1 + total / 2))


def test_norms_of_the_gate_count_the_way_ahead_first():
    torch.manual_seed(0)
    gate, x = LongTermDifference(32, segments=4).train(), torch.randn(4, 32, 6, 6)
    batches = []
    gate.fine_bn.register_forward_hook(lambda module, inputs, out: batches.append(inputs[0].mean((0, 2, 3))))
    gate(x)
    ahead, back = gate.differences(x, steps=(1, -1))
    for batch, d in zip(batches, (ahead, back), strict=True):
        torch.testing.assert_close(batch, gate.fine_conv(d).mean((0, 2, 3)))
    torch.testing.assert_close(gate.fine_bn.running_mean, 0.1 * batches[1] + 0.9 * 0.1 * batches[0])


def test_first_weights():
    torch.manual_seed(0)
    model = TDN(Config(), clip(), 400)
    taps = model.layer2[1].time.weight[:, 0]  # of 128 channels
    for channels, tap in ((slice(16), 2), (slice(16, 32), 0), (slice(32, None), 1)):
        assert torch.equal(taps[channels], F.one_hot(torch.tensor(tap), 3).float().expand_as(taps[channels]))
    gate = model.layer3[1].gate.fine_conv.weight
    assert gate.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.05)
    assert not any(conv.bias.any() for conv in model.modules() if isinstance(conv, nn.Conv2d) and conv.bias is not None)
    assert not any(hasattr(block, "time") for block in [*model.layer1, *model.motion_layer1])


@pytest.mark.parametrize(
    ("depth", "T", "views", "printed", "millions"),
    [(101, 40, 30, 1980, 44.135), (101, 80, 30, 3960, 44.135), (50, 40, 1, 35.642, 24.874)],
)
def test_the_printed_cost(depth, T, views, printed, millions):
    """Table 6, GFLOPs of 30 views; ResNet-50 and the parameters: the authors' network, counted."""
    config, c = Config(depth=depth), Clip(T=T, crop=224, sampling="snippets")
    assert gmacs(config, c, 400) == pytest.approx(printed / views, rel=0.01)
    assert parameters(config, c, 400) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_imagenet_weights_go_into_both_networks():
    torch.manual_seed(0)
    network, model = resnet50(), TDN(Config(), clip(), 400)
    summary = load_foreign(model, network.state_dict())
    assert summary[1].endswith(": motion_stem.0.weight")
    assert summary[2] == "left in the file: fc.weight, fc.bias"
    assert torch.equal(model.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    for name, tensor in network.layer1.state_dict().items():
        assert torch.equal(model.motion_layer1.state_dict()[name], tensor)
    mean = network.conv1.weight.mean(1)
    assert all(torch.equal(model.motion_stem[0].weight[:, i], mean) for i in range(12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "segments"}, r"clip\.sampling=segments .*allowed is clip\.sampling=snippets clip\.snippet=5"),
        ({"snippet": 2}, r"clip\.snippet=2.*clip\.snippet=5"),
        ({"T": 5}, "T=5: multiples of 5 from 10 on are allowed"),
        ({"crop": 32}, "crop=32: 33 or more is allowed"),
    ],
)
def test_clips_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config().check(clip(**changes))
    with pytest.raises(ValueError, match=r"T=12: a multiple of clip\.snippet=5 is allowed"):
        clip(T=12)
