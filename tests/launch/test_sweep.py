"""How rows of a sweep are run: in which order, by which processes, with what, and what is said of those that fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from running import HANGS, PROBE, ROOT, SMALL, only, read_json, script
from stat_video import compose
from stat_video.compose import Row, checked
from stat_video.config import Config, Processes, Slurm, TrainerKeys
from stat_video.errors import InputError
from stat_video.launch import frozen, processes, rows
from stat_video.launch.processes import FreshProcesses
from stat_video.launch.rows import Done, Outcome, run_rows
from stat_video.launch.slurm import SlurmJobs
from stat_video.launch.sweep import check_in_process, short_names
from stat_video.runs.results import read_results
from stat_video.runs.run import Busy

# ------------------------------------------------------------------------------------------------- the order


def row(words: str, config: Any = None) -> Row:
    return Row(tuple(words.split()), config)


class Told:
    """A launcher whose rows end when they are told to."""

    stopped = None

    def __init__(self, side_by_side: int = 1, looks: int = 2) -> None:
        self.side_by_side, self.looks = side_by_side, looks
        self.started: list[str] = []
        self.running = self.most = 0

    def start(self, row: Row, name: str, slot: int) -> Any:
        self.started.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        left = self.looks

        class Job:
            def poll(job) -> Outcome | None:
                nonlocal left
                left -= 1
                if left:
                    return None
                self.running -= 1
                return Outcome(f"ran {name}") if row.config != "bad" else Outcome(reason="it broke")

        return Job()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(rows, "BUSY_SECONDS", 0.01)


def run(rows: list[Row], launcher: Any, known: Callable[[Any], Any] = lambda config: None) -> tuple[list[Any], str]:
    """Return what each row returned, or why it failed, and what was said; rows are called by all of their words."""
    said: list[str] = []
    outcomes = run_rows(rows, {row.words: " ".join(row.words) for row in rows}, known, launcher, said.append)
    return [o and (o.reason or o.returned) for o in outcomes], "\n".join(said)


def test_a_row_that_fails_does_not_stop_the_others() -> None:
    launcher = Told()
    outcomes, said = run([row("a", None), row("b", "bad"), row("c", None)], launcher)
    assert outcomes == ["ran a", "it broke", "ran c"]
    assert launcher.started == ["a", "b", "c"]
    assert launcher.most == 1
    assert "row 2 of 3: b" in said
    assert "row 2 of 3 failed after 0 s; 2 done, 0 running, 1 left, about 0 s to go" in said
    assert "row 3 of 3 done after 0 s; 3 done, 0 running, 0 left" in said


@pytest.mark.parametrize("side_by_side", [2, 3, 8])
def test_so_many_run_side_by_side(side_by_side: int) -> None:
    launcher = Told(side_by_side)
    outcomes, _ = run([row(str(i), None) for i in range(6)], launcher)
    assert outcomes == [f"ran {i}" for i in range(6)]  # in the order of the rows
    assert launcher.most == min(side_by_side, 6)


def test_a_finished_row_starts_no_process() -> None:
    launcher = Told()
    outcomes, _ = run([row("a", 1), row("b", None)], launcher, lambda config: config and "known")
    assert outcomes == ["known", "ran b"]
    assert launcher.started == ["b"]


def test_a_row_that_another_process_has_is_left_until_last() -> None:
    looks = {"a": 3}

    def known(config: str) -> str | None:
        if looks.get(config, 0):
            looks[config] -= 1
            raise Busy(f"{config} is being run")
        return "finished by the other" if config == "a" else None

    launcher = Told()
    outcomes, said = run([row("a", "a"), row("b", "b"), row("c", "c")], launcher, known)
    assert outcomes == ["finished by the other", "ran b", "ran c"]
    assert said.count("left until last") == 1


def test_a_row_waits_for_the_weights_of_another() -> None:
    """What a row lacks while others run may come from them; when none does, it is refused."""
    done: list[str] = []

    def known(config: str) -> None:
        if (config == "second" and "first" not in launcher.started) or launcher.running:
            raise InputError("no weights to start from")
        if config == "never":
            raise InputError("no such file")

    launcher = Told(side_by_side=3)
    rows = [row(name, name) for name in ("first", "second", "never")]
    outcomes, said = run(rows, launcher, known)
    assert outcomes == ["ran first", "ran second", "no such file"], done
    assert launcher.most == 1
    assert said.count("asked again when others are done") == 2


def test_told_to_stop_it_starts_no_further_row() -> None:
    launcher = Told()
    rows = [row(str(i), None) for i in range(3)]

    def known(config: Any) -> None:
        if len(launcher.started) == 1:
            launcher.stopped = signal.SIGTERM  # type: ignore[assignment]

    outcomes, _ = run(rows, launcher, known)
    assert outcomes[0] == "ran 0"
    assert outcomes[2] is None


def test_names_of_rows_are_what_sets_them_apart() -> None:
    found = [("t_o=3", "seed=0", "name=x"), ("t_o=5", "seed=0", "name=x"), ("t_o=-3", "seed=0", "name=x")]
    assert list(short_names(found).values()) == ["t_o=3", "t_o=5", "t_o=-3"]
    assert short_names(found)[found[2]] == "t_o=-3"
    assert short_names(found[:1])[found[0]] == "t_o=3 seed=0 name=x"
    more = [("model=a", "x=1"), ("x=1",)]  # one has every word of the other
    assert list(short_names(more).values()) == ["model=a", "x=1"]


def test_many_rows_that_fail_for_one_reason_are_one_short_line() -> None:
    assert Done([], {"stopped": []}).lines() == ["stopped"]
    assert Done([], {"no": ["a", "b", "c", "d"], "why": ["e"]}).lines() == ["a | b | c | d | no", "e | why"]
    assert Done([], {"no": list("abcde")}).lines() == ["a | b | c | and 2 more rows | no"]
    words = ("experiment=ablation_window,ablation_modules", "seeds=3", "epochs=1", *SMALL)
    refused = script("train", "-m", *words)
    assert refused.returncode == 2
    assert len((refused.stdout + refused.stderr).splitlines()) == 1  # said once, though no row can be run
    assert "more rows | unknown key 'epochs'" in refused.stderr


def test_durations() -> None:
    assert [rows.duration(s) for s in (3, 89, 90, 5399, 5400)] == ["3 s", "89 s", "2 min", "90 min", "1.5 h"]


# ------------------------------------------------------------------------------------------- fresh processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
file = Path(sys.argv[1].removeprefix("config="))
assert len(sys.argv) == 2
config = json.loads(file.read_text())
if config["do"] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if config["do"] == "leave":
    sys.exit(3)
if config["do"] == "wait":
    def end(number, frame):
        Path(config["told"]).write_text(str(number))
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    print("waiting", flush=True)
    time.sleep(60)
print("a line", flush=True)
known = {k: v for k, v in os.environ.items() if k.startswith(("LOCAL", "RANK", "WORLD", "MASTER", "PL_", "SLURM"))}
returned = {"env": known, "config": config, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": os.environ.get("OMP_NUM_THREADS"), "parent": os.environ.get("STAT_VIDEO_PARENT")}
beside = file.with_suffix(".new")  # renamed into place, as `write_json` does: who polls never reads half a file
beside.write_text(json.dumps({"returned": returned}))
beside.rename(file.with_suffix(".outcome.json"))
"""


@dataclass
class Little:
    """A config for it."""

    do: str = "say"
    told: str = ""
    trainer: TrainerKeys = field(default_factory=TrainerKeys)
    name: str = "little"


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows run this in the place of src/train.py: it takes no seconds to start."""
    path = tmp_path / "little.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(path), "-m", "do=a,b"])
    return tmp_path


def test_a_fresh_process_has_its_config_and_no_place_among_ranks(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1",
        "PL_GLOBAL_SEED": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "12",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    launcher = FreshProcesses(little / "launched", Processes())
    (first, second), _ = run([row("a", Little()), row("b", Little(told="b"))], launcher)
    assert first["config"]["told"] == ""
    assert second["config"]["told"] == "b"
    assert first["env"].keys() == {"MASTER_PORT", "SLURM_JOB_ID"}
    assert first["env"]["MASTER_PORT"] not in ("1", second["env"]["MASTER_PORT"])
    assert first["parent"] == str(os.getpid())
    assert first["cuda"] is None


def test_a_process_that_dies_is_a_failed_row_with_its_reason(little: Path) -> None:
    rows = [row("a", Little("die")), row("b", Little("leave")), row("c", Little())]
    outcomes, _ = run(rows, FreshProcesses(little / "launched", Processes()))
    assert outcomes[0] == "ended by signal SIGKILL without a word of its own"
    assert outcomes[1] == "ended by exit code 3 without a word of its own"
    assert outcomes[2]["config"]["do"] == "say"


def test_rows_side_by_side_share_the_devices_and_say_who_speaks(
    little: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "cores", lambda: 12)
    outcomes, _ = run([row("a", Little()), row("b", Little())], FreshProcesses(little / "l", Processes(2)))
    assert sorted(o["cuda"] for o in outcomes) == ["4,5", "6,7"]
    assert [o["threads"] for o in outcomes] == ["6", "6"]
    assert [o["config"]["trainer"]["workers"] for o in outcomes] == [max(1, os.cpu_count() // 2)] * 2
    assert {"[a] a line", "[b] a line"} <= set(capfd.readouterr().out.splitlines())
    with pytest.raises(InputError, match=r"side_by_side=3: the 4 CUDA devices here .* allowed are 1, 2, 4"):
        FreshProcesses(little, Processes(3))
    with pytest.raises(InputError, match=r"side_by_side=0: allowed is 1 or more"):
        FreshProcesses(little, Processes(0))
    told = row("a", Little(trainer=TrainerKeys(devices=3)))
    with pytest.raises(InputError, match=r"trainer.devices=3: with hydra.launcher.side_by_side=2 a row has 2"):
        FreshProcesses(little, Processes(2)).check([told])
    with pytest.raises(InputError, match=r"trainer.num_nodes=2: .* need hydra/launcher=slurm"):
        FreshProcesses(little, Processes()).check([row("a", Little(trainer=TrainerKeys(num_nodes=2)))])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_row_once_and_no_other_row_starts(little: Path, number: signal.Signals) -> None:
    launcher = FreshProcesses(little / "launched", Processes())
    rows = [row("a", Little("wait", str(little / "told"))), row("b", Little("wait", str(little / "too")))]

    def tell() -> None:
        while not launcher.processes or not (little / "launched" / "000.config.json").exists():
            time.sleep(0.01)
        time.sleep(1)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell).start()
    began = time.monotonic()
    with launcher.passing_signals_on():
        outcomes, _ = run(rows, launcher)
    assert outcomes == [None, None]  # they did not fail
    assert launcher.stopped == number
    assert time.monotonic() - began < 30
    assert not (little / "too").exists()
    if number == signal.SIGTERM:
        assert (little / "told").read_text() == str(int(signal.SIGTERM))


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """The parent is killed by SIGKILL and can say nothing; the child gets a SIGTERM."""
    child = (
        "import signal, sys, time; from pathlib import Path; from stat_video.launch import frozen\n"
        "def end(*_): Path(sys.argv[1]).write_text('told'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); frozen.end_with_parent(); print('up', flush=True); time.sleep(60)\n"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[1]], start_new_session=True,\n"
        "                     env={**os.environ, 'STAT_VIDEO_PARENT': str(os.getpid())})\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path / "told")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while not (tmp_path / "told").exists():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_frozen_config_is_the_same_run(tmp_path: Path) -> None:
    for words in (["experiment=ssv2"], ["experiment=ablation_stem", "scale=paper"], ["model=mvit"]):
        config = compose.rows("train", Config, words, every=True)[-1].config
        file = frozen.freeze(config, tmp_path)
        again = checked(OmegaConf.create(frozen.read_frozen(file)), Config)
        assert again == config
    (tmp_path / "x.json").write_text("[]")
    for name in ("x.json", "none.json"):
        with pytest.raises(InputError, match="no config that a run could start from"):
            frozen.read_frozen(tmp_path / name)


def test_launchers_that_would_go_wrong_are_refused() -> None:
    told = row("t_o=5", Little(trainer=TrainerKeys(accelerator="cpu", devices=2, strategy="ddp")))
    with pytest.raises(InputError, match=r"t_o=5: hydra/launcher=basic runs .* allowed is hydra/launcher=processes"):
        check_in_process([told], {told.words: "t_o=5"})


@pytest.mark.slow
def test_a_sweep_of_rows_with_two_processes_each(place: Any, tmp_path: Path) -> None:
    """No rank runs the sweep again or another row; a row that fails is named, and is the only one."""
    words = ("-m", "experiment=ablation_token,ablation_aggregation", *PROBE, *place.keys_with(tmp_path))
    words = (*words, "trainer=ddp_cpu", "trainer.workers=0", "recipe.max_steps=1")
    done = script("train", *words, "recipe.batch_size=8", "l_ta=0,1", "model.widths=[24,48,96,192]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training tiny-probe") == 4
    assert "2 devices" in done.stdout
    results = [read_json(file) for file in tmp_path.glob("ablation_*/*/result.json")]
    assert len({result["id"] for result in results}) == len(results) == 4
    assert all(result["hardware"]["devices"] == 2 for result in results)
    assert not list(tmp_path.glob(".launched/*"))


@pytest.mark.slow
def test_torchrun_on_two_nodes(place: Any, tmp_path: Path) -> None:
    """Both on this machine, a process each."""
    words = [*PROBE, *place.keys_with(tmp_path), "experiment=ablation_token", "recipe.max_steps=1", "trainer.devices=1"]
    words += ["trainer.num_nodes=2", "trainer.strategy=ddp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = [
        subprocess.Popen([*torchrun, f"--node_rank={node}", str(ROOT / "src" / "train.py"), *words])
        for node in range(2)
    ]
    assert [node.wait(timeout=HANGS) for node in nodes] == [0, 0]
    assert read_json(only("result.json", tmp_path))["hardware"]["devices"] == 2


@pytest.mark.slow
def test_a_sweep_told_to_stop_leaves_nothing_running_and_goes_on(place: Any, tmp_path: Path) -> None:
    """SIGTERM while two ranks of a row train; then the same words."""
    words = ["-m", "modules=ca,ca_sa", *SMALL, *place.keys_with(tmp_path), "trainer=ddp_cpu", "trainer.workers=0"]
    words += ["recipe.epochs=4", "name=stopped"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "src" / "train.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list(tmp_path.rglob("last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143, said
    assert "error: stopped by SIGTERM; the same command goes on with the 2 rows left" in said
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    done = script("train", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Resuming") == 1
    assert len(list(tmp_path.rglob("result.json"))) == 2


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_as_an_undisturbed_one(place, tmp_path):
    """SIGKILL to the whole process group at random moments; then the same words. To the last digit."""
    words = ("-m", "experiment=ablation_modules", *PROBE, "recipe.epochs=3", place.keys[0])
    done = script("train", *words, f"folders.logs={tmp_path / 'undisturbed'}")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words, f"folders.logs={tmp_path / 'killed'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for finished, delay in enumerate(np.random.default_rng(0).uniform(0, 12, size=3)):
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while len(list(tmp_path.glob("killed/*/*/result.json"))) < finished:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(delay)
        assert process.poll() is None  # it is not done yet
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = script("train", *words, f"folders.logs={tmp_path / 'killed'}")
    assert done.returncode == 0, done.stderr
    assert "Finished before" in done.stdout
    found = [read_results(tmp_path / name).results for name in ("undisturbed", "killed")]
    assert [len(results) for results in found] == [4, 4]
    for (one, expected), (two, result) in zip(*found, strict=True):
        assert one.name == two.name
        assert result["metrics"] == expected["metrics"]
        a, b = (torch.load(folder / "logits_5x1.pt", weights_only=True)["logits"] for folder in (one, two))
        assert torch.equal(a, b)


# ----------------------------------------------------------------------------------------------------- SLURM


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `sbatch` that keeps the script it is given."""
    (folder / "bin").mkdir()
    for name, text in {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {folder}/script.sh; echo Submitted batch job 12',
        "sacct": "echo 'JobID|State'; echo '12|PENDING'",
    }.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_a_slurm_script_asks_for_a_task_a_device(
    little: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm(little, monkeypatch)
    settings = Slurm(gpus_per_node=4, cpus_per_gpu=12, hours=36, partition="gpu", account="lab", more={"nice": 10})
    jobs = SlurmJobs(little / "launched", settings)
    jobs.start(row("t_o=5", Little(trainer=TrainerKeys(accelerator="cuda", strategy="ddp", num_nodes=2))), "t_o=5", 0)
    asked = (little / "script.sh").read_text().splitlines()
    for option in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "cpus-per-task=12",
        "time=2160",
        "partition=gpu",
        "account=lab",
        "signal=USR1@180",
        "nice=10",
        "requeue",
        "open-mode=append",
        "job-name=stat-little",
    ):
        assert f"#SBATCH --{option}" in asked, "\n".join(asked)  # fmt: skip
    (started,) = [line for line in asked if line.startswith("srun ")]
    assert "submitit.core._submit" in started
    # Of srun itself, since it does not take over the cores of sbatch, and one failed rank ends all.
    assert {"--cpus-per-task=12", "--kill-on-bad-exit=1"} <= set(started.partition(" -u ")[0].split())
    assert f"export PYTHONPATH={ROOT / 'src'}" in "\n".join(asked)
    config = read_json(only("000.config.json", little / "launched"))
    assert config["trainer"]["devices"] == 4  # as many as there are tasks, as Lightning demands
    assert config["trainer"]["num_nodes"] == 2
    assert config["trainer"]["workers"] == 12  # a core each
    assert "job 12: t_o=5" in capsys.readouterr().out


@pytest.mark.parametrize(("workers", "cores", "expected"), [(None, 40, 40), (None, 3, 3), (0, 40, 0), (24, 16, 24)])
def test_a_slurm_task_has_a_worker_a_core(
    little: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, cores: int, expected: int
) -> None:
    fake_slurm(little, monkeypatch)
    jobs = SlurmJobs(little / "launched", Slurm(cpus_per_gpu=cores))
    jobs.start(row("a", Little(trainer=TrainerKeys(accelerator="cuda", workers=workers))), "a", 0)
    assert read_json(only("000.config.json", little / "launched"))["trainer"]["workers"] == expected
    assert f"#SBATCH --cpus-per-task={cores}" in (little / "script.sh").read_text().splitlines()


def test_a_row_runs_as_a_submitit_job(little: Path) -> None:
    """By submitit's executor for one machine, as SLURM would: a job of one task."""
    jobs = SlurmJobs(little / "launched", Slurm(cluster="local", cpus_per_gpu=1))
    cpu = TrainerKeys(accelerator="cpu", devices=1)
    rows = [row("a", Little(trainer=cpu)), row("b", Little("leave", trainer=cpu))]
    outcomes, _ = run(rows, jobs)
    assert outcomes[0]["config"]["trainer"]["devices"] == 1
    assert outcomes[1].startswith("job ")
    assert "its log: " in outcomes[1]


def test_slurm_that_is_not_there_is_one_line(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"hydra/launcher=slurm: .*srun"):
        SlurmJobs(little, Slurm())
    with pytest.raises(InputError, match=r"hydra.launcher.cluster=pbs: allowed are slurm, local"):
        SlurmJobs(little, Slurm(cluster="pbs"))


def test_an_outcome_is_that_of_the_first_rank_or_of_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "000.config.json"
    monkeypatch.setenv("LOCAL_RANK", "1")
    frozen.leave_outcome(file, Outcome("mine"))
    assert not frozen.outcome_file(file).exists()
    frozen.leave_outcome(file, Outcome(reason="a bad video"))
    frozen.leave_outcome(file, Outcome(reason="the other rank is gone"))
    assert frozen.read_outcome(file, 1).reason == "a bad video"
    monkeypatch.setenv("LOCAL_RANK", "0")
    frozen.leave_outcome(file, Outcome("done"))
    assert frozen.read_outcome(file, 0).returned == "done"
    frozen.leave_outcome(tmp_path / "config.json", Outcome("started by hand"))
    assert list(tmp_path.iterdir()) == []


def test_outcomes_are_read_once(tmp_path: Path) -> None:
    file = tmp_path / "000.config.json"
    frozen.outcome_file(file).write_text(json.dumps({"returned": {"a": 1}, "reason": None, "busy": False}))
    assert frozen.read_outcome(file, 0) == Outcome({"a": 1})
    assert frozen.read_outcome(file, 0).reason == "ended by exit code 0 without a word of its own"
