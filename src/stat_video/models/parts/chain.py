"""A network of PyTorchVideo with one pathway: what the systems that are built from such a network share."""

from torch import Tensor, nn

from ..base import Clip, VideoModel


def check_window(clip: Clip) -> None:
    """Raise ValueError if a test's crop is smaller than the training's, whose map is the window that the head pools."""
    if clip.view_crop < clip.crop:
        raise ValueError(f"clip.test_crop={clip.test_crop}: crop={clip.crop} or more is allowed, the head's window")


class Chain(VideoModel):
    """Runs PyTorchVideo's `blocks` one after the other: a stem, four stages of residual blocks, a head."""

    clip: Clip
    blocks: nn.ModuleList

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W), in training and in evaluation."""
        self.clip.check_input(clip)
        x = clip
        for block in self.blocks:
            x = block(x)
        return x

    def units(self) -> list[nn.Module]:
        """Return the residual blocks."""
        return [block for stage in list(self.blocks)[1:5] for block in stage.res_blocks]  # type: ignore[union-attr]
