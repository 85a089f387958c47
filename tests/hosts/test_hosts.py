"""A run over two hosts: the same as on one, and what happens when they lose each other. Run by `make test-hosts`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import CARD, Host, lacking, two_hosts

from running import HANGS, ROOT, SMALL, only
from same_runs import differences

pytestmark = [pytest.mark.hosts, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]
MINUTES = 0.25  # trainer.timeout_minutes where a host is lost


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def start(
    hosts: tuple[Host, Host], data: Path, logs: Path, *words: str, code: tuple[Path, Path] = (ROOT, ROOT), **env: str
) -> list[subprocess.Popen[bytes]]:
    """Start a run of a process on each host by torchrun; ``code`` says where each host's clone is."""
    logs.mkdir(exist_ok=True)
    keys = [*SMALL, f"folders.built_in={data}", f"folders.logs={logs}", "T=4", "crop=32"]
    keys += ["trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.workers=0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += [f"--master_addr={hosts[0].address}", "--master_port=29600"]
    return [
        host.start(
            *torchrun, f"--node_rank={number}", "src/train.py", *keys, *words,
            out=logs / f"{host.name}.txt", cwd=code[number], env={"OMP_NUM_THREADS": "1", **env},
        )
        for number, host in enumerate(hosts)
    ]  # fmt: skip


def said(hosts: tuple[Host, Host], logs: Path) -> list[list[str]]:
    """Return the error lines of each host that are ours; torchrun prints a report of its own after them."""
    return [
        [line for line in (logs / f"{host.name}.txt").read_text().splitlines() if line.startswith("error:")]
        for host in hosts
    ]


def test_two_hosts_are_as_one(hosts: tuple[Host, Host], data: Path, tmp_path: Path) -> None:
    both = start(hosts, data, tmp_path / "two")
    assert [host.wait(HANGS) for host in both] == [0, 0], said(hosts, tmp_path / "two")
    keys = [*SMALL, f"folders.built_in={data}", f"folders.logs={tmp_path / 'one'}", "T=4", "crop=32"]
    subprocess.run(
        [sys.executable, str(ROOT / "src/train.py"), *keys, "trainer=ddp_cpu", "trainer.workers=0"],
        check=True, timeout=HANGS,
    )  # fmt: skip
    assert differences(tmp_path / "one", tmp_path / "two") == []


def test_a_link_that_is_cut_ends_both_with_a_line(hosts: tuple[Host, Host], data: Path, tmp_path: Path) -> None:
    more = (f"trainer.timeout_minutes={MINUTES}", "recipe.epochs=200")
    both = start(hosts, data, tmp_path, *more)
    end = time.monotonic() + HANGS
    while not list(tmp_path.rglob("last.ckpt")):
        assert time.monotonic() < end
        assert [host.poll() for host in both] == [None, None], said(hosts, tmp_path)
        time.sleep(0.2)
    hosts[1].cut()
    cut = time.monotonic()
    assert all(host.wait(60 * MINUTES + 120) for host in both)
    assert time.monotonic() - cut < 60 * MINUTES + 90
    for lines, other in zip(said(hosts, tmp_path), ("rank 1 on h2", "rank 0 on h1"), strict=True):
        assert len(lines) == 1, lines
        assert other in lines[0]
        assert "trainer.timeout_minutes" in lines[0]
        assert "Traceback" not in "".join(lines)
    ours = [(tmp_path / f"{host.name}.txt").read_text().partition("error:")[0] for host in hosts]
    assert not any("Traceback" in text for text in ours)


def test_a_name_that_leads_to_loopback_is_refused_at_once(hosts: tuple[Host, Host], data: Path, tmp_path: Path) -> None:
    hosts[1].resolve_own_name_to("127.0.1.1")
    both = start(hosts, data, tmp_path)
    began = time.monotonic()
    assert all(host.wait(HANGS) for host in both)
    assert time.monotonic() - began < 300
    first, second = said(hosts, tmp_path)
    assert len(first) == len(second) == 1
    for lines in (first, second):
        assert "127.0.1.1" in lines[0]
        assert "GLOO_SOCKET_IFNAME" in lines[0]
    assert CARD in second[0]
    assert not list(tmp_path.rglob("last.ckpt"))


def test_the_way_out_of_loopback_works(hosts: tuple[Host, Host], data: Path, tmp_path: Path) -> None:
    for host in hosts:
        host.resolve_own_name_to("127.0.1.1")
    both = start(hosts, data, tmp_path, GLOO_SOCKET_IFNAME=CARD)
    assert [host.wait(HANGS) for host in both] == [0, 0], said(hosts, tmp_path)
    only("result.json", tmp_path)


def test_hosts_on_other_code_are_refused(hosts: tuple[Host, Host], data: Path, tmp_path: Path) -> None:
    """A clone whose source differs by a line would have trained along."""
    clone = tmp_path / "clone"
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = clone / "src" / "stat_video" / "training" / "optim.py"
    source.write_text(source.read_text() + "\n# another version\n")
    both = start(hosts, data, tmp_path / "logs", code=(ROOT, clone))
    assert all(host.wait(HANGS) for host in both)
    first, _ = said(hosts, tmp_path / "logs")
    assert len(first) == 1
    assert "code is " in first[0]
    assert not list(tmp_path.rglob("result.json"))
