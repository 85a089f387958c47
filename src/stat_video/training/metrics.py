"""The metrics of a test over whole videos, gathered from all ranks, and the mean loss of an epoch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from .. import metrics
from ..data.sampling import Views
from ..metrics.scores import correct, ranks

OF_GROUP = "@"  # between the name of a figure and the group of classes that it is of: 'top1@near'


class MeanLoss(Metric):
    """Mean loss of a clip, over passes of any numbers of clips and over ranks.

    torchmetrics' MeanMetric waits for the device to look for NaN, or takes no weights (nan_strategy="disable").
    """

    full_state_update = False
    mean_value: Tensor  # named as in MeanMetric, as which checkpoints of before have them
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean_value", "weight"):
            self.add_state(name, default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, clips: int) -> None:
        """Add the mean loss () of a pass of so many clips."""
        self.mean_value += loss.detach().float() * clips
        self.weight += clips

    def compute(self) -> Tensor:
        """Return the mean ()."""
        return self.mean_value / self.weight


class MultiViewAccuracy(Metric):
    """The metrics of `stat_video.metrics` over whole videos; unreadable ones, whose logits are NaN, count as wrong.

    Keeps the logits of each (video, view), gathers them across ranks, and raises RuntimeError unless all views of
    each video are there exactly once.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]
    view: list[Tensor]

    def __init__(self, protocol: Views, classes: Sequence[str] = (), multi_label: bool = False) -> None:
        """Report the top-1 of each group, too, if ``classes`` are named 'group: class'.

        With ``multi_label`` a video's label is 0 or 1 of each class, (num_classes,), instead of a number.
        """
        super().__init__()  # NOTE: no compute_on_cpu: NCCL can't gather from the CPU (torchmetrics#2477)
        self.protocol, self.multi_label = protocol, multi_label
        self.videos: int | None = None  # how many have to come; None: unknown
        groups = [name.partition(": ")[0] for name in classes if ": " in name]
        self.groups = {
            g: [i for i, name in enumerate(classes) if name.startswith(f"{g}: ")] for g in sorted(set(groups))
        }
        for name in ("logits", "labels", "index", "view"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def expect(self, videos: int, num_classes: int) -> None:
        """Set how many videos have to come; call it before the first update, also on a rank that gets none of them."""
        self.videos = videos
        none = torch.empty(0, dtype=torch.long, device=self.device)
        logits = torch.empty(0, num_classes, device=self.device)
        self.update(logits, logits if self.multi_label else none, none, none)

    def update(self, logits: Tensor, labels: Tensor, index: Tensor, view: Tensor) -> None:
        """Add logits (B, num_classes) with labels, (B,) or (B, num_classes), index (of the video) and view, (B,)."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels)
        self.index.append(index)
        self.view.append(view)

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return logits (videos, views, num_classes) and labels of all ranks, in the order of the list."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            logits, labels, index, view = (
                torch.cat(s) if isinstance(s, list) else s for s in (self.logits, self.labels, self.index, self.view)
            )
        order = torch.argsort(index * len(self.protocol) + view)
        logits, labels, index, view = logits[order], labels[order], index[order], view[order]
        videos = len(index) // len(self.protocol)
        expected = torch.arange(len(self.protocol)).repeat(videos).to(view)
        whole = len(index) == videos * len(self.protocol) and index.unique().numel() == videos
        if not whole or not torch.equal(view, expected) or self.videos not in (None, videos):
            of = "each" if self.videos is None else f"{self.videos}"
            raise RuntimeError(f"{len(index)} views of {index.unique().numel()} videos are not {self.protocol} of {of}")
        return logits.unflatten(0, (videos, len(self.protocol))), labels[:: len(self.protocol)]

    def compute(self) -> dict[str, Tensor]:
        """Return the `figures` of all ranks."""
        return self.figures(*self.gathered())

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return all metrics, and 'top1@<group>' over the videos of each group of classes that has any.

        ``logits`` and ``labels`` are those of `gathered`.
        """
        found = metrics.figures(logits, labels)
        right = correct(ranks(logits, labels)).float() if self.groups else labels
        for group, members in self.groups.items():
            of_group = right[torch.isin(labels, labels.new_tensor(members))]
            if len(of_group):
                found[f"top1{OF_GROUP}{group}"] = 100 * of_group.mean()
        return found
