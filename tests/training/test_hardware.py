"""How many devices, cores and data workers a run takes of a machine, and which process of it speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy

from stat_video import hardware
from stat_video.compose import rows
from stat_video.config import Config, TrainerKeys, from_plain
from stat_video.errors import InputError
from stat_video.hardware import (
    Pass,
    check_deterministic,
    choose_backends,
    choose_pass_here,
    data_workers,
    devices,
    lightning_arguments,
    rank_zero,
    world_size,
)
from stat_video.models.base import Clip
from stat_video.models.memory import USABLE, step_memory
from stat_video.models.parts.backend import BACKEND
from stat_video.models.stat.stat import Config as StatConfig
from stat_video.runs.run import Run
from stat_video.training.optim import accumulation


def row(*words: str) -> Config:
    """Return the config that words compose to."""
    (found,) = rows("train", Config, words)
    config: Config = found.config
    return config


def machine(monkeypatch: pytest.MonkeyPatch, cuda: int, cores: int, **environment: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("config", "cuda", "expected"),
    [
        ({}, 8, 8),
        ({}, 0, 1),
        ({"devices": -1}, 4, 4),
        ({"devices": 2}, 8, 2),
        ({"devices": "2"}, 8, 2),
        ({"devices": "0,3,5"}, 8, 3),
        ({"devices": [1, 4]}, 8, 2),
        ({"accelerator": "cpu"}, 8, 1),
        ({"accelerator": "cpu", "devices": 2}, 0, 2),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], cuda: int, expected: int) -> None:
    machine(monkeypatch, cuda, 64)
    assert devices(TrainerKeys(**config)) == expected


@pytest.mark.parametrize(
    ("config", "cuda", "cores", "side_by_side", "environment", "expected"),
    [
        ({}, 8, 32, 1, {}, 4),
        ({}, 8, 256, 1, {}, 32),
        ({"accelerator": "cpu"}, 0, 96, 1, {}, 96),
        ({}, 1, 4, 1, {}, 4),
        ({"devices": 1}, 8, 32, 8, {}, 4),  # eight rows of one GPU each
        ({"accelerator": "cpu"}, 0, 2, 1, {}, 2),
        ({"accelerator": "cpu"}, 0, 2, 2, {}, 1),
        ({"accelerator": "cpu", "devices": 2}, 0, 2, 1, {}, 1),
        ({}, 8, 6, 1, {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "6"}, 6),  # the cores are the task's own
        ({}, 8, 64, 1, {"SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "64"}, 8),
        ({}, 8, 1, 1, {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "16"}, 1),  # not passed on by srun
        ({}, 8, 128, 1, {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "16"}, 16),  # tasks that are not bound
        ({"workers": 3}, 8, 64, 8, {}, 3),
    ],
)
def test_data_workers(
    monkeypatch: pytest.MonkeyPatch,
    config: Any,
    cuda: int,
    cores: int,
    side_by_side: int,
    environment: Any,
    expected: int,
) -> None:
    machine(monkeypatch, cuda, cores, **environment)
    assert data_workers(TrainerKeys(**config), side_by_side) == expected


@pytest.mark.parametrize(
    ("cores", "config", "rank", "said"),
    [
        (1, {}, "0", True),
        (16, {}, "0", False),
        (128, {}, "0", False),
        (1, {"workers": 4}, "0", False),
        (1, {}, "3", False),
    ],
)
def test_cores_that_slurm_does_not_pass_on_are_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cores: int,
    config: dict[str, Any],
    rank: str,
    said: bool,
) -> None:
    machine(monkeypatch, 8, cores, SLURM_NTASKS="8", SLURM_CPUS_PER_TASK="16", SLURM_PROCID=rank)
    data_workers(TrainerKeys(**config))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == said
    assert not said or "srun --cpus-per-task=16" in lines[0]


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "RANK": "8"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_the_process_that_speaks(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool) -> None:
    machine(monkeypatch, 0, 2, **environment)
    assert rank_zero() == first


def test_what_lightning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 64)
    told = lightning_arguments(TrainerKeys(accelerator="cuda", strategy="ddp", num_nodes=2))
    assert isinstance(told["strategy"], DDPStrategy)
    assert (told["precision"], told["num_nodes"]) == ("bf16-mixed", 2)
    assert told["benchmark"]
    assert not lightning_arguments(TrainerKeys(deterministic=True))["benchmark"]
    machine(monkeypatch, 0, 2)
    assert lightning_arguments(TrainerKeys())["precision"] == "32-true"
    with pytest.raises(InputError, match="no CUDA device here"):
        lightning_arguments(TrainerKeys(accelerator="cuda"))


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed", "ddp_spawn", ""])
def test_a_strategy_that_is_not_here_is_refused_in_one_line(strategy: str) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.strategy={strategy}: .*must be auto or ddp$") as caught:
        TrainerKeys(strategy=strategy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["two", "", 0, -2, "0,x", "1.5", 1.5, True, None, [], "-3", ["a"], [-1], {"a": 1}])
def test_devices_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    machine(monkeypatch, 8, 64)
    with pytest.raises(InputError, match=r"^trainer\.devices=.*allowed") as caught:
        devices(TrainerKeys(devices=value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "cuda", "expected"),
    [
        ({}, 0, 1),
        ({}, 8, 8),
        ({"num_nodes": 3}, 8, 24),
        ({"num_nodes": 4, "devices": "0,2"}, 8, 8),
        ({"num_nodes": 2, "accelerator": "cpu"}, 8, 2),
        ({"num_nodes": 2, "accelerator": "cpu", "devices": 3}, 0, 6),
    ],
)
def test_processes_of_a_run_on_all_nodes(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], cuda: int, expected: int
) -> None:
    machine(monkeypatch, cuda, 64)
    assert world_size(TrainerKeys(**config)) == expected


@pytest.mark.parametrize("config", [{}, {"devices": 1}, {"devices": 2, "strategy": "ddp"}, {"devices": "2"}])
def test_lightning_counts_the_same_processes(config: dict[str, Any]) -> None:
    """World size is told without a Trainer; here Lightning is asked."""
    keys = TrainerKeys(accelerator="cpu", **config)
    assert world_size(keys) == Trainer(**lightning_arguments(keys)).world_size


KERNELS = ("cudnn", "mem_efficient", "flash", "math")


def enabled() -> set[str]:
    """Return the kernels of attention that PyTorch may take on CUDA."""
    return {name for name in KERNELS if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()}


@pytest.fixture
def backends() -> Iterator[None]:
    """What a test chooses is put back after it."""
    kernels, ways = enabled(), replace(BACKEND)
    yield
    for name in KERNELS:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(name in kernels)
    vars(BACKEND).update(asdict(ways))


@pytest.mark.usefixtures("backends")
@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("auto", {"mem_efficient", "flash", "math"}),
        ("cudnn", {"cudnn", "math"}),
        ("efficient", {"mem_efficient", "math"}),
        ("flash", {"flash", "math"}),
        ("math", {"math"}),
    ],
)
def test_kernels_of_attention(monkeypatch: pytest.MonkeyPatch, attention: str, expected: set[str]) -> None:
    machine(monkeypatch, 1, 4)
    said = choose_backends(TrainerKeys(attention=attention))["attention"]
    assert enabled() == expected
    assert {{"efficient": "mem_efficient"}.get(name, name) for name in said.split(" or ")} == expected


@pytest.mark.usefixtures("backends")
def test_the_cpu_keeps_its_kernels_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reads the switches of CUDA on the CPU, too."""
    before = enabled()
    machine(monkeypatch, 0, 4)
    assert choose_backends(TrainerKeys())["attention"] == "flash or math"
    assert enabled() == before


@pytest.mark.usefixtures("backends")
@pytest.mark.parametrize(
    ("config", "cuda", "expected"),
    [
        ({}, 0, {"window": "masked", "depthwise": "pytorch"}),
        ({"window": "grouped"}, 0, {"window": "grouped"}),
        ({"depthwise": "triton"}, 1, {"depthwise": "triton"}),
    ],
)
def test_ways_that_the_models_compute_in(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], cuda: int, expected: dict[str, Any]
) -> None:
    machine(monkeypatch, cuda, 4)
    monkeypatch.setattr(hardware, "find_spec", lambda name: ModuleSpec(name, None))
    said = choose_backends(TrainerKeys(**config))
    assert asdict(BACKEND).items() >= expected.items()
    assert said.items() >= expected.items()


@pytest.mark.usefixtures("backends")
@pytest.mark.parametrize(
    ("config", "cuda", "why"),
    [
        ({"attention": "flash"}, 0, r"^trainer\.attention=flash: no CUDA device here; auto is allowed$"),
        ({"attention": "math", "accelerator": "cpu"}, 1, r"^trainer\.attention=math: no CUDA device"),
        ({"attention": "cudnn", "precision": "32-true"}, 1, r"^trainer\.attention=cudnn: computes in 16 bits alone"),
        ({"depthwise": "triton"}, 0, r"^trainer\.depthwise=triton: no CUDA device here; pytorch is allowed$"),
        ({"depthwise": "triton"}, 1, r"^trainer\.depthwise=triton: triton is not installed; pytorch is allowed$"),
    ],
)
def test_a_way_that_can_not_be_had_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], cuda: int, why: str
) -> None:
    machine(monkeypatch, cuda, 4)
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    before = enabled(), replace(BACKEND)
    with pytest.raises(InputError, match=why) as caught:
        choose_backends(TrainerKeys(**config))
    assert "\n" not in str(caught.value)
    assert (enabled(), BACKEND) == before


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch is not built for CUDA")
@pytest.mark.parametrize(
    ("words", "cuda", "refused"),
    [
        (("model=slowfast", "trainer.deterministic=true", "trainer=gpu"), 1, True),
        (("model=slowfast", "trainer.deterministic=true", "trainer=cpu"), 1, False),
        (("model=slowfast", "trainer.deterministic=true", "trainer=auto"), 0, False),
        (("model=slowfast", "trainer=gpu"), 1, False),
        (("model=stat", "trainer.deterministic=true", "trainer=gpu"), 1, False),
    ],
)
def test_what_cuda_can_not_do_deterministically_is_refused(
    words: tuple[str, ...], cuda: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = row("scale=tiny", *words)
    machine(monkeypatch, cuda, 4)
    if not refused:
        check_deterministic(config, 5)
        return
    with pytest.raises(InputError, match=r"^trainer\.deterministic=true: .*MaxPool3D.*model=slowfast") as caught:
        check_deterministic(config, 5)
    assert "\n" not in str(caught.value)


def test_deterministic_products_have_their_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """cuBLAS asks for it; Lightning sets it before the model is on the device."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before = torch.backends.cudnn.benchmark
    try:
        Trainer(**lightning_arguments(TrainerKeys(accelerator="cpu", deterministic=True)), default_root_dir=tmp_path)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


GIB = 2**30
FULL = ("model=stat", "experiment=kinetics", "scale=paper", "trainer=ddp")
WINDOW = {16: 3, 32: 5, 64: 7}  # t_o by clip length, as in the paper


def memory_of(monkeypatch: pytest.MonkeyPatch, *gib: float) -> None:
    """Let this machine have CUDA devices of so much memory."""
    machine(monkeypatch, len(gib), 64)
    devices = [SimpleNamespace(total_memory=int(n * GIB)) for n in gib]
    monkeypatch.setattr(torch.cuda, "get_device_properties", devices.__getitem__)


def chosen(*words: str, classes: int = 400) -> tuple[Pass, tuple[int, int]]:
    """Return how a step is computed here, and (clips of a pass, passes)."""
    config = row(*words)
    found = choose_pass_here(config, classes)
    return found, accumulation(config.recipe, world_size(config.trainer), found.clips)


@pytest.mark.parametrize(
    ("T", "gib", "most", "passes"),
    [
        (16, 80, 64, (64, 1)),
        (32, 80, 32, (32, 2)),
        (64, 80, 16, (16, 4)),
        (16, 24, 41, (32, 2)),
        (32, 24, 20, (16, 4)),
        (64, 24, 9, (8, 8)),
    ],
)
def test_clips_that_fit_into_a_device(
    monkeypatch: pytest.MonkeyPatch, T: int, gib: int, most: int, passes: tuple[int, int]
) -> None:
    """Of eight, the smallest counts; and by the prediction one more clip does not fit, or is more than 1024 frames."""
    memory_of(monkeypatch, *[96] * 7, gib)
    found, made_up = chosen(*FULL, f"T={T}", f"t_o={WINDOW[T]}")
    assert (found.clips, found.recompute, made_up) == (most, False, passes)
    needs = step_memory(StatConfig(t_o=WINDOW[T]), Clip(T=T), 400, mixed=True, checkpointing=False, recompute=False)
    assert needs.whole(most) <= USABLE * gib * GIB
    assert needs.whole(most + 1) > USABLE * gib * GIB or (most + 1) * T > 1024


def test_one_clip_that_fits_only_if_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("T=64", "t_o=7")
    needs = [
        step_memory(StatConfig(t_o=7), Clip(T=64), 400, mixed=True, checkpointing=False, recompute=on).whole(1)
        for on in (False, True)
    ]
    between = (needs[0] + needs[1]) / 2 / USABLE / GIB
    memory_of(monkeypatch, between)
    assert (chosen(*FULL, *words)[0].clips, chosen(*FULL, *words)[0].recompute) == (1, True)
    # Only if it may be. And a number is taken as it is.
    with pytest.raises(
        InputError, match=r"^trainer\.batch_per_device=auto: a step of one clip takes \d\.\d GiB"
    ) as caught:
        chosen(*FULL, *words, "trainer.recompute=false")
    assert "\n" not in str(caught.value)
    told = chosen(*FULL, *words, "trainer.batch_per_device=8")[0]
    assert (told.clips, told.recompute) == (8, True)


def test_told_clips_are_recomputed_only_if_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of(monkeypatch, 24)
    found = {n: chosen(*FULL, f"trainer.batch_per_device={n}")[0] for n in (41, 42, 64)}
    assert {n: (p.clips, p.recompute) for n, p in found.items()} == {41: (41, False), 42: (42, True), 64: (64, True)}
    # Eight devices have 64 of the 512 clips each, so more are never taken at once.
    memory_of(monkeypatch, *[80] * 8)
    assert not chosen(*FULL, "trainer.batch_per_device=1000")[0].recompute
    both = chosen(*FULL, "trainer.batch_per_device=7", "trainer.recompute=true")[0]
    assert both == Pass(7, True)


def test_checkpointing_takes_more_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of(monkeypatch, 24)
    clips = [chosen(*FULL, "T=64", "t_o=7", *words)[0].clips for words in ([], ["trainer.gradient_checkpointing=true"])]
    assert clips[0] < clips[1] == 16


def test_clips_of_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a step on the CPU and on a GPU, where it is never more than 1024 frames."""
    batch = row("model=stat").recipe.batch_size
    machine(monkeypatch, 0, 2)
    for words in (["trainer=auto"], ["trainer=cpu"], ["trainer=ddp_cpu", "trainer.batch_per_device=auto"]):
        assert chosen("model=stat", *words)[0] == Pass(16, True)
    memory_of(monkeypatch, 24)
    found, made_up = chosen("model=stat", "trainer=gpu", classes=12)
    assert (found.clips, found.recompute, made_up) == (64, False, (batch, 1))
    assert chosen("model=stat", "trainer=cpu")[0] == Pass(16, True)


@pytest.mark.parametrize(("gib", "devices"), [(80, 1), (80, 8), (24, 2), (24, 4), (141, 1)])
@pytest.mark.parametrize(("data", "clips"), [("ssv2", 8), ("kinetics400", 16)])
def test_batch_norm_sees_the_clips_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, data: str, clips: int, gib: int, devices: int
) -> None:
    """A step of TSM is of the same make-up on any hardware that holds the authors' clips of a GPU."""
    memory_of(monkeypatch, *[gib] * devices)
    words = ("model=tsm", "scale=paper", f"data={data}", "trainer=ddp", f"trainer.devices={devices}")
    found, (of_pass, passes) = chosen(*words)
    assert (found.clips, of_pass) == (clips, clips)
    assert of_pass * passes * devices == row(*words).recipe.batch_size
    assert chosen(*words, "recipe.norm_clips=null")[0].clips > clips  # as many as fit


def test_batch_norm_sees_fewer_clips_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("model=tsm", "scale=paper", "data=kinetics400", "trainer=gpu")
    memory_of(monkeypatch, 2)
    found = chosen(*words)[0]
    assert found.recompute
    assert 1 <= found.clips < 16
    memory_of(monkeypatch, *[80] * 16)
    assert chosen(*words[:-1], "trainer=ddp")[1] == (8, 1)  # of 128 clips each of 16 devices has 8
    machine(monkeypatch, 0, 2)
    assert chosen(*words[:-1], "trainer=cpu")[0].clips == 16
    assert chosen(*words[:-1], "trainer=cpu", "trainer.batch_per_device=2")[0].clips == 2  # a number stands


@pytest.mark.parametrize("value", [0, -1, "many", 1.5, True, None, [8], ""])
def test_clips_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(
        InputError, match=r"^trainer\.batch_per_device=.*: allowed is auto, or a number of 1 or"
    ) as caught:
        TrainerKeys(batch_per_device=value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("attention", "cudnn "), ("window", "varlen"), ("depthwise", "auto"), ("recompute", "yes")]
)
def test_other_ways_are_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.{key}={value}: allowed are .*") as caught:
        TrainerKeys(**{key: value})
    assert "\n" not in str(caught.value)


def test_the_ways_of_computing_are_not_part_of_a_run(tmp_path: Path) -> None:
    config = asdict(row("model=stat"))
    ways = {"attention": "math", "window": "grouped", "depthwise": "triton", "recompute": False, "compile": True}
    assert ways.keys() <= config["trainer"].keys()
    assert Run.of(config, tmp_path, None) == Run.of(config | {"trainer": config["trainer"] | ways}, tmp_path, None)


def test_a_config_of_before_a_key_gets_its_default() -> None:
    """A checkpoint carries the config of its run."""
    config = asdict(row("model=stat"))
    for key in ("attention", "window", "depthwise", "recompute"):
        del config["trainer"][key]
    assert from_plain(config).trainer == row("model=stat").trainer


def test_a_cpu_computes_in_16_bits_without_onednn() -> None:
    """Whose gradient of a (3, 1, 1) kernel over two frames is wrong there on some CPUs."""

    def gradient(**dtype: Any) -> torch.Tensor:
        torch.manual_seed(0)
        x, weight = torch.randn(2, 16, 2, 6, 6), torch.randn(16, 16, 3, 1, 1, requires_grad=True)
        with torch.autocast("cpu", **dtype):
            y = torch.nn.functional.conv3d(x, weight, padding=(1, 0, 0))
        (found,) = torch.autograd.grad(y.float().pow(2).mean(), weight)
        return found

    try:
        choose_backends(TrainerKeys(accelerator="cpu", precision="bf16-mixed"))
        assert not torch.backends.mkldnn.enabled
        low, full = gradient(dtype=torch.bfloat16), gradient(enabled=False)
        assert (low - full).norm() < 0.01 * full.norm()
    finally:
        choose_backends(TrainerKeys(accelerator="cpu"))
    assert torch.backends.mkldnn.enabled
