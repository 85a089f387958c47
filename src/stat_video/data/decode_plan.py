"""Says, by a file's time stamps alone, which packet holds which frame, and decodes no more than wanted frames need."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import av

from .orientation import Picture

TIMED = {"mov", "mp4", "matroska", "webm", "mpegts"}  # containers whose time stamps order the frames; not AVI


Skip = Literal["DEFAULT", "NONREF"]  # which frames the decoder may leave out


class Doubt(Exception):
    """A frame did not come out of the packet that should hold it: decode everything."""


class Decoder(Protocol):
    """What `decode_by` asks of the reader's decoder."""

    def decode(self, packet: av.Packet | None, skip: Skip = "DEFAULT") -> Sequence[av.VideoFrame]:
        """Return the frames that come out once a packet is in; None: those that are left."""

    def restart(self) -> None:
        """Forget all frames, to go on at a later keyframe."""


@dataclass(frozen=True)
class DecodePlan:
    """When each frame is shown, and the groups of packets that can be decoded by themselves."""

    times: list[int]  # of the frames in their order
    groups: list[list[av.Packet]]  # in decode order; each begins with a keyframe

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.times)


def is_timed(container: "av.container.InputContainer") -> bool:
    """Return whether the container's time stamps order the frames."""
    return bool(TIMED & set(container.format.name.split(",")))


def plan_of(container: "av.container.InputContainer", packets: Sequence[av.Packet]) -> DecodePlan | None:
    """Return which packet holds which frame; None if the time stamps cannot be trusted."""
    if not is_timed(container) or not packets or not packets[0].is_keyframe:
        return None
    times = [p.pts for p in packets if not p.is_discard]
    if any(time is None for time in times) or len(set(times)) < len(times):
        return None
    if any(p.is_corrupt or p.pts is None for p in packets):
        return None
    groups: list[list[av.Packet]] = []
    for packet in packets:
        if packet.is_keyframe:
            groups.append([])
        groups[-1].append(packet)
    # Files that were joined together may begin again before the last one ends; decoding would give them one by one.
    shown = [[p.pts for p in group if p.pts is not None] for group in groups]
    if any(max(before) > min(after) for before, after in pairwise(shown)):
        return None
    return DecodePlan(sorted(time for time in times if time is not None), groups)


def decode_by(
    plan: DecodePlan, decoder: Decoder, wanted: set[int], convert: Callable[[av.VideoFrame], Picture]
) -> dict[int, Picture]:
    """Decode the groups that hold a wanted frame, each up to its last; return those frames, converted.

    Raises Doubt if one of them does not come out.
    """
    index_of = {plan.times[i]: i for i in wanted}
    last = _last_needed(plan, index_of)
    found: dict[int, Picture] = {}

    def take(frames: Iterable[av.VideoFrame]) -> None:
        found.update({index_of[f.pts]: convert(f) for f in frames if f.pts in index_of})

    gap = False
    for group, end in zip(plan.groups, last, strict=True):
        if not end:
            gap = True
            continue
        if gap:
            take(decoder.decode(None))
            decoder.restart()
        for packet in group[:end]:
            # Skip frames that are not wanted and that no other frame refers to.
            take(decoder.decode(packet, "DEFAULT" if packet.pts in index_of else "NONREF"))
        gap = end < len(group)
    take(decoder.decode(None))
    if len(found) < len(wanted):
        raise Doubt
    return found


def _last_needed(plan: DecodePlan, index_of: dict[int, int]) -> list[int]:
    """Return how many packets of each group must be decoded, from its first; 0: none."""
    last = [0] * len(plan.groups)
    for g, group in enumerate(plan.groups):
        for n, packet in enumerate(group, 1):
            if packet.pts in index_of:
                last[g] = n
                # A frame shown before its group's keyframe also refers to the group before.
                if g and packet.pts is not None and packet.pts < (group[0].pts or 0):
                    last[g - 1] = len(plan.groups[g - 1])
    return last
