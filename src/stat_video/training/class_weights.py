"""The weight of each class in the loss: `recipe.class_weights`."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..errors import InputError

BALANCED = "balanced"


def class_weights(
    asked: str | Sequence[float] | Mapping[str, float] | None, classes: Sequence[str], labels: Iterable[int]
) -> list[float] | None:
    """Return a weight for each class; None without.

    ``balanced``: n / (k n_c), with n training videos of k classes, n_c of them of class c, as scikit-learn has it; 0 of
    a class without any. A mapping names classes, the others weigh 1. Raises InputError if numbers or names are not
    those of the classes.
    """
    if asked is None:
        return None
    if asked == BALANCED:
        count = Counter(labels)
        if not count:
            raise InputError("recipe.class_weights=balanced: is for one class a video; else a list or {CLASS: NUMBER}")
        return [count.total() / (len(count) * count[c]) if count[c] else 0.0 for c in range(len(classes))]
    if isinstance(asked, Mapping):
        weights = {str(name): float(weight) for name, weight in asked.items()}
        for name in weights:
            if name not in classes:
                near = difflib.get_close_matches(name, classes, n=3) or classes[:3]
                raise InputError(f"recipe.class_weights.{name}: must be one of the classes, such as {', '.join(near)}")
        return [weights.get(name, 1.0) for name in classes]
    if len(asked) != len(classes):
        raise InputError(f"recipe.class_weights: {len(asked)} weights; must be {len(classes)}, one for each class")
    return [float(weight) for weight in asked]
