"""What a phase is told, and what it says: figures, checks, notes. Every one is in the phase's file at once.

So a phase that crashes, hangs or runs out of memory loses only what it had not measured yet, and is known by what it
was doing. PyTorch is not imported here: check_gpu.py itself uses this file.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATES = ("right", "below a floor", "wrong", "skipped")


@dataclass
class Settings:
    """What check_gpu.py tells a phase."""

    number: int
    name: str
    out: Path
    seconds: float  # after which nothing new is begun
    tiny: bool = False
    earlier: dict[str, Any] = field(default_factory=dict)  # results of the phases before, by number

    @property
    def work(self) -> Path:
        """Return the folder for videos and runs, which all phases share."""
        return self.out / "work"

    def found(self, number: int, key: str, default: Any = None) -> Any:
        """Return what an earlier phase found under a key, `default` if it was not run or did not get so far."""
        return self.earlier.get(str(number), {}).get("found", {}).get(key, default)


class Skip(Exception):
    """The phase, or a part of it, can't be run here; says why."""


class Report:
    """Collects what a phase finds, and keeps its file up to date."""

    def __init__(self, settings: Settings, file: Path) -> None:
        self.settings, self.file, self.begun = settings, file, time.monotonic()
        self.result: dict[str, Any] = {
            "name": settings.name,
            "state": "right",
            "seconds": 0.0,
            "figures": {},
            "checks": [],
            "notes": [],
            "found": {},  # what later phases and the advice read
            "doing": "starting",
        }
        self._write()

    @property
    def left(self) -> float:
        """Return the seconds in which something new may still be begun."""
        return self.settings.seconds - (time.monotonic() - self.begun)

    def doing(self, what: str) -> None:
        """Say what is begun now: it is named if the phase does not get to its end."""
        self.result["doing"] = what
        print(f"{time.monotonic() - self.begun:7.1f} s  {what}", flush=True)
        self._write()

    def figure(self, name: str, values: float | Sequence[float], unit: str) -> float:
        """Keep the median, least and most of some measurements; return the median."""
        several = [float(v) for v in values] if isinstance(values, Sequence) else [float(values)]
        median = statistics.median(several)
        numbers = {"median": median, "least": min(several), "most": max(several)}
        self.result["figures"][name] = {key: finite(n) for key, n in numbers.items()} | {
            "n": len(several),
            "unit": unit,
        }
        self._write()
        return median

    def check(
        self,
        name: str,
        value: float | None,
        limit: float | None,
        *,
        ok: bool | None = None,
        at_least: bool = False,
        kind: str = "right",
    ) -> bool:
        """Keep whether a value is at most (or at least) its limit, or what `ok` says; return it.

        ``kind``: 'right' must hold; 'floor' is a speed to reach, applied on CUDA alone; 'option' concerns a way of
        computing that nothing uses unless told to, and is then not advised.
        """
        if ok is None:
            assert value is not None
            assert limit is not None
            ok = value >= limit if at_least else value <= limit  # NaN is neither
        value, limit = (None if n is None else finite(float(n)) for n in (value, limit))
        self.result["checks"].append({"name": name, "value": value, "limit": limit, "ok": bool(ok), "kind": kind})
        if not ok:
            print(f"           not ok: {name}: {value} (limit {limit})", flush=True)
        self._write()
        return bool(ok)

    def note(self, line: str) -> None:
        """Keep a line: what was left out, refused or skipped, and why."""
        self.result["notes"].append(line)
        print(f"           {line}", flush=True)
        self._write()

    def found(self, **values: Any) -> None:
        """Keep values for later phases and for the advice."""
        self.result["found"] |= values
        self._write()

    def end(self, state: str | None = None) -> None:
        """Write the phase's state: as told, else by its checks."""
        self.result["state"] = state or state_of(self.result["checks"])
        self.result["doing"] = None
        self._write()

    def _write(self) -> None:
        self.result["seconds"] = round(time.monotonic() - self.begun, 2)
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps(self.result, indent=1, allow_nan=False))
        beside.replace(self.file)


def finite(number: float) -> float | None:
    """Return the number, None in the place of NaN and infinity, which JSON does not know."""
    return number if math.isfinite(number) else None


def state_of(checks: Sequence[dict[str, Any]]) -> str:
    """Return the state that a phase's checks make."""
    failed = {check["kind"] for check in checks if not check["ok"]}
    return "wrong" if "right" in failed else "below a floor" if "floor" in failed else "right"
