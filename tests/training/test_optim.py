"""Which weights decay and by which factor each learns, SGD and the schedules against slow loops, refused recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR

from stat_video import models
from stat_video.config import Config, Recipe
from stat_video.data.sampling import Views
from stat_video.data.transforms import Normalize
from stat_video.errors import InputError
from stat_video.models.base import Clip, VideoModel
from stat_video.models.stat.stat import STAT
from stat_video.models.stat.stat import Config as STATConfig
from stat_video.paths import CONF
from stat_video.runs.run import Run
from stat_video.training.fit import make_trainer, run_callbacks
from stat_video.training.module import VideoModule
from stat_video.training.optim import accumulation, lr_factor, make_optimizer, parameter_groups

TOKENS = {"class_token", "pos_spatial", "pos_temporal", "aggregation.video_token"}
MODELS: list[dict[str, Any]] = [
    {},
    {"spatial_token": "avg_pool", "l_ta": 0},
    {"l_ta": 4, "stem": "conv1"},
    {"modules": ["CA"], "stem": "conv5", "crop": 64},
    {"modules": ["CA", "SA", "LA"], "t_o": 5},
]


def tiny(crop: int = 32, **changes: Any) -> STAT:
    small = {"widths": [6, 12, 24, 48], "depths": [1, 1, 2, 1], "heads": [1, 1, 2, 4]}
    return STAT(STATConfig(**{**small, **changes}), Clip(T=4, crop=crop), num_classes=5)


class Toy(VideoModel):
    """A network whose names say what is asked of it."""

    classifier = "head"
    no_decay: ClassVar[tuple[str, ...]] = ("token", "bank", "trunk.extra", "conv.weight", "gone")
    lr_scale: ClassVar[Mapping[str, float]] = {"head": 5.0, "head.bias": 10.0}

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.trunk = nn.ModuleDict(
            {"conv": nn.Conv3d(3, 4, 1), "norm": nn.BatchNorm3d(4), "extra": nn.Linear(4, 4), "mlp": nn.Linear(4, 4)}
        )
        self.trunk["mlp"].table = nn.Parameter(torch.ones(4, 4))
        self.bank = nn.Linear(4, 4)
        self.banks = nn.Linear(4, 4)  # not of the bank
        self.header = nn.Linear(4, 4)  # not of the head
        self.head = nn.Linear(4, 2)


# ---------------------------------------------------------------------------------------------------- groups


def by_name(model: VideoModel, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each parameter; that each is in one group is checked."""
    found: dict[str, tuple[float, float]] = {}
    own = dict(model.named_parameters())
    for group in parameter_groups(model, recipe):
        assert group["params"]
        for name, parameter in group["params"]:
            assert name not in found
            assert parameter is own[name]
            found[name] = (group["lr"], group["weight_decay"])
    assert found.keys() == own.keys()
    return found


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
    found = by_name(model, Recipe(weight_decay=0.05))
    assert {name for name, (_, decay) in found.items() if decay == 0.05} == weights
    assert {name for name, (_, decay) in found.items() if decay == 0.0} == others
    assert {"head.weight", "blocks.0.mlp.fc1.weight"} & weights
    assert "norm.weight" in others


def test_no_decay_names_a_parameter_the_end_of_one_or_a_module() -> None:
    decays = {name for name, (_, decay) in by_name(Toy(), Recipe(weight_decay=0.1)).items() if decay}
    assert decays == {"trunk.mlp.weight", "banks.weight", "header.weight", "head.weight"}
    Toy.no_decay, before = (), Toy.no_decay
    try:
        decays = {name for name, (_, decay) in by_name(Toy(), Recipe(weight_decay=0.1)).items() if decay}
    finally:
        Toy.no_decay = before
    assert {"bank.weight", "trunk.extra.weight", "trunk.conv.weight"} <= decays
    assert not {"token", "trunk.mlp.table", "trunk.norm.weight"} & decays  # by kind


def test_what_decays_can_be_all_or_all_but_norms() -> None:
    everything = dict(Toy().named_parameters())
    own = Toy.no_decay
    for decay, still in {
        "all": set(),
        "outside_norms": {"trunk.norm.weight", "trunk.norm.bias", "token", "bank.weight", "bank.bias",
                          "trunk.extra.weight", "trunk.extra.bias", "trunk.conv.weight"},
    }.items():  # fmt: skip
        found = by_name(Toy(), Recipe(weight_decay=0.1, decay=decay))
        assert {name for name, (_, decays) in found.items() if not decays} == still
        assert {decays for _, decays in found.values()} <= {0.0, 0.1}
    assert {"trunk.conv.bias", "head.bias", "trunk.mlp.table"} <= everything.keys() - still
    assert Toy.no_decay == own


SYSTEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "slowfast": ({"depth": 18, "width": 16}, {"T": 16, "crop": 32}),
    "x3d": ({"depth_factor": 1.0, "width_factor": 0.7, "head_width": 32}, {"T": 4, "crop": 32}),
    "i3d_nl": ({"width": 8}, {"T": 8, "crop": 32}),
    "timesformer": ({"depth": 1, "width": 24, "heads": 2}, {"T": 2, "crop": 32}),
    "tdn": ({"depth": 17, "width": 16}, {"T": 40, "crop": 48, "sampling": "snippets"}),
    "smallbig": ({"depth": 17, "width": 8}, {"T": 4, "crop": 32}),
    "blvnet": ({"depth": 26, "width": 8}, {"T": 4, "crop": 32}),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_systems_parameters_decay_as_its_authors_have_it(name: str) -> None:
    """By walking the modules; the others' norms and biases do not decay."""
    system = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["recipe"]
    keys, clip = SYSTEMS[name]
    model = models.find(name)(**keys).build(Clip(**clip), 5)
    found = by_name(model, Recipe(weight_decay=0.1, decay=system["decay"]))
    norms = {
        f"{prefix}.{parameter}"
        for prefix, module in model.named_modules()
        if "BatchNorm" in type(module).__name__
        for parameter, _ in module.named_parameters()
    }
    assert norms or name == "timesformer"
    still = norms if name in ("slowfast", "x3d", "i3d_nl") else set()
    assert {parameter for parameter, (_, decay) in found.items() if decay == 0} == still
    assert any(parameter.endswith("bias") and decay for parameter, (_, decay) in found.items())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"head.weight": 5, "head.bias": 10}),
        ({"model_lr_scale": False}, {}),
        ({"lr_scale": {"trunk": 0.5}}, {"head.weight": 5, "head.bias": 10, "trunk": 0.5}),
        ({"lr_scale": {"head": 2.0}}, {"head.weight": 2, "head.bias": 10}),  # the recipe's over the model's own
        ({"lr_scale": {"head": 2.0}, "model_lr_scale": False}, {"head": 2}),
        ({"lr_scale": {"trunk": 0.5, "trunk.mlp": 3.0, "trunk.mlp.bias": 7.0}, "model_lr_scale": False},
         {"trunk.conv": 0.5, "trunk.norm": 0.5, "trunk.extra": 0.5, "trunk.mlp": 3, "trunk.mlp.bias": 7}),
        ({"lr_scale": {"trunk.mlp.bias": 7.0, "trunk.mlp": 3.0, "trunk": 0.5}, "model_lr_scale": False},  # in any order
         {"trunk.conv": 0.5, "trunk.norm": 0.5, "trunk.extra": 0.5, "trunk.mlp": 3, "trunk.mlp.bias": 7}),
        ({"lr_scale": {"token": 0.0, "head": 1.0}}, {"token": 0, "head.bias": 10}),  # 0: stays as it was drawn
    ],
)  # fmt: skip
def test_learning_rates_by_name(keys: dict[str, Any], expected: dict[str, float]) -> None:
    """The names of ``expected`` that a parameter begins with, the last of them."""
    found = by_name(Toy(), Recipe(lr=0.1, batch_size=64, lr_batch=32, weight_decay=0.1, **keys))
    for name, (lr, _) in found.items():
        factor = [f for prefix, f in expected.items() if name == prefix or name.startswith(prefix + ".")]
        assert lr == pytest.approx(0.2 * (factor[-1] if factor else 1)), name
    plain = by_name(Toy(), Recipe(weight_decay=0.1, model_lr_scale=False))
    assert {name: decay for name, (_, decay) in found.items()} == {name: decay for name, (_, decay) in plain.items()}


@pytest.mark.parametrize("name", ["hea", "trunk.ml", "weight", "blocks", "", "model.head"])
def test_a_factor_of_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^recipe\.lr_scale\.{name}=2\.0: '{name}' must be a module") as caught:
        parameter_groups(Toy(), Recipe(lr_scale={name: 2.0}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_a_factor_that_makes_no_sense_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match=rf"^recipe\.lr_scale=.*head.*{factor}.*0 or more") as caught:
        parameter_groups(Toy(), Recipe(lr_scale={"head": factor}))
    assert "\n" not in str(caught.value)


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


# ------------------------------------------------------------------------------------------------------ SGD

Floats = npt.NDArray[np.float64]


def slow_sgd(
    start: dict[str, Floats], of: dict[str, tuple[float, float]], steps: int, recipe: Recipe, factors: list[float]
) -> dict[str, Floats]:
    """SGD as Sutskever et al. write it for a fixed learning rate, and as torch does: momentum is of gradients alone.

    The gradient of step n is sin(n + the weight), which every trajectory of its own changes.
    """
    at = {name: value.copy() for name, value in start.items()}
    velocity = {name: np.zeros_like(value) for name, value in start.items()}
    for n in range(steps):
        for name, weight in at.items():
            lr, decay = of[name]
            gradient = np.sin(n + weight) + decay * weight
            velocity[name] = recipe.momentum * velocity[name] + gradient
            ahead = gradient + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
            at[name] = weight - lr * factors[n] * ahead
    return at


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("schedule", ["cosine", "steps", "wsd"])
def test_sgd_is_that_of_a_slow_loop(momentum: float, nesterov: bool, schedule: str) -> None:
    if nesterov and not momentum:
        with pytest.raises(InputError, match=r"recipe\.nesterov"):
            Recipe(nesterov=True, momentum=0.0)
        return
    recipe = Recipe(
        optimizer="sgd", momentum=momentum, nesterov=nesterov, lr=0.02, lr_batch=128, batch_size=64, weight_decay=0.1,
        schedule=schedule, milestones=[2, 3.5], gamma=0.2, epochs=5, warmup_epochs=0.5, warmup_lr=0.004, min_lr=1e-4,
        lr_scale={"trunk": 0.5}, decay_share=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Toy().double()
    start = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, recipe)
    assert type(optimizer) is SGD
    scheduler = LambdaLR(optimizer, partial(lr_factor, steps=50, epoch=10, recipe=recipe))
    for n in range(50):
        for p in model.parameters():
            p.grad = torch.sin(n + p.detach())
        optimizer.step()
        scheduler.step()

    def factor(n: int) -> float:
        if n < 5:
            return 0.2 + 0.8 * n / 5
        if schedule == "steps":
            return 1.0 if n < 20 else 0.2 if n < 35 else 0.04
        if schedule == "wsd":  # the last 20 of 50 steps
            return 1.0 if n < 30 else 0.005 + 0.995 * (50 - n) / 20
        return 0.005 + 0.995 * (1 + math.cos(math.pi * (n - 5) / 45)) / 2

    decaying = ("trunk.mlp.weight", "banks.weight", "header.weight", "head.weight")
    factors = {"trunk": 0.5, "head": 5.0}
    of = {name: (0.01 * factors.get(name.split(".")[0], 1.0), 0.1 if name in decaying else 0.0) for name in start}
    of["head.bias"] = (0.1, 0.0)
    expected = slow_sgd(start, of, 50, recipe, [factor(n) for n in range(50)])
    for name, p in model.named_parameters():
        assert np.abs(start[name] - expected[name]).max() > 1e-5
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=0, atol=1e-13, err_msg=name)


def test_adamw_is_that_of_a_slow_loop() -> None:
    """With the recipe's betas, each weight's decay and factor: in NumPy, from the equations of its paper."""
    recipe = Recipe(lr=0.02, lr_batch=128, batch_size=64, weight_decay=0.1, betas=[0.8, 0.95], lr_scale={"trunk": 0.5})
    torch.manual_seed(0)
    model = Toy().double()
    expected = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in expected.items()}
    optimizer = make_optimizer(model, recipe)
    decaying = ("trunk.mlp.weight", "banks.weight", "header.weight", "head.weight")
    factors = {"trunk": 0.5, "head": 5.0}
    for n in range(1, 31):
        for name, p in model.named_parameters():
            p.grad = torch.sin(n + p.detach())
            gradient, (mean, square) = np.sin(n + expected[name]), moments[name]
            lr = 0.01 * (10.0 if name == "head.bias" else factors.get(name.split(".")[0], 1.0))
            mean[...] = 0.8 * mean + 0.2 * gradient
            square[...] = 0.95 * square + 0.05 * gradient**2
            expected[name] *= 1 - lr * (0.1 if name in decaying else 0.0)
            expected[name] -= lr * mean / (1 - 0.8**n) / (np.sqrt(square / (1 - 0.95**n)) + 1e-8)
        optimizer.step()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=0, atol=1e-12, err_msg=name)


class Linear(VideoModel):
    """A linear function of the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(clip.mean((2, 3, 4)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("most", [0.0, 0.25, 100.0])
def test_gradients_are_clipped_by_their_norm(optimizer: str, most: float, precision: str, tmp_path: Path) -> None:
    """By the run's own trainer: what the optimizer gets has the direction of the gradient and its norm, or `most`."""
    got: list[Tensor] = []
    fused: list[bool | None] = []

    class Steps(VideoModule):
        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            return (weight * torch.tensor([[3.0, 0.0, 4.0], [0.0, 12.0, 0.0]])).sum()  # norm 13

        def train_dataloader(self) -> Any:
            return [0, 1]

        def on_train_batch_start(self, batch: Any, batch_index: int) -> None: ...

        def configure_optimizers(self) -> Optimizer:
            made: Optimizer = super().configure_optimizers()["optimizer"]
            fused.append(made.defaults["fused"])
            made.register_step_post_hook(lambda *_: got.append(torch.clone(weight.grad)))
            return made

    model = Linear()
    weight: Any = model.head.weight
    config = Config()
    config.recipe = Recipe(optimizer=optimizer, clip_grad_norm=most, epochs=1, max_steps=2)
    run = Run(tmp_path / "run", "12345678")
    module = Steps(model, config.recipe, Normalize([0.45], [0.225]), ["a", "b"], Views(1, 1))
    hardware = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}
    hardware["precision"] = "bf16-mixed" if precision == "bf16-mixed" else "32-true"
    trainer: Any = make_trainer(config, run, run_callbacks(config, run), None, hardware, 1)
    trainer.callbacks = [c for c in trainer.callbacks if type(c).__module__.startswith("lightning")]
    if precision == "16-mixed":  # with a scaler, which Lightning itself leaves out on a CPU
        trainer.strategy.precision_plugin = MixedPrecision(precision, "cpu")
    trainer.fit(module)
    expected = torch.tensor([[3.0, 0.0, 4.0], [0.0, 12.0, 0.0]]) * (min(most, 13) / 13 if most else 1)
    assert fused == [True if optimizer == "adamw" and precision != "16-mixed" else None]
    assert len(got) == 2
    for gradient in got:
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=0)


# --------------------------------------------------------------------------------------------- learning rate

RECIPE = Recipe(lr=1e-3, lr_batch=512, batch_size=512, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-5)
TEN = {"steps": 110, "epoch": 10}  # of 11 epochs


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
    assert lr_factor(step, **TEN, recipe=RECIPE) == pytest.approx(factor)


def check_schedule(recipe: Recipe, optimizer: Optimizer, schedule: Any, steps: int, epoch: int) -> None:
    for step in range(steps + 1):
        ours = recipe.scaled_lr * lr_factor(step, steps=steps, epoch=epoch, recipe=recipe)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        schedule.step()


def test_learning_rate_is_that_of_torchs_schedules() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    warmup, cosine = LinearLR(optimizer, 0.1, total_iters=10), CosineAnnealingLR(optimizer, 100, eta_min=1e-5)
    check_schedule(RECIPE, optimizer, SequentialLR(optimizer, [warmup, cosine], [10]), 110, 10)


@pytest.mark.parametrize(
    ("milestones", "gamma", "at"),
    [
        ([20, 40], 0.1, [140, 280]),  # TSM's
        ([0.5, 1.5], 0.5, [4, 10]),  # 3.5 and 10.5 steps: rounded, halves to the even step
        ([3], 1.0, [21]),
        ([5, 5.01, 6], 0.3, [35, 35, 42]),
    ],
)
def test_steps_are_those_of_torchs_schedule(milestones: list[float], gamma: float, at: list[int]) -> None:
    recipe = Recipe(
        lr=0.02, lr_batch=128, batch_size=64, schedule="steps", milestones=milestones, gamma=gamma, epochs=50
    )
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    check_schedule(recipe, optimizer, MultiStepLR(optimizer, at, gamma), 350, 7)


def test_a_warm_up_comes_before_the_steps() -> None:
    recipe = Recipe(lr=0.1, schedule="steps", milestones=[1, 4], gamma=0.1, warmup_epochs=2, warmup_lr=0.01, epochs=6)
    factors = [lr_factor(step, steps=60, epoch=10, recipe=recipe) for step in range(60)]
    assert factors[:20] == pytest.approx([0.1 + 0.9 * step / 20 for step in range(20)])
    assert factors[20:40] == pytest.approx([0.1] * 20)  # of the first milestone, inside the warm-up
    assert factors[40:] == pytest.approx([0.01] * 20)


@pytest.mark.parametrize(
    ("epochs", "top1", "expected"),
    [
        (4, [], 4),
        (4, [40, 90], 4),
        (4, [40, 60, 80], 4),  # on time, as it is not below
        (4, [90, 90, 79.9], 5),  # asked before the rate would fall, not before
        (4, [40, 60, 70, 81], 5),
        (4, [40, 60, 70, 71], 6),
        (4, [40, 60, 70, 71, 72, 73], 7),  # three more at most
        (4, [40, 60, 70, 71, 72, 73, 50], 7),
        (5, [40, 60], 5),
        (5, [40, 60, 79], 6),  # the rate falls after 3.75 epochs, then after 4.75
        (5, [40, 60, 79, 80], 6),
        (5, [40, 60, 79, 79], 7),
        (1, [10], 1),  # it falls before there is a validation
    ],
)
def test_a_late_run_has_more_epochs(epochs: int, top1: list[float], expected: int) -> None:
    recipe = Recipe(schedule="wsd", epochs=epochs, decay_share=0.25, hold_until=80, hold_epochs=3)
    assert recipe.epochs_after(top1) == expected
    assert Recipe(schedule="wsd", epochs=epochs, decay_share=0.25).epochs_after(top1) == epochs


@pytest.mark.parametrize("more", range(4))
def test_a_peak_that_is_held_longer_falls_as_steeply(more: int) -> None:
    recipe = Recipe(lr=1e-3, min_lr=1e-5, schedule="wsd", epochs=5, decay_share=0.25, warmup_epochs=1, warmup_lr=1e-4)
    plain = [lr_factor(step, steps=50, epoch=10, recipe=recipe) for step in range(51)]
    held = [lr_factor(step, steps=50 + 10 * more, epoch=10, recipe=recipe) for step in range(51 + 10 * more)]
    assert held[:37] == plain[:37]  # warm-up and peak: the fall takes 12.5 of 50 steps
    assert held[37 : 37 + 10 * more] == [1.0] * 10 * more
    assert held[37 + 10 * more :] == plain[37:]


@pytest.mark.parametrize("other", [{"schedule": "cosine"}, {"schedule": "wsd", "val_every": 2}])
def test_a_peak_is_held_where_there_is_one_and_validations_say_so(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^recipe\.hold_until=80: needs recipe\.schedule=wsd") as caught:
        Recipe(hold_until=80, **other)
    assert "\n" not in str(caught.value)


def test_learning_rate_rises_then_falls() -> None:
    recipe = Recipe(warmup_epochs=3)
    factors = [lr_factor(step, steps=300, epoch=30, recipe=recipe) for step in range(301)]
    assert all(a < b for a, b in pairwise(factors[:91]))
    assert all(a > b for a, b in pairwise(factors[90:]))
    assert max(factors) == factors[90] == 1.0


def test_learning_rate_without_warm_up_starts_at_the_peak() -> None:
    assert lr_factor(0, steps=100, epoch=10, recipe=Recipe(warmup_lr=1e-4)) == 1.0


@pytest.mark.parametrize("batch", [128, 512, 2048])
def test_peak_and_both_ends_go_with_the_batch(batch: int) -> None:
    """All three are said for lr_batch clips: warm-up and cosine are shares of the peak, whatever the batch."""
    recipe = Recipe(lr=1e-3, lr_batch=512, batch_size=batch, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-5)
    of = batch / 512
    assert recipe.scaled_lr == pytest.approx(1e-3 * of)
    assert recipe.scaled_lr * lr_factor(0, **TEN, recipe=recipe) == pytest.approx(1e-4 * of)
    assert recipe.scaled_lr * lr_factor(110, **TEN, recipe=recipe) == pytest.approx(1e-5 * of)
    assert [lr_factor(s, **TEN, recipe=recipe) for s in range(120)] == [
        lr_factor(s, **TEN, recipe=RECIPE) for s in range(120)
    ]


def test_a_peak_below_its_ends_is_never_passed() -> None:
    low = Recipe(lr=1e-7, lr_batch=512, batch_size=512, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-5)
    assert [lr_factor(s, **TEN, recipe=low) for s in (0, 5, 10, 60, 110)] == [1.0] * 5


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
        accumulation(Recipe(batch_size=batch, repeats=2), devices, 16)
    assert "\n" not in str(caught.value)


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
    model(torch.randn(2, 3, model.clip.T, model.clip.crop, model.clip.crop)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("repeats", 0),
        ("lr", -1e-3),
        ("lr", 0.0),  # the learning rate is given as a share of it
        ("lr", math.nan),
        ("lr_batch", 0),
        ("tiny_lr", 0.0),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("betas", [0.9]),
        ("betas", [0.9, 0.99, 0.999]),
        ("betas", [0.9, 1.0]),  # no step would ever end its memory
        ("betas", [-0.1, 0.999]),
        ("schedule", "step"),
        ("milestones", [-1.0]),
        ("milestones", [40, 20]),
        ("milestones", [20, 20]),
        ("gamma", 0.0),
        ("decay_share", 0.0),
        ("hold_until", 101),
        ("hold_epochs", -1),
        ("gamma", 1.5),
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
    with pytest.raises(InputError, match=re.escape(f"recipe.{field}={value}: ")) as caught:
        Recipe(**{field: value})  # type: ignore[arg-type]
    assert "allowed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_repeats_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"recipe\.batch_size=15: a multiple of recipe\.repeats=2 is allowed"):
        Recipe(batch_size=15, repeats=2)


def test_steps_need_milestones() -> None:
    with pytest.raises(InputError, match=r"^recipe\.schedule=steps: needs recipe\.milestones") as caught:
        Recipe(schedule="steps")
    assert "\n" not in str(caught.value)
