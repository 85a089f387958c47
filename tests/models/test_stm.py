"""STM: its two branches, the sides that it takes, and its cost."""

import pytest
import torch
import torch.nn.functional as F

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.stm import STM, Block, Config

SMALL = Clip(T=3, crop=32)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_motion_is_added_behind_the_relu(stride):
    torch.manual_seed(0)
    block, y = Block(64, 16, stride, T=2).eval(), torch.randn(2, 16, 6, 6)
    shifted = torch.zeros_like(y)
    shifted[1, :4], shifted[:, 4:12], shifted[0, 12:] = y[0, :4], y[:, 4:12], y[1, 12:]
    space = block.bn2(F.conv2d(shifted, block.conv2.weight, stride=stride, padding=1)).relu()
    m = block.motion
    s = m.bn1(F.conv2d(y, m.conv1.weight))
    d = torch.stack([F.conv2d(s[1:], m.conv2.weight, padding=1)[0] - s[0], torch.zeros_like(s[0])])
    d = F.conv2d(d, m.conv3.weight)
    if stride == 2:
        d = torch.stack([d[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    torch.testing.assert_close(block.middle(y), space + d)
    assert (block.middle(y) < 0).any()


def test_first_weights():
    torch.manual_seed(0)
    model = STM(Config(), SMALL, 400)
    taps = model.layer2[1].time.weight[:, 0]  # of 128 channels
    for channels, tap in ((slice(32), 0), (slice(32, 96), 1), (slice(96, None), 2)):
        assert torch.equal(taps[channels], F.one_hot(torch.tensor(tap), 3).float().expand_as(taps[channels]))
    motion = model.layer4[1].motion.conv1.weight  # PyTorch's: uniform up to 1 / sqrt(fan in)
    assert motion.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)
    conv = model.layer3[1].conv1.weight  # torchvision's
    assert conv.std().item() == pytest.approx((2 / conv.shape[0]) ** 0.5, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(("classes", "millions"), [(400, 24.499), (174, 24.036)])
def test_the_printed_cost(classes, millions):
    """Tables 6 and 7: 2010 GFLOPs of 30 views."""
    clip = Clip(T=16, crop=224)
    assert gmacs(Config(), clip, classes) == pytest.approx(2010 / 30, rel=0.015)
    assert parameters(Config(), clip, classes) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        ({}, {"crop": 48}, "crop=48: multiples of 32 are allowed"),
        ({"stages": 3}, {"crop": 40}, "crop=40: multiples of 16 are allowed"),
        ({}, {"test_crop": 250}, r"clip\.test_crop=250: multiples of 32 are allowed"),
        ({}, {"T": 1}, "T=1: 2 or more are allowed"),
    ],
)
def test_clips_that_are_refused(keys, changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**keys).check(Clip(**changes))
