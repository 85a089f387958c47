"""Turn a recipe into the optimizer: which weights decay, each one's learning rate, and the rate of each step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import SGD, AdamW, Optimizer

from ..config import Recipe
from ..errors import InputError, refused
from ..models.base import VideoModel
from ..models.trained import depths, parameters_of
from ..models.weights import in_module

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def accumulation(recipe: Recipe, devices: int, per_device: int) -> tuple[int, int]:
    """Return (clips per device and pass, passes per step) that make up recipe.batch_size on so many devices.

    A pass has the most clips, up to `per_device`, that divide a device's share: the batch is always the recipe's.
    Raises InputError if the devices can't share the batch evenly.
    """
    share, left = divmod(recipe.batch_size, devices)
    if left or not share:
        unit = math.lcm(devices, recipe.repeats)
        lower = recipe.batch_size // unit * unit
        near = ", ".join(str(n) for n in (lower, lower + unit) if n)
        raise InputError(
            f"recipe.batch_size={recipe.batch_size}: {devices} devices can't share it evenly; allowed are multiples of "
            f"{unit}, such as {near} (the learning rate goes with it), or another trainer.devices"
        )
    clips = max(n for n in range(1, min(per_device, share) + 1) if share % n == 0)
    return clips, share // clips


def describe_batch(model: VideoModel, recipe: Recipe, devices: int, clips: int, passes: int) -> dict[str, Any]:
    """Return the make-up of an optimizer step, for the log and the result.

    ``norm_clips``: how many clips batch norm sees at once, None without batch norm; ``mixed_clips``: how many are mixed
    with each other, None without mixing.
    """
    normed = any(isinstance(module, _BatchNorm) for module in model.modules())
    return {
        "clips": recipe.batch_size,
        "videos": recipe.batch_size // recipe.repeats,
        "devices": devices,
        "clips_per_device_and_pass": clips,
        "passes": passes,
        "norm_clips": clips if normed else None,
        "mixed_clips": clips * passes if recipe.mixup or recipe.cutmix else None,
        "lr": recipe.scaled_lr,
    }


def lr_factor(step: int, *, steps: int, epoch: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a share of the peak: a linear warm-up, then what `schedule` says.

    ``cosine``; ``steps`` by `gamma`; ``wsd``, warm-up, stable, decay: the peak, then a line down to `min_lr`.

    ``steps`` is the number of optimizer steps of the whole run, ``epoch`` of one epoch. A run whose peak is held longer
    (`Recipe.epochs_after`) falls as steeply as any other.
    """
    warmup_steps = round(epoch * recipe.warmup_epochs)
    if step < warmup_steps:
        start = min(recipe.warmup_lr / recipe.lr, 1.0)
        return start + (1 - start) * step / warmup_steps
    if recipe.schedule == "steps":
        return float(recipe.gamma ** sum(step >= round(epoch * milestone) for milestone in recipe.milestones))
    end = min(recipe.min_lr / recipe.lr, 1.0)
    if recipe.schedule == "wsd":
        left = max(steps - step, 0) / max(epoch * recipe.epochs * recipe.decay_share, 1)
        return end + (1 - end) * min(left, 1.0)
    done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def parameter_groups(model: VideoModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Return groups of (name, parameter) with the weight decay and the learning rate of each.

    By `recipe.decay`:

    - weights: weights of linear and convolution layers decay; biases, norms and what `model.no_decay` names do not.
    - outside_norms: all decays but norms and what `model.no_decay` names (PySlowFast).
    - all: every parameter decays (PyTorch's default, `model.parameters()`).

    Learning rates are those of `lr_factors`. What `recipe.freeze` freezes is in no group. Raises InputError if there is
    nothing to train.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{type(model).__name__} has nothing to train: no parameter has requires_grad=True")
    scale = lr_scale(model, recipe)
    factors = lr_factors(model, recipe, scale)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    # An order that may not change: a checkpoint's optimizer knows a parameter by its place.
    for factor in sorted({1.0, *map(float, scale.values()), *factors.values()}, key=lambda factor: factor != 1):
        for decays in (True, False):
            decay = recipe.weight_decay if decays else 0.0
            groups[factor, decays] = {"params": [], "weight_decay": decay, "lr": recipe.scaled_lr * factor}
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    for name, parameter in model.named_parameters():
        if recipe.freeze and not parameter.requires_grad:
            continue
        match recipe.decay:
            case "all":
                decays = True
            case "outside_norms":
                decays = not named(name, model.no_decay) and name.rpartition(".")[0] not in norms
            case _:
                decays = name.endswith("weight") and parameter.dim() > 1 and not named(name, model.no_decay)
        groups[factors[name], decays]["params"].append((name, parameter))
    return [group for group in groups.values() if group["params"]]


def lr_scale(model: VideoModel, recipe: Recipe) -> dict[str, float]:
    """Return factors on the learning rate by module or parameter: the model's own and, over them, the recipe's.

    With `recipe.layer_decay` only the classifier's count of the model's own: others decay by layer too (VideoMAE).
    Raises InputError if a name has no parameter, or a factor is below 0.
    """
    own = model.lr_scale if recipe.model_lr_scale else {}
    if recipe.layer_decay is not None:
        own = {name: factor for name, factor in own.items() if in_module(name, model.classifier)}
    scale = {**own, **recipe.lr_scale}
    for name, factor in scale.items():
        key = f"recipe.lr_scale.{name}={factor}"
        with refused():
            parameters_of(model, name, key)
        if not 0 <= factor < math.inf:
            raise InputError(f"{key}: allowed is 0 or more")
    return scale


def lr_factors(model: VideoModel, recipe: Recipe, scale: Mapping[str, float]) -> dict[str, float]:
    """Return the factor on each parameter's learning rate.

    The longest of the names in `scale` that a parameter falls under counts. `recipe.layer_decay` multiplies it by
    layer_decay ** (n + 1 - depth), with n layers and the depth of `trained.depths`. Raises InputError if the model has
    no order of layers.
    """
    factors, decay = {}, recipe.layer_decay
    for parameter, _ in model.named_parameters():
        longest = max((name for name in scale if in_module(parameter, name)), key=len, default=None)
        factors[parameter] = 1.0 if longest is None else float(scale[longest])
    if decay is None:
        return factors
    with refused(f"recipe.layer_decay={decay:g}: "):
        depth = depths(model)
    top = max(depth.values())
    return {name: factor * decay ** (top - depth[name]) for name, factor in factors.items()}


def named(parameter: str, names: Iterable[str]) -> bool:
    """Return whether one of the names is the parameter's, its last part, or that of a module that it belongs to."""
    return any(in_module(parameter, name) or parameter.endswith(f".{name}") for name in names)


def make_optimizer(model: VideoModel, recipe: Recipe, fused: bool | None = None) -> Optimizer:
    """Return the recipe's optimizer over `parameter_groups`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.scaled_lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    beta1, beta2 = recipe.betas
    return AdamW(groups, lr=recipe.scaled_lr, betas=(beta1, beta2), fused=fused)


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return the gradients that an optimizer's next step takes, in its order."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
