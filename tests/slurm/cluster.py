"""A SLURM cluster on this machine: munged, slurmctld, slurmd per node and, if asked for, slurmdbd with its database.

All daemons run from a folder, on free ports of the loopback interface, and end with the `with` block.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
START_SECONDS = 120
PR_SET_PDEATHSIG = 1
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/bin"

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
MinJobAge=300
KillWait=20
Waittime=0
OverTimeLimit=0
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=requeue_delay=3,sched_interval=5
{accounting}
{nodes}
PartitionName=gpu Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=two Nodes={two} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=nograce Nodes={names} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=cancelled Nodes={names} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=60
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

DATABASE_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def lacking(accounting: bool) -> list[str]:
    """Return the programs of SLURM that are not installed, and 'root' if this user is another."""
    names = NEEDED + (NEEDED_FOR_ACCOUNTING if accounting else ())
    return [name for name in names if not shutil.which(name, path=PATH)] + ["root"] * (os.geteuid() != 0)


def free_ports(count: int) -> list[int]:
    """Return so many ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(true: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until something is true; AssertionError names it if it is not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.3)


@dataclass
class Cluster:
    """A running cluster; commands of SLURM work with `environment`."""

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground, without the descriptors of this process."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(command[0], path=PATH) or command[0], *command[1:]],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self.start(name, "slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def stop(self, name: str, signum: int = signal.SIGTERM) -> None:
        """Stop a daemon."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(signum)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def run(self, *command: str, check: bool = True) -> str:
        """Return what a command of SLURM prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")

    def show(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def jobs(self) -> list[str]:
        """Return the ids of all jobs that the controller knows."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%A").split()

    def batch(self, script: str, *options: str) -> str:
        """Submit a script; return the job's id."""
        file = self.folder / f"batch{len(list(self.folder.glob('batch*')))}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        return self.run("sbatch", "--parsable", f"--output={self.folder}/job-%j.txt", *options, str(file))

    def idle(self) -> bool:
        """Return whether all nodes are idle; AssertionError if a daemon has ended."""
        dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
        assert not dead, f"ended: {', '.join(dead)}"
        return self.run("sinfo", "--noheader", "--format=%t", "--partition=gpu", check=False) == "idle"

    def said(self) -> str:
        """Return the ends of all daemons' logs, for what went wrong."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


@contextlib.contextmanager
def cluster(folder: Path, accounting: bool, nodes: Sequence[str] = ("n1", "n2"), cpus: int = 8) -> Iterator[Cluster]:
    """Yield a cluster whose nodes are up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    controller, dbd, database, *ports = free_ports(3 + len(nodes))
    host = socket.gethostname().partition(".")[0]
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=2000"
        for name, port in zip(nodes, ports, strict=True)
    ]
    kept = "AccountingStorageType=accounting_storage/none"
    if accounting:
        kept = "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        kept += f"AccountingStoragePort={dbd}\nAccountingStoragePass={folder}/munge.socket"
    values = {"folder": folder, "host": host, "controller": controller, "dbd": dbd, "database": database}
    (folder / "slurm.conf").write_text(
        CONF.format(**values, accounting=kept, nodes="\n".join(lines), names=",".join(nodes), two=",".join(nodes[:2]))
    )
    (folder / "slurmdbd.conf").write_text(DATABASE_CONF.format(**values))
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))}
    up = Cluster(folder, {**plain, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        names = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")}
        up.start("munged", "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *names.values())
        until((folder / "munge.socket").exists, "munged", START_SECONDS)
        if accounting:
            _start_database(up, database, dbd)
            until(lambda: _registered(up), "slurmdbd knows the cluster", START_SECONDS)
        up.start("slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for name in nodes:
            up.start_node(name)
        until(up.idle, "the nodes are idle", START_SECONDS)
        yield up
    except BaseException:
        print(up.said())
        raise
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, OSError):
            up.run("scancel", "--signal=KILL", "--user=root", check=False)
            up.run("scancel", "--user=root", check=False)
        order = [*nodes, "slurmctld", "slurmdbd", "database", "munged"]
        for name in sorted(up.daemons, key=order.index):
            up.stop(name)
        _end_steps(folder)


def _start_database(up: Cluster, database: int, dbd: int) -> None:
    data = up.folder / "database"
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db",
         "--auth-root-authentication-method=normal"],
        env=up.environment, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=START_SECONDS,
    )  # fmt: skip
    up.start(
        "database", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", "--bind-address=127.0.0.1",
        f"--port={database}", f"--socket={up.folder}/database.socket", f"--pid-file={up.folder}/database.pid",
        "--innodb-lock-wait-timeout=900",
    )  # fmt: skip
    grant = "create database slurm; create user slurm@'127.0.0.1' identified by 'slurm'; create user slurm@localhost "
    grant += "identified by 'slurm'; grant all on slurm.* to slurm@'127.0.0.1'; grant all on slurm.* to slurm@localhost"

    def made() -> bool:
        client = ["mariadb", "--no-defaults", f"--socket={up.folder}/database.socket", "--user=root"]
        return (
            subprocess.run([*client, "-e", grant], env=up.environment, capture_output=True, check=False).returncode == 0
        )

    until(made, "the database", START_SECONDS)
    up.environment["SLURM_CONF"] = str(up.folder / "slurm.conf")  # slurmdbd.conf lies beside it
    up.start("slurmdbd", "slurmdbd", "-D")

    def answers() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", dbd)) == 0

    until(answers, "slurmdbd", START_SECONDS)


def _registered(up: Cluster) -> bool:
    up.run("sacctmgr", "--immediate", "add", "cluster", "test", check=False)
    return "test" in up.run("sacctmgr", "--noheader", "list", "cluster", "format=cluster", check=False).split()


def _end_with_parent() -> None:
    """Of a daemon before it starts: end by SIGTERM when the process that started it dies, however that dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_steps(folder: Path) -> None:
    """End what a job has left: each process whose environment names this cluster, the daemons of steps too."""
    ours = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if ours in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
