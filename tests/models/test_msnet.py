"""MSNet: the matching of frames, and its cost."""

import pytest
import torch

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.msnet import Config, MotionSqueeze, MSNet, displacement, similarities
from stat_video.models.tsm import TSM
from stat_video.models.tsm import Config as TSMConfig

SMALL = Clip(T=3, crop=32)
TINY = {"depth": 18, "width": 16}


def test_similarities_are_the_loop():
    torch.manual_seed(0)
    r = torch.rand(2, 3, 4, 9, 6) - 0.3
    unit = r / (r.square().sum(2, keepdim=True) + 1e-6).sqrt()
    found = similarities(r).unflatten(0, (2, 2))
    assert found.shape == (2, 2, 9, 6, 15, 15)
    for b, t, y, x, i, j in torch.randint(0, 10**6, (300, 6)).tolist():
        b, t, y, x, i, j = b % 2, t % 2, y % 9, x % 6, i % 15, j % 15
        v, u, expected = y + i - 7, x + j - 7, 0.0
        if 0 <= v < 9 and 0 <= u < 6:
            expected = max((unit[b, t, :, y, x] * unit[b, t + 1, :, v, u]).sum().item(), 0.0)
        assert found[b, t, y, x, i, j].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -2), (-7, 7)])
def test_the_displacement_of_what_moved(down, right):
    torch.manual_seed(0)
    frame = torch.randn(64, 32, 32)
    clip = torch.stack([frame, frame.roll((down, right), (1, 2))])[None]
    x, y, confidence = displacement(similarities(clip))[0][:, 8:24, 8:24]
    torch.testing.assert_close(x, torch.full_like(x, right / 7), atol=1e-3, rtol=0)
    torch.testing.assert_close(y, torch.full_like(y, down / 7), atol=1e-3, rtol=0)
    torch.testing.assert_close(confidence, torch.ones_like(confidence))


def test_the_softmax_by_hand():
    torch.manual_seed(0)
    found = 0.2 * torch.rand(1, 1, 1, 15, 15, dtype=torch.float64)
    best = found.flatten().argmax().item()
    weights = torch.zeros(15, 15, dtype=torch.float64)
    for i in range(15):
        for j in range(15):
            distance = (i - best // 15) ** 2 + (j - best % 15) ** 2
            near = torch.exp(torch.tensor(-distance / 50, dtype=torch.float64))
            weights[i, j] = torch.exp(100 * near * found[0, 0, 0, i, j])
    weights /= weights.sum()
    steps = torch.arange(-7, 8) / 7
    expected = [(weights.sum(0) * steps).sum(), (weights.sum(1) * steps).sum(), found.max()]
    torch.testing.assert_close(displacement(found)[0, :, 0, 0], torch.stack(expected), rtol=1e-6, atol=1e-7)


def test_the_last_frame_has_the_displacement_of_the_pair_before():
    torch.manual_seed(0)
    module, seen = MotionSqueeze(16, 8, T=3).eval(), []
    module.refine.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    module(torch.randn(6, 16, 5, 5))
    moved = seen[0].unflatten(0, (2, 3))
    assert torch.equal(moved[:, 1], moved[:, 2])
    assert not torch.equal(moved[:, 0], moved[:, 1])


def test_frames_are_matched_in_float32_under_autocast():
    torch.manual_seed(0)
    module, seen = MotionSqueeze(16, 8, T=3).eval(), []
    module.refine.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    reduced = []
    module.reduce.register_forward_hook(lambda module, inputs, out: reduced.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.randn(3, 16, 5, 5).bfloat16())
    assert reduced[0].dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    expected = displacement(similarities(reduced[0].float()[None]))
    torch.testing.assert_close(seen[0][:2], expected)


def test_without_the_module_it_is_a_tsm():
    torch.manual_seed(0)
    model, tsm = MSNet(Config(**TINY), SMALL, 5).eval(), TSM(TSMConfig(**TINY), SMALL, 5).eval()
    tsm.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("motion.")})
    x = torch.randn(1, 3, 3, 32, 32)
    assert not torch.equal(model(x), tsm(x))
    model.motion = torch.nn.Module()
    model.motion.forward = torch.zeros_like
    torch.testing.assert_close(model(x), tsm(x))


def test_first_weights():
    torch.manual_seed(0)
    model = MSNet(Config(), SMALL, 400)
    bound = (6 / (2048 + 400)) ** 0.5
    assert model.head.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    conv = model.motion.refine[3][3].weight
    assert conv.std().item() == pytest.approx((2 / len(conv)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("frames", "classes", "printed", "millions"),
    [([16], 400, 670, 24.399), ([16, 8], 174, 1010, 23.935)],
)
def test_the_printed_cost(frames, classes, printed, millions):
    """Tables 6 and 7: GFLOPs of 10 views, in Table 7 of two networks."""
    clips = [Clip(T=T, crop=224) for T in frames]
    assert sum(gmacs(Config(), clip, classes) for clip in clips) == pytest.approx(printed / 10, rel=0.01)
    assert all(parameters(Config(), clip, classes) / 1e6 == pytest.approx(millions, abs=5e-4) for clip in clips)


def test_a_single_frame_is_refused():
    with pytest.raises(ValueError, match="T=1: 2 or more are allowed"):
        Config().check(Clip(T=1))
