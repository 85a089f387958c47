"""What weight files of other projects have in common, and whether such a file is of the network that it is loaded into.

Names go one to one by a table of a form's names (`VideoModel.renames`). Here is the rest: axes of length 1, and the
comparison of blocks, shapes and parts that tells another network from this one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

Renames = tuple[tuple[str, str], ...]  # (pattern, replacement), in turn

# PySlowFast's names in its `.pyth` files -> PyTorchVideo's, within a residual block.
PYSLOWFAST_BRANCHES: Renames = (
    (r"\.branch1\.", ".branch1_conv."),
    (r"\.branch1_bn\.", ".branch1_norm."),
    (r"\.branch2\.([abc])\.", r".branch2.conv_\1."),
    (r"\.branch2\.([abc])_bn\.", r".branch2.norm_\1."),
)


def blobs(layers: str) -> Renames:
    """Return the rules for the last part of Caffe2's names of weights, `LAYER.s` for `LAYER.weight`, of such layers."""
    names = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
    return tuple((rf"^({layers}\.){blob}$", rf"\1{name}") for blob, name in names.items())


# Caffe2's blobs in the `.pkl` files of PySlowFast's zoo -> PySlowFast's names. `t_` marks the fast pathway.
_OF_CONV, _OF_NORM, _OF_LAYER = "(?=w$)", "(?=(?:s|b|rm|riv)$)", "(?=[wb]$)"
CAFFE2: Renames = (
    *(
        rule
        for t, pathway in (("", 0), ("t_", 1))
        for rule in (
            (rf"^{t}(?:res_)?conv1_{_OF_CONV}", f"s1.pathway{pathway}_stem.conv."),
            (rf"^{t}res_conv1_bn_{_OF_NORM}", f"s1.pathway{pathway}_stem.bn."),
            (rf"^{t}res(\d)_(\d+)_branch1_{_OF_CONV}", rf"s\1.pathway{pathway}_res\2.branch1."),
            (rf"^{t}res(\d)_(\d+)_branch1_bn_{_OF_NORM}", rf"s\1.pathway{pathway}_res\2.branch1_bn."),
            (rf"^{t}res(\d)_(\d+)_branch2([abc])_{_OF_CONV}", rf"s\1.pathway{pathway}_res\2.branch2.\3."),
            (rf"^{t}res(\d)_(\d+)_branch2([abc])_bn_{_OF_NORM}", rf"s\1.pathway{pathway}_res\2.branch2.\3_bn."),
        )
    ),
    (rf"^t_pool1_subsample_{_OF_CONV}", "s1_fuse.conv_f2s."),
    (rf"^t_pool1_subsample_bn_{_OF_NORM}", "s1_fuse.bn."),
    (rf"^t_res(\d)_\d+_branch2c_bn_subsample_{_OF_CONV}", r"s\1_fuse.conv_f2s."),
    (rf"^t_res(\d)_\d+_branch2c_bn_subsample_bn_{_OF_NORM}", r"s\1_fuse.bn."),
    (rf"^nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_{_OF_LAYER}", r"s\1.pathway0_nonlocal\2.conv_\3."),
    (rf"^nonlocal_conv(\d)_(\d+)_bn_{_OF_NORM}", r"s\1.pathway0_nonlocal\2.bn."),
    (rf"^pred_{_OF_LAYER}", "head.projection."),
    *blobs(r"(?:s\d|head)\S*"),
)


def without_solver(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without what Caffe2's solver keeps beside them: momenta, the rate and the number of steps."""
    solver = ("lr", "model_iter", "momentum")
    return {name: t for name, t in state.items() if not (name in solver or name.endswith("_momentum"))}


def refuse_parts(state: Mapping[str, Tensor], piece: str, what: str) -> None:
    """Raise ValueError if a file has a weight with a piece of a name, of a part that the model does not have."""
    if found := [name for name in state if piece in name]:
        raise ValueError(f"another network: {found[0]}, {what}, which this model does not have")


def reshaped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with axes of length 1 added or dropped, where that alone makes the shapes of ``own``.

    Such axes are those of a linear layer that is a convolution elsewhere, of one frame, or of a batch of tokens.
    """
    return {
        name: t.reshape(own[name].shape)
        if name in own and t.shape != own[name].shape and t.squeeze().shape == own[name].squeeze().shape
        else t
        for name, t in state.items()
    }


def differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor], apart: Sequence[str] = ()) -> list[str]:
    """Return what tells the network of a file from the one with the weights ``own``; none: it may be the same.

    Compared are the numbers of blocks in each list of blocks, the shapes of tensors with the same name, and the parts
    of each module that both have. Weights of the modules or parameters ``apart`` are not compared.
    """
    theirs, ours = (
        {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked") and not _within(n, apart)}
        for tensors in (state, own)
    )
    found = []
    their_lists, our_lists = _lists(theirs), _lists(ours)
    for name, blocks in our_lists.items():
        there = their_lists.get(name, {})
        alike = set().union(*blocks.values()) & set().union(*there.values())
        if alike and len(there) != len(blocks):
            found.append(f"{name}: {len(there)} blocks in the file, {len(blocks)} here")
    found += [
        f"{name} {tuple(theirs[name].shape)}, here {tuple(t.shape)}"
        for name, t in ours.items()
        if name in theirs and theirs[name].shape != t.shape
    ]
    if not found:
        left, missing = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
        found += [
            f"{other} in the file, {name} here"
            for name in missing
            for other in left
            if _within(other, [_module(name)]) or _within(name, [_module(other)])
        ]
    return found


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == m or name.startswith(f"{m}.") for m in modules)


def _lists(names: Mapping[str, Tensor]) -> dict[str, dict[str, set[str]]]:
    """Return {list of blocks: {index: names within the block}}; a block has modules with weights of their own."""
    lists: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-2]):
            if part.isdigit() and i:
                lists[".".join(parts[:i])][part].add(".".join(parts[i + 1 :]))
    return lists


def _module(name: str) -> str:
    """Return the module that has a weight; of one at the top no module, which is that of no other name."""
    return name.rpartition(".")[0] or name
