"""Parameter groups by name and type, the learning rate against torch's schedules, and recipes that are refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from stat_video.errors import InputError
from stat_video.model import STAT, STATConfig
from stat_video.training.optim import Recipe, accumulation, lr_factor, make_optimizer, parameter_groups

TOKENS = {"class_token", "pos_spatial", "pos_temporal", "aggregation.video_token"}
MODELS: list[dict[str, Any]] = [
    {},
    {"spatial_token": "avg_pool", "l_ta": 0},
    {"l_ta": 4, "stem": "conv1"},
    {"modules": ("CA",), "stem": "conv5", "crop": 64},
    {"modules": ("CA", "SA", "LA"), "t_o": 5},
]


def tiny(**changes: Any) -> STAT:
    small = {"T": 4, "crop": 32, "widths": (6, 12, 24, 48), "depths": (1, 1, 2, 1), "heads": (1, 1, 2, 4)}
    return STAT(STATConfig(**{**small, "num_classes": 5, **changes}))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("changes", MODELS)
def test_groups_hold_each_parameter_once_and_by_kind(changes: dict[str, Any]) -> None:
    """By walking the modules: weights that multiply activations decay; biases, norms, tokens and positions don't."""
    model = tiny(**changes)
    weights: set[str] = set()
    others = TOKENS & {name for name, _ in model.named_parameters()}
    assert {"pos_spatial", "pos_temporal"} <= others
    assert ("class_token" in others) == (model.config.spatial_token == "class_token")
    assert ("aggregation.video_token" in others) == (model.config.l_ta > 0)
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}": p for name, p in module.named_parameters(recurse=False)}
        if isinstance(module, nn.Linear | nn.Conv3d):
            weights |= {name for name in own if name.endswith(".weight")}
            others |= {name for name in own if name.endswith(".bias")}
        elif isinstance(module, nn.LayerNorm):
            others |= set(own)
    decay, no_decay = parameter_groups(model, 0.05)
    assert decay["weight_decay"] == 0.05
    assert no_decay["weight_decay"] == 0.0
    names = [[name for name, _ in group["params"]] for group in (decay, no_decay)]  # type: ignore[attr-defined]
    assert sorted(names[0]) == sorted(weights)
    assert sorted(names[1]) == sorted(others)
    assert sorted(names[0] + names[1]) == sorted(name for name, _ in model.named_parameters())
    assert {"head.weight", "blocks.0.mlp.fc1.weight"} & weights
    assert "norm.weight" in others


def test_a_step_without_gradient_shrinks_the_weights_and_nothing_else() -> None:
    model = tiny()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
            p.grad = torch.zeros_like(p)
    optimizer = make_optimizer(model, Recipe(lr=0.1, batch_size=1024, lr_batch=512, weight_decay=0.5))
    optimizer.step()
    shrunk = {name for name, p in model.named_parameters() if torch.allclose(p, torch.tensor(1 - 0.2 * 0.5))}
    same = {name for name, p in model.named_parameters() if (p == 1).all()}
    assert shrunk | same == {name for name, _ in model.named_parameters()}
    assert same >= TOKENS
    assert {name for name in shrunk if not name.endswith(".weight")} == set()
    assert "head.weight" in shrunk
    assert "stem.layers.0.weight" in shrunk
    assert {name for name in shrunk | same if name.endswith(".bias")} <= same
    assert {name for name in shrunk | same if "norm" in name} <= same


# --------------------------------------------------------------------------------------------- learning rate

RECIPE = Recipe(lr=1e-3, lr_batch=512, batch_size=512, warmup_lr=1e-4, min_lr=1e-5)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),
        (5, 0.55),
        (10, 1.0),
        (35, 0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2),
        (60, 0.505),
        (110, 0.01),
        (200, 0.01),
    ],
)
def test_learning_rate_worked_by_hand(step: int, factor: float) -> None:
    assert lr_factor(step, steps=110, warmup_steps=10, recipe=RECIPE) == pytest.approx(factor)


def test_learning_rate_is_that_of_torchs_schedules() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    warmup, cosine = LinearLR(optimizer, 0.1, total_iters=10), CosineAnnealingLR(optimizer, 100, eta_min=1e-5)
    schedule = SequentialLR(optimizer, [warmup, cosine], [10])
    for step in range(111):
        ours = RECIPE.scaled_lr * lr_factor(step, steps=110, warmup_steps=10, recipe=RECIPE)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        schedule.step()


def test_learning_rate_rises_then_falls() -> None:
    factors = [lr_factor(step, steps=300, warmup_steps=90, recipe=Recipe()) for step in range(301)]
    assert all(a < b for a, b in pairwise(factors[:91]))
    assert all(a > b for a, b in pairwise(factors[90:]))
    assert max(factors) == factors[90] == 1.0


def test_learning_rate_without_warm_up_starts_at_the_peak() -> None:
    assert lr_factor(0, steps=100, warmup_steps=0, recipe=RECIPE) == 1.0


def test_peak_goes_with_the_batch_but_its_ends_do_not() -> None:
    recipe = Recipe(lr=1e-3, lr_batch=512, batch_size=128, warmup_lr=1e-4, min_lr=1e-5)
    assert recipe.scaled_lr == pytest.approx(2.5e-4)
    assert recipe.scaled_lr * lr_factor(0, steps=110, warmup_steps=10, recipe=recipe) == pytest.approx(1e-4)
    assert recipe.scaled_lr * lr_factor(110, steps=110, warmup_steps=10, recipe=recipe) == pytest.approx(1e-5)
    low = Recipe(lr=1e-7, lr_batch=512, batch_size=512)  # a peak below its ends: never above the peak
    assert [lr_factor(s, steps=110, warmup_steps=10, recipe=low) for s in (0, 5, 10, 60, 110)] == [1.0] * 5


# ---------------------------------------------------------------------------------------- batch and refusals


@pytest.mark.parametrize(
    ("batch", "devices", "asked", "expected"),
    [
        (512, 8, 64, (64, 1)),
        (512, 8, 32, (32, 2)),
        (512, 8, 48, (32, 2)),  # 48 do not divide a device's 64
        (512, 1, 16, (16, 32)),
        (16, 1, 16, (16, 1)),
        (16, 1, 64, (16, 1)),  # more than a step needs
        (8, 4, 16, (2, 1)),
        (4, 4, 1, (1, 1)),
    ],
)
def test_passes_that_make_up_a_batch(batch: int, devices: int, asked: int, expected: tuple[int, int]) -> None:
    assert accumulation(Recipe(batch_size=batch), devices, asked) == expected


@pytest.mark.parametrize(
    ("batch", "devices", "near"),
    [(512, 6, "6, such as 510, 516"), (16, 3, "6, such as 12, 18"), (2, 4, "4, such as 4")],
)
def test_batch_that_can_not_be_shared_out_is_refused(batch: int, devices: int, near: str) -> None:
    with pytest.raises(InputError, match=rf"recipe\.batch_size={batch}: .* multiples of {near}") as caught:
        accumulation(Recipe(batch_size=batch), devices, 16)
    assert "\n" not in str(caught.value)


def test_a_pass_of_no_clip_is_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.batch_per_device=0: allowed is 1 or more"):
        accumulation(Recipe(batch_size=16), 1, 0)


def test_what_is_accepted_makes_up_the_batch_exactly() -> None:
    accepted = 0
    for batch in (2, 6, 16, 24, 64):
        for devices in (1, 2, 3, 4, 8):
            for asked in (1, 3, 4, 16):
                try:
                    clips, passes = accumulation(Recipe(batch_size=batch), devices, asked)
                except InputError:
                    continue
                accepted += 1
                assert devices * clips * passes == batch
                assert 1 <= clips <= asked
                assert all(batch // devices % n for n in range(clips + 1, min(asked, batch // devices) + 1))
    assert accepted > 40


@pytest.mark.parametrize("changes", MODELS)
def test_each_parameter_has_a_gradient(changes: dict[str, Any]) -> None:
    """DDP waits for the gradient of every parameter: none may be without, whichever modules are off."""
    model = tiny(**changes)
    model(torch.randn(2, 3, model.config.T, model.config.crop, model.config.crop)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", 15),  # two repeats
        ("repeats", 0),
        ("lr", -1e-3),
        ("lr", 0.0),  # the learning rate is given as a share of it
        ("lr", math.nan),
        ("lr_batch", 0),
        ("warmup_epochs", -1),
        ("warmup_epochs", 200),  # all of the epochs
        ("warmup_lr", -1e-6),
        ("min_lr", -1e-6),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.1),
        ("mixup", -0.1),
        ("cutmix", -0.1),
        ("mix_probability", 1.5),
        ("mix_switch", -0.5),
        ("clip_grad_norm", -1.0),
        ("ema", 1.1),
        ("val_every", 0),
        ("max_steps", 0),
        ("max_steps", -1),  # without an end, to Lightning
        ("val_videos", 0),
        ("val_videos", -1),
    ],
)
def test_recipe_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"recipe\.{field}={value}") as caught:
        Recipe(**{field: value})  # type: ignore[arg-type]
    assert "allowed" in str(caught.value)
    assert "\n" not in str(caught.value)
