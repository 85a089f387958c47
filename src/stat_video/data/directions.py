"""Whether class names say directions, which a flipped clip would contradict: `data.hflip=null`."""

import re
from collections.abc import Sequence

OPPOSITES = (
    ("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("lefthand", "righthand"),
    ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"), ("cw", "ccw"), ("east", "west"),
    ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"), ("sinistra", "destra"),
)  # fmt: skip
WORDS = frozenset(word for pair in OPPOSITES for word in pair)


def of_direction(classes: Sequence[str]) -> list[str]:
    """Return the classes whose names hold a word of OPPOSITES, in any case: 'Pushing something left', 'turnLeft'."""
    return [name for name in classes if WORDS & set(_words(name))]


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-zäöüß])(?=[A-Z])", " ", name)  # camel case
    return re.findall(r"[^\W\d_]+", apart.lower())
