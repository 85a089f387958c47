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
    """Return the classes whose names hold a word of OPPOSITES, in any case: 'Pushing something left', 'turnLeft'.

    The letters l and r count in a mirrored pair alone: 'swipe_l' beside 'swipe_r'.
    """
    words, other = {name: _words(name) for name in classes}, {"l": "r", "r": "l"}

    def in_pair(name: str) -> bool:
        """Return whether another class has the same name but for one l in the place of r."""
        own = words[name]
        mirrored = [[*own[:i], other[word], *own[i + 1 :]] for i, word in enumerate(own) if word in other]
        return any(one in words.values() for one in mirrored)

    return [name for name in classes if WORDS & set(words[name]) or in_pair(name)]


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-zäöüß])(?=[A-Z])", " ", name)  # camel case
    return re.findall(r"[^\W\d_]+", apart.lower())
