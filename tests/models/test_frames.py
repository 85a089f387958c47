"""What the systems on a 2-D ResNet share: blocks, the temporal convolution, differences of frames, foreign shapes."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.resnet import Bottleneck as Torchvisions

from stat_video.models.base import Clip
from stat_video.models.frames import Bottleneck, FrameResNet, Motion, TemporalConv
from stat_video.models.weights import load_foreign

SMALL = Clip(T=3, crop=32)


def small(classes=5, **keys):
    torch.manual_seed(0)
    return FrameResNet(17, 8, 0.0, SMALL, classes, **keys)


@pytest.mark.parametrize(("channels", "stride"), [(32, 1), (16, 1), (16, 2)])
def test_the_bottleneck_is_torchvisions(channels, stride):
    ours = Bottleneck(channels, 8, stride)
    theirs = Torchvisions(channels, 8, stride, resnet.conv1x1(channels, 32, stride))
    if ours.downsample is None:
        theirs.downsample = None
    else:
        theirs.downsample = nn.Sequential(theirs.downsample, nn.BatchNorm2d(32))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, channels, 7, 7)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_temporal_convolution_is_the_loop(T):
    conv, x = TemporalConv(6, T), torch.randn(2, T, 6, 3, 4)
    nn.init.normal_(conv.weight)
    expected = torch.zeros_like(x)
    for t in range(T):
        for tap, source in enumerate((t - 1, t, t + 1)):
            if 0 <= source < T:
                expected[:, t] += conv.weight[:, 0, tap, None, None] * x[:, source]
    torch.testing.assert_close(conv(x.flatten(0, 1)).unflatten(0, (2, T)), expected)


def test_the_temporal_convolution_starts_as_a_shift():
    x = torch.randn(1, 4, 8, 2, 2)
    y = TemporalConv(8, 4, before=slice(2), after=slice(6, None))(x[0])
    assert torch.equal(y[1:, :2], x[0, :-1, :2])
    assert torch.equal(y[:, 2:6], x[0, :, 2:6])
    assert torch.equal(y[:-1, 6:], x[0, 1:, 6:])
    assert not y[0, :2].any()
    assert not y[-1, 6:].any()
    assert torch.equal(TemporalConv(8, 4)(x[0]), x[0])


@pytest.mark.parametrize("step", [1, -1])
def test_differences_are_of_a_frame_and_its_neighbour(step):
    motion, x = Motion(32, T=3).eval(), torch.randn(2, 3, 32, 5, 5)
    (d,) = motion.differences(x.flatten(0, 1), steps=(step,))
    d = d.unflatten(0, (2, 3))
    for t in range(3):
        if not 0 <= t + step < 3:
            assert not d[:, t].any()
            continue
        now, other = (motion.bn1(motion.conv1(x[:, i])) for i in (t, t + step))
        torch.testing.assert_close(d[:, t], motion.conv2(other) - now)
    assert d.shape == (2, 3, 2, 5, 5)


def test_stages_are_left_out():
    model = small(stages=3)
    assert len(model.stages()) == 3
    assert model.head.in_features == 4 * 8 * 4
    assert model(torch.randn(1, 3, 3, 32, 32)).shape == (1, 5)


def test_logits_are_the_mean_over_frames():
    model, x = small().eval(), torch.randn(2, 3, 3, 32, 32)
    frames = [model.head(model.features(x[:, :, t]).mean((2, 3))) for t in range(3)]
    torch.testing.assert_close(model(x), sum(frames) / 3)


def test_a_classifier_fc_is_taken_if_it_is_of_as_many_classes():
    state = {n.replace("head.", "module.fc."): t for n, t in small().state_dict().items()}
    state["module.fc.weight"] = state["module.fc.weight"][..., None]  # as a convolution of one place
    n = len(state)
    model = small()
    nn.init.normal_(model.head.weight)
    assert load_foreign(model, dict(state)) == [f"{n} of {n} tensors taken from {n} in the file, 2 of them renamed"]
    assert torch.equal(model.head.weight, state["module.fc.weight"][..., 0])
    summary = load_foreign(small(classes=7), dict(state))
    assert summary[1:] == [
        "left in the file: module.fc.weight, module.fc.bias",
        "drawn anew: head.weight, head.bias",
    ]


def test_axes_of_length_one_come_and_go_and_no_others():
    state = small().state_dict()
    model = small()
    nn.init.zeros_(model.conv1.weight)
    load_foreign(model, {n: t[:, :, None] if t.dim() == 4 else t for n, t in state.items()})
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match=r"do not fit: conv1\.weight \(8, 3, 7, 7, 7\)"):
        load_foreign(small(), {"conv1.weight": torch.zeros(8, 3, 7, 7, 7)})
