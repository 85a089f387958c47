"""X3D: PyTorchVideo's network without a softmax, its head at other crops, its cost, and released weights' names."""

import pytest
import torch
from pytorchvideo.models.hub import x3d_l
from pytorchvideo.models.x3d import create_x3d
from torch import nn

from stat_video.models.base import Clip
from stat_video.models.count import gmacs
from stat_video.models.weights import load_foreign
from stat_video.models.x3d import X3D, Config

TINY = {"depth_factor": 1.0, "width_factor": 0.7, "head_width": 256, "head_dropout": 0.0}


def without_norms(model: nn.Module) -> float:
    """Millions of parameters but for the scales and shifts of the norms, as the paper counts."""
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters())
    return (sum(p.numel() for p in model.parameters()) - norms) / 1e6


@pytest.mark.parametrize("train", [False, True])
def test_it_is_pytorchvideos_without_the_softmax(train):
    """Which that one has in training too."""
    torch.manual_seed(0)
    keys = {"depth_factor": 1.0, "width_factor": 0.7, "head_dim_out": 256, "dropout_rate": 0.0}
    network = create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=5, **keys)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    model = X3D(Config(**TINY), Clip(T=4, crop=64), 5)
    model.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 4, 64, 64)
    logits = model.train(train)(x)
    assert (logits.sum(1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(logits.softmax(1), network.train(train)(x).view(2, 5), rtol=1e-4, atol=1e-5)


def test_gradients_are_pytorchvideos():
    """The depthwise convolutions have gradients of their own on a CPU."""
    torch.manual_seed(0)
    keys = {"depth_factor": 1.0, "width_factor": 0.7, "head_dim_out": 256, "dropout_rate": 0.0}
    network = create_x3d(input_clip_length=4, input_crop_size=48, model_num_class=5, head_activation=None, **keys)
    model = X3D(Config(**TINY), Clip(T=4, crop=48), 5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    model.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 4, 48, 48, dtype=torch.float64)
    for m in (network.double(), model.double()):
        m.train()(x).square().sum().backward()
    theirs = dict(network.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name].grad)


def test_the_head_pools_windows_of_the_training_crop():
    """356 pixels after training on 312: a 12x12 map under 10x10 windows, three by three of them."""
    model = X3D(Config(**TINY), Clip(T=2, crop=312, test_crop=356), 5).eval()
    head, features = model.blocks[5], torch.randn(1, model.blocks[5].pool.pre_conv.in_channels, 2, 12, 12)
    pool = head.pool
    before = pool.pre_act(pool.pre_norm(pool.pre_conv(features)))
    expected = []
    for y in range(3):
        for x in range(3):
            mean = before[..., y : y + 10, x : x + 10].mean((2, 3, 4), keepdim=True)
            expected.append(head.proj(pool.post_conv(mean).relu().flatten(1)))
    torch.testing.assert_close(head(features), torch.stack(expected).mean(0))


@pytest.mark.parametrize(
    ("keys", "T", "crop", "counted", "millions"),
    [
        ({}, 16, 312, 35.84, 11.00),  # the paper's table of instances
        ({}, 16, 356, 1452 / 30, 11.00),  # Table 6: GFLOPs of 30 views
        ({"depth_factor": 10.2}, 32, 356, 5823 / 30, 20.28),
        ({"width_factor": 2.0}, 16, 312, 18.37, 6.09),  # X3D-L
        ({"width_factor": 2.0, "depth_factor": 2.2}, 16, 224, 4.73, 3.76),  # X3D-M
    ],
)
def test_the_printed_cost(keys, T, crop, counted, millions):
    config, clip = Config(**keys), Clip(T=T, crop=min(crop, 312), test_crop=crop)
    assert gmacs(config, clip, 400) == pytest.approx(counted, rel=0.001)
    with torch.device("meta"):
        assert without_norms(config.build(clip, 400)) == pytest.approx(millions, abs=0.005)


def test_weights_of_pytorchvideos_hub():
    network = x3d_l()
    model = Config(width_factor=2.0).build(Clip(T=4, crop=48), 400)
    n = len(model.state_dict())
    assert load_foreign(model, network.state_dict()) == [
        f"{n} of {n} tensors taken from {n} in the file, 0 of them renamed"
    ]
    assert torch.equal(model.blocks[5].proj.weight, network.blocks[5].proj.weight)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"crop": 31}, "crop=31: 32 or more is allowed"),
        ({"crop": 64, "test_crop": 48}, "clip.test_crop=48: crop=64 or more is allowed"),
    ],
)
def test_clips_that_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        Config().check(Clip(**clip))


@pytest.mark.parametrize("crop", [32, 33, 63, 80])
def test_odd_maps(crop):
    model = X3D(Config(**TINY), Clip(T=1, crop=crop), 5)
    assert model(torch.randn(2, 3, 1, crop, crop)).shape == (2, 5)
