"""Is everything right on this GPU, and how fast is it? One command, at most nine minutes, one JSON and one page.

    make check-gpu                                  # logs/gpu/check_gpu.json, check_gpu.md, local.yaml
    make check-gpu OUT=logs/h200 MINUTES=3
    PYTHONPATH=src python benchmarks/check_gpu.py --out logs/gpu --only 1,4 --quick

Each phase runs in a process of its own with a limit of its own, and the files are written after each: a crash, a hang
or an exhausted memory costs one phase, and is named. Phases 0 to 4 need torch and torchvision alone; the others say
what is missing. On a CPU everything is tiny, which checks this script and measures nothing. docs/gpu.md says how to
read it. Exit code: 0 all is right, 3 right but below a floor, 1 something is wrong.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu import advice, markdown
from gpu.report import Report, Settings, Skip, state_of

PROJECT = Path(__file__).resolve().parents[1]
# Name of the module in gpu/, and seconds of nine minutes in which it begins something new.
PHASES = {
    0: ("machine", 12),
    1: ("right", 80),
    2: ("kernels", 20),
    3: ("waits", 15),
    4: ("speed", 175),
    5: ("loading", 55),
    6: ("runs", 70),
    7: ("ranks", 65),
}
MINUTES, QUICK_MINUTES = 9.0, 3.0
LONGEST = 2.0  # a phase is ended, and is wrong, after so many times its seconds ...
GRACE = 30.0  # ... and these, for what it had begun, such as a compilation
EXIT = {"right": 0, "wrong": 1, "below a floor": 3}
PACKAGES = (
    "torch", "torchvision", "triton", "numpy", "lightning", "torchmetrics", "hydra-core", "omegaconf", "pytorchvideo",
    "av", "wandb",
)  # fmt: skip


def main() -> int:
    """Run the phases that are asked for; return the exit code."""
    told = arguments()
    if told.phase is not None:
        return one_phase(told.phase, told.settings, told.with_)
    minutes = told.minutes or (QUICK_MINUTES if told.quick else MINUTES)
    told.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(told.out / "work", ignore_errors=True)
    result: dict[str, Any] = {"schema": 2, "code": code(), "phases": {}}
    result["phases"] = earlier_phases(told, result["code"])
    begun = time.monotonic()
    for number in told.only:
        left = 60 * minutes - (time.monotonic() - begun)
        phase = started(number, told, minutes / MINUTES, left, result["phases"])
        phases = {**result["phases"], str(number): phase}
        result["phases"] = {key: phases[key] for key in sorted(phases)}
        write(told.out, summed_up(result))
    shutil.rmtree(told.out / "work", ignore_errors=True)
    print(f"{result['verdict']}: {told.out / 'check_gpu.md'}")
    return EXIT[result["verdict"]]


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT / "logs/gpu", help="folder for what is written")
    parser.add_argument("--minutes", type=float, help=f"for all phases together; {MINUTES:g} by default")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MINUTES:g} minutes")
    parser.add_argument(
        "--only", type=numbers, default=list(PHASES), metavar="1,4", help="these; others as found before"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on CUDA, too: a check of this script")
    parser.add_argument("--with", dest="with_", type=Path, metavar="FILE", help="Python to run first in each phase")
    parser.add_argument("--phase", type=int, choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.minutes is not None and told.minutes <= 0:
        parser.error(f"--minutes {told.minutes:g}: more than 0 is allowed")
    if told.with_ is not None and not told.with_.is_file():
        parser.error(f"--with {told.with_}: no such file")
    return told


def numbers(text: str) -> list[int]:
    """Return the phases that '1,4' names, in their order."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) in PHASES for word in words):
        raise argparse.ArgumentTypeError(f"{text}: allowed are {', '.join(map(str, PHASES))}, with commas between")
    return sorted({int(word) for word in words})


# --------------------------------------------------------------------------------------------- an earlier call


def earlier_phases(told: argparse.Namespace, code: dict[str, Any]) -> dict[str, Any]:
    """Return the phases that are not asked for now, as an earlier call with the same --out found them.

    They count if they were measured on this device, at these sizes, by this code with these packages.
    """
    try:
        before = json.loads((told.out / "check_gpu.json").read_text(encoding="utf-8"))
        if before["schema"] != 2 or before["code"] != code:
            return {}
        same = before["machine"].get("gpu") == (gpu := gpu_here()) and before["sizes"] == sizes_of(told, gpu)
        phases = {n: phase for n, phase in before["phases"].items() if int(n) not in told.only}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
        return {}
    return {n: {**phase, "earlier": True} for n, phase in phases.items() if same and phase["state"] != "skipped"}


def sizes_of(told: argparse.Namespace, gpu: str | None) -> str:
    """Return the sizes at which phases run here."""
    return "tiny" if told.tiny or gpu is None else "full"


def gpu_here() -> str | None:
    """Return the name of the first GPU, None on a CPU; by a process of its own, since asking starts CUDA."""
    ask = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or None


# ----------------------------------------------------------------------------------- a phase in its own process


def started(
    number: int, told: argparse.Namespace, share: float, left: float, earlier: dict[str, Any]
) -> dict[str, Any]:
    """Run a phase in a process of its own; return its result, also if it did not come to its end."""
    name, seconds = PHASES[number]
    seconds = min(share * seconds, left)
    if seconds < 3:
        found = {**empty(name), "state": "skipped", "notes": ["skipped: no time left (--minutes)"]}
        found.pop("doing")
        return found
    file = told.out / f"phase_{number}.json"
    file.unlink(missing_ok=True)
    settings = {"out": str(told.out.absolute()), "seconds": seconds, "tiny": told.tiny, "earlier": earlier}
    (told.out / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, __file__, "--phase", str(number), "--settings", str(told.out / "settings.json")]
    command += ["--with", str(told.with_.absolute())] if told.with_ else []
    environment = {
        "KINETO_LOG_LEVEL": "99",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA does not start it: phases 6 and 7 fork
        **os.environ,
    }
    print(f"phase {number}, {name}: at most {LONGEST * seconds + GRACE:.0f} s", flush=True)
    with (told.out / f"phase_{number}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            process.wait(LONGEST * seconds + GRACE)
            ended = None if process.returncode == 0 else ended_by(process.returncode)
        except subprocess.TimeoutExpired:
            ended = f"hung: stopped after {LONGEST * seconds + GRACE:.0f} s"
        finally:
            stop(process)
    result = json.loads(file.read_text()) if file.exists() else empty(name)
    file.unlink(missing_ok=True)
    (told.out / "settings.json").unlink()
    if ended is not None:
        result["state"] = "wrong"
        result["notes"].insert(0, f"{ended}, while {result['doing']}; see {log.name}")
        result["checks"].append(
            {"name": "comes to its end", "value": None, "limit": None, "ok": False, "kind": "right"}
        )
    result |= {"at": now(), "earlier": False}
    result.pop("doing", None)
    print(f"phase {number}, {name}: {result['state']}, {result['seconds']:.1f} s", flush=True)
    return result


def ended_by(code: int) -> str:
    """Return how a process ended, in words."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a phase's process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def empty(name: str) -> dict[str, Any]:
    """Return the result of a phase that has said nothing."""
    return {
        "name": name, "state": "wrong", "seconds": 0.0, "figures": {}, "checks": [], "notes": [], "found": {},
        "doing": "starting", "at": now(), "earlier": False,
    }  # fmt: skip


def now() -> str:
    """Return the time, for the record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def one_phase(number: int, settings: str, first: Path | None) -> int:
    """Run a phase in this process; return its exit code, 0 if it came to its end, whatever it found."""
    told = json.loads(Path(settings).read_text())
    report = Report(
        Settings(number, PHASES[number][0], Path(told["out"]), told["seconds"], told["tiny"], told["earlier"]),
        Path(told["out"]) / f"phase_{number}.json",
    )
    report.doing("importing")
    try:
        phase = importlib.import_module(f"gpu.{PHASES[number][0]}")
        prepare(report)
        if first is not None:
            runpy.run_path(str(first))
        phase.run(report)
    except Skip as reason:
        report.note(f"skipped: {reason}")
        report.end("skipped" if not report.result["checks"] else None)
        return 0
    except ModuleNotFoundError as error:
        if str(error.name).startswith(("gpu", "stat_video")):
            raise
        report.note(f"skipped: no {error.name}")
        report.end("skipped" if not report.result["checks"] else None)
        return 0
    except Exception as error:
        traceback.print_exc()
        report.note(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
        return 1
    report.end()
    return 0


def prepare(report: Report) -> None:
    """Choose the sizes by the device, on a CPU everything is tiny; compute as training does from now on."""
    import torch
    from gpu import measure

    torch.manual_seed(0)
    on_cpu = not torch.cuda.is_available()
    report.settings.tiny |= on_cpu
    report.found(device="cpu" if on_cpu else "cuda", tiny=report.settings.tiny)
    device = torch.device("cpu" if on_cpu else "cuda")
    measure.plain_way(device).choose(device)


# --------------------------------------------------------------------------------------------- what is written


def summed_up(result: dict[str, Any]) -> dict[str, Any]:
    """Add to the phases' results what is seen of all of them: machine, verdict, advice; no floor counts on a CPU."""
    phases = result["phases"]
    found = [phase["found"] for phase in phases.values()]
    device = next((f["device"] for f in found if "device" in f), None)
    tiny = any(f.get("tiny", True) for f in found)
    if tiny:
        for phase in phases.values():
            no_floors(phase)
    states = {phase["state"] for phase in phases.values()}
    result["machine"] = next((f["machine"] for f in found if "machine" in f), {"device": device})
    result["sizes"] = "tiny" if tiny else "full"
    result["verdict"] = next(state for state in ("wrong", "below a floor", "right") if state in {*states, "right"})
    result["advice"] = {} if tiny else advice.advice(result["machine"], phases)
    result["finished"] = now()
    return result


def no_floors(phase: dict[str, Any]) -> None:
    """Take the floors out of a phase of tiny sizes: they are of the paper's model on a GPU."""
    kept = [check for check in phase["checks"] if check["kind"] != "floor"]
    if len(kept) < len(phase["checks"]):
        phase["checks"] = kept
        phase["notes"].append("no floor on a CPU or at tiny sizes")
    if phase["state"] == "below a floor":
        phase["state"] = state_of(kept)


def code() -> dict[str, Any]:
    """Return the commit, whether files were changed since, a digest of the code, and the versions of the packages."""
    status = git("status", "--porcelain", "--untracked-files=no")
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "digest": digest(),
        "versions": versions,
    }


def digest() -> str:
    """Return a hash of all code that the phases run."""
    found = hashlib.sha256()
    for file in sorted(file for folder in ("src", "benchmarks") for file in (PROJECT / folder).rglob("*.py")):
        found.update(f"{file.relative_to(PROJECT)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def git(*words: str) -> str | None:
    """Return what git says, None where it can't."""
    try:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def write(out: Path, result: dict[str, Any]) -> None:
    """Write the three files, each whole or not at all."""
    texts: Sequence[tuple[str, str]] = (
        ("check_gpu.json", json.dumps(result, indent=2, allow_nan=False) + "\n"),
        ("check_gpu.md", markdown.page(result)),
        ("local.yaml", advice.snippet(result["advice"])),
    )
    for name, text in texts:
        beside = out / f".{name}.new"
        beside.write_text(text, encoding="utf-8")
        beside.replace(out / name)


if __name__ == "__main__":
    sys.exit(main())
