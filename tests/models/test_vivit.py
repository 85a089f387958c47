"""ViViT: PyTorch's and transformers' encoders, the factorised model slice by slice, first weights, cost, positions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.parts.vit import StochasticDepth
from stat_video.models.positions import time_and_grid
from stat_video.models.vivit import Block, Config, ViViT
from stat_video.models.weights import load_foreign, load_weights

TINY = {"width": 24, "depth": 3, "heads": 4}


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def of_pytorch(block: Block) -> nn.TransformerEncoderLayer:
    """PyTorch's own pre-norm layer with the weights of ours."""
    gelu = partial(F.gelu, approximate="tanh")
    keys = {"activation": gelu, "layer_norm_eps": 1e-6, "batch_first": True, "norm_first": True}
    theirs = nn.TransformerEncoderLayer(24, 4, 96, 0.0, **keys)
    state = block.state_dict()
    for part in ("weight", "bias"):
        rows = [state.pop(f"attention.{name}.{part}") for name in ("query", "key", "value")]
        state[f"self_attn.in_proj_{part}"] = torch.cat(rows)
        state[f"self_attn.out_proj.{part}"] = state.pop(f"attention.proj.{part}")
        for i in (1, 2):
            state[f"linear{i}.{part}"] = state.pop(f"mlp.fc{i}.{part}")
    theirs.load_state_dict(state)
    return theirs.to(block.norm1.weight.dtype).eval()


def test_a_block_is_pytorchs():
    torch.manual_seed(0)
    block = shaken(Block(24, 4, 0.0)).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(block(x), of_pytorch(block)(x), rtol=1e-9, atol=1e-9)


def test_the_factorised_encoder_slice_by_slice():
    """Each pair of frames through a joint model of two frames, and their class tokens through PyTorch's layers."""
    model = shaken(ViViT(Config(**TINY, temporal_depth=2), Clip(T=8, crop=48), 5)).double()
    joint = ViViT(Config(**TINY), Clip(T=2, crop=48), 24).double().eval()
    load_foreign(joint, {n: t for n, t in model.state_dict().items() if not n.startswith(("head", "time"))})
    nn.init.eye_(joint.head.weight)
    nn.init.zeros_(joint.head.bias)
    x = torch.randn(2, 3, 8, 48, 48, dtype=torch.float64)
    tokens = torch.stack([joint(x[:, :, t : t + 2]) for t in (0, 2, 4, 6)], 1)
    time = model.time_encoder
    y = torch.cat([time.class_token.expand(2, -1, -1), tokens], 1) + time.position
    for block in time.blocks:
        y = of_pytorch(block)(y)
    torch.testing.assert_close(model(x), model.head(time.norm(y)[:, 0]), rtol=1e-9, atol=1e-9)


def test_the_joint_model_is_that_of_transformers(tmp_path):
    """From its file, whose names are others than the model's in memory."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.VivitConfig(num_frames=8, image_size=48, num_labels=5, **size)
    network = shaken(transformers.VivitForVideoClassification(config))
    model = ViViT(Config(**TINY), Clip(T=8, crop=48), 5).eval()
    n = len(model.state_dict())
    network.save_pretrained(tmp_path)
    summary = load_foreign(model, pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors"))
    assert len(summary) == 1
    assert summary[0].startswith(f"{n} of {n} tensors taken from {n} in the file")
    x = torch.randn(2, 3, 8, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x.transpose(1, 2)).logits, rtol=1e-5, atol=1e-5)


def test_first_weights():
    """Glorot's rule, and a classifier of zeros: the first step changes nothing else."""
    torch.manual_seed(0)
    model = ViViT(Config(depth=1, width=256, heads=4), Clip(T=4, crop=32), 5)
    assert model.encoder.blocks[0].mlp.fc1.weight.abs().max().item() == pytest.approx((6 / (5 * 256)) ** 0.5, rel=0.01)
    assert model.encoder.position.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.patches.weight.std().item() == pytest.approx((3 * 2 * 16 * 16) ** -0.5, rel=0.02)
    assert not model.head.weight.any()
    assert not model.encoder.class_token.any()


def test_stochastic_depth_does_not_rescale_and_grows_in_each_encoder():
    config = Config(**TINY | {"stochastic_depth": 0.3, "temporal_depth": 2})
    model = ViViT(config, Clip(T=4, crop=32), 5)
    assert [block.stochastic_depth.rate for block in model.encoder.blocks] == pytest.approx([0, 0.15, 0.3])
    assert [block.stochastic_depth.rate for block in model.time_encoder.blocks] == pytest.approx([0, 0.3])
    torch.manual_seed(0)
    drop = model.encoder.blocks[2].stochastic_depth.train()
    assert isinstance(drop, StochasticDepth)
    kept = drop(torch.ones(1000, 2))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(
    ("keys", "classes", "printed", "millions"),
    [
        ({}, 400, 17352 / 12, 307.51),  # Table 6
        ({"temporal_depth": 4}, 174, 11892 / 12, 354.67),  # Table 7
        ({"width": 768, "depth": 12, "heads": 12}, 400, None, 88.95),  # the paper's Table 2: 88.9 M
        ({"width": 768, "depth": 12, "heads": 12, "temporal_depth": 4}, 400, None, 115.06),  # 115.1 M
    ],
)
def test_the_printed_cost(keys, classes, printed, millions):
    """GFLOPs of 12 views: the authors' counter sees up to 0.9 % more than the matrix products."""
    config, clip = Config(**keys), Clip(T=32, crop=224)
    if printed is not None:
        assert 1 < printed / gmacs(config, clip, classes) < 1.009
    assert parameters(config, clip, classes) / 1e6 == pytest.approx(millions, abs=0.005)


def test_positions_of_another_length_or_crop():
    """Of joint attention: frames are interpolated, or places; the class token's stays; an image's go to all frames."""
    frame, place = torch.arange(4.0), torch.tensor([0.0, 0, 1, 1])
    old = torch.cat([torch.tensor([-5.0]), (10 * frame[:, None] + place).flatten()]).view(1, -1, 1).expand(-1, -1, 3)
    longer = time_and_grid(8, 4, first=1)(old, torch.Size([1, 33, 3]))[0, :, 0]
    assert longer[0] == -5
    torch.testing.assert_close(longer[1:].view(8, 4)[3], 10 * 1.25 + place)
    larger = time_and_grid(4, 9, first=1)(old, torch.Size([1, 37, 3]))[0, :, 0]
    assert larger[0] == -5
    torch.testing.assert_close(larger[1:].view(4, 3, 3)[:, 1, 1], 10 * frame + 0.5)
    image = time_and_grid(3, 4, first=1)(old[:, :5], torch.Size([1, 13, 3]))[0, :, 0]
    assert torch.equal(image, torch.cat([old[0, :1, 0], old[0, 1:5, 0].repeat(3)]))


@pytest.mark.parametrize(
    ("frames", "places", "tokens", "message"),
    [
        (4, 9, 36 * 4, "both of another clip length and of another crop"),  # 16 frames, or 6 x 6 places
        (4, 9, 50, "of no clip of this length or crop"),
    ],
)
def test_positions_that_a_number_does_not_tell(frames, places, tokens, message):
    with pytest.raises(ValueError, match=message):
        time_and_grid(frames, places, first=1)(torch.zeros(1, 1 + tokens, 3), torch.Size([1, 1 + frames * places, 3]))


def test_another_crop_and_length_at_once_are_refused_in_a_line():
    old, new = ViViT(Config(**TINY), Clip(T=8, crop=48), 5), ViViT(Config(**TINY), Clip(T=16, crop=80), 5)
    with pytest.raises(ValueError, match=r"^encoder.position: 36 positions can be those of no clip") as error:
        load_weights(new, old.state_dict())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"T": 9}, "T=9: multiples of 2 are allowed"),
        ({"crop": 40}, "crop=40: multiples of 16 are allowed"),
        ({"crop": 48, "test_crop": 64}, "clip.test_crop=64: .*crop=48 alone is allowed"),
    ],
)
def test_clips_that_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        Config().check(Clip(**clip))
