"""ip-CSN: its bottleneck, its cost, and the names of released weights."""

import pytest
import torch
from pytorchvideo.models.hub import csn_r101
from torch import nn
from torchvision.models.video.resnet import Bottleneck, VideoResNet

from stat_video.models.base import Clip
from stat_video.models.count import gmacs
from stat_video.models.csn import CSN, Config
from stat_video.models.weights import load_foreign, rename

TINY = {"depth": 50, "width": 16}


class Depthwise(nn.Conv3d):
    """Of an ir-CSN, to put into torchvision's video ResNet."""

    def __init__(self, planes, out, midplanes, stride=1):
        super().__init__(planes, planes, 3, stride=stride, padding=1, groups=planes, bias=False)

    @staticmethod
    def get_downsample_stride(stride):
        return stride, stride, stride


class Preserved(nn.Sequential):
    """Of an ip-CSN."""

    def __init__(self, planes, out, midplanes, stride=1):
        mixing = nn.Conv3d(planes, planes, 1, bias=False)
        super().__init__(mixing, nn.BatchNorm3d(planes), Depthwise(planes, out, midplanes, stride))

    get_downsample_stride = Depthwise.get_downsample_stride


class Stem(nn.Sequential):
    def __init__(self):
        conv = nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        super().__init__(conv, nn.BatchNorm3d(64), nn.ReLU(), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))


@pytest.mark.parametrize(("interaction", "conv"), [("ip", Preserved), ("ir", Depthwise)])
def test_it_is_torchvisions_video_resnet_with_such_convolutions(interaction, conv):
    """Which is what the authors' code is: so their files' names become ours."""
    torch.manual_seed(0)
    network = VideoResNet(Bottleneck, [conv] * 4, [3, 4, 6, 3], Stem, num_classes=5)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm3d):
            m.eps = 1e-3
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    model = CSN(Config(interaction=interaction, depth=50), Clip(T=8, crop=48), 5)
    n = len(model.state_dict())
    assert load_foreign(model, network.state_dict()) == [
        f"{n} of {n} tensors taken from {n} in the file, {n} of them renamed"
    ]
    x = torch.randn(1, 3, 8, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), network.eval()(x), rtol=1e-4, atol=1e-4)


def test_the_first_weights_are_the_authors():
    """Of the same distributions; and no branch starts at zero."""
    torch.manual_seed(0)
    network = VideoResNet(Bottleneck, [Preserved] * 4, [3, 4, 6, 3], Stem, num_classes=400)
    model = CSN(Config(depth=50), Clip(T=8, crop=48), 400)
    theirs = {rename(name, CSN.renames): t for name, t in network.state_dict().items()}
    for name, ours in model.state_dict().items():
        if name.endswith("weight"):
            assert ours.std().item() == pytest.approx(theirs[name].std().item(), rel=0.15), name
            assert ours.mean().item() == pytest.approx(theirs[name].mean().item(), abs=0.02), name


def test_nothing_stands_between_the_two_convolutions():
    model = CSN(Config(**TINY), Clip(T=8, crop=48), 5).eval()
    blocks = list(model.units())
    assert len(blocks) == 16
    conv, norm, depthwise = blocks[5].branch2.conv_b
    x = torch.randn(1, conv.in_channels, 4, 6, 6)
    y = norm(conv(x))
    assert y.min() < -0.1
    torch.testing.assert_close(
        blocks[5].branch2.conv_b(x),
        nn.functional.conv3d(y, depthwise.weight, padding=1, groups=conv.in_channels),
    )
    assert depthwise.weight.shape[1] == 1


def test_the_printed_cost():
    """Table 6: GFLOPs of 30 views. The authors' README: 32.8 M parameters, without the norms."""
    config, clip = Config(), Clip(T=32, crop=224, test_crop=256)
    assert gmacs(config, clip, 400) == pytest.approx(3264 / 30, rel=0.001)
    with torch.device("meta"):
        model = config.build(clip, 400)
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - norms == pytest.approx(32.84e6, abs=5e3)


def test_weights_of_pytorchvideos_hub():
    """An ir-CSN-101."""
    network = csn_r101()
    model = Config(interaction="ir", depth=101, norm_eps=1e-5).build(Clip(T=8, crop=48), 400)
    n = len(model.state_dict())
    assert load_foreign(model, network.state_dict()) == [
        f"{n} of {n} tensors taken from {n} in the file, 0 of them renamed"
    ]


@pytest.mark.parametrize(("T", "crop"), [(1, 32), (3, 33), (9, 20)])
def test_odd_clips(T, crop):
    model = CSN(Config(**TINY), Clip(T=T, crop=crop), 5).eval()
    assert model(torch.randn(2, 3, T, crop, crop)).shape == (2, 5)
