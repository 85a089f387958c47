"""Two hosts on this machine: network namespaces joined by a pair of virtual network cards, each with its host name.

Needs root and iproute2. A host's name resolves by an /etc/hosts of its own (`ip netns exec` mounts /etc/netns/NAME/).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.9.0.1", "10.9.0.2")
CARD = "wire0"  # of each host


def lacking() -> str | None:
    """Return why there can be no hosts here; None if there can."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return "two hosts need root, iproute2 and unshare"
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return f"no network namespaces here: {made.stderr.strip()}" if made.returncode else None


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One of them."""

    name: str
    address: str
    namespace: str
    card: str

    def start(
        self, *command: str, out: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on this host, its output to a file."""
        with out.open("wb") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"',
                 self.name, *command],
                cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def resolve_own_name_to(self, address: str) -> None:
        """Let this host's name resolve to another address, such as Debian's 127.0.1.1."""
        others = [f"{a} h{i}" for i, a in enumerate(ADDRESSES, 1) if f"h{i}" != self.name]
        folder = Path("/etc/netns") / self.namespace
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", f"{address} {self.name}", *others]) + "\n")

    def cut(self) -> None:
        """Cut the link to the other host: packets vanish, nothing is refused."""
        ip("-n", self.namespace, "link", "set", self.card, "down")

    def mend(self) -> None:
        """Connect the hosts again."""
        ip("-n", self.namespace, "link", "set", self.card, "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that reach each other and nothing else; end what runs there afterwards."""
    one, two = (Host(f"h{i}", address, f"sv{os.getpid()}-{i}", CARD) for i, address in enumerate(ADDRESSES, 1))
    try:
        for host in (one, two):
            ip("netns", "add", host.namespace)
            host.resolve_own_name_to(host.address)
        ip(
            "link",
            "add",
            one.card,
            "netns",
            one.namespace,
            "type",
            "veth",
            "peer",
            "name",
            two.card,
            "netns",
            two.namespace,
        )
        for host in (one, two):
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.card)
            ip("-n", host.namespace, "link", "set", host.card, "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
        yield one, two
    finally:
        for host in (one, two):
            pids = subprocess.run(
                ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=False
            ).stdout.split()  # fmt: skip
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / host.namespace, ignore_errors=True)
