"""The recipe's loss as a model gets it: with its keys, and with what it is given and returns checked."""

from typing import Any

from torch import Tensor, nn

from .. import losses
from ..config import Recipe
from ..errors import InputError
from ..models.base import check_logits


class Criterion:
    """Maps logits (B, num_classes) and a target, (B,) or (B, num_classes), to the loss, ()."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        num_classes: int,
        multi_label: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model, self.num_classes = model, num_classes
        self.name = recipe.loss or losses.usual(multi_label)
        self.function = losses.find(self.name)  # once: it looks into folders
        self.keys = dict(recipe.loss_keys)
        self.keys |= losses.given(self.name, 0, None, multi_label)
        self.in_training = losses.given(self.name, recipe.label_smoothing, class_weights, False)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = check_logits(self.model, logits, len(target), self.num_classes)
        return self._loss(logits, target, **self.in_training)

    def plain(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss without label smoothing and class weights, as it is reported of a validation."""
        return self._loss(logits, target)

    def _loss(self, logits: Tensor, target: Tensor, **more: Any) -> Tensor:
        try:
            return losses.compute(self.name, self.function, logits, target, **self.keys, **more)
        except ValueError as error:
            raise InputError(str(error)) from error
