"""Meet random faults in the middle of small sweeps: is any figure wrong or lost?

    python benchmarks/random_faults.py --trials 60 --seed 0 --out docs/random_faults.md

A trial starts a sweep of two rows, meets one fault at a random moment, mends the fault and gives the same command until
it exits with 0. Its runs then have to equal those of an undisturbed sweep to the last bit. Needs Linux and root, to
mount a disk of its own that can be full or read-only; the SLURM trials need what tests/slurm/install.sh installs.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "slurm")]

import cluster as slurm_cluster  # noqa: E402

from same_runs import differences  # noqa: E402
from stat_video.files import replacing  # noqa: E402
from stat_video.runs.code import provenance  # noqa: E402

GRID = [
    "-m", "modules=ca,ca_sa", "scale=tiny", "T=4", "crop=32", "views=2x1", "logger=off",
    "depths=[1,1,1,1]", "widths=[8,8,16,16]", "heads=[1,1,2,2]",
    "data.motion.train_videos=48", "data.motion.val_videos=12", "data.motion.frames=24",
    "recipe.epochs=3", "recipe.batch_size=8", "recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.augment.erasing=0.5",
    "recipe.ema=0.9", "model.head_dropout=0.3", "trainer.batch_per_device=2", "trainer.save_steps=1",
]  # fmt: skip
RANKS = {1: ["trainer=cpu", "trainer.workers=1"], 2: ["trainer=ddp_cpu", "trainer.devices=2", "trainer.workers=1"]}
STARTS = 6  # of the same command, before a trial counts as lost
LIMIT = 420  # seconds of one start
SIZE = 64  # MiB of a trial's disk
EDIT = "\n# edited in the middle of a run\n"


@dataclass
class Trial:
    """One fault: what it was, when it came, and how the command ended."""

    number: int
    fault: str
    ranks: int
    share: float  # of an undisturbed command's time, after which the fault comes
    codes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    said: str = ""  # the last line that the disturbed start printed on stderr


@dataclass
class Bench:
    """Where the trials take place."""

    work: Path
    data: Path  # built-in videos
    undisturbed: dict[int, Path]  # number of ranks: logs
    seconds: dict[int, float]  # of an undisturbed command, the last one that was met


class Place:
    """A disk of a trial's own, with its logs, its copy of the videos and its copy of the code."""

    def __init__(self, bench: Bench, trial: Trial) -> None:
        self.trial, self.disk = trial, bench.work / f"trial{trial.number}"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", self.disk], check=True)
        self.logs, self.data, self.code = self.disk / "logs", bench.work / f"data{trial.number}", ROOT
        shutil.copytree(bench.data, self.data)
        self.outputs: list[Path] = []

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the command."""
        words = [*GRID, *RANKS[self.trial.ranks], f"folders.logs={self.logs}", f"folders.built_in={self.data}"]
        words += ["data.wait_seconds=20"]
        out = self.disk.with_name(f"{self.disk.name}.{len(self.outputs)}.txt")
        self.outputs.append(out)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "STAT_VIDEO_LOCAL": "/nowhere", "COLUMNS": "200"}
        with out.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, str(self.code / "src" / "train.py"), *words],
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def processes(self, rows_alone: bool) -> list[int]:
        """Return the ids of the sweep's processes, or of its rows' and their ranks' alone."""
        word = f"config={self.logs}" if rows_alone else str(self.logs)
        found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False).stdout.split()
        return [int(pid) for pid in found]

    def close(self) -> None:
        """Give the disk back."""
        for pid in self.processes(rows_alone=False):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", self.disk], check=False)


# ------------------------------------------------------------------------------------------------------- the faults
# Each gets the place and the sweep's process, disturbs it and returns what mends the fault, for after a while.

Mend = Callable[[], None]


def _nothing() -> None:
    pass


def kill_rank(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Kill one process of a row, a data worker among them."""
    if pids := place.processes(rows_alone=True):
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(pids), signal.SIGKILL)
    return _nothing


def kill_sweep(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Kill the command alone; its rows notice."""
    sweep.kill()
    return _nothing


def kill_all(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Kill all processes at once, as a power cut does."""
    for pid in place.processes(rows_alone=False):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return _nothing


def terminate(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Ask the command, or one of its rows, to stop."""
    pids = [sweep.pid, *place.processes(rows_alone=True)[:1]]
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(pids), draw.choice([signal.SIGTERM, signal.SIGINT]))
    return _nothing


def disk_full(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Fill the disk that the logs are on."""
    file = place.disk / "full"
    with contextlib.suppress(OSError), file.open("wb") as out:
        while True:
            out.write(bytes(2**16))
            out.flush()
    return lambda: file.unlink(missing_ok=True)


def disk_read_only(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Let no file below the logs be made or renamed; those that are open, such as the lock, can still be written.

    A disk with such files can't be mounted read-only as a whole.
    """
    place.logs.mkdir(exist_ok=True)
    for words in (["--bind", place.logs, place.logs], ["-o", "remount,bind,ro", place.logs]):
        subprocess.run(["mount", *words], check=True)
    return lambda: subprocess.run(["umount", "-l", place.logs], check=True) and None


def videos_gone(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Take the videos away, and give them back before or after the run has stopped waiting for them."""
    away = place.data.with_name(f"{place.data.name}.away")
    place.data.rename(away)

    def back() -> None:
        if place.data.exists():  # a start in the meantime has made videos anew
            shutil.rmtree(place.data)
        away.rename(place.data)

    return back


def other_code(place: Place, sweep: "subprocess.Popen[bytes]", draw: random.Random) -> Mend:
    """Edit a source and kill all: what goes on is other code, and the result has to say so."""
    kill_all(place, sweep, draw)
    clone = place.disk.with_name(f"{place.disk.name}.code")
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = clone / "src" / "stat_video" / "training" / "module.py"
    source.write_text(source.read_text() + EDIT)
    place.code = clone
    return _nothing


FAULTS = {
    "a rank killed": (kill_rank, (1, 2)),
    "the sweep killed": (kill_sweep, (1, 2)),
    "all killed": (kill_all, (1, 2)),
    "SIGTERM or Ctrl-C": (terminate, (1, 2)),
    "disk full": (disk_full, (1, 2)),
    "disk read-only": (disk_read_only, (1, 2)),
    "videos gone": (videos_gone, (1, 2)),
    "other code": (other_code, (1, 2)),
}


def run_trial(bench: Bench, trial: Trial, draw: random.Random) -> Trial:
    """Meet one fault, go on until the command succeeds, and compare."""
    place = Place(bench, trial)
    try:
        sweep = _disturbed_in_time(bench, trial, place)
        disturbed = place.outputs[-1]
        mend = FAULTS[trial.fault][0](place, sweep, draw)
        pause = draw.uniform(1, 40) if trial.fault == "videos gone" else draw.uniform(1, 12)
        with contextlib.suppress(subprocess.TimeoutExpired):
            sweep.wait(pause)
        mend()
        for _ in range(STARTS):
            try:
                trial.codes.append(sweep.wait(LIMIT))
            except subprocess.TimeoutExpired:
                trial.wrong.append(f"start {len(trial.codes) + 1} did not end in {LIMIT} s")
                kill_all(place, sweep, draw)
                trial.codes.append(sweep.wait())
            if trial.codes[-1] == 0:
                break
            until = time.monotonic() + 150  # orphans of a killed sweep end by themselves
            while place.processes(rows_alone=True) and time.monotonic() < until:
                time.sleep(0.5)
            sweep = place.start()
        else:
            trial.wrong.append(f"no success in {STARTS} starts")
            kill_all(place, sweep, draw)
        errors = [line for line in disturbed.read_text(errors="replace").splitlines() if "error: " in line]
        trial.said = errors[-1].replace(str(bench.work), "...") if errors else ""
        for out in place.outputs:
            text = out.read_text(errors="replace")
            if "Traceback" in text or "frame #" in text:
                trial.wrong.append(f"a trace in {out.name}")
        trial.wrong += differences(bench.undisturbed[trial.ranks], place.logs)
        trial.wrong += _unsaid(trial, place)
    finally:
        place.close()
    return trial


def _disturbed_in_time(bench: Bench, trial: Trial, place: Place) -> "subprocess.Popen[bytes]":
    """Start the command and return when the fault is due; if it ends before that, do so anew, after a shorter while."""
    while True:
        began, sweep = time.monotonic(), place.start()
        try:
            sweep.wait(trial.share * bench.seconds[trial.ranks])
        except subprocess.TimeoutExpired:
            return sweep
        bench.seconds[trial.ranks] = time.monotonic() - began
        shutil.rmtree(place.logs)


def _unsaid(trial: Trial, place: Place) -> list[str]:
    """Return what the results should say of the fault and don't, or say without one."""
    wrong = []
    for file in sorted(place.logs.rglob("result.json")):
        result = json.loads(file.read_text())
        parts = [part["code"] for part in result["history"]]
        edited = place.code != ROOT
        if len(parts) != len(set(parts)) or (len(parts) > 1 and not edited):
            wrong.append(f"{file.parent.name}: history {parts}")
        if any(result["unreadable"].values()):
            wrong.append(f"{file.parent.name}: counts videos as unreadable")
    return wrong


# --------------------------------------------------------------------------------------------------------- SLURM


def slurm_trials(bench: Bench, count: int, draw: random.Random) -> list[Trial]:
    """Kill slurmd of a node, or cancel and preempt, under sweeps of two rows of two ranks."""
    if count == 0 or slurm_cluster.lacking(accounting=False):
        return []
    trials = []
    with slurm_cluster.cluster(bench.work / "slurm", accounting=False, nodes=("n1", "n2", "n3", "n4")) as up:
        for number in range(count):
            fault = draw.choice(["slurmd killed", "job requeued", "job preempted"])
            trial = Trial(1000 + number, fault, 2, draw.uniform(0.1, 0.95))
            trials.append(trial)
            logs = bench.work / f"slurm{number}"
            words = [*GRID, f"folders.logs={logs}", f"folders.built_in={bench.data}", "trainer=ddp_cpu"]
            words += ["trainer.devices=1", "trainer.num_nodes=2", "trainer.workers=1", "hydra/launcher=slurm"]
            words += ["hydra.launcher.cpus_per_gpu=1", "hydra.launcher.partition=gpu"]
            ones = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            out = bench.work / f"slurm{number}.txt"
            for start in range(STARTS):
                with out.open("ab") as file:
                    sweep = subprocess.Popen(
                        [sys.executable, str(ROOT / "src" / "train.py"), *words],
                        stdout=file, stderr=subprocess.STDOUT, env={**up.environment, **ones}, stdin=subprocess.DEVNULL,
                    )  # fmt: skip
                if start == 0:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        sweep.wait(5 + trial.share * 40)
                    _disturb(up, fault, draw)
                trial.codes.append(_hurried(up, sweep))
                if trial.codes[-1] == 0:
                    break
            else:
                trial.wrong.append(f"no success in {STARTS} starts")
            trial.wrong += differences(bench.undisturbed[2], logs)
            trial.wrong += ["a trace"] if "Traceback" in out.read_text(errors="replace") else []
    return trials


def _disturb(up: "slurm_cluster.Cluster", fault: str, draw: random.Random) -> None:
    running = up.run("squeue", "--noheader", "--states=RUNNING", "--format=%A").split()
    if fault == "slurmd killed":
        node = draw.choice(["n1", "n2", "n3", "n4"])
        up.stop(node, signal.SIGKILL)
        time.sleep(draw.uniform(5, 30))
        up.start_node(node)
    elif fault == "job requeued" and running:
        up.run("scontrol", "requeue", draw.choice(running), check=False)
    elif running:
        up.batch("sleep 10", "--partition=urgent", "--nodes=4", "--ntasks=4", "--exclusive")


def _hurried(up: "slurm_cluster.Cluster", sweep: "subprocess.Popen[bytes]") -> int:
    """Wait for the command's end, and let requeued jobs start at once, where SLURM waits for two minutes."""
    until = time.monotonic() + LIMIT
    while sweep.poll() is None and time.monotonic() < until:
        for line in up.run("squeue", "--noheader", "--states=PENDING", "--format=%A %r").splitlines():
            job, _, reason = line.partition(" ")
            if reason == "BeginTime":
                up.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        time.sleep(1)
    if sweep.poll() is None:
        sweep.kill()
    return sweep.wait()


# ---------------------------------------------------------------------------------------------------------- the page


def page(trials: list[Trial], arguments: argparse.Namespace, seconds: float) -> str:
    """Return the table of docs/reliability.md."""
    code = provenance()
    lines = [
        f"{len(trials)} trials, seed {arguments.seed}, {seconds / 60:.0f} minutes, two at a time, on "
        f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores), commit {str(code['commit'])[:7]}, "
        f"{time.strftime('%Y-%m-%d')}. Written by `python benchmarks/random_faults.py`.",
        "",
        "| fault | trials | first exit codes | starts until success | runs equal to the bit | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for fault in dict.fromkeys(trial.fault for trial in trials):
        of = [trial for trial in trials if trial.fault == fault]
        codes = ", ".join(f"{code} ({n})" for code, n in sorted(Counter(trial.codes[0] for trial in of).items()))
        starts = f"{min(len(t.codes) for t in of)} to {max(len(t.codes) for t in of)}"
        right = sum(not trial.wrong for trial in of)
        wrong = "; ".join(sorted({what for trial in of for what in trial.wrong})) or "nothing"
        lines.append(f"| {fault} | {len(of)} | {codes} | {starts} | {right} of {len(of)} | {wrong} |")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def prepared() -> Iterator[Bench]:
    """Yield a bench with its videos and the undisturbed runs."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench = Bench(work, work / "data", {}, {})
        for ranks, words in RANKS.items():
            bench.undisturbed[ranks] = work / f"undisturbed{ranks}"
            keys = [f"folders.logs={bench.undisturbed[ranks]}", f"folders.built_in={bench.data}"]
            began = time.monotonic()
            subprocess.run(
                [sys.executable, str(ROOT / "src" / "train.py"), *GRID, *words, *keys],
                check=True, stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "STAT_VIDEO_LOCAL": "/nowhere"},
            )  # fmt: skip
            bench.seconds[ranks] = time.monotonic() - began
        yield bench


def main() -> int:
    """Run the trials; exit with 1 if a figure was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--slurm", type=int, default=6, help="of the trials, those under SLURM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), help="some faults")
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where the table goes; default: it is printed")
    arguments = parser.parse_args()
    draw, began = random.Random(arguments.seed), time.monotonic()
    with prepared() as bench:
        trials = []
        names = arguments.only or list(FAULTS)
        for number in range(arguments.trials - arguments.slurm):
            fault = names[number % len(names)]
            ranks = draw.choice(FAULTS[fault][1])
            trials.append(Trial(number, fault, ranks, draw.uniform(0.1, 0.95)))
        with ThreadPoolExecutor(arguments.side_by_side) as pool:
            jobs = [pool.submit(run_trial, bench, trial, random.Random(trial.number)) for trial in trials]
            for job in jobs:
                print(json.dumps(asdict(job.result())), flush=True)
        slurm = slurm_trials(bench, arguments.slurm, draw)
        for trial in slurm:
            print(json.dumps(asdict(trial)), flush=True)
        text = page([*trials, *slurm], arguments, time.monotonic() - began)
    if arguments.out:
        with replacing(arguments.out) as file:
            file.write(text.encode())
    print(text)
    return int(any(trial.wrong for trial in [*trials, *slurm]))


if __name__ == "__main__":
    sys.exit(main())
