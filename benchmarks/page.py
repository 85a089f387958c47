"""What the benchmarks share: the name of the processor, and the part of a page that a script writes."""

import platform
from collections.abc import Sequence
from pathlib import Path

from stat_video.files import replacing

END = "<!-- to here -->"


def processor() -> str:
    """Its name as Linux has it, else as Python does."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_part(page: Path, script: str, text: str) -> None:
    """Put `text` between the marks of `script` on the page."""
    begin = f"<!-- benchmarks/{script} writes from here -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    assert end, f"{page}: no part of benchmarks/{script}"
    with replacing(page) as file:
        file.write(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}".encode())
