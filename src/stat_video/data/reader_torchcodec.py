"""Reading with TorchCodec, where it and FFmpeg are installed: `data.reader=torchcodec`."""

from contextlib import suppress
from typing import Any

from torch import Tensor

from ..errors import InputError
from .reader import PyAVVideo, plan_of
from .sampling import ChooseFrames


def require_torchcodec() -> None:
    """InputError where TorchCodec cannot decode: it is missing, or finds no FFmpeg, which it says only when used."""
    try:
        _decoder(b"no video")
    except ImportError:
        raise InputError(
            "data.reader=torchcodec: TorchCodec is not installed; pip install 'stat-video[torchcodec]', or set "
            "data.reader=pyav"
        ) from None
    except (RuntimeError, ValueError) as error:
        if "Could not load libtorchcodec" in str(error):
            raise InputError(
                "data.reader=torchcodec: TorchCodec finds no FFmpeg that fits it and this PyTorch; install FFmpeg, or "
                "set data.reader=pyav"
            ) from None


class TorchCodecVideo(PyAVVideo):
    """A video whose frames TorchCodec decodes in its exact mode.

    It goes by the frames' times: where those are not to be trusted (AVI, MPEG-TS, a file that breaks off), and for what
    it does not decode, PyAV reads, which passes over what is broken.
    """

    def frame_count(self) -> int:
        """How many frames there are to show."""
        decoder = self._exact()
        return super().frame_count() if decoder is None else len(decoder)

    def frames(self, choose: ChooseFrames) -> Tensor:
        """uint8 (T, H, W, 3): the frames that `choose` takes from the frame count, which it may be asked twice."""
        if (decoder := self._exact()) is not None:
            with suppress(RuntimeError, ValueError, IndexError):
                frames: Tensor = decoder.get_frames_at(choose(len(decoder))).data
                return frames
        return super().frames(choose)

    def _exact(self) -> Any:
        with self._open() as (container, stream):
            plan = plan_of(container, self._packets(container, stream))
            if plan is None or container.format.name == "mpegts":
                return None
        with suppress(RuntimeError, ValueError):
            decoder = _decoder(self._bytes)
            return decoder if len(decoder) == plan.count else None
        return None


def _decoder(content: bytes) -> Any:
    from torchcodec.decoders import VideoDecoder  # takes seconds, and not everybody has it

    return VideoDecoder(content, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)
