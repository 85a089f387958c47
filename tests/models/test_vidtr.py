"""VidTr: separable attention by hand, its tokens and positions, its cost, and released weights' names."""

import pytest
import torch

from stat_video.models.base import Clip
from stat_video.models.count import by_layer, gmacs, parameters
from stat_video.models.vidtr import Config, SeparableAttention, VidTr
from stat_video.models.weights import load_foreign, load_weights

TINY = {"width": 24, "depth": 3, "heads": 4, "dropout": 0.0, "head_dropout": 0.0}


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def test_separable_attention_in_slow_motion():
    """Softmax over the frames of each place, then over the places of each frame, with the same queries and keys."""
    torch.manual_seed(0)
    attention = SeparableAttention(12, 3, 0.0).double()
    x = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    out = torch.zeros_like(x)
    for h in range(3):
        w, b = (p.unflatten(0, (3, 3, 4))[:, h] for p in attention.qkv.parameters())
        q, k, v = (x @ w[i].T + b[i] for i in range(3))  # (2, 5, 7, 4)
        after_time = torch.zeros_like(v)
        for p in range(7):
            weights = (q[:, :, p] @ k[:, :, p].transpose(1, 2) / 4**0.5).softmax(-1)
            after_time[:, :, p] = weights @ v[:, :, p]
        for f in range(5):
            weights = (q[:, f] @ k[:, f].transpose(1, 2) / 4**0.5).softmax(-1)
            out[:, f, :, 4 * h : 4 * h + 4] = weights @ after_time[:, f]
    torch.testing.assert_close(attention(x), attention.proj(out))


def test_tokens_and_what_is_classified():
    """Without blocks: the token of frame 0 and place 0 is one of the tokens of places, whatever the clip."""
    model = shaken(VidTr(Config(**TINY), Clip(T=4, crop=48), 5))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 4, 48, 48)
    model(x)
    (tokens,) = seen
    assert tokens.shape == (2, 1 + 4, 1 + 9, 24)
    assert torch.equal(tokens[1, 0], model.place_class[0])
    assert torch.equal(tokens[1, 1:, 0], model.frame_class[:, 0])
    patch = x[1, :, 2, 16:32, 32:48]  # of the third frame, second row, third column
    by_hand = (model.patches.weight[:, :, 0] * patch).sum((1, 2, 3)) + model.patches.bias
    torch.testing.assert_close(tokens[1, 3, 1 + 5], by_hand, rtol=1e-4, atol=1e-5)
    model.blocks = torch.nn.ModuleList()
    torch.testing.assert_close(model(x)[0], model.head(model.norm(model.place_class[0, 0])))


@pytest.mark.parametrize(("T", "blocks"), [(8, 1), (16, 3), (32, 1)])
def test_positions_of_sixteen_frames_go_into_every_block(T, blocks):
    model = shaken(VidTr(Config(**TINY), Clip(T=T, crop=32), 5))
    given = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1] is not None))
    model(torch.randn(1, 3, T, 32, 32))
    assert given == [True] * blocks + [False] * (3 - blocks)


@pytest.mark.parametrize(
    ("T", "counted", "printed", "millions"), [(16, 299.5, 5370 / 30, 88.69), (32, 583.4, 10530 / 30, 91.12)]
)
def test_the_print_counts_the_feed_forward_layers_alone(T, counted, printed, millions):
    """Table 6: GFLOPs of 30 views."""
    config, clip = Config(), Clip(T=T, crop=224)
    assert gmacs(config, clip, 400) == pytest.approx(counted, abs=0.05)
    tokens, of_a_token = (T + 1) * 197, 12 * 2 * 768 * 4 * 768 / 1e9
    assert T * 196 * of_a_token == pytest.approx(printed, rel=0.015)  # of patches alone
    rows = [row for row in by_layer(config, clip, 400) if row.name.startswith("blocks")]
    attention = 12 * (tokens * 4 * 768**2 + 2 * 768 * tokens * (T + 1 + 197)) / 1e9
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(tokens * of_a_token + attention, rel=1e-6)
    assert parameters(config, clip, 400) / 1e6 == pytest.approx(millions, abs=0.005)


def test_dropout_of_attention_in_training_alone():
    model = shaken(VidTr(Config(**TINY | {"dropout": 0.5}), Clip(T=4, crop=32), 5))
    attention, x = model.blocks[0].attention, torch.randn(1, 5, 5, 24)
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_weights_with_the_authors_names():
    model = shaken(VidTr(Config(**TINY), Clip(T=4, crop=48), 5))
    theirs = {
        "patches.": "conv_stem.",
        "frame_class": "cls_s",
        "place_class": "cls_t",
        "position": "pos_embedding",
        "blocks.": "encoder.layers.",
        "norm.": "encoder.norm.",
        "head.": "fc.",
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.proj.": "self_attn.out_proj.",
        "mlp.fc": "linear",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        for ours, foreign in theirs.items():
            if name.startswith(ours) or (ours in name and "." in ours[1:-1]) or ours == "mlp.fc":
                name = name.replace(ours, foreign)
        state[name] = tensor
    assert "encoder.layers.2.self_attn.in_proj_bias" in state
    assert "encoder.layers.0.linear2.weight" in state
    new = VidTr(Config(**TINY), Clip(T=4, crop=48), 5).eval()
    n = len(state)
    summary = load_foreign(new, state)
    assert len(summary) == 1
    assert summary[0].startswith(f"{n} of {n} tensors taken from {n} in the file")
    x = torch.randn(1, 3, 4, 48, 48)
    assert torch.equal(new(x), model(x))


def test_positions_of_an_image_go_to_all_frames():
    """As the authors inflate a ViT."""
    model = VidTr(Config(**TINY), Clip(T=4, crop=48), 5)
    image = torch.randn(1, 10, 24)
    assert "position: interpolated from (1, 10, 24) to (1, 50, 24)" in load_foreign(
        model, {"pos_embedding": image, "fc.weight": torch.randn(5, 24)}, share=0
    )
    assert torch.equal(model.position.view(5, 10, 24), image.expand(5, -1, -1))


@pytest.mark.parametrize(("T", "crop"), [(8, 48), (4, 64)])
def test_positions_keep_their_tokens_and_their_form(T, crop):
    """Linear in frame, row and column: so they stay, away from the borders; those of tokens stay as they are."""
    old, new = VidTr(Config(**TINY), Clip(T=4, crop=48), 5), VidTr(Config(**TINY), Clip(T=T, crop=crop), 5)
    field = old.position.data.view(5, 10, 24)
    t, y, x = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), torch.arange(3.0), indexing="ij")
    field[1:, 1:] = (100 * t + 10 * y + x).flatten(1)[..., None]
    field[0], field[:, 0] = -7.0, -9.0
    load_weights(new, old.state_dict())
    n = crop // 16
    moved = new.position.data.view(1 + T, 1 + n * n, 24)[..., 0]
    assert torch.equal(moved[0, 1:], torch.full((n * n,), -7.0))
    assert torch.equal(moved[:, 0], torch.full((1 + T,), -9.0))
    inner = moved[1:, 1:].view(T, n, n)[T // 2, n // 2, n // 2].item()
    at_t = (T // 2 + 0.5) * 4 / T - 0.5
    at_s = (n // 2 + 0.5) * 3 / n - 0.5
    assert inner == pytest.approx(100 * at_t + 11 * at_s, abs=1.5)


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
