"""The place of a process among those of a run: by torchrun, by srun, left over from another run, or by no number."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

import pytest

from running import SMALL, refused, script
from stat_video.config import TrainerKeys
from stat_video.errors import InputError
from stat_video.hardware import rank_zero
from stat_video.launch import place
from stat_video.launch.frozen import PARENT, PLACE

ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
ELASTIC |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
SRUN |= {"SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "n1"}


@dataclass
class Run:
    trainer: TrainerKeys = field(default_factory=lambda: TrainerKeys(accelerator="cpu", devices=1))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PLACE, "TORCHELASTIC_RUN_ID", "SLURM_JOB_NAME", PARENT, *place.INTERFACES):
        monkeypatch.delenv(name, raising=False)


def check(config: Any, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    place.check_variables()
    place.check_place(config)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"])
def test_a_rank_that_no_launcher_gave_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would print nothing, take no lock and write nothing."""
    with pytest.raises(InputError, match=f"{name}=1.*unset {name}"):
        check(Run(), monkeypatch, **{name: "1"})


def test_a_local_rank_of_zero_would_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unset LOCAL_RANK"):
        check(Run(TrainerKeys(accelerator="cpu", devices=2)), monkeypatch, LOCAL_RANK="0")


@pytest.mark.parametrize("env", [{"RANK": "0"}, {"NODE_RANK": "0"}, {"WORLD_SIZE": "2"}, ELASTIC, SRUN])
def test_what_is_harmless_or_a_launchers_is_not_refused(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    check(Run(), monkeypatch, **env)


def test_nodes_by_hand_are_those_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = {"NODE_RANK": "1", "MASTER_ADDR": "h1", "MASTER_PORT": "29500"}
    check(Run(TrainerKeys(accelerator="cpu", num_nodes=2)), monkeypatch, **by_hand)
    for config in (Run(), object()):
        with pytest.raises(InputError, match="NODE_RANK=1"):
            place.check_place(config)


@pytest.mark.parametrize("name", [*place.RANKS, *place.COUNTS])
@pytest.mark.parametrize("value", ["", "x", "-1", "1.5"])
def test_what_is_no_number_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"{name}={value}: must be a number"):
        check(Run(), monkeypatch, **{name: value})


@pytest.mark.parametrize(
    ("name", "words", "env"),
    [
        ("train", (*SMALL, "plan=true"), {"RANK": "1"}),
        ("train", (*SMALL, "plan=true"), {"NODE_RANK": "1"}),
        ("train", SMALL, {"SLURM_PROCID": ""}),
        ("report", (), {"NODE_RANK": "1"}),
        ("evaluate", ("ckpt=x",), {"SLURM_PROCID": ""}),
    ],
)
def test_every_script_says_so_in_a_line(name: str, words: tuple[str, ...], env: dict[str, str]) -> None:
    (variable,) = env
    assert f"unset {variable}" in refused(script(name, *words, **env))


def test_the_first_rank_is_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable left over in the shell goes into a job with the environment."""
    for name, value in {**SRUN, "SLURM_PROCID": "0", "RANK": "1", "NODE_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert rank_zero()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not rank_zero()
    for name, value in {**ELASTIC, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert rank_zero()  # torchrun inside of a SLURM task


@pytest.mark.parametrize("env", [ELASTIC, SRUN])
def test_another_number_of_processes_than_the_configs_is_refused(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.together, "join", lambda *args, **how: None)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    place.keep_together(Run(TrainerKeys(accelerator="cpu", devices=2)))
    with pytest.raises(InputError, match=r"2 processes; trainer.devices=3 and trainer.num_nodes=1 are 3"):
        place.keep_together(Run(TrainerKeys(accelerator="cpu", devices=3)))


@pytest.mark.parametrize("address", ["127.0.1.1", "127.0.0.1", "::1"])
def test_a_host_name_that_leads_to_loopback(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"first": "10.0.0.1", "me": address, "localhost": "127.0.0.1"}
    monkeypatch.setattr(socket, "gethostname", lambda: "me")
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: [(0, 0, 0, "", (addresses[name], 0))])
    config = Run(TrainerKeys(accelerator="cpu", num_nodes=2))
    monkeypatch.setenv("MASTER_ADDR", "first")
    with pytest.raises(InputError, match="GLOO_SOCKET_IFNAME"):
        place.keep_together(config)
    place.keep_together(Run())  # one node
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    place.keep_together(config)  # all nodes are this machine
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    place.keep_together(config)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    addresses["me"] = "10.0.0.2"
    place.keep_together(config)
