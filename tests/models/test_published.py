"""Published weight files of each form: golden logits from files with the published names, made here without `renames`.

Each form's names are written down below as a walk over the network's structure, after the code that wrote such files.
"""

from collections.abc import Callable
from functools import lru_cache

import pytest
import timm.models.vision_transformer as timm_vit
import torch
import torchvision
from torch import Tensor, nn

from golden.fill import fill
from models.test_blvnet import theirs_of
from models.test_every import of_authors
from models.test_golden import GOLDENS, SYSTEMS, noise
from stat_video import models
from stat_video.models.base import Clip
from stat_video.models.weights import load_foreign

File = dict[str, Tensor]
CAFFE2_PARTS = {"weight": "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def of(name: str, module: nn.Module) -> File:
    return {f"{name}.{part}": tensor for part, tensor in module.state_dict().items()}


# PySlowFast's `.pyth`: modules by the stage, the pathway and the block that they stand in.
def pathway(model: nn.Module, s: int, p: int, stage: nn.Module) -> File:
    if s == 1:
        return of(f"s1.pathway{p}_stem.conv", stage.conv) | of(f"s1.pathway{p}_stem.bn", stage.norm)
    file: File = {}
    for r, block in enumerate(stage.res_blocks):
        name, branch = f"s{s}.pathway{p}_res{r}", block.branch2
        if block.branch1_conv is not None:
            file |= of(f"{name}.branch1", block.branch1_conv)
        if block.branch1_norm is not None:
            file |= of(f"{name}.branch1_bn", block.branch1_norm)
        for x in "abc":
            norm = getattr(branch, f"norm_{x}")
            file |= of(f"{name}.branch2.{x}", getattr(branch, f"conv_{x}"))
            if isinstance(norm, nn.Sequential):  # of X3D, where a squeeze and excitation may follow
                file |= of(f"{name}.branch2.{x}_bn", norm[0])
                if not isinstance(norm[1], nn.Identity):
                    file |= of(f"{name}.branch2.se.fc1", norm[1].block[0])
                    file |= of(f"{name}.branch2.se.fc2", norm[1].block[2])
            else:
                file |= of(f"{name}.branch2.{x}_bn", norm)
    return file


def slowfast(model: nn.Module) -> File:
    file = of("head.projection", model.blocks[6].proj)
    for s in range(1, 6):
        for p, stage in enumerate(model.blocks[s - 1].multipathway_blocks):
            file |= pathway(model, s, p, stage)
        if s < 5:
            fusion = model.blocks[s - 1].multipathway_fusion
            file |= of(f"s{s}_fuse.conv_f2s", fusion.conv_fast_to_slow) | of(f"s{s}_fuse.bn", fusion.norm)
    return file


def i3d(model: nn.Module) -> File:
    stem, res2, _, res3, res4, res5, head = model.blocks
    file = of("head.projection", head.proj)
    for s, stage in enumerate((stem, res2, res3, res4, res5), start=1):
        file |= pathway(model, s, 0, stage)
    for place, block in model.nonlocal_blocks.items():
        stage, after = place.split("_")
        for part in ("conv_theta", "conv_phi", "conv_g", "conv_out"):
            file |= of(f"s{stage}.pathway0_nonlocal{after}.{part}", getattr(block, part))
        file |= of(f"s{stage}.pathway0_nonlocal{after}.bn", block.norm)
    return file


def x3d(model: nn.Module) -> File:
    head, stem = model.blocks[5], model.blocks[0]
    file = of("s1.pathway0_stem.conv_xy", stem.conv.conv_t) | of("s1.pathway0_stem.conv", stem.conv.conv_xy)
    file |= of("s1.pathway0_stem.bn", stem.norm)
    for s in range(2, 6):
        file |= pathway(model, s, 0, model.blocks[s - 1])
    file |= of("head.conv_5", head.pool.pre_conv) | of("head.conv_5_bn", head.pool.pre_norm)
    file |= of("head.lin_5", head.pool.post_conv) | of("head.projection", head.proj)
    if "s2.pathway0_res0.branch1_bn.weight" not in file:  # a norm that changes nothing
        norm = nn.BatchNorm3d(len(file["s2.pathway0_res0.branch1.weight"])).double()
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data = (norm.running_var + norm.eps).sqrt()
        norm.bias.data = norm.running_mean.normal_().clone()
        file |= of("s2.pathway0_res0.branch1_bn", norm)
    return file


def mvit(model: nn.Module) -> File:
    at = model.pos_encoding
    file = of("patch_embed.proj", model.conv_proj) | of("norm", model.norm) | of("head.projection", model.head[1])
    file |= {"cls_token": at.class_token[None, None], "pos_embed_class": at.class_pos[None, None]}
    file |= {"pos_embed_spatial": at.spatial_pos[None], "pos_embed_temporal": at.temporal_pos[None]}
    for i, block in enumerate(model.blocks):
        name, attn = f"blocks.{i}", block.attn
        file |= of(f"{name}.norm1", block.norm1) | of(f"{name}.norm2", block.norm2)
        file |= of(f"{name}.attn.qkv", attn.qkv) | of(f"{name}.attn.proj", attn.project[0])
        for x, pool in (("q", attn.pool_q), ("k", attn.pool_k), ("v", attn.pool_v)):
            if pool is not None:
                file |= of(f"{name}.attn.pool_{x}", pool.pool) | of(f"{name}.attn.norm_{x}", pool.norm_act[0])
        file |= of(f"{name}.mlp.fc1", block.mlp[0]) | of(f"{name}.mlp.fc2", block.mlp[3])
        if block.project is not None:
            file |= of(f"{name}.proj", block.project)
    return file


def mvit_of_hub(model: nn.Module) -> File:
    """PyTorchVideo's: PySlowFast's names, but for those around the blocks, and queries, keys and values apart."""
    file: File = {}
    for name, tensor in mvit(model).items():
        if name.startswith(("cls_token", "pos_embed")):
            name = f"cls_positional_encoding.{name}"
        if ".attn.qkv." in name:
            rows = zip("qkv", tensor.chunk(3), strict=True)
            file |= {name.replace(".qkv.", f".{x}."): part for x, part in rows}
            continue
        for theirs, hub in (
            ("patch_embed.proj.", "patch_embed.patch_model."),
            ("head.projection.", "head.proj."),
            ("norm.", "norm_embed."),
        ):
            if name.startswith(theirs):
                name = name.replace(theirs, hub)
        file[name] = tensor
    return file


def caffe2(pyslowfast: Callable[[nn.Module], File]) -> Callable[[nn.Module], File]:
    """The blobs of PySlowFast's zoo, which its conversion reads, with what the solver keeps beside each."""

    def blobs(model: nn.Module) -> File:
        file: File = {"lr": torch.tensor(0.1), "model_iter": torch.tensor(7)}
        last = {1: "pool1"}  # block of the fast pathway behind which a stage ends
        state = pyslowfast(model)
        for name in state:
            if "pathway1_res" in name:
                s, r = int(name[1]), int(name.split("_res")[1].split(".")[0])
                last[s] = f"res{s}_{r}_branch2c_bn"
        for name, tensor in state.items():
            *where, layer, part = name.split(".")
            if part == "num_batches_tracked":
                continue
            t, norm = "t_" if "pathway1" in name else "", layer.endswith("bn")
            blob = "s" if norm and part == "weight" else CAFFE2_PARTS[part]
            if where == ["head"]:
                key = "pred"
            elif "_stem" in where[-1]:
                key = f"{t}res_conv1_bn" if norm else f"{t}conv1"
            elif where[0].endswith("_fuse"):
                key = f"t_{last[int(name[1])]}_subsample" + ("_bn" if norm else "")
            elif "_nonlocal" in where[-1]:
                key = f"nonlocal_conv{name[1]}_{where[-1].split('_nonlocal')[1]}_{layer.removeprefix('conv_')}"
            else:
                r = where[1].split("_res")[1]
                branch = f"branch2{layer[0]}" if where[-1] == "branch2" else "branch1"
                key = f"{t}res{name[1]}_{r}_{branch}" + ("_bn" if norm else "")
            file[f"{key}_{blob}"] = tensor
            if part in ("weight", "bias"):
                file[f"{key}_{blob}_momentum"] = torch.zeros_like(tensor)
        return file

    return blobs


def csn(model: nn.Module) -> File:
    """VMZ's: torchvision's video ResNet."""
    stem, *stages, head = model.blocks
    file = of("stem.0", stem.conv) | of("stem.1", stem.norm) | of("fc", head.proj)
    for s, stage in enumerate(stages, start=1):
        for r, block in enumerate(stage.res_blocks):
            name, branch = f"layer{s}.{r}", block.branch2
            for i, x in enumerate("abc", start=1):
                file |= of(f"{name}.conv{i}.0", getattr(branch, f"conv_{x}"))
                file |= of(f"{name}.conv{i}.1", getattr(branch, f"norm_{x}"))
            if block.branch1_conv is not None:
                file |= of(f"{name}.downsample.0", block.branch1_conv) | of(f"{name}.downsample.1", block.branch1_norm)
    return file


def csn_of_caffe2(model: nn.Module) -> File:
    """VMZ's blobs: blocks are numbered through all stages, convolutions by the builder's count within a block."""
    stem, *stages, head = model.blocks
    file = {"conv1_w": stem.conv.weight, "last_out_L10_w": head.proj.weight, "last_out_L10_b": head.proj.bias}
    file |= bn("conv1_spatbn_relu", stem.norm)
    for n, block in enumerate(block for stage in stages for block in stage.res_blocks):
        branch, comp = block.branch2, f"comp_{n}"
        file |= {f"{comp}_conv_1_w": branch.conv_a.weight} | bn(f"{comp}_spatbn_1", branch.norm_a)
        if isinstance(branch.conv_b, nn.Sequential):
            mixing, norm, depthwise = branch.conv_b
            file |= {f"{comp}_conv_2_middle_w": mixing.weight} | bn(f"{comp}_spatbn_2_middle", norm)
            second, third = 2, 3
        else:
            depthwise, second, third = branch.conv_b, 3, 4
        file |= {f"{comp}_conv_{second}_w": depthwise.weight} | bn(f"{comp}_spatbn_{second}", branch.norm_b)
        file |= {f"{comp}_conv_{third}_w": branch.conv_c.weight} | bn(f"{comp}_spatbn_{third}", branch.norm_c)
        if block.branch1_conv is not None:
            file[f"shortcut_projection_{n}_w"] = block.branch1_conv.weight
            file |= bn(f"shortcut_projection_{n}_spatbn", block.branch1_norm)
    return file | {f"{name}_momentum": torch.zeros_like(t) for name, t in file.items() if not name.endswith("r")}


def bn(name: str, norm: nn.Module) -> File:
    """A norm's blobs."""
    blobs = {"s": norm.weight, "b": norm.bias, "rm": norm.running_mean, "riv": norm.running_var}
    return {f"{name}_{blob}": t for blob, t in blobs.items()}


def vidtr(model: nn.Module) -> File:
    """The authors' (gluonmm)."""
    file = of("conv_stem", model.patches) | of("encoder.norm", model.norm) | of("fc", model.head)
    file |= {"cls_s": model.frame_class, "cls_t": model.place_class, "pos_embedding": model.position}
    for i, block in enumerate(model.blocks):
        name, attention = f"encoder.layers.{i}", block.attention
        file |= of(f"{name}.norm1", block.norm1) | of(f"{name}.norm2", block.norm2)
        file |= of(f"{name}.linear1", block.mlp.fc1) | of(f"{name}.linear2", block.mlp.fc2)
        file |= of(f"{name}.self_attn.out_proj", attention.proj)
        file |= {f"{name}.self_attn.in_proj_{part}": t for part, t in attention.qkv.state_dict().items()}
    return file


def timesformer(model: nn.Module) -> File:
    """The authors'."""
    file = of("model.patch_embed.proj", model.patch_embed) | of("model.norm", model.norm) | of("model.head", model.head)
    file |= {f"model.{name}": getattr(model, name) for name in ("cls_token", "pos_embed", "time_embed")}
    for i, block in enumerate(model.blocks):
        for part in ("norm1", "norm2", "temporal_norm1", "temporal_fc", "attn", "temporal_attn", "mlp"):
            file |= of(f"model.blocks.{i}.{part}", getattr(block, part))
    return file


def timesformer_of_hub(model: nn.Module) -> File:
    """transformers'."""
    base = "timesformer.embeddings"
    file = of(f"{base}.patch_embeddings.projection", model.patch_embed) | of("classifier", model.head)
    file |= {f"{base}.cls_token": model.cls_token, f"{base}.position_embeddings": model.pos_embed}
    file |= {f"{base}.time_embeddings": model.time_embed} | of("timesformer.layernorm", model.norm)
    for i, block in enumerate(model.blocks):
        name = f"timesformer.encoder.layer.{i}"
        for theirs, attention in (("attention", block.attn), ("temporal_attention", block.temporal_attn)):
            file |= of(f"{name}.{theirs}.attention.qkv", attention.qkv)
            file |= of(f"{name}.{theirs}.output.dense", attention.proj)
        file |= of(f"{name}.layernorm_before", block.norm1) | of(f"{name}.layernorm_after", block.norm2)
        file |= of(f"{name}.temporal_layernorm", block.temporal_norm1) | of(f"{name}.temporal_dense", block.temporal_fc)
        file |= of(f"{name}.intermediate.dense", block.mlp.fc1) | of(f"{name}.output.dense", block.mlp.fc2)
    return file


def vivit(model: nn.Module, newer: bool = False) -> File:
    """transformers', as its files have the names, or as its newer classes have them in memory."""
    at, encoder = "vivit.embeddings", model.encoder
    file = of(f"{at}.patch_embeddings.projection", model.patches) | of("classifier", model.head)
    file |= {f"{at}.cls_token": encoder.class_token, f"{at}.position_embeddings": encoder.position}
    file |= of("vivit.layernorm", encoder.norm)
    for i, block in enumerate(encoder.blocks):
        name, attention = f"vivit.layers.{i}" if newer else f"vivit.encoder.layer.{i}", block.attention
        file |= of(f"{name}.layernorm_before", block.norm1) | of(f"{name}.layernorm_after", block.norm2)
        for part in ("query", "key", "value"):
            theirs = f"{part[0]}_proj" if newer else f"attention.{part}"
            file |= of(f"{name}.attention.{theirs}", getattr(attention, part))
        file |= of(f"{name}.attention.{'o_proj' if newer else 'output.dense'}", attention.proj)
        file |= of(f"{name}.{'mlp.fc1' if newer else 'intermediate.dense'}", block.mlp.fc1)
        file |= of(f"{name}.{'mlp.fc2' if newer else 'output.dense'}", block.mlp.fc2)
    return file


FORMS: dict[str, tuple[str, Callable[[nn.Module], File]]] = {
    "tsm": ("tsm_r50", lambda model: of_authors("tsm", model)),
    "tea": ("tea", lambda model: of_authors("tea", model)),
    "tdn": ("tdn_r50_16f", lambda model: of_authors("tdn", model)),
    "msnet": ("msnet", lambda model: of_authors("msnet", model)),
    "blvnet": ("blvnet_r50", lambda model: theirs_of(model, False)),
    "smallbig": ("smallbig", lambda model: of_authors("smallbig", model)),
    "smallbig extra": ("smallbig_extra", lambda model: of_authors("smallbig", model)),
    "csn": ("ip_csn_152", csn),
    "csn Caffe2": ("ip_csn_152", csn_of_caffe2),
    "slowfast PySlowFast": ("slowfast_r50", slowfast),
    "slowfast Caffe2": ("slowfast_r50", caffe2(slowfast)),
    "slowfast R101 PySlowFast": ("slowfast_r101", slowfast),
    "slowfast R101 Caffe2": ("slowfast_r101", caffe2(slowfast)),
    "i3d_nl PySlowFast": ("nl_i3d_r50", i3d),
    "i3d_nl Caffe2": ("nl_i3d_r50", caffe2(i3d)),
    "i3d_nl R101 PySlowFast": ("nl_i3d_r101", i3d),
    "x3d M PySlowFast": ("x3d_m", x3d),
    "x3d XL PySlowFast": ("x3d_xl", x3d),
    "mvit PySlowFast": ("mvit", mvit),
    "mvit PyTorchVideo": ("mvit", mvit_of_hub),
    "vidtr": ("vidtr_8f", vidtr),
    "vidtr of 16 frames": ("vidtr_16f", vidtr),
    "timesformer": ("timesformer", timesformer),
    "timesformer transformers": ("timesformer", timesformer_of_hub),
    "vivit transformers": ("vivit_joint", vivit),
    "vivit transformers, newer": ("vivit_joint", lambda model: vivit(model, newer=True)),
}
SLOW = ("slowfast R101 PySlowFast", "slowfast R101 Caffe2", "i3d_nl R101 PySlowFast", "x3d XL PySlowFast",
        "smallbig extra")  # fmt: skip
every_form = pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FORMS]
)


def built(entry: str) -> nn.Module:
    name, keys, clip, _ = SYSTEMS[entry]
    return models.find(name)(**keys).build(Clip(**clip), GOLDENS["models"][entry]["classes"]).double().eval()


@lru_cache(maxsize=1)
def filled(entry: str) -> nn.Module:
    """The model with the golden weights."""
    golden, how = GOLDENS["models"][entry], SYSTEMS[entry][3]
    model = built(entry)
    fill(model, noise(*golden["input_shape"]), **how, gain=golden["gain"], conv_bias=golden["conv_bias"])
    return model


def miss(entry: str, model: nn.Module) -> float:
    """How far the logits are from the golden ones."""
    golden = GOLDENS["models"][entry]
    with torch.no_grad():
        logits = model(noise(*golden["input_shape"]))
    expected = torch.tensor(golden["logits"], dtype=torch.float64)
    return ((logits - expected).abs().max() / max(1, expected.abs().max())).item()


@every_form
def test_a_published_file_gives_the_golden_logits_and_one_wrong_name_does_not(form: str) -> None:
    """The wrong name, of a tensor in the middle of the network, comes first: it is refused or leaves what was drawn."""
    entry, names = FORMS[form]
    model, file = built(entry), {name: t.detach() for name, t in names(filled(entry)).items()}
    weights = [name for name, t in file.items() if t.dim() > 1 and "momentum" not in name]
    wrong = weights[len(weights) // 2]
    try:
        load_foreign(model, {f"x{name}" if name == wrong else name: t for name, t in file.items()})
    except ValueError:
        pass
    else:
        assert miss(entry, model) > 1e-6
    summary = load_foreign(model, file)
    own = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    assert int(summary[0].split()[0]) >= len(own)
    assert not any(line.startswith(("left", "drawn")) for line in summary), summary
    assert miss(entry, model) <= 1e-9


def test_the_norm_that_x3d_has_once_more_is_folded() -> None:
    """PyTorchVideo's own block with that norm, which it has where the widths differ, gives the same logits."""
    entry = "x3d_m"
    source, model = built(entry), built(entry)
    norm = source.blocks[1].res_blocks[0].branch1_norm = nn.BatchNorm3d(24).double().eval()
    torch.manual_seed(0)
    for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(t, 0.5, 1.5)
    x = noise(*GOLDENS["models"][entry]["input_shape"])
    with torch.no_grad():
        expected = source(x)
        load_foreign(model, x3d(source))
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
        source.blocks[1].res_blocks[0].branch1_norm = None
        assert (source(x) - expected).abs().max() > 1e-3


def test_an_ir_csn_of_caffe2() -> None:
    """Whose builder counts each depthwise convolution twice."""
    source, model = (tiny("csn", {"width": 16, "depth": 50, "interaction": "ir"}).eval() for _ in range(2))
    load_foreign(model, {name: t.detach() for name, t in csn_of_caffe2(source).items()})
    x = noise(1, 3, 8, 64, 64).float()
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


def test_an_image_network_of_pyslowfast_is_inflated() -> None:
    """Whose convolutions have no axis of time; the network of the row, with strides in time, starts from it."""
    source, model = (tiny("i3d_nl", NARROW) for _ in range(2))
    file = {name: t.sum(2) if t.dim() == 5 else t for name, t in i3d(source).items() if "nonlocal" not in name}
    load_foreign(model, {name: t.detach() for name, t in file.items()})
    stem = file["s1.pathway0_stem.conv.weight"][:, :, None].expand(-1, -1, 5, -1, -1) / 5
    assert torch.equal(model.blocks[0].conv.weight, stem)
    block = file["s4.pathway0_res0.branch2.a.weight"][:, :, None].expand(-1, -1, 3, -1, -1) / 3
    assert torch.equal(model.blocks[4].res_blocks[0].branch2.conv_a.weight, block)


# An image ViT of each form: 3 blocks of 48 channels, patches of 16 pixels in images of 64, 21 classes.
WIDTH, PLACES = 48, 16


def timms() -> File:
    torch.manual_seed(0)
    network = timm_vit.VisionTransformer(img_size=64, embed_dim=WIDTH, depth=3, num_heads=4, num_classes=21)
    return {name: torch.randn_like(t) for name, t in network.state_dict().items()}


def torchvisions(image: File) -> File:
    theirs = torchvision.models.VisionTransformer(64, 16, 3, 4, WIDTH, 4 * WIDTH, num_classes=21).state_dict()
    names = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    for part in ("weight", "bias"):
        names |= {f"conv_proj.{part}": f"patch_embed.proj.{part}", f"encoder.ln.{part}": f"norm.{part}"}
        names[f"heads.head.{part}"] = f"head.{part}"
        for i in range(3):
            layer, block = f"encoder.layers.encoder_layer_{i}", f"blocks.{i}"
            names[f"{layer}.self_attention.in_proj_{part}"] = f"{block}.attn.qkv.{part}"
            names[f"{layer}.self_attention.out_proj.{part}"] = f"{block}.attn.proj.{part}"
            for theirs_, timm_ in (("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.0", "mlp.fc1"), ("mlp.3", "mlp.fc2")):
                names[f"{layer}.{theirs_}.{part}"] = f"{block}.{timm_}.{part}"
    assert names.keys() == theirs.keys()
    return {name: image[timm_] for name, timm_ in names.items()}


def transformers(image: File, *, newer: bool = False, classifier: bool = False) -> File:
    """ViTForImageClassification's or ViTModel's; its test against the library is of the `bench` extra."""
    base = "vit." if classifier else ""
    names = {"cls_token": f"{base}embeddings.cls_token", "pos_embed": f"{base}embeddings.position_embeddings"}
    names |= {"patch_embed.proj": f"{base}embeddings.patch_embeddings.projection", "norm": f"{base}layernorm"}
    file = {}
    for name, tensor in image.items():
        module, _, part = name.rpartition(".")
        if name in names:
            file[names[name]] = tensor
        elif module in names:
            file[f"{names[module]}.{part}"] = tensor
        elif module == "head":
            file[f"{'classifier' if classifier else 'pooler.dense'}.{part}"] = tensor if classifier else tensor[:1]
        else:
            _, i, *inner = module.split(".")
            layer, at = f"{base}layers.{i}" if newer else f"{base}encoder.layer.{i}", ".".join(inner)
            if at == "attn.qkv":
                for x, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    file[f"{layer}.attention.{f'{x[0]}_proj' if newer else f'attention.{x}'}.{part}"] = rows
                continue
            old = {"attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
            new = {"attn.proj": "attention.o_proj"}
            norms = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
            file[f"{layer}.{(norms | (new if newer else old)).get(at, at)}.{part}"] = tensor
    return file


IMAGES: dict[str, Callable[[File], File]] = {
    "timm": lambda image: image,
    "torchvision": torchvisions,
    "transformers ViTModel": transformers,
    "transformers ViTForImageClassification": lambda image: transformers(image, classifier=True),
    "transformers, newer": lambda image: transformers(image, newer=True, classifier=True),
}
of_images = pytest.mark.parametrize("form", IMAGES)
VIT = {"width": WIDTH, "depth": 3, "heads": 4}


def of_a_vit(own: File, image: File, blocks: str, attention: str) -> None:
    """Check norms, attention's projection and MLPs, which go over as they are, and queries, keys and values."""
    for i in range(3):
        ours, theirs = f"{blocks}.{i}", f"blocks.{i}"
        for part in ("weight", "bias"):
            for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                assert torch.equal(own[f"{ours}.{layer}.{part}"], image[f"{theirs}.{layer}.{part}"])
            assert torch.equal(own[f"{ours}.{attention}.proj.{part}"], image[f"{theirs}.attn.proj.{part}"])
            qkv = image[f"{theirs}.attn.qkv.{part}"]
            if f"{ours}.{attention}.query.{part}" in own:
                rows = [own[f"{ours}.{attention}.{x}.{part}"] for x in ("query", "key", "value")]
                assert torch.equal(torch.cat(rows), qkv)
            else:
                assert torch.equal(own[f"{ours}.{attention}.qkv.{part}"], qkv)


@of_images
@pytest.mark.parametrize("temporal_depth", [0, 2])
def test_vivit_from_an_image(form: str, temporal_depth: int) -> None:
    """Section 3.4: the central frame of a tubelet of zeros, positions of a frame for each; the classifier is new."""
    image = timms()
    model = models.find("vivit")(**VIT, temporal_depth=temporal_depth).build(Clip(T=8, crop=64), 21)
    summary = load_foreign(model, IMAGES[form](image))
    own = model.state_dict()
    assert torch.equal(own["patches.weight"][:, :, 1], image["patch_embed.proj.weight"])
    assert not own["patches.weight"][:, :, 0].any()
    assert torch.equal(own["encoder.class_token"], image["cls_token"])
    first, grid = image["pos_embed"][:, :1], image["pos_embed"][:, 1:]
    expected = torch.cat([first] + [grid] * (1 if temporal_depth else 4), 1)
    assert torch.equal(own["encoder.position"], expected)
    assert torch.equal(own["encoder.norm.bias"], image["norm.bias"])
    of_a_vit(own, image, "encoder.blocks", "attention")
    assert not own["head.weight"].any()
    (drawn,) = (line.removeprefix("drawn anew: ") for line in summary if line.startswith("drawn anew: "))
    assert drawn.split(", ")[0] == ("time_encoder.class_token" if temporal_depth else "head.weight")


@of_images
def test_vidtr_from_an_image(form: str) -> None:
    """As the authors' inflate_model: copies of the class token, positions of a frame for all and for the tokens."""
    image = timms()
    model = models.find("vidtr")(**VIT).build(Clip(T=4, crop=64), 21)
    before = model.head.weight.clone()
    load_foreign(model, IMAGES[form](image))
    own = model.state_dict()
    assert torch.equal(own["patches.weight"][:, :, 0], image["patch_embed.proj.weight"])
    assert all(torch.equal(token, image["cls_token"][0, 0]) for token in own["frame_class"][:, 0])
    assert all(torch.equal(token, image["cls_token"][0, 0]) for token in own["place_class"][0])
    assert all(torch.equal(p, image["pos_embed"][0]) for p in own["position"].view(1 + 4, 1 + PLACES, WIDTH))
    of_a_vit(own, image, "blocks", "attention")
    assert torch.equal(own["head.weight"], before)


def test_vidtr_from_the_authors_vit() -> None:
    """`vit_inflate.pth`, whose patches have an axis of time already, with `cls` and without classifier or with `fc`."""
    image, model = timms(), models.find("vidtr")(**VIT).build(Clip(T=4, crop=64), 5)
    file = {"cls": image["cls_token"], "pos_embedding": image["pos_embed"], "encoder.norm.bias": image["norm.bias"]}
    file |= {"conv_stem.weight": image["patch_embed.proj.weight"][:, :, None], "fc.weight": image["head.weight"]}
    file |= {"conv_stem.bias": image["patch_embed.proj.bias"], "encoder.norm.weight": image["norm.weight"]}
    for i in range(3):
        for part in ("weight", "bias"):
            at = f"encoder.layers.{i}"
            file[f"{at}.self_attn.in_proj_{part}"] = image[f"blocks.{i}.attn.qkv.{part}"]
            for theirs, timm_ in (
                ("self_attn.out_proj", "attn.proj"),
                ("linear1", "mlp.fc1"),
                ("linear2", "mlp.fc2"),
                ("norm1", "norm1"),
                ("norm2", "norm2"),
            ):
                file[f"{at}.{theirs}.{part}"] = image[f"blocks.{i}.{timm_}.{part}"]
    load_foreign(model, file)
    own = model.state_dict()
    assert all(
        torch.equal(token, image["cls_token"][0, 0]) for token in [*own["frame_class"][:, 0], *own["place_class"][0]]
    )
    assert torch.equal(own["position"], image["pos_embed"].repeat(1, 5, 1))
    of_a_vit(own, image, "blocks", "attention")


@of_images
def test_timesformer_from_an_image(form: str) -> None:
    """Attention over time, and the norm before it, are copies of those over space."""
    image = timms()
    model = models.find("timesformer")(**VIT).build(Clip(T=4, crop=64), 21)
    load_foreign(model, IMAGES[form](image))
    own = model.state_dict()
    for name in ("cls_token", "pos_embed"):
        assert torch.equal(own[name], image[name])
    assert torch.equal(own["patch_embed.weight"], image["patch_embed.proj.weight"])
    of_a_vit(own, image, "blocks", "attn")
    for i in range(3):
        for layer in ("attn.qkv", "attn.proj", "norm1"):
            assert torch.equal(own[f"blocks.{i}.temporal_{layer}.weight"], image[f"blocks.{i}.{layer}.weight"])
        assert not own[f"blocks.{i}.temporal_fc.weight"].any()


@pytest.mark.parametrize("name", ["vivit", "vidtr", "timesformer"])
def test_an_image_of_another_size(name: str) -> None:
    """Its positions are interpolated to the crop's grid first, even where a clip could have as many."""
    image = timms()
    image["pos_embed"] = torch.cat([torch.full((1, 1, WIDTH), 7.0), torch.full((1, 36, WIDTH), 3.0)], 1)
    model = models.find(name)(**VIT).build(Clip(T=8, crop=64), 5)
    load_foreign(model, image)
    position = model.get_parameter({"vivit": "encoder.position", "timesformer": "pos_embed"}.get(name, "position"))
    assert position[0, 0, 0] == 7
    torch.testing.assert_close(position[0, 1 : 1 + PLACES], torch.full((PLACES, WIDTH), 3.0))


def tiny(name: str, keys: dict[str, object], T: int = 8) -> nn.Module:
    clip = {"T": 10, "sampling": "snippets"} if name == "tdn" else {"T": T}
    return models.find(name)(**keys).build(Clip(crop=64, **clip), 5)


def of_hub(model: nn.Module) -> File:
    """Names as the model has them: those of torchvision, of PyTorchVideo or of timm."""
    return dict(model.state_dict())


def wide_pools(model: nn.Module) -> File:
    """An MViT whose pools have kernels of 1 x 9 x 9."""
    return {
        n: t.new_zeros(*t.shape[:2], 1, 9, 9) if ".pool_" in n and t.dim() == 5 else t for n, t in mvit(model).items()
    }


def with_nonlocal(model: nn.Module) -> File:
    return slowfast(model) | {"s3.pathway0_nonlocal1.conv_theta.weight": torch.zeros(64, 128, 1, 1, 1)}


def nonlocal_tsm(model: nn.Module) -> File:
    return of_hub(model) | {"module.base_model.layer2.0.nl.g.weight": torch.zeros(8, 16, 1, 1, 1)}


def with_scales(model: nn.Module) -> File:
    image = timms()
    return image | {f"blocks.{i}.ls1.gamma": torch.ones(WIDTH) for i in range(3)}


def of_large_patches(model: nn.Module) -> File:
    return timms() | {"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 32, 32)}


def long_tubelets(model: nn.Module) -> File:
    file = vivit(model)
    name = "vivit.embeddings.patch_embeddings.projection.weight"
    return file | {name: file[name].repeat(1, 1, 2, 1, 1)}


def of_the_compact(model: nn.Module) -> File:
    file = vidtr(model)
    return file | {"cls": file.pop("cls_t")[:, :1], "encoder.layers.0.self_attn.linear_temporal_bias": torch.zeros(3)}


NARROW = {"width": 16}
SLIM = {"width": 24}
# The model, its keys, those of the network that the file is of, its form; what is said.
OTHERS = [
    ("tsm", NARROW, {"depth": 101}, of_hub, "layer3: 23 blocks in the file, 6 here; the file is of model.depth=101"),
    ("tsm", NARROW | {"depth": 101}, {"depth": 50}, of_hub, "layer3: 6 blocks in the file, 23 here; .* model.depth=50"),
    ("tsm", NARROW, {}, nonlocal_tsm, "another network: layer2.0.nl.g.weight, a non-local block"),
    ("tea", NARROW, {"depth": 101}, of_hub, "layer3: 23 blocks in the file, 6 here; the file is of model.depth=101"),
    ("tdn", NARROW | {"depth": 101}, {"depth": 50}, of_hub, "layer3: 6 blocks .* the file is of model.depth=50"),
    ("stm", NARROW, {"depth": 101}, of_hub, "layer3: 23 blocks in the file, 6 here; the file is of model.depth=101"),
    ("msnet", NARROW, {"depth": 101}, of_hub, "layer3: 23 blocks in the file, 6 here; the file is of model.depth=101"),
    ("blvnet", NARROW, {"depth": 101}, of_hub, "layer1.big: 3 blocks in the file, 2 here .* model.depth=101"),
    ("smallbig", NARROW, {"extra": True}, of_hub, "another network: layer2.0.extra.*, a block of model.extra=true"),
    ("smallbig", NARROW, {"depth": 101}, of_hub, "layer3: 23 blocks .* is of model.depth=101$"),
    ("csn", NARROW | {"depth": 50}, {"depth": 101}, csn, "blocks.3.res_blocks: 23 .* model.depth=101$"),
    ("csn", NARROW | {"depth": 50}, {"interaction": "ir"}, csn,
     r"conv_b.weight in the file, .*conv_b.0.weight here .* model.interaction=ir$"),
    ("csn", NARROW | {"depth": 50}, {"interaction": "ir"}, csn_of_caffe2, "conv_b.weight .* model.interaction=ir$"),
    ("csn", NARROW | {"depth": 50}, {"depth": 101}, csn_of_caffe2, "33 residual blocks in the file, 16 here"),
    ("slowfast", NARROW, {"depth": 101}, slowfast, r"blocks.3.multipathway_blocks.0.res_blocks: 23 .* model.depth=101"),
    ("slowfast", NARROW, {"lateral": 5}, slowfast,
     r"blocks.0.multipathway_fusion.conv_fast_to_slow.weight \(4, 2, 5, 1, 1\), here \(4, 2, 7, 1, 1\) and .* "
     "the file is of model.alpha=8 model.lateral=5$"),
    ("slowfast", NARROW, {"lateral": 5}, caffe2(slowfast), "the file is of model.alpha=8 model.lateral=5$"),
    ("slowfast", NARROW, {}, with_nonlocal, "another network: s3.pathway0_nonlocal1.conv_theta.weight, a non-"),
    ("i3d_nl", NARROW, {"time_stride": 1}, i3d, "another network: .* this one has 2; .* model.time_stride=1"),
    ("i3d_nl", NARROW, {"time_stride": 1}, caffe2(i3d), "another network: PySlowFast's .* model.time_stride=1"),
    ("i3d_nl", NARROW | {"time_stride": 1}, {"depth": 101, "res4_temporal": "all"}, i3d,
     "blocks.4.res_blocks: 23 blocks in the file, 6 here; the file is of model.depth=101 model.res4_temporal=all"),
    ("x3d", {}, {"width_factor": 2.0, "depth_factor": 2.2}, x3d,
     "blocks.1.res_blocks: 3 blocks .* 5 here .* model.width_factor=2.0 model.depth_factor=2.2"),
    ("x3d", {"width_factor": 2.0}, {"width_factor": 2.9}, of_hub, r"here .* model.width_factor=2.9$"),
    ("mvit", SLIM, {"depths": [2, 3, 16, 3]}, mvit, "do not fit: blocks: 24 blocks in the file, 16 here"),
    ("mvit", SLIM, {}, wide_pools, r"pool_k.pool.weight \(24, 1, 1, 9, 9\), here \(24, 1, 3, 3, 3\) and 3[0-9] more"),
    ("mvit", SLIM, {}, lambda model: mvit(model) | {"pos_embed": torch.zeros(1, 9, 24)}, "pos_embed, positions of"),
    ("vivit", VIT, {"depth": 4}, vivit, "encoder.blocks: 4 blocks in the file, 3 here"),
    ("vivit", VIT, {"width": 96}, vivit, r"patches.weight \(96, 3, 2, 16, 16\), here \(48, 3, 2, 16, 16\)"),
    ("vivit", VIT, {}, long_tubelets, "another network: patches.weight is of tubelets of 4 frames, here 2"),
    ("vivit", VIT, {}, with_scales, "another network: encoder.blocks.0.ls1.gamma, a scale of a branch"),
    ("timesformer", VIT, {}, with_scales, "another network: blocks.0.ls1.gamma, a scale of a branch"),
    ("timesformer", VIT, {"depth": 4}, timesformer, "blocks: 4 blocks in the file, 3 here"),
    ("vidtr", VIT, {}, of_large_patches, "another network: patches.weight is of patches of 32 x 32 pixels"),
    ("vidtr", VIT, {}, of_the_compact, "another network: one class token and positions of a whole clip"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keys", "theirs", "form", "message"), OTHERS)
def test_another_network_is_refused(
    name: str, keys: dict[str, object], theirs: dict[str, object], form: Callable[[nn.Module], File], message: str
) -> None:
    with torch.device("meta"):  # names and shapes tell
        file, model = form(tiny(name, keys | theirs)), tiny(name, keys)
    with pytest.raises(ValueError, match=message) as error:
        load_foreign(model, file)
    assert "\n" not in str(error.value)


def test_the_keys_of_a_vit_are_told() -> None:
    """ViT-B's file in ViT-L: the heads, too, which no shape has."""
    config, clip = models.find("vivit"), Clip(T=4, crop=32)
    with torch.device("meta"):
        large, base = config().build(clip, 5), config(width=768, depth=12, heads=12).build(clip, 5)
    with pytest.raises(ValueError, match=r"12 blocks .* model.depth=12 model.width=768 model.heads=12$"):
        load_foreign(large, vivit(base))


# Forms whose tensors `adapt` puts into other shapes.
SHAPED = [
    ("blvnet", NARROW, lambda model: theirs_of(model, False)),
    ("csn", NARROW | {"depth": 50}, csn_of_caffe2),
    ("i3d_nl", NARROW | {"time_stride": 1}, i3d),
    ("mvit", {"depths": [1, 1, 1, 1], "width": 24}, mvit_of_hub),
    ("tdn", {"width": 16, "depth": 17}, of_hub),
    ("timesformer", VIT, lambda model: transformers(timms())),
    ("tsm", {"width": 16, "depth": 18}, lambda model: {n.replace("head", "fc"): t for n, t in of_hub(model).items()}),
    ("vidtr", VIT, lambda model: timms()),
    ("vivit", VIT, lambda model: timms()),
    ("x3d", {"width_factor": 0.7, "depth_factor": 1.0}, x3d),
]


@pytest.mark.parametrize(("name", "keys", "form"), SHAPED)
def test_tensors_of_no_sense_end_in_a_line(
    name: str, keys: dict[str, object], form: Callable[[nn.Module], File]
) -> None:
    with torch.device("meta"):
        model = tiny(name, keys)
        names = list(form(model))
    for shape in ((), (3, 5)):
        with pytest.raises(ValueError, match=r"^.+$") as error:
            load_foreign(model, {name: torch.zeros(shape) for name in names})
        assert "\n" not in str(error.value)
