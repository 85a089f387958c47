"""What a data set yields."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor


class Sample(TypedDict):
    """An item of the data set; in a batch each value has a leading B."""

    video: Tensor  # uint8 (T, 3, crop, crop)
    label: Any  # int, in a batch long (B,); of videos with several classes float (num_classes,), 0 or 1 of each
    index: Any  # int, in a batch long (B,), as the next; place in the list of the video that was asked for
    view: Any  # its number in the protocol; 0 in training
    unreadable: Any  # the path that was asked for if it cannot be read, else ''; in a batch a list
    operators: NotRequired[Any]  # of training: RandAugment's that are left to the device, `Drawn`; in a batch a list
