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
from stat_video.errors import InputError, Stopped
from stat_video.launch import frozen, processes, rows
from stat_video.launch import script as script_file
from stat_video.launch import slurm as slurm_file
from stat_video.launch.processes import FreshProcesses
from stat_video.launch.rows import Done, Outcome, run_rows
from stat_video.launch.script import run_frozen
from stat_video.launch.slurm import SlurmJobs
from stat_video.launch.sweep import check_in_process, short_names
from stat_video.launch.task import RowJob, ended_file
from stat_video.runs.results import read_results
from stat_video.runs.run import Busy

# ------------------------------------------------------------------------------------------------- the order


def row(words: str, config: Any = None) -> Row:
    return Row(tuple(words.split()), config)


class Told:
    """A launcher whose rows end when they are told to."""

    stopped, silent = None, 0.0

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

            def silent(job) -> float:
                return self.silent

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
    assert Done([], {"t_o=4: must be odd": ["t_o=4"]}).lines() == ["t_o=4: must be odd"]
    assert Done([], {"no": list("abcde")}).lines() == ["a | b | c | and 2 more rows | no"]
    words = ("experiment=ablation_window,ablation_modules", "seeds=3", "epoch_count=1", *SMALL)
    refused = script("train", "-m", *words)
    assert refused.returncode == 2
    assert len((refused.stdout + refused.stderr).splitlines()) == 1  # said once, though no row can be run
    assert "more rows | unknown key 'epoch_count'" in refused.stderr


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


def test_a_row_whose_time_is_over_is_told_to_end(little: Path) -> None:
    launcher = FreshProcesses(little / "launched", Processes(hours=1.5 / 3600))
    rows = [row("a", Little("wait", str(little / "told"))), row("b", Little())]
    (first, second), _ = run(rows, launcher)
    assert "hydra.launcher.hours=" in first
    assert (little / "told").read_text() == str(int(signal.SIGTERM))  # it could save
    assert second["config"]["do"] == "say"
    with pytest.raises(InputError, match=r"hydra.launcher.hours=0"):
        FreshProcesses(little, Processes(hours=0))


def test_a_row_that_does_not_hear_sigterm_is_killed_in_the_end(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "END_SECONDS", 0.5)
    (little / "little.py").write_text(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    outcomes, _ = run([row("a", Little())], FreshProcesses(little / "launched", Processes(hours=1 / 3600)))
    assert "hydra.launcher.hours=" in outcomes[0]
    assert time.monotonic() - began < 30


def test_a_row_of_which_nothing_is_heard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Told(looks=5)
    launcher.silent = rows.SILENT_SECONDS - 1
    assert "nothing was heard" not in run([row("a"), row("b")], launcher)[1]
    launcher.silent = rows.SILENT_SECONDS
    _, said = run([row("a"), row("b")], launcher)
    assert said.count("nothing was heard of it for 30 min: a") == 1  # not at each look
    assert said.count("nothing was heard of it for 30 min: b") == 1


def test_silence_is_counted_from_the_last_line(little: Path) -> None:
    job = FreshProcesses(little / "launched", Processes()).start(row("a", Little("wait")), "a", 0)
    assert isinstance(job, processes._Process)
    before = job.heard
    try:
        while job.heard == before:  # until it says that it waits
            assert time.monotonic() - before < 30
            time.sleep(0.05)
        assert job.silent() <= time.monotonic() - job.heard < time.monotonic() - before
        time.sleep(0.5)
        assert job.silent() >= 0.5
    finally:
        job.process.kill()
        job.process.wait()


@dataclass
class Empty:
    """A schema without keys."""


@pytest.mark.parametrize("requeued", [None, "job 12 is put back into the queue and continues"])
def test_a_row_that_was_told_to_stop_says_so_and_a_requeued_one_leaves_nothing(
    requeued: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(frozen.PARENT, raising=False)
    file = tmp_path / f"000{frozen.NAME}"
    file.write_text("{}")

    def task(config: Any) -> None:
        raise Stopped(signal.SIGTERM, requeued)

    with pytest.raises(Stopped):
        run_frozen(file, Empty, task)
    monkeypatch.delenv(frozen.PARENT, raising=False)
    assert frozen.outcome_file(file).exists() == (requeued is None)
    if requeued is None:
        assert "SIGTERM" in str(frozen.read_outcome(file, 143).reason)


@pytest.mark.parametrize(("by", "code"), [(None, 0), ("srun", 2), ("torchrun", 2)])
def test_a_busy_row_of_several_ranks_ends_with_a_code_that_ends_the_others(
    by: str | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(frozen.PARENT, raising=False)
    monkeypatch.setattr(script_file, "launched_by", lambda: by)
    file = tmp_path / f"000{frozen.NAME}"
    file.write_text("{}")

    def task(config: Any) -> None:
        raise Busy("being run by another")

    assert run_frozen(file, Empty, task) == code
    monkeypatch.delenv(frozen.PARENT, raising=False)
    assert frozen.read_outcome(file, code).busy


def test_a_lost_rank_is_no_reason_where_a_cause_is_known(tmp_path: Path) -> None:
    file = tmp_path / f"000{frozen.NAME}"
    lost, cause = Outcome(reason="the connection broke", lost=True), Outcome(reason="on rank 1: no such file")
    frozen.leave_outcome(file, cause)
    frozen.leave_outcome(file, lost)
    assert frozen.peek_outcome(file) == cause
    frozen.forget_losses(file)
    assert frozen.peek_outcome(file) == cause
    frozen.outcome_file(file).unlink()
    frozen.leave_outcome(file, lost)
    frozen.forget_losses(file)
    assert not frozen.outcome_file(file).exists()


@pytest.mark.parametrize("allocated", [False, True])
def test_who_waits_for_a_busy_run(allocated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that waits is paid for."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value) if allocated else monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(script_file, "BUSY_SECONDS", 0.01)
    asked = []

    def known(config: Any) -> str:
        asked.append(config)
        if len(asked) < 3:
            raise Busy("being run by another")
        return "its result"

    if not allocated:
        assert script_file.run_alone(pytest.fail, known, None) == "its result"
        return
    with pytest.raises(InputError, match="being run by another"):
        script_file.run_alone(pytest.fail, known, None)
    assert len(asked) == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the processes before the requeue may still be ending
    assert script_file.run_alone(pytest.fail, known, None) == "its result"


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


def started(words: list[str]) -> subprocess.Popen[str]:
    """Start src/train.py, its output piped."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "src" / "train.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rank_one(logs: Path) -> int:
    """Return the id of the process that Lightning has started for a second device, of the run with these logs."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(logs).encode() in words and b"\0LOCAL_RANK=1\0" in environment:
            return int(entry.name)
    raise AssertionError("no second rank")


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["a run", "a sweep"])
def test_a_rank_that_is_killed_is_named_with_its_signal(sweep: tuple[str, ...], place: Any, tmp_path: Path) -> None:
    words = [*sweep, *SMALL, *place.keys_with(tmp_path), "trainer=ddp_cpu", "trainer.workers=0", "recipe.epochs=50"]
    process = started(words)
    while not list(tmp_path.rglob("last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(rank_one(tmp_path), signal.SIGKILL)
    said, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 2, said
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(set(lines)) <= 2, said  # the row's own, and that of the sweep, which names the row
    assert all("rank 1 was ended by signal SIGKILL" in line for line in lines), said
    assert lines
    assert "Traceback" not in said


@pytest.mark.slow
def test_sigterm_to_a_row_is_said_as_the_row_said_it(place: Any, tmp_path: Path) -> None:
    words = ["-m", *SMALL, *place.keys_with(tmp_path), "trainer=cpu", "trainer.workers=0", "recipe.epochs=50"]
    process = started(words)
    while not list(tmp_path.rglob("last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    said, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 2, said
    assert "SIGTERM: stopped" in said.splitlines()[-1]
    assert "without a word" not in said


@pytest.mark.slow
def test_a_run_that_another_has_ends_all_ranks_of_torchrun(place: Any, tmp_path: Path) -> None:
    """Rank 0 finds it busy before the group exists; rank 1 would wait in the rendezvous."""
    words = [*SMALL, *place.keys_with(tmp_path), "trainer=cpu", "trainer.workers=0", "recipe.epochs=50"]
    first = started(words)
    try:
        while not list(tmp_path.rglob("last.ckpt")):
            assert first.poll() is None
            time.sleep(0.05)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        torchrun += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
        more = ["trainer.devices=1", "trainer.num_nodes=2", "trainer.strategy=ddp"]
        nodes = [
            subprocess.Popen([*torchrun, f"--node_rank={node}", str(ROOT / "src" / "train.py"), *words, *more])
            for node in range(2)
        ]
        assert all(node.wait(timeout=HANGS / 5) for node in nodes)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


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
    assert "error: stopped by SIGTERM; the same command goes on with 2 rows left" in said
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
    for expected, result in zip(*found, strict=True):
        assert result.folder.name == expected.folder.name
        assert result.metrics == expected.metrics
        a, b = (torch.load(one.folder / "logits_5x1.pt", weights_only=True)["logits"] for one in (expected, result))
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


@pytest.mark.slow
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


@pytest.fixture
def queue(little: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what `squeue` prints; without it, squeue fails."""
    fake_slurm(little, monkeypatch)
    (little / "bin" / "squeue").write_text(f"#!/bin/sh\nexec cat {little}/queue\n")
    (little / "bin" / "squeue").chmod(0o755)
    for name in ("ASK_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(slurm_file, name, 0.0)
    return little / "queue"


def submitted(queue: Path) -> Any:
    trainer = TrainerKeys(accelerator="cpu", strategy="ddp", devices=2)
    return SlurmJobs(queue.parent / "launched", Slurm()).start(row("a", Little(trainer=trainer)), "a", 0)


@pytest.mark.parametrize(
    "state",
    ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "NODE_FAIL",
     "PREEMPTED", "BOOT_FAIL", "STAGE_OUT", "A_STATE_OF_A_LATER_VERSION", None],
)  # fmt: skip
def test_a_job_that_goes_on_is_waited_for(state: str | None, queue: Path) -> None:
    """Also where SLURM does not answer, and where a node has failed a moment ago: SLURM requeues the job."""
    job = submitted(queue)
    if state is not None:
        queue.write_text(f"11 FAILED\n12 {state}\n")
    for _ in range(3):
        assert job.poll() is None


@pytest.mark.parametrize("state", ["CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "gone", "NODE_FAIL"])
def test_a_job_that_has_ended_without_an_outcome_is_a_failed_row(
    state: str, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without slurmdbd: `squeue` knows a job for a while after its end, `sacct` does not."""
    monkeypatch.setattr(slurm_file, "REQUEUE_SECONDS", 0.0)
    job = submitted(queue)
    queue.write_text("12 RUNNING\n")
    assert job.poll() is None
    queue.write_text("11 RUNNING\n" if state == "gone" else f"12 {state}\n")
    reason = job.poll().reason
    assert "job 12" in reason
    assert ("no longer in the queue" if state == "gone" else f"ended as {state}") in reason
    ended_file(job.file).write_text(json.dumps("rank 1 on h was ended by SIGKILL"))
    assert job.poll().reason.startswith("rank 1 on h was ended by SIGKILL; job 12")


def test_an_outcome_counts_at_once_a_lost_rank_when_the_job_is_over(queue: Path) -> None:
    job = submitted(queue)
    queue.write_text("12 COMPLETING\n")
    frozen.leave_outcome(job.file, Outcome(reason="the connection broke", lost=True))
    assert job.poll() is None
    queue.write_text("12 PENDING\n")  # requeued
    assert job.poll() is None
    queue.write_text("12 FAILED\n")
    assert "the connection broke" in job.poll().reason
    frozen.outcome_file(job.file).unlink()
    frozen.leave_outcome(job.file, Outcome("its result"))
    queue.unlink()
    assert job.poll().returned == "its result"


def test_a_task_holds_signals_back_until_its_command_can_answer(tmp_path: Path) -> None:
    """SIGUSR1 and SIGTERM come while the command imports; neither is lost, neither kills."""
    command = (
        "import signal, sys, time; from pathlib import Path\n"
        "Path(sys.argv[1]).touch(); time.sleep(1)\n"  # imports
        "def answer(*_): Path(sys.argv[1]).write_text('answered'); sys.exit(138)\n"
        "signal.signal(signal.SIGUSR1, answer)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]); time.sleep(30)\n"
    )
    task = [sys.executable, "-c", command, str(tmp_path / "told")]
    code = f"from pathlib import Path; from stat_video.launch.task import RowJob; RowJob({task!r}, Path('x'))()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, start_new_session=True
    )
    while not (tmp_path / "told").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGUSR1)  # as SLURM does: to all processes of the step
    assert process.wait(60) == 1  # the command's code is not 0
    assert (tmp_path / "told").read_text() == "answered"


def test_a_task_notes_the_signal_that_killed_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(RuntimeError):
        RowJob([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "000.config.json")()
    for signum in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    said = read_json(ended_file(tmp_path / "000.config.json"))
    assert said.startswith("rank 3 on ")
    assert said.endswith("was ended by SIGKILL")


def test_a_task_starts_without_the_libraries() -> None:
    """What it imports comes before its signals are held back."""
    for module in ("stat_video.launch.task", "stat_video.launch.early"):
        code = f"import sys, {module}; print(sorted({{'torch', 'lightning', 'hydra', 'numpy'}} & set(sys.modules)))"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("code", "shown", "requeued"),
    [
        (0, "PreemptTime=None", False),
        (2, "PreemptTime=None", False),
        (138, "PreemptTime=None", True),  # SIGUSR1, ahead of the time limit
        (143, "PreemptTime=None", False),  # scancel
        (143, "PreemptTime=2026-11-30T13:36:09", True),
    ],
)
def test_a_jobs_script_requeues_it_if_a_task_was_killed_before_python(
    code: int, shown: str, requeued: bool, tmp_path: Path
) -> None:
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\n[ "$1" = show ] && echo {shown} || echo "$@" > {tmp_path}/said\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = f"{slurm_file.TRAP}\n(exit {code})"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "-c", script], env=env, check=False)
    assert (tmp_path / "said").exists() == requeued
    if requeued:
        assert (tmp_path / "said").read_text() == "requeue 7\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("-m", "modules=ca,ca_sa")])
def test_ctrl_c_before_anything_has_begun_shows_no_trace(words: tuple[str, ...], tmp_path: Path) -> None:
    """Within the imports, the composition and the first look at the data."""
    command = [sys.executable, str(ROOT / "src" / "train.py"), *words, *SMALL, f"folders.logs={tmp_path}"]
    for seconds in (0.3, 1, 2, 3, 4, 5, 6, 7):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
        assert "Traceback" not in said, seconds
        if seconds > 3 and process.returncode == 0:
            break  # a quick machine: the run was over before the signal came
        assert process.returncode in (-signal.SIGINT, 130), (seconds, said)
