"""Tells from the structure of a file whether its end is missing; decoding what is there would not show it."""

from collections.abc import Iterator

EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"  # Matroska's and WebM's element that holds all others
BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"}  # that an MP4 or MOV may begin with


def cut_off(file: bytes) -> str:
    """Return what says that the end of a Matroska, WebM, MP4 or MOV file is missing; '' if nothing does.

    A Matroska or WebM file that was written as a live stream does not say how long it is.
    """
    ends = _boxes(file) if file[4:8] in BOXES else _segment(file) if file.startswith(EBML) else iter(())
    promised = max(ends, default=0)
    return f"{len(file)} of {promised} bytes are there" if promised > len(file) else ""


def _boxes(file: bytes) -> Iterator[int]:
    """Yield where each box of an MP4's top level ends by its own account."""
    at = 0
    while at < len(file):
        if at + 8 > len(file):
            if any(file[at:]):
                yield at + 8
            return
        size = int.from_bytes(file[at : at + 4])
        if size == 1:
            size = int.from_bytes(file[at + 8 : at + 16])
        if size < 8 or not file[at + 4 : at + 8].isalnum():  # 0: up to the end of the file; or no box
            return
        at += size
        yield at


def _segment(file: bytes) -> Iterator[int]:
    """Yield where Matroska's segment ends by its own account, if it says."""
    size, at = _number(file, len(EBML))
    at += size
    if file.startswith(SEGMENT, at):
        size, at = _number(file, at + len(SEGMENT))
        if at < len(file) and size >= 0:
            yield at + size


def _number(file: bytes, at: int) -> tuple[int, int]:
    """Read an EBML number: return it and where it ends; -1 for one of all ones, which stands for unknown."""
    if at >= len(file) or not file[at]:
        return -1, len(file)
    length = 9 - file[at].bit_length()
    ones = 7 * length
    value = int.from_bytes(file[at : at + length]) & (1 << ones) - 1
    return (-1 if value == (1 << ones) - 1 else value), at + length
