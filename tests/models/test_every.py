"""Every model against every promise of models/base.py, at the tiny size."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from running import skip_without_library
from stat_video import models
from stat_video.models.base import Clip, VideoModel
from stat_video.models.count import by_layer, gmacs, parameters
from stat_video.models.parts.precision import keep_out_of_autocast
from stat_video.models.parts.recompute import recompute_units
from stat_video.models.weights import in_module, load_foreign, load_weights
from stat_video.training.optim import named

# The sizes of `scale=tiny` in conf/model; a new model needs a line here.
TINY = {
    "blvnet": {"depth": 26, "width": 16},
    "msnet": {"depth": 18, "width": 16},
    "csn": {"depth": 50, "width": 16},
    "i3d_nl": {"depth": 50, "width": 16},
    "mvit": {"depths": [1, 1, 2, 2], "width": 24},
    "mvit_v2": {"depths": [1, 1, 2, 2], "width": 24, "kv_stride": 2},
    "r2plus1d": {"depth": 10, "width": 12},
    "s3d": {"width": 24, "norm_momentum": 0.1},
    "slowfast": {"depth": 18, "width": 16},
    "smallbig": {"depth": 17, "width": 16},
    "stat": {"widths": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "heads": [1, 1, 2, 4]},
    "stm": {"depth": 17, "width": 24, "stages": 3},
    "swin3d": {"size": "tiny", "window_size": [4, 3, 3]},
    "tdn": {"depth": 17, "width": 16},
    "tea": {"depth": 17, "width": 16},
    "timesformer": {"width": 96, "depth": 6, "heads": 4},
    "tsm": {"depth": 18, "width": 16},
    "videomae": {"width": 128, "depth": 6, "heads": 4},
    "vidtr": {"width": 96, "depth": 6, "heads": 4},
    "vivit": {"width": 128, "depth": 6, "heads": 4},
    "x3d": {"depth_factor": 1.0, "width_factor": 0.7, "head_width": 256},
}
RUNS = {"tdn": 5}  # consecutive frames where others take one
TIME_BLIND = {"smallbig"}  # the reversed clip has the same logits, as in its authors' code
CLASSES = 7
OTHERS = [
    {"T": 16},
    {"crop": 64},
    {"T": 6, "crop": 40},
    {"T": 5, "crop": 33},
    {"test_crop": 64},
]
# Weights without use: STAT's last block makes nothing but class tokens, so pooled patch queries have no reader; in this
# short clip non-local I3D's last blocks have a single place to look at.
NO_GRADIENT = {
    "i3d_nl": tuple(f"nonlocal_blocks.4_{i}.conv_{part}" for i in (1, 3, 5) for part in ("theta", "phi")),
    # As STAT's: pooled queries of the last block, but the class token's, have no reader.
    "mvit_v2": ("blocks.5.attn.pool_q.pool.", "blocks.5.attn.rel_pos_"),
    "stat": ("blocks.4.sta.pool_q",),
}
# S3D's last norms have a single place of this short clip, of four clips: what they divide by is small, and each
# multiplies the rounding of float32.
ROUNDING = {"s3d": 1e-2}
# Names in the authors' files: a part of ours, and what stands there in its place.
AUTHORS = {
    "msnet": {"motion.reduce.": "chnl_reduction."}
    | {f"motion.refine.{i}.": f"flow_refinement.conv{i + 1}." for i in range(4)},
    "smallbig": {f".big.{i}.": f".big{i + 1}.1." for i in range(3)}
    | {".extra.squeeze.": ".big4_1.", ".extra.expand.": ".big4_2."},
    "tdn": {f"layer{i}.": f"layer{i}_bak." for i in range(1, 5)}
    | {"motion_stem.": "conv1_5.", "motion_layer1_bak.": "resnext_layer1.", ".time.": ".shift.conv."}
    | {f".gate.{ours}_{part}.": f".mse.{name}_smallscale{scale}."
       for ours, scale in (("coarse", 2), ("fine", 4)) for part, name in (("conv", "conv3"), ("bn", "bn3"))}
    | {".gate.": ".mse."},
    "tea": {f".time.{i}.": f".shifts.{i}.conv." for i in range(4)},
    "tsm": {".conv1.": ".conv1.net."},
}  # fmt: skip
OF_NO_USE = {"msnet": "bn2.weight", "tdn": "conv1_temp.weight"}  # that their files have and their networks don't read
BESIDE_RESNET = {"msnet": ("motion.",), "stm": (".motion.", ".time."), "tsm": ()}
# A value of each key that is refused.
NOT_ALLOWED = {
    "blvnet": {"depth": 18, "width": 7, "head_dropout": 1.0},
    "csn": {"interaction": "preserved", "depth": 18, "width": 0, "norm_eps": 0},
    "i3d_nl": {"depth": 152, "res4_temporal": "none", "time_stride": 4},
    "mvit": {"depths": [1, 2, 3], "heads": 5, "kv_stride": 0},
    "mvit_v2": {"depths": [1, 2, 3], "heads": 5, "kv_stride": 0},
    "r2plus1d": {"depth": 34, "width": 1},
    "s3d": {"width": 3, "head_dropout": 1.0, "norm_momentum": 0},
    "slowfast": {"depth": 34, "width": 20, "alpha": 0, "lateral": 4},
    "smallbig": {"depth": 18, "width": 4, "head_dropout": 1.0},
    "stm": {"depth": 34, "width": 3, "stages": 2},
    "swin3d": {"size": "l", "window_size": [8, 7], "stochastic_depth": 1.0},
    "tdn": {"depth": 34, "width": 8, "head_dropout": 1.0},
    "tea": {"depth": 34, "width": 3, "head_dropout": 1.0},
    "timesformer": {"heads": 5, "depth": 0, "stochastic_depth": 1.0},
    "tsm": {"depth": 34, "width": 4, "head_dropout": 1.0},
    "videomae": {"heads": 5, "depth": 0, "layer_decay": 0},
    "vidtr": {"heads": 5, "depth": 0, "dropout": 1.0},
    "vivit": {"heads": 5, "depth": 0, "temporal_depth": -1},
    "x3d": {"depth_factor": 0, "width_factor": 0, "head_width": 0},
}

every = pytest.mark.parametrize("name", models.names())


def config_of(name, **changes):
    skip_without_library(name)
    assert name in TINY, f"tests/models/test_every.py: TINY needs the tiny size of {name}"
    return models.find(name)(name=name, **(TINY[name] | changes))


def clip_of(name, T=8, crop=48, test_crop=None) -> Clip:
    """A clip of T frames, or of as many runs of frames."""
    run = RUNS.get(name, 1)
    return Clip(T=T * run, crop=crop, test_crop=test_crop, sampling="snippets" if run > 1 else "segments")


def built(name, clip=None, classes=CLASSES, plain=False) -> VideoModel:
    """A model with weights far from their first values, since those hide things: zero norms, narrow classifiers.

    ``plain``: without dropout and stochastic depth.
    """
    torch.manual_seed(0)
    model = config_of(name).build(clip or clip_of(name), classes)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1 if p.dim() < 2 else 0.02)
        model.get_submodule(model.classifier).apply(redrawn)
    if plain:
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
            elif type(m).__name__ == "StochasticDepth":
                for key in ("rate", "p"):
                    if hasattr(m, key):
                        setattr(m, key, 0.0)
    return model


def redrawn(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)


def noise(clip, batch=2, size=None):
    size = size or clip.crop
    return torch.randn(batch, 3, clip.T, size, size, generator=torch.Generator().manual_seed(1))


def settled(name) -> VideoModel:
    """In evaluation mode, with running statistics of some clips."""
    model = built(name).train()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = None  # the mean of all batches, not one that still leans on the first values
    with torch.no_grad():
        for _ in range(3):
            model(noise(clip_of(name), 4))
    return model.eval()


def refused(name, clip) -> str | None:
    """Why the model refuses the clip, if it does."""
    try:
        config_of(name).check(clip)
    except ValueError as error:
        return str(error)
    return None


@every
def test_logits_in_training_and_in_evaluation(name):
    model, x = built(name), noise(clip_of(name))
    before = x.clone()
    assert model.train()(x).shape == (2, CLASSES)
    assert model.eval()(x).shape == (2, CLASSES)
    assert torch.equal(x, before)
    assert model.eval()(x[:1]).sum().item() != pytest.approx(1)  # no softmax


@every
def test_a_gradient_for_every_parameter(name):
    model = built(name, plain=True).train()
    F.cross_entropy(model(noise(clip_of(name))), torch.tensor([0, 1])).backward()
    dead = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)
    ]
    dead = [n for n in dead if not n.startswith(NO_GRADIENT.get(name, ("-",)))]
    assert dead == []


@every
def test_batch_members_do_not_leak(name):
    model, x = settled(name).double(), noise(clip_of(name), batch=3).double()
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-9, atol=1e-9)


@every
def test_time_reversed_gives_other_logits(name):
    model, x = settled(name).double(), noise(clip_of(name), batch=1).double()
    change = (model(x) - model(x.flip(2))).abs().max()
    assert change < 1e-12 if name in TIME_BLIND else change > 1e-3


@every
def test_float64(name):
    model, x = settled(name), noise(clip_of(name), batch=1)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    close = ROUNDING.get(name, 1e-4)
    torch.testing.assert_close(single.double(), double, rtol=close, atol=close)


@every
def test_logits_without_gradients_are_the_same(name):
    model, x = settled(name), noise(clip_of(name))
    before, expected = x.clone(), model(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    assert torch.equal(x, before)


@every
@pytest.mark.parametrize("changes", OTHERS, ids=lambda c: "-".join(f"{key}{n}" for key, n in c.items()))
def test_another_clip_works_or_is_refused_in_one_line(name, changes):
    clip = clip_of(name, **changes)
    if (why := refused(name, clip)) is not None:
        assert "\n" not in why
        assert "allowed" in why
        return
    model = config_of(name).build(clip, CLASSES)
    assert model.train()(noise(clip)).shape == (2, CLASSES)
    assert model.eval()(noise(clip, size=clip.view_crop)).shape == (2, CLASSES)


@every
def test_a_clip_that_the_model_was_not_built_for_is_refused(name):
    model, x = built(name), noise(clip := clip_of(name))
    for wrong in (noise(clip_of(name, T=16)), noise(clip_of(name, crop=64)), x[:, :1], x[..., :32]):
        with pytest.raises(ValueError, match=rf"this model takes \(3, {clip.T}, 48, 48\)"):
            model(wrong)


@every
def test_weights_are_saved_and_loaded(name, tmp_path):
    clip = clip_of(name)
    old, new = settled(name), config_of(name).build(clip, CLASSES)
    torch.save(old.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert load_weights(new, state) == []
    assert torch.equal(new.eval()(noise(clip)), old(noise(clip)))
    summary = load_foreign(config_of(name).build(clip, CLASSES), state)
    assert summary == [f"{len(state)} of {len(state)} tensors taken from {len(state)} in the file, 0 of them renamed"]


def of_authors(name, model):
    """The weights of a model as the authors' training file has them."""
    base, head = ("module.", "module.fc.") if name == "smallbig" else ("module.base_model.", "module.new_fc.")
    theirs = {}
    for own, tensor in model.state_dict().items():
        if name == "smallbig" and tensor.dim() == 4:
            tensor = tensor[:, :, None]
        if name == "msnet" and own == "head.weight":
            tensor = tensor[..., None]
        renamed = own
        for ours, other in AUTHORS[name].items():
            renamed = renamed.replace(ours, other)
        theirs[head + own[5:] if own.startswith("head.") else base + renamed] = tensor
    return theirs


@pytest.mark.parametrize("name", AUTHORS)
def test_weights_with_the_authors_names(name):
    keys = {"extra": True} if name == "smallbig" else {}
    source, model = (config_of(name, **keys).build(clip_of(name), 5) for _ in range(2))
    for tensor in source.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape))
    base, theirs = "module." if name == "smallbig" else "module.base_model.", of_authors(name, source)
    n, left = len(theirs), [base + OF_NO_USE[name]] if name in OF_NO_USE else []
    theirs |= {key: torch.ones(32) for key in left}
    summary = load_foreign(model, theirs)
    assert summary[0].startswith(f"{n} of {n} tensors taken from {len(theirs)} in the file")
    assert summary[1:] == [f"left in the file: {key}" for key in left]
    assert all(torch.equal(t, source.state_dict()[own]) for own, t in model.state_dict().items())


@pytest.mark.parametrize("name", BESIDE_RESNET)
def test_imagenet_weights_of_a_resnet(name):
    state, model = resnet50().state_dict(), models.find(name)().build(clip_of(name, crop=64), 400)
    before = model.head.weight.clone()
    assert load_foreign(model, state)[1] == "left in the file: fc.weight, fc.bias"
    own = model.state_dict()
    taken = [key for key in state if not key.startswith("fc.")]
    assert all(torch.equal(own[key], state[key]) for key in taken)
    assert torch.equal(model.head.weight, before)
    assert all(any(part in key for part in ("head.", *BESIDE_RESNET[name])) for key in own.keys() - set(taken))


@every
@pytest.mark.parametrize("changes", [{"T": 16}, {"crop": 64}], ids=["T16", "crop64"])
def test_weights_move_to_another_clip(name, changes):
    clip = clip_of(name, **changes)
    old, new = built(name), built(name, clip)
    changes = load_weights(new, old.state_dict())
    own = new.state_dict()
    moved = [n for n, t in old.state_dict().items() if t.shape != own[n].shape]
    assert len(changes) == len(moved)
    assert set(moved) <= set(new.positions)
    assert all(torch.equal(own[n], t) for n, t in old.state_dict().items() if n not in moved)
    assert new.eval()(noise(clip)).isfinite().all()


@every
def test_a_new_classifier_and_nothing_else_is_drawn_anew(name):
    old, new = built(name), built(name, classes=5)
    with pytest.raises(ValueError, match="new_classifier=true"):
        load_weights(new, old.state_dict())
    drawn = {n: t.clone() for n, t in new.state_dict().items() if in_module(n, new.classifier)}
    assert {tuple(t.shape)[:1] for t in drawn.values()} == {(5,)}
    load_weights(new, old.state_dict(), new_classifier=True)
    for n, t in new.state_dict().items():
        assert torch.equal(t, drawn[n] if n in drawn else old.state_dict()[n])


@every
def test_what_a_model_names_is_there(name):
    model = built(name)
    parameters_ = dict(model.named_parameters())
    assert all(any(named(n, [name]) for n in parameters_) for name in model.no_decay)
    assert set(model.positions) <= set(parameters_)
    for part in model.lr_scale:
        assert any(in_module(n, part) for n in parameters_)
    assert sum(in_module(n, model.classifier) for n in parameters_) == 2
    inside = {id(m) for m in model.modules()}
    assert all(id(unit) in inside for unit in model.units())


@every
def test_the_count(name):
    config, clip = config_of(name), clip_of(name)
    model = built(name)
    assert parameters(config, clip, CLASSES) == sum(p.numel() for p in model.parameters())
    # On numbers, and by products of matrices: the counter knows nothing of the CPU's own attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval().counted()(noise(clip, batch=1))
    assert gmacs(config, clip, CLASSES) == counter.get_total_flops() / 2e9
    rows = by_layer(config, clip, CLASSES)
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(gmacs(config, clip, CLASSES))
    assert sum(row.parameters for row in rows) == parameters(config, clip, CLASSES)
    clip = clip_of(name, T=16)
    assert gmacs(config, clip, CLASSES) > 0.005
    assert parameters(config, clip, CLASSES) < 2.5e6


# The slowest takes a minute: PyTorch's own bf16 convolutions are not made for a CPU.
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "tdn" else n for n in models.names()])
def test_a_step_in_bfloat16(name):
    model = built(name).train()
    # Without oneDNN, whose bf16 gradient of a (3, 1, 1) kernel over two frames is random memory (docs/log.md).
    with torch.backends.mkldnn.flags(enabled=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(noise(clip_of(name))), torch.tensor([0, 1]))
        loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


class Given(nn.Module):
    """Returns what it was given."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x):
        return self.result


@every
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_logits_are_not_rounded_in_bfloat16(name, training):
    """They are those of an fp32 classifier on the same features."""
    model, x, seen = settled(name).train(training), noise(clip_of(name)), []
    head = model.get_submodule(model.classifier).eval()  # some hold a dropout
    keep_out_of_autocast(head)
    head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].float(), output)))

    def logits():
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return model(x)

    found = logits()
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())
    ((features, output),) = seen
    expected = type(head).forward(head, features)
    assert torch.equal(output, expected)
    model.set_submodule(model.classifier, Given(expected))
    assert torch.equal(logits(), found)  # nothing behind it rounds, either


@every
def test_recomputed_units_change_nothing(name):
    plain = built(name, plain=True).double().train()
    if not list(plain.units()):
        return
    again = copy.deepcopy(plain)
    recompute_units(again)
    calls = []
    for unit in again.units():
        next(m for m in unit.modules() if not list(m.children())).register_forward_hook(lambda *_: calls.append(1))
    for model in (plain, again):
        model(noise(clip_of(name)).double()).square().sum().backward()
    assert len(calls) > len(list(again.units()))  # they did run twice
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(plain.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # running statistics saw the batch once


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@every
def test_a_pass_takes_no_values_from_python_and_gives_none(name):
    """Each would have a GPU waited for."""
    model, x = built(name).train(), noise(clip_of(name))
    with Operators() as seen:
        model(x).sum().backward()
    assert len(seen.names) > 10
    assert not seen.names & {"lift_fresh", "_local_scalar_dense", "nonzero"}


@pytest.mark.slow
@every
def test_a_few_steps_learn_eight_clips(name):
    torch.manual_seed(0)
    model = config_of(name).build(clip := clip_of(name), 2).train()
    x, y = noise(clip, batch=8), torch.arange(8) % 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("mvit", "depths", [1, 0, 1, 1]), *((name, *keys) for name in NOT_ALLOWED for keys in NOT_ALLOWED[name].items())],
)
def test_values_that_are_not_allowed(name, key, value):
    with pytest.raises(ValueError, match=f"^{key}=.*(allowed|does not divide)"):
        models.find(name)(**{key: value})


def test_a_name_that_no_model_has():
    with pytest.raises(ValueError, match=r"model=tms: allowed are .*stat.*tsm"):
        models.find("tms")
    with pytest.raises(ValueError, match="model=frames: its file has no Config"):  # a file without a Config
        models.find("frames")
