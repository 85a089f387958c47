"""What of a model is frozen, and the depth of its parts: by hooks, by BEiT's rule and by timm's."""

import re

import pytest
import torch
from test_every import TINY, clip_of, config_of
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from stat_video import models
from stat_video.config import Recipe
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.models.base import VideoModel
from stat_video.models.trained import depths, freeze, frozen_modules
from stat_video.models.weights import in_module
from stat_video.training.module import VideoModule
from stat_video.training.optim import lr_factors, lr_scale, make_optimizer

# Their parts lie beside each other: non-local blocks, a branch for motion.
NO_ORDER = ("i3d_nl", "msnet", "tdn")
TRANSFORMERS = ("mvit", "mvit_v2", "stat", "timesformer", "videomae", "vidtr", "vivit")


def built(name: str, **changes: object) -> VideoModel:
    torch.manual_seed(0)
    return config_of(name, **changes).build(clip_of(name), 7)


def factors_of(model: VideoModel, decay: float | None = 0.5, **keys: object) -> dict[str, float]:
    recipe = Recipe(layer_decay=decay, **keys)
    return lr_factors(model, recipe, lr_scale(model, recipe))


@pytest.mark.parametrize("name", [name for name in TINY if name not in NO_ORDER])
def test_layers_are_computed_in_the_order_of_their_depth(name: str) -> None:
    """Each after the one before it has ended; so what has no order of its own is not given one."""
    model, calls = built(name), []
    layers = list(model.layers())
    for n, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, n=n: calls.append(("begins", n)))
        layer.register_forward_hook(lambda *_, n=n: calls.append(("ends", n)))
    clip = clip_of(name)
    with torch.no_grad():
        model.eval()(torch.randn(1, 3, clip.T, clip.crop, clip.crop))
    assert calls == [(what, n) for n in range(len(layers)) for what in ("begins", "ends")]
    assert len(layers) > 3
    found = depths(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert {found[n] for n in found if in_module(n, model.classifier)} == {len(layers) + 1}
    assert next(iter(found.values())) == 0


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformers_depths_are_those_of_beit(name: str) -> None:
    """`get_num_layer_for_vit` of BEiT, MAE and VideoMAE, with the names of ours: 0 before the blocks, n + 1 after."""
    model = built(name)
    blocks = max(int(found[1]) for n in depths(model) if (found := re.search(r"blocks\.(\d+)\.", n))) + 1
    for parameter, depth in depths(model).items():
        if block := re.search(r"blocks\.(\d+)\.", parameter):
            assert depth == 1 + int(block[1]), parameter
        elif re.search(r"(^|\.)(norm|fc_norm|head|aggregation)(\.|$)", parameter):
            assert depth == blocks + 1, parameter
        else:  # the stem, positions, class tokens
            assert depth == 0, parameter


class OfTimm(VideoModel):
    """A ViT of timm with the names of its parts."""

    no_decay = ("cls_token", "pos_embed")

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = vit.cls_token, vit.pos_embed
        for name, child in vit.named_children():
            setattr(self, name, child)

    def units(self) -> nn.Sequential:
        return self.blocks


def test_learning_rates_are_those_of_timm() -> None:
    """But the last norm's, which timm gives that of the last block, and BEiT and ours that of the classifier."""
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=12, depth=5, num_heads=2, num_classes=3)
    theirs = {}
    for group in param_groups_layer_decay(vit, weight_decay=0.1, layer_decay=0.7, no_weight_decay_list=("pos_embed",)):
        theirs |= {id(parameter): group["lr_scale"] for parameter in group["params"]}
    model = OfTimm(vit)
    ours = factors_of(model, 0.7)
    assert ours["norm.weight"] == 1
    for name, parameter in model.named_parameters():
        if not in_module(name, "norm"):
            assert ours[name] == pytest.approx(theirs[id(parameter)]), name
    assert len({round(factor, 9) for factor in ours.values()}) == 7


@pytest.mark.parametrize("name", NO_ORDER)
def test_a_model_without_an_order_of_layers_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="has no order of layers: ") as caught:
        depths(built(name))
    assert "\n" not in str(caught.value)


def test_decay_by_layer_goes_with_other_factors() -> None:
    """TSM's own on its classifier, and the recipe's over them; of VideoMAE's own, which are by layer, none is left."""
    model = built("tsm")
    plain = factors_of(model, 0.5, model_lr_scale=False)
    both = factors_of(model, 0.5, lr_scale={"layer2": 0.1, "layer2.0.bn1": 3.0})
    assert plain["conv1.weight"] == 0.5**9
    assert plain["head.weight"] == 1
    for name, factor in both.items():
        more = {"head.weight": 5, "head.bias": 10}.get(name, 0.1 if in_module(name, "layer2") else 1)
        more = 3.0 if in_module(name, "layer2.0.bn1") else more
        assert factor == pytest.approx(more * plain[name]), name


def test_videomaes_own_decay_is_the_same_formula() -> None:
    model = built("videomae", layer_decay=0.6)
    assert factors_of(model, None) == pytest.approx(factors_of(model, 0.6))
    assert factors_of(model, 0.9) == pytest.approx(factors_of(built("videomae", layer_decay=0.9), None))
    assert set(factors_of(model, 1.0).values()) == {1.0}


# ---------------------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("name", models.names())
def test_a_frozen_backbone_is_all_but_the_classifier(name: str) -> None:
    model = built(name)
    freeze(model, ["backbone"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if in_module(n, model.classifier)}
    model.train()
    for module in frozen_modules(model):
        module.eval()
    classifying = set(model.get_submodule(model.classifier).modules())
    for name, module in model.named_modules():
        if name and next(module.parameters(recurse=False), None) is not None:
            assert module.training == (module in classifying), name
    beside = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.training]
    assert all(in_module(n, model.classifier) or n.count(".") == model.classifier.count(".") for n in beside)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["stm"], r"recipe\.freeze=\[stm\]: 'stm' must be a module or parameter of the model, such as stem"),
        (["blocks.9"], r"'blocks\.9' must be .* such as blocks\."),
        (["backbon"], "such as backbone"),
        (["zzz"], "such as backbone, class_token, pos_spatial"),
        (["backbone", "head"], r"recipe\.freeze=\[backbone,head\]: leaves nothing to train"),
        (["head_dropout"], "'head_dropout' must be"),  # has no parameters
    ],
)
def test_what_can_not_be_frozen_is_one_line(names: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        freeze(built("stat"), names)
    assert "\n" not in str(caught.value)


DROPPING = {"mvit": {"stochastic_depth": 0.5}, "stat": {"stochastic_depth": 0.5}}


@pytest.mark.parametrize("name", ["stat", "mvit", "slowfast", "swin3d", "tsm", "x3d"])
def test_a_step_changes_the_classifier_alone(name: str) -> None:
    """And what it reads is computed as in a test: no dropout, no statistics of the batch."""
    torch.manual_seed(0)
    clip = clip_of(name)
    model = config_of(name, **DROPPING.get(name, {})).build(clip, 7)
    recipe = Recipe(freeze=["backbone"], weight_decay=0.5, lr=0.1, lr_batch=512)
    freeze(model, recipe.freeze)
    module = VideoModule(model, recipe, Normalize([0.5], [0.5]), [str(i) for i in range(7)], Views(1, 1))
    before, seen = {k: v.clone() for k, v in model.state_dict().items()}, list[Tensor]()
    list(model.units())[-1].register_forward_hook(lambda _, x, y: seen.append(y[0] if isinstance(y, tuple) else y))
    optimizer = make_optimizer(model, recipe)
    module.train()
    clips = torch.randn(2, 3, clip.T, clip.crop, clip.crop)
    for _ in range(2):
        model(clips).square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if in_module(n, model.classifier)}
    assert torch.equal(seen[0], seen[1])
    model.eval()(clips)
    torch.testing.assert_close(seen[0], seen[2])
    assert all(p.grad is None for n, p in model.named_parameters() if n not in changed)
