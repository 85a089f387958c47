"""SlowFast: PyTorchVideo's network on [slow, fast], its head at other crops, its cost, and released weights' names."""

import pytest
import torch
from pytorchvideo.models.hub import slowfast_16x8_r101_50_50, slowfast_r50

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.slowfast import Config, SlowFast
from stat_video.models.weights import load_foreign

TINY = {"depth": 18, "width": 16, "head_dropout": 0.0}


def shaken(model):
    """Weights and statistics away from their first values: the last norm of a branch starts at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if t.is_floating_point() and t.dim() < 2:
                t.add_(0.1 * torch.rand_like(t) + (0.5 if name.endswith("norm_c.weight") else 0))
    return model.eval()


def test_it_is_pytorchvideos_on_slow_and_fast_frames():
    network = shaken(slowfast_r50(model_num_class=5, head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2))))
    model = SlowFast(Config(), Clip(T=32, crop=64), 5).eval()
    model.load_state_dict(network.state_dict())
    clip = torch.randn(1, 3, 32, 64, 64)
    before = clip.clone()
    slow = torch.linspace(0, 31, 8).long()
    with torch.no_grad():
        logits = model(clip)
        assert torch.equal(clip, before)
        assert torch.equal(model(clip), logits)
        assert torch.equal(logits, network([clip[:, :, slow], clip]))


@pytest.mark.parametrize("T", [4, 8, 16, 20, 32, 64, 128])
def test_the_slow_frames_are_the_authors(T):
    """Ends included; `linspace` cut to whole numbers."""
    model = SlowFast(Config(**TINY), Clip(T=T, crop=32), 5)
    assert torch.equal(model.slow(torch.device("cpu")), torch.linspace(0, T - 1, T // 4).long())


def test_the_head_pools_windows_of_the_training_crop():
    """256 pixels after training on 224: an 8x8 map under 7x7 windows; two by two of them overlap."""
    model = SlowFast(Config(**TINY), Clip(T=8, crop=224, test_crop=256), 5).eval()
    slow, fast = torch.randn(1, 512, 2, 8, 8), torch.randn(1, 64, 8, 8, 8)
    expected = []
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        window = (..., slice(y, y + 7), slice(x, x + 7))
        features = torch.cat([slow[window].mean((2, 3, 4)), fast[window].mean((2, 3, 4))], 1)
        expected.append(model.blocks[6].proj(features))
    logits = model.blocks[6](model.blocks[5]([slow, fast]))
    torch.testing.assert_close(logits, torch.stack(expected).mean(0))


@pytest.mark.parametrize("crop", [32, 33, 48, 64, 80])
def test_the_head_takes_the_whole_map_of_a_training_crop(crop):
    model = SlowFast(Config(**TINY), Clip(T=4, crop=crop), 5).train()
    sizes = []
    model.blocks[5].register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape[2:])))
    model(torch.randn(2, 3, 4, crop, crop))
    assert sizes == [(1, 1, 1)]


@pytest.mark.parametrize(
    ("depth", "T", "printed", "millions"),
    [(50, 32, 1971, 34.57), (101, 64, 6390, 53.77)],
)
def test_the_printed_cost(depth, T, printed, millions):
    """Table 6: GFLOPs of 30 views; parameters: PyTorchVideo's model zoo."""
    config, clip = Config(depth=depth), Clip(T=T, crop=224, test_crop=256)
    assert gmacs(config, clip, 400) == pytest.approx(printed / 30, rel=0.01)
    assert parameters(config, clip, 400) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("depth", "build"), [(50, slowfast_r50), (101, slowfast_16x8_r101_50_50)])
def test_weights_of_pytorchvideos_hub(depth, build):
    network = build()
    model = Config(depth=depth).build(Clip(T=8, crop=48), 400)
    n = len(model.state_dict())
    assert load_foreign(model, network.state_dict()) == [
        f"{n} of {n} tensors taken from {n} in the file, 0 of them renamed"
    ]
    assert torch.equal(model.blocks[6].proj.weight, network.blocks[6].proj.weight)
    model = Config(depth=depth).build(Clip(T=8, crop=48), 5)
    summary = load_foreign(model, network.state_dict(), new_classifier=True)
    assert summary[1:] == [
        "left in the file: blocks.6.proj.weight, blocks.6.proj.bias",
        "drawn anew: blocks.6.proj.weight, blocks.6.proj.bias",
    ]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"T": 6}, "T=6: multiples of model.alpha=4 are allowed"),
        ({"crop": 64, "test_crop": 48}, "clip.test_crop=48: crop=64 or more is allowed"),
    ],
)
def test_clips_that_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        Config().check(Clip(**clip))
