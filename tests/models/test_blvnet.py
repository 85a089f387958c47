"""bLVNet-TAM: which frame goes through which branch, its blocks, its cost, and the names of its weights."""

import pytest
import torch
import torch.nn.functional as F

from stat_video.models.base import Clip
from stat_video.models.blvnet import TAM, BigLittle, Block, BLVNet, Config
from stat_video.models.count import gmacs, parameters
from stat_video.models.weights import load_foreign

SMALL = Clip(T=4, crop=32)
TINY = {"depth": 26, "width": 16}


def test_the_first_frame_of_a_pair_is_the_little_branchs():
    seen = {}

    class Spy(torch.nn.Module):
        def __init__(self, name, size):
            super().__init__()
            self.name, self.size = name, size

        def forward(self, x):
            seen[self.name] = x[:, 0, 0, 0].tolist()
            return x[..., : self.size, : self.size]

    same = torch.nn.Identity()
    x = torch.arange(6.0)[:, None, None, None].expand(-1, 2, 4, 4)
    y = BigLittle(same, Spy("big", 2), Spy("little", 4), same, same)(x)
    assert seen == {"big": [1, 3, 5], "little": [0, 2, 4]}
    assert torch.equal(y[:, 0, 0, 0], torch.tensor([1.0, 5.0, 9.0]))
    assert y.shape == (3, 2, 4, 4)


def test_both_frames_of_a_pair_get_the_sum():
    torch.manual_seed(0)
    model, seen = BLVNet(Config(**TINY), SMALL, 5).eval(), []
    model.layer2.tam.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    model(torch.randn(2, 3, 4, 32, 32))
    pairs = seen[0].unflatten(0, (4, 2))
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert not torch.equal(pairs[0, 0], pairs[1, 0])


def test_the_tam_ends_in_a_relu():
    tam, x = TAM(3, T=4), torch.randn(4, 3, 2, 2)
    torch.nn.init.normal_(tam.weight)
    frames = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
    weight = tam.weight[:, 0, :, None, None]  # (C, 3, 1, 1)
    expected = sum(weight[:, tap] * frames[tap : tap + 4] for tap in range(3)).clamp(min=0)
    torch.testing.assert_close(tam(x), expected)


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (8, 1), (8, 2)])
def test_where_the_shortcut_of_a_block_with_a_tam_starts(channels, stride):
    torch.manual_seed(0)
    block, x = Block(channels, 16, stride, T=2).eval(), torch.randn(2, channels, 5, 5)
    torch.nn.init.normal_(block.tam.weight)
    y = block.tam(x)
    branch = block.bn1(block.conv1(y)).relu()
    branch = block.bn3(block.conv3(block.bn2(block.conv2(branch)).relu()))
    if channels == 16:
        shortcut = x
    else:
        conv, norm = list(block.downsample)[-2:]
        shortcut = norm(conv(F.avg_pool2d(y, 3, 2, 1) if stride == 2 else y))
    torch.testing.assert_close(block(x), (branch + shortcut).relu())


@pytest.mark.parametrize(
    ("depth", "big", "little", "last"),
    [(26, [1, 1, 1], [1, 1, 1], 2), (50, [2, 3, 5], [1, 1, 1], 3), (101, [3, 7, 17], [1, 1, 3], 3)],
)
def test_blocks(depth, big, little, last):
    with torch.device("meta"):
        model = BLVNet(Config(depth=depth), SMALL, 5)
    stages = (model.layer1, model.layer2, model.layer3)
    assert [len(stage.big) for stage in stages] == big
    assert [len(stage.little) for stage in stages] == little
    assert [len(stage.fusion) for stage in stages] == [1, 1, 1]
    assert len(model.layer4) == last
    for stage in stages:
        assert [block.last_relu for block in stage.big] == [True] * (len(stage.big) - 1) + [False]
        assert all(block.last_relu for block in [*stage.little, *stage.fusion])
    tams = [name for name, m in model.named_modules() if isinstance(m, TAM)]
    assert len(tams) == 4 + last
    assert {m.T for m in model.modules() if isinstance(m, TAM)} == {4, 2}


def test_first_weights():
    torch.manual_seed(0)
    model = BLVNet(Config(), SMALL, 400)
    tam = model.layer4[1].tam.weight
    assert tam.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.05)
    assert not any(m.bn3.weight.any() for m in model.modules() if isinstance(m, Block))
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(
    ("depth", "T", "crop", "classes", "printed", "millions"),
    [(50, 48, 256, 400, 840 / 9, 25.483), (101, 16, 224, 174, 32, 40.177)],
)
def test_the_printed_cost(depth, T, crop, classes, printed, millions):
    """Table 6: 840 GFLOPs of 9 views of 256 pixels; Table 7: one view of 224."""
    config, clip = Config(depth=depth), Clip(T=T, crop=224, test_crop=crop)
    assert gmacs(config, clip, classes) == pytest.approx(printed, rel=0.01)
    assert parameters(config, clip, classes) / 1e6 == pytest.approx(millions, abs=5e-4)


def theirs_of(source, image):
    """The authors' names; an ImageNet file has no TAMs and another classifier."""
    found = {}
    for name, tensor in source.state_dict().items():
        for ours, other in (
            ("stem.big.0.", "b_conv0."),
            ("stem.big.1.", "bn_b0."),
            ("stem.little.0.", "l_conv0."),
            ("stem.little.1.", "bn_l0."),
            ("stem.little.3.", "l_conv1."),
            ("stem.little.4.", "bn_l1."),
            ("stem.widen.0.", "l_conv2."),
            ("stem.widen.1.", "bn_l2."),
            ("stem.fusion.0.", "bl_init."),
            ("stem.fusion.1.", "bn_bl_init."),
            ("stem.tam.", "tam."),
            (".widen.", ".little_e."),
        ):
            name = name.replace(ours, other)
        if "tam." in name:
            if not image:
                for tap, part in enumerate(("prev", "curr", "next")):
                    key = f"module.baseline_model.{name.removesuffix('weight')}{part}.weight"
                    found[key] = tensor[:, :, tap, None, None].reshape(-1, 1, 1, 1)
        elif name.startswith("head."):
            found[f"module.fc{name[4:]}" if image else f"module.new_fc{name[4:]}"] = (
                torch.zeros(1000, *tensor.shape[1:]) if image else tensor
            )
        else:
            found[f"module.{name}" if image else f"module.baseline_model.{name}"] = tensor
    return found


@pytest.mark.parametrize("image", [False, True])
def test_the_authors_names(image):
    torch.manual_seed(0)
    source, model = (BLVNet(Config(**TINY), SMALL, 5) for _ in range(2))
    summary = load_foreign(model, theirs_of(source, image))
    if image:
        assert summary[1] == "left in the file: module.fc.weight, module.fc.bias"
    else:
        assert [line.split(" ")[0] for line in summary[1:]] == ["made"]  # of the three taps of a TAM
    for name, tensor in model.state_dict().items():
        new = image and ("tam." in name or name.startswith("head."))
        assert new or torch.equal(tensor, source.state_dict()[name]), name


def test_frames_come_in_pairs():
    with pytest.raises(ValueError, match="T=5: multiples of 2 are allowed"):
        Config().check(Clip(T=5))
