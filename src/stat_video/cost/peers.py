"""GFLOPs of the other systems of Tables 6 and 7, counted like ours and shown beside the printed ones.

The convention is the paper's and that of `layers`: 1 GFLOP = 1e9 multiply-adds of matrix products, convolutions and
attention. Each model is built from a library's parts on the meta device, with the choices of its own paper or release;
so is the clip's size, that of the system's own test: 256 pixels for most CNNs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rich.table
import torch
from rich.box import SIMPLE
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import published
from ..model import STATConfig
from .layers import gmacs

CLOSE = 5  # percent: a larger difference from the printed figure has a reason
EXTRA = "pip install 'stat-video[bench]'"  # brings the libraries that are not always there

Clip = tuple[int, int, int]  # frames, height, width


@dataclass(frozen=True)
class Peer:
    """One system as a library builds it."""

    model: str  # which model the row is, where its label is loose
    library: str
    build: Callable[[], nn.Module]
    clips: tuple[Clip, ...]  # of each pathway
    frames_first: bool = False  # takes (B, T, 3, H, W) in the place of (B, 3, T, H, W)
    why: str = ""  # it differs by more than CLOSE

    @property
    def installed(self) -> bool:
        """Whether the library is there."""
        return find_spec(self.library) is not None

    def gmacs(self) -> float:
        """1e9 multiply-adds of one view."""
        with torch.device("meta"), torch.no_grad():
            model = self.build().eval()
            clips = [torch.empty(1, 3, *clip) for clip in self.clips]
            if self.frames_first:
                clips = [clip.transpose(1, 2) for clip in clips]
            with FlopCounterMode(display=False) as counter:
                model(clips if len(clips) > 1 else clips[0])
        return counter.get_total_flops() / 2e9


@dataclass(frozen=True)
class PeerRow:
    """A row of Table 6 or 7, its GFLOPs as printed and as counted; None where there is no figure."""

    printed_row: published.Row
    model: str
    printed: float | None  # of one view
    counted: float | None
    note: str

    @property
    def difference(self) -> float | None:
        """Percent of the printed figure."""
        if self.printed is None or self.counted is None:
            return None
        return 100 * (self.counted - self.printed) / self.printed

    @property
    def total(self) -> float | None:
        """Counted, of all views."""
        return None if self.counted is None else self.counted * self.printed_row.views


def slowfast_r50() -> nn.Module:
    """SlowFast 8x8, ResNet-50."""
    from pytorchvideo.models.hub import slowfast_r50

    return slowfast_r50()


def slowfast_r101() -> nn.Module:
    """SlowFast 16x8, ResNet-101 with temporal kernels in the first six blocks of res4."""
    from pytorchvideo.models.hub import slowfast_16x8_r101_50_50

    return slowfast_16x8_r101_50_50()


def x3d_xl() -> nn.Module:
    """X3D-XL: X3D-L 1.45 times as wide (Feichtenhofer 2020)."""
    from pytorchvideo.models.x3d import create_x3d

    return create_x3d(input_clip_length=16, input_crop_size=312, width_factor=2.9, depth_factor=5.0)


def ip_csn_152() -> nn.Module:
    """ip-CSN-152: PyTorchVideo's ir-CSN with a 1x1x1 convolution before each depthwise one (Tran et al. 2019)."""
    from pytorchvideo.models.csn import create_csn
    from pytorchvideo.models.resnet import create_bottleneck_block

    def preserved(in_channels: int, out_channels: int, **keys: Any) -> nn.Module:
        mixing = nn.Conv3d(in_channels, in_channels, 1, bias=False)
        return nn.Sequential(
            mixing, nn.BatchNorm3d(in_channels), nn.ReLU(), nn.Conv3d(in_channels, out_channels, **keys)
        )

    def bottleneck(**keys: Any) -> nn.Module:
        return create_bottleneck_block(**{**keys, "conv_b": preserved})

    return create_csn(model_depth=152, stem_pool=nn.MaxPool3d, bottleneck=bottleneck)


def nonlocal_i3d(depth: int) -> nn.Module:
    """Non-local I3D: PyTorchVideo's ResNet with I3D's kernels and strides, and its non-local blocks (Wang et al. 2018).

    Time is halved by the first convolution and both poolings; every other block of res3 to res5 has a 3x1x1
    convolution, in a ResNet-101's res4 only among the first six. Five non-local blocks in res3 and res4.
    """
    from pytorchvideo.layers.nonlocal_net import create_nonlocal
    from pytorchvideo.models.resnet import create_resnet

    time, space = (3, 1, 1), (1, 1, 1)
    in_res4 = {50: 6, 101: 23}[depth]
    model = create_resnet(
        model_depth=depth,
        stem_conv_kernel_size=(5, 7, 7),
        stem_conv_stride=(2, 2, 2),
        stem_pool_kernel_size=(3, 3, 3),
        stem_pool_stride=(2, 2, 2),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=(time, [time, space], [time, space] * 3 + [space] * (in_res4 - 6), [space, time]),
    )
    for stage, width, places in ((3, 512, (1, 3)), (4, 1024, (1, 3, 5) if depth == 50 else (6, 13, 20))):
        blocks = model.blocks[stage].res_blocks
        for i in places:
            around = create_nonlocal(dim_in=width, dim_inner=width // 2, pool_size=(1, 2, 2))
            blocks[i] = nn.Sequential(blocks[i], around)
    return model


class Frames(nn.Module):
    """An image model on every frame of (B, 3, T, H, W)."""

    def __init__(self, image_model: nn.Module) -> None:
        super().__init__()
        self.image_model = image_model

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.image_model(clip.transpose(1, 2).flatten(0, 1))


def tsm_r50() -> nn.Module:
    """TSM: torchvision's ResNet-50 on every frame; shifting channels in time takes no multiply-add."""
    from torchvision.models import resnet50

    return Frames(resnet50())


def mvit_b(frames: int) -> nn.Module:
    """MViT-B: torchvision's, whose clip length is in its position embeddings alone."""
    from torchvision.models.video import mvit

    model = mvit.mvit_v1_b()
    model.pos_encoding = mvit.PositionalEncoding(96, (56, 56), frames // 2, rel_pos_embed=False)
    return model


def timesformer_l() -> nn.Module:
    """TimeSformer-L: 96 frames, a ViT-B in spite of its letter."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    return TimesformerForVideoClassification(TimesformerConfig(num_frames=96))


def vivit_l() -> nn.Module:
    """ViViT-L/16x2 with joint space-time attention over 32 frames of 224 pixels."""
    from transformers import VivitConfig, VivitForVideoClassification

    return VivitForVideoClassification(
        VivitConfig(
            num_frames=32,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
        )
    )


def _mvit(frames: int, sampling: str) -> Peer:
    return Peer(f"MViT-B {frames}x{sampling}", "torchvision", partial(mvit_b, frames), ((frames, 224, 224),))


TSM = Peer("TSM R50, 16 frames", "torchvision", tsm_r50, ((16, 224, 224),))
TIMESFORMER = Peer("TimeSformer-L", "transformers", timesformer_l, ((96, 224, 224),), frames_first=True)
MVITS = {"MViT-16": _mvit(16, "4"), "MViT-32": _mvit(32, "3"), "MViT-64": _mvit(64, "3")}

# Row of conf/paper.yaml: what builds it. Rows that are not here no library builds.
PEERS: Mapping[str, Peer] = {
    "6/SlowFast-R50": Peer("SlowFast 8x8 R50", "pytorchvideo", slowfast_r50, ((8, 256, 256), (32, 256, 256))),
    "6/SlowFast-R101": Peer("SlowFast 16x8 R101", "pytorchvideo", slowfast_r101, ((16, 256, 256), (64, 256, 256))),
    "6/X3D-R50": Peer("X3D-XL, 356 pixels", "pytorchvideo", x3d_xl, ((16, 356, 356),)),
    "6/ip-CSN-32": Peer("ip-CSN-152", "pytorchvideo", ip_csn_152, ((32, 256, 256),)),
    "6/I3D_NL-R50": Peer("Non-local I3D R50", "pytorchvideo", partial(nonlocal_i3d, 50), ((128, 256, 256),)),
    "6/I3D_NL-R101": Peer("Non-local I3D R101", "pytorchvideo", partial(nonlocal_i3d, 101), ((128, 256, 256),)),
    "6/TSM-16": Peer(
        TSM.model,
        TSM.library,
        TSM.build,
        TSM.clips,
        why="650 is the cost of 10 views, not of the 30 that the row names: of 10 it is 65.0 a view, as in Table 7",
    ),
    **{f"6/{id}": peer for id, peer in MVITS.items()},
    "6/TimeSformer-96": TIMESFORMER,
    "6/ViViT-16": Peer("ViViT-L/16x2", "transformers", vivit_l, ((32, 224, 224),), frames_first=True),
    "7/TSM-16": TSM,
    **{f"7/{id}": peer for id, peer in MVITS.items()},
    "7/TimeSformer-96": TIMESFORMER,
}
# What is known of rows that no library builds.
NOT_BUILT = {
    "6/X3D-R101": "X3D-XXL, whose width and depth are not known here",
    "7/ViViT-16": "ViViT-L with the factorised encoder",
    "6/VidTr-16": "VidTr-M",
    "6/VidTr-32": "VidTr-L",
}


@cache
def counted(ref: str) -> float | None:
    """1e9 multiply-adds of one view of a row of the paper, None where nothing installed builds it."""
    row = published.load().row(ref)
    if row.axes:
        return gmacs(STATConfig(**row.axes))
    peer = PEERS.get(ref)
    if peer is None or not peer.installed:
        return None
    # Table 7 shares models with Table 6.
    return next((counted(other) for other in PEERS if other < ref and PEERS[other] == peer), None) or peer.gmacs()


def counted_total(ref: str) -> float | None:
    """Of all views, as Tables 6 and 7 print it."""
    one = counted(ref)
    return None if one is None else one * published.load().row(ref).views


def table(number: int, path: Path = published.PAPER) -> list[PeerRow]:
    """Every row of Table 6 or 7, counted where an installed library builds it."""
    paper, rows = published.load(path), []
    for row in paper.tables[number].rows:
        printed = paper.tables[number].gflops_per_clip(row)
        ours, peer = counted(row.ref), PEERS.get(row.ref)
        if row.axes:
            model, note = "STAT (ours)", row.note or ""
        elif peer is None:
            model, note = NOT_BUILT.get(row.ref, ""), "no library builds it"
        elif not peer.installed:
            model, note = peer.model, f"not installed: {EXTRA}"
        else:
            model, note = peer.model, peer.why
        rows.append(PeerRow(row, model, printed, ours, note))
    return rows


def render(rows: Sequence[PeerRow]) -> rich.table.Table:
    """`table()` for a terminal."""
    number = rows[0].printed_row.table
    out = rich.table.Table(
        title=f"Table {number}: GFLOPs printed and counted (1 GFLOP = 1e9 multiply-adds of matrix products, "
        "convolutions and attention)",
        box=SIMPLE,
        padding=(0, 1),
        caption=f"a view: printed / views; yellow: differs by more than {CLOSE} %",
    )
    for column in ("row", "which is", "views"):
        out.add_column(column)
    for column in ("a view", "counted", "%", "printed", "counted"):
        out.add_column(column, justify="right", no_wrap=True)
    out.add_column("note")
    for r in rows:
        row, difference = r.printed_row, r.difference
        far = difference is not None and abs(difference) > CLOSE
        out.add_row(
            row.id,
            r.model,
            f"{row.clips}x{row.crops}",
            "-" if r.printed is None else f"{r.printed:,.1f}",
            "-" if r.counted is None else f"{r.counted:,.1f}",
            "" if difference is None else f"{difference:+.1f}",
            "-" if row.gflops is None else f"{row.gflops:,g}",
            "-" if r.total is None else f"{r.total:,.0f}",
            r.note,
            style="yellow" if far else "",
        )
    return out
