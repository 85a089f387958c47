"""What the phases' results advise for this machine: keys for conf/local.yaml, and the share for src/cost.py."""

import re
from pathlib import Path
from typing import Any

GPUS = Path(__file__).parents[2] / "conf/gpus.yaml"

ON_A_CPU = {  # for trainer=cpu on the same machine
    "batch_per_device": "16", "attention": "auto", "window": "auto", "depthwise": "pytorch", "compile": "false",
    "recompute": "auto", "workers": "1", "clips_per_second": "null",
}  # fmt: skip


def line_of(gpu: str | None, memory_gib: float | None) -> tuple[str | None, float]:
    """Return (the line of conf/gpus.yaml for a device, its dense bf16 peak, 1e12 operations a second), else (None, 0).

    A device is found by its name and memory. Read without PyYAML, which a GPU image may lack.
    """
    pattern = re.compile(
        r"^(?P<line>\S+): \{bf16: (?P<bf16>[\d.]+),.* memory: (?P<memory>\d+), (?:.*, )?source: (?P<source>.*)\}"
    )
    gpu = gpu or ""
    for found in filter(None, map(pattern.match, GPUS.read_text(encoding="utf-8").splitlines())):
        name = re.sub(r"-\d+GB$", "", found["line"]).replace("-", " ")
        of_that_name = bool(re.search(rf"\b{name}\b", gpu)) and not ("SXM" in found["source"] and "PCIe" in gpu)
        if of_that_name and memory_gib and abs(memory_gib / float(found["memory"]) - 1) < 0.1:
            return found["line"], float(found["bf16"])
    return None, 0.0


def advice(machine: dict[str, Any], phases: dict[str, Any]) -> dict[str, Any]:
    """Return the advice of the phases whose checks passed; schema: docs/gpu.md."""
    right, speed = phases.get("1"), phases.get("4")
    if right is None or speed is None or right["state"] == "wrong" or speed["state"] == "wrong":
        return {}
    best: dict[str, dict[str, Any]] = speed["found"].get("best", {})  # T: what was fastest
    if not best:
        return {}
    gpu, peak = line_of(machine.get("gpu"), machine.get("memory_gib"))
    first = next(iter(best.values()))  # the shortest clip: the most rows of the tables are of it
    trainer: dict[str, Any] = {
        "batch_per_device": {T: found["batch"] for T, found in best.items()},
        **{key: first["ways"][key] for key in ("attention", "window", "depthwise", "compile", "recompute")},
    }
    workers = phases.get("5", {}).get("found", {}).get("workers")
    if workers is not None and phases["5"]["state"] != "wrong":
        trainer["workers"] = workers
    found: dict[str, Any] = {
        "gpu": gpu,
        "clips_per_second": {T: round(found["clips_per_second"], 1) for T, found in best.items()},
        "trainer": trainer,
    }
    if gpu is not None:
        found["share"] = {T: round(b["flops_per_second"] / (1e12 * peak), 4) for T, b in best.items()}
    return found


def snippet(found: dict[str, Any]) -> str:
    """Return the advice as keys for conf/local.yaml, with what belongs elsewhere as comments."""
    if not found:
        return "# No advice: it needs phases 1 and 4 at full size on CUDA, with nothing wrong in them.\n"
    lines = ["# Measured by make check-gpu on this machine, for its GPU: copy into conf/local.yaml.", "trainer:"]
    for key, value in {**found["trainer"], "clips_per_second": found["clips_per_second"]}.items():
        told = by_T(value) if isinstance(value, dict) else yaml_of(value)
        lines.append(f"  {key}: ${{by:${{trainer.accelerator}},{{cpu:{ON_A_CPU[key]},_:{told}}}}}")
    lines.append("# clips_per_second is of one GPU; only plan=true reads it.")
    for T, share in found.get("share", {}).items():
        lines.append(f"# T = {T}: python src/cost.py clip=T{T} gpu={found['gpu']} share={share:g}")
    return "\n".join(lines) + "\n"


def by_T(values: dict[str, Any]) -> str:
    """Return a value for each clip length, as the configs say it."""
    table = ",".join(f"{T}:{value:g}" for T, value in values.items())
    return f"${{at_T:${{clip.T}},{{{table}}}}}"


def yaml_of(value: Any) -> str:
    """Return a plain value in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)
