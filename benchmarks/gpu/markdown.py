"""The page: the verdict, what failed, then a table of figures and checks for each phase."""

from collections.abc import Sequence
from typing import Any

KINDS = {"right": "must hold", "floor": "floor", "option": "not used unless told to"}


def page(result: dict[str, Any]) -> str:
    """Return the page of a result, in Markdown."""
    machine, code = result["machine"], result["code"]
    where = machine.get("gpu") or "a CPU"
    commit = f"commit {code['commit'][:7]}{' with changes' if code['dirty'] else ''}" if code["commit"] else "no commit"
    versions = ", ".join(f"{name} {number}" for name, number in code["versions"].items())
    text = [
        f"# check-gpu: {result['verdict']}\n",
        f"{where}, {machine.get('cores', '?')} cores; {commit}; {versions}; {result['finished']}.\n",
    ]
    if result["sizes"] == "tiny":
        text.append("**Tiny sizes: this checks the script. No figure here is a measurement of STAT.**\n")
    text += [failures(result["phases"]), advised(result["advice"])]
    text += [phase(number, found) for number, found in result["phases"].items()]
    return "\n".join(part for part in text if part) + "\n"


def failures(phases: dict[str, Any]) -> str:
    """Return what is not as it has to be, and the phases that were not run."""
    lines = []
    for number, found in phases.items():
        name = f"phase {number}, {found['name']}"
        lines += [
            f"- **{name}**: {check['name']}: {against(check)}"
            for check in found["checks"]
            if not check["ok"] and check["kind"] != "option"
        ]
        if found["state"] in ("wrong", "skipped"):
            lines += [f"- {name}: {note}" for note in found["notes"][:1]]
    return "## Failures\n\n" + ("\n".join(lines) or "None.") + "\n"


def advised(found: dict[str, Any]) -> str:
    """Return the advice, as it stands in local.yaml."""
    from .advice import snippet

    return f"## Advice\n\n```yaml\n{snippet(found).strip()}\n```\n" if found else ""


def phase(number: str, found: dict[str, Any]) -> str:
    """Return the part of one phase."""
    text = [f"## {number}. {found['name']}: {found['state']}, {found['seconds']:.0f} s\n"]
    if found["earlier"]:
        text.append(f"Measured by an earlier call, {found['at']}.\n")
    if found["figures"]:
        rows = [
            [name, f"{number_of(f['median'])} {f['unit']}".strip(), spread(f), str(f["n"])]
            for name, f in found["figures"].items()
        ]
        text.append(table(["figure", "median", "least to most", "n"], rows))
    for title, (head, *rows) in found["found"].get("tables", {}).items():
        text.append(f"### {title}\n\n{table(head, rows)}")
    if found["checks"]:
        rows = [
            [check["name"], against(check), KINDS[check["kind"]], "yes" if check["ok"] else "**no**"]
            for check in found["checks"]
        ]
        text.append(table(["check", "value (limit)", "kind", "ok"], rows))
    if found["notes"]:
        text.append("\n".join(f"- {note}" for note in found["notes"]) + "\n")
    return "\n".join(text)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines) + "\n"


def spread(figure: dict[str, Any]) -> str:
    """Return the least and the most, nothing for one measurement."""
    return "" if figure["n"] == 1 else f"{number_of(figure['least'])} to {number_of(figure['most'])}"


def against(check: dict[str, Any]) -> str:
    """Return a check's value and its limit."""
    if check["value"] is None and check["limit"] is None:
        return ""
    value = "not finite" if check["value"] is None else number_of(check["value"])
    return value if check["limit"] is None else f"{value} ({number_of(check['limit'])})"


def number_of(n: float | None) -> str:
    """Return a number in a few digits."""
    return "?" if n is None else f"{n:.3g}" if abs(n) < 100 else f"{n:,.0f}"
