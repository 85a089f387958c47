"""How many devices, cores and data workers a run takes of a machine, and which process of it speaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Trainer

from stat_video import hardware
from stat_video.config import TrainerKeys
from stat_video.errors import InputError
from stat_video.hardware import data_workers, devices, lightning_arguments, rank_zero, world_size


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
        ({}, 8, 256, 1, {}, 16),  # no more than that
        ({}, 1, 4, 1, {}, 4),
        ({"devices": 1}, 8, 32, 8, {}, 4),  # eight rows of one GPU each
        ({"accelerator": "cpu"}, 0, 2, 1, {}, 2),
        ({"accelerator": "cpu"}, 0, 2, 2, {}, 1),
        ({"accelerator": "cpu", "devices": 2}, 0, 2, 1, {}, 1),
        ({}, 8, 6, 1, {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "6"}, 6),  # the cores are the task's own
        ({}, 8, 64, 1, {"SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "64"}, 8),
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
    assert (told["strategy"], told["precision"], told["num_nodes"]) == ("ddp", "bf16-mixed", 2)
    assert told["benchmark"]
    assert not lightning_arguments(TrainerKeys(deterministic=True))["benchmark"]
    machine(monkeypatch, 0, 2)
    assert lightning_arguments(TrainerKeys())["precision"] == "32-true"
    with pytest.raises(InputError, match="no CUDA device here"):
        lightning_arguments(TrainerKeys(accelerator="cuda"))


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed", "ddp_spawn", ""])
def test_a_strategy_that_is_not_here_is_refused_in_one_line(strategy: str) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.strategy={strategy}: allowed are auto, ddp$") as caught:
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
