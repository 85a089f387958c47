"""TEA: its gate, its parts, its cost, and the names of timm's weights."""

import pytest
import torch

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.tea import TEA, Block, Config, MotionExcitation
from stat_video.models.weights import load_foreign

SMALL = Clip(T=3, crop=32)
TINY = {"depth": 17, "width": 16}


def test_the_gate_asks_what_moves_up_to_the_next_frame():
    torch.manual_seed(0)
    me, x = MotionExcitation(32, T=3).eval(), torch.randn(3, 32, 5, 5)
    s = me.bn1(me.conv1(x))
    m = me.conv2(s)
    for t in range(3):
        d = m[t + 1] - s[t] if t < 2 else torch.zeros_like(s[0])
        gate = me.bn3(me.conv3(d.mean((1, 2))[None, :, None, None])).sigmoid()[0] - 0.5
        torch.testing.assert_close(me(x)[t], x[t] * (1 + gate))
    ratio = me(x) / x
    assert (ratio > 0.5).all()
    assert (ratio < 1.5).all()
    torch.testing.assert_close(ratio[2], torch.ones_like(ratio[2]))  # a last frame without bias has half of a gate


@pytest.mark.parametrize("first", [True, False])
def test_parts_are_joined_but_in_a_first_block(first):
    torch.manual_seed(0)
    block = Block(64, 16, 1, T=2, first=first).eval()
    block.me = torch.nn.Identity()
    y = torch.randn(2, 24, 5, 5)
    changed = y.clone()
    changed[:, :6] += 1  # of part 0 alone
    parts = [
        (a - b).abs().amax((0, 2, 3)).split(6)[0].max().item() for a, b in [(block.middle(y), block.middle(changed))]
    ]
    assert parts[0] > 0
    later = (block.middle(y) - block.middle(changed)).abs().amax((0, 2, 3)).split(6)[1:]
    assert [bool(part.max() > 0) for part in later] == [not first, not first, False]
    last = block.time[3](y[:, 18:])
    if first:
        last = torch.nn.functional.avg_pool2d(last, 3, 1, 1)
    torch.testing.assert_close(block.middle(y)[:, 18:], last)


def test_first_weights():
    torch.manual_seed(0)
    model = TEA(Config(), SMALL, 400)
    time = model.layer2[1].time
    for conv in list(time)[:3]:
        assert torch.equal(conv.weight, torch.tensor([0.0, 1.0, 0.0]).expand(52, 1, 3))
    assert torch.equal(time[3].weight[:26], torch.tensor([0.0, 0.0, 1.0]).expand(26, 1, 3))
    assert torch.equal(time[3].weight[26:], torch.tensor([1.0, 0.0, 0.0]).expand(26, 1, 3))
    conv = model.layer3[1].me.conv3.weight
    assert conv.std().item() == pytest.approx((2 / len(conv)) ** 0.5, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(("T", "printed"), [(8, 1050), (16, 2100)])
def test_the_printed_cost(T, printed):
    """Table 6: GFLOPs of 30 views."""
    assert gmacs(Config(), Clip(T=T, crop=224), 400) == pytest.approx(printed / 30, rel=0.015)
    assert parameters(Config(), Clip(T=T, crop=224), 400) / 1e6 == pytest.approx(24.919, abs=5e-4)


def res2net50():
    """Names and shapes of timm's res2net50_26w_4s, of its 7x7 convolution to its classifier."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048), "fc.bias": (1000,)}

    def norm(name, channels):
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    channels = 64
    for stage, (blocks, width) in enumerate(((3, 26), (4, 52), (6, 104), (3, 208)), start=1):
        out = 256 * 2 ** (stage - 1)
        for index in range(blocks):
            at = f"layer{stage}.{index}"
            shapes |= {f"{at}.conv1.weight": (4 * width, channels, 1, 1), f"{at}.conv3.weight": (out, 4 * width, 1, 1)}
            norm(f"{at}.bn1", 4 * width)
            norm(f"{at}.bn3", out)
            for part in range(3):
                shapes[f"{at}.convs.{part}.weight"] = (width, width, 3, 3)
                norm(f"{at}.bns.{part}", width)
            if index == 0:
                shapes[f"{at}.downsample.0.weight"] = (out, channels, 1, 1)
                norm(f"{at}.downsample.1", out)
            channels = out
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_timms_imagenet_weights():
    state = {name: t.abs() if name.endswith("running_var") else t for name, t in res2net50().items()}
    model = TEA(Config(), SMALL, 400)
    summary = load_foreign(model, dict(state))
    assert summary[0].startswith(f"{len(state) - 2} of ")
    assert summary[1] == "left in the file: fc.weight, fc.bias"
    for name, tensor in state.items():
        if not name.startswith("fc."):
            assert torch.equal(model.state_dict()[name], tensor.to(model.state_dict()[name].dtype)), name
    new = {name for name in model.state_dict() if name not in state}
    assert all(".me." in name or ".time." in name or name.startswith("head.") for name in new)


def test_a_single_frame_is_refused():
    with pytest.raises(ValueError, match="T=1: 2 or more are allowed"):
        Config().check(Clip(T=1))
