"""TimeSformer: its block by PyTorch's own attention, transformers' model, its first weights, cost and names."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stat_video.models.base import Clip
from stat_video.models.count import gmacs, parameters
from stat_video.models.parts.vit import Attention
from stat_video.models.timesformer import Block, Config, TimeSformer
from stat_video.models.weights import load_foreign

TINY = {"width": 24, "depth": 3, "heads": 4, "stochastic_depth": 0.0}


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def of_pytorch(attention: Attention) -> nn.MultiheadAttention:
    """PyTorch's own module with the weights of ours."""
    theirs = nn.MultiheadAttention(attention.proj.in_features, attention.heads, batch_first=True)
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    names |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    ours = attention.state_dict()
    theirs.load_state_dict({name: ours[n] for name, n in names.items()})
    return theirs.to(attention.proj.weight.dtype).eval()


def test_a_block_in_slow_motion():
    """Place by place over time, frame by frame over space with a copy of the class token, then the MLP."""
    torch.manual_seed(0)
    T, N, C = 3, 4, 24
    block = shaken(Block(C, 4, T, 0.0)).double()
    over_time, over_space = of_pytorch(block.temporal_attn), of_pytorch(block.attn)
    x = torch.randn(2, 1 + T * N, C, dtype=torch.float64)
    token, patches = x[:, :1], x[:, 1:].view(2, T, N, C).clone()
    for n in range(N):
        y = block.temporal_norm1(patches[:, :, n])
        patches[:, :, n] = patches[:, :, n] + block.temporal_fc(over_time(y, y, y)[0])
    results, seen = [], patches.clone()
    for t in range(T):
        y = block.norm1(torch.cat([token, patches[:, t]], 1))
        y = over_space(y, y, y)[0]
        results.append(y[:, :1])
        seen[:, t] += y[:, 1:]
    x_s = torch.cat([token + torch.stack(results).mean(0), seen.view(2, T * N, C)], 1)
    y = block.norm2(x_s)
    expected = x_s + block.mlp.fc2(F.gelu(block.mlp.fc1(y)))
    torch.testing.assert_close(block(x), expected)


def test_it_is_the_model_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.TimesformerConfig(num_frames=6, image_size=48, num_labels=5, drop_path_rate=0, **size)
    network = shaken(transformers.TimesformerForVideoClassification(config))
    model = TimeSformer(Config(**TINY), Clip(T=6, crop=48), 5).eval()
    n = len(model.state_dict())
    network.save_pretrained(tmp_path)
    summary = load_foreign(model, pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors"))
    assert len(summary) == 1
    assert summary[0].startswith(f"{n} of {n} tensors taken from {n} in the file")
    x = torch.randn(2, 3, 6, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x.transpose(1, 2)).logits, rtol=1e-5, atol=1e-5)


def test_at_first_it_does_not_look_in_time():
    """Time's embeddings and projections start at zero: a ViT on each frame, blind to their order."""
    torch.manual_seed(0)
    model = TimeSformer(Config(**TINY), Clip(T=4, crop=32), 5).double().eval()
    nn.init.normal_(model.head.weight)
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x), model(x.flip(2)))
    for block in model.blocks:
        assert not block.temporal_fc.weight.any()
        assert block.temporal_attn.qkv.weight.std() > 0.05
        nn.init.eye_(block.temporal_fc.weight)
    nn.init.normal_(model.time_embed)
    assert (model(x) - model(x.flip(2))).abs().max() > 1e-3


def test_linear_weights_have_the_authors_std_at_their_width():
    torch.manual_seed(0)
    for width, std in ((768, 0.02), (192, 0.04)):
        model = TimeSformer(Config(depth=1, width=width, heads=4), Clip(T=2, crop=32), 400)
        for weight in (model.blocks[0].attn.qkv.weight, model.blocks[0].mlp.fc2.weight, model.head.weight):
            assert weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(("classes", "millions"), [(400, 121.63), (174, 121.46)])
def test_the_printed_cost(classes, millions):
    """Tables 6 and 7: GFLOPs of three views."""
    config, clip = Config(), Clip(T=96, crop=224)
    assert gmacs(config, clip, classes) == pytest.approx(7140 / 3, rel=0.001)
    assert parameters(config, clip, classes) / 1e6 == pytest.approx(millions, abs=0.005)


def test_weights_with_the_authors_names():
    model = shaken(TimeSformer(Config(**TINY), Clip(T=4, crop=48), 5))
    state = {f"model.{n}": t for n, t in model.state_dict().items()}
    for part in ("weight", "bias"):
        state[f"model.patch_embed.proj.{part}"] = state.pop(f"model.patch_embed.{part}")
    new = TimeSformer(Config(**TINY), Clip(T=4, crop=48), 5).eval()
    n = len(state)
    assert load_foreign(new, state) == [f"{n} of {n} tensors taken from {n} in the file, {n} of them renamed"]
    x = torch.randn(1, 3, 4, 48, 48)
    assert torch.equal(new(x), model(x))


def test_a_vit_of_timm_is_one_of_space_alone():
    """Its position embeddings are interpolated; time's attention is space's at first, and adds nothing yet."""
    model = shaken(TimeSformer(Config(**TINY), Clip(T=4, crop=64), 5))
    state = {n: t for n, t in model.state_dict().items() if "temporal" not in n and "time" not in n and "head" not in n}
    new = TimeSformer(Config(**TINY), Clip(T=4, crop=48), 5)
    summary = load_foreign(new, state)
    assert summary[1].startswith("made of the file's")
    assert summary[2].startswith("drawn anew: time_embed, blocks.0.temporal_fc.weight")
    for block, old in zip(new.blocks, model.blocks, strict=True):
        for part in ("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "norm1.weight"):
            assert torch.equal(block.get_parameter(f"temporal_{part}"), old.get_parameter(part))
        assert not block.temporal_fc.weight.any()
    assert summary[3] == "pos_embed: interpolated from (1, 17, 24) to (1, 10, 24)"
    assert torch.equal(new.blocks[2].attn.qkv.weight, model.blocks[2].attn.qkv.weight)


def test_stochastic_depth_grows_to_the_last_block():
    model = TimeSformer(Config(**TINY | {"stochastic_depth": 0.1}), Clip(T=4, crop=32), 5)
    assert [block.stochastic_depth.rate for block in model.blocks] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"crop": 40}, "crop=40: multiples of 16 are allowed"),
        ({"crop": 48, "test_crop": 64}, "clip.test_crop=64: .*crop=48 alone is allowed"),
    ],
)
def test_clips_that_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        Config().check(Clip(**clip))
