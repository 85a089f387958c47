"""What a command says of the copies of a data set; transcode.py makes them."""

from dataclasses import dataclass

from ..errors import InputError, check_ranges, one_of, ranged

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"
)  # fmt: skip


@dataclass
class Encoding:
    """How the copies are coded, keys `encoding.*`: H.264, no audio, three B-frames between any two other frames.

    No frame refers to a B-frame, so a reader decodes only the B-frames it wants; and they make the files smaller.
    """

    short_side: int = ranged(256, 16)  # pixels, even; smaller videos keep their size
    gop: int = ranged(12, 1)  # frames from one keyframe to the next
    crf: int = ranged(20, 0, 51)  # quality, 0: lossless
    preset: str = one_of("medium", PRESETS)  # slower ones make smaller files

    def __post_init__(self) -> None:
        check_ranges(self, "encoding.")
        if self.short_side % 2:
            raise InputError(f"encoding.short_side={self.short_side}: an even number is allowed")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the copy, even as 4:2:0 needs them."""
        scale = min(1.0, self.short_side / min(height, width))
        return tuple(max(2, 2 * round(n * scale / 2)) for n in (height, width))  # type: ignore[return-value]
