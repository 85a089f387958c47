"""The rows of an experiment file: what `python src/train.py -m experiment=NAME` runs, composed without running it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from .config import Config
from .entry import CONF, SCHEMAS, checked, register

EXPERIMENTS = (  # in the order of the paper's tables
    "ablation_modules",
    "ablation_window",
    "ablation_token",
    "ablation_aggregation",
    "ablation_stem",
    "kinetics",
    "ssv2",
)


@dataclass(frozen=True)
class GridRow:
    """One row of an experiment: the words that set it apart on the command line, and the config they resolve to."""

    words: tuple[str, ...]
    options: Config

    @property
    def config(self) -> dict[str, Any]:
        """The same in plain containers, as result files have it."""
        return asdict(self.options)


def rows(experiment: str, overrides: Sequence[str] = (), script: str = "train") -> list[GridRow]:
    """Rows of conf/experiment/<experiment>.yaml under overrides (`scale=tiny`, `seed=1`), in the sweep's order.

    ``script`` is the entry script, src/<script>.py, whose keys they have.

    Raises Hydra's errors for what does not compose, InputError for what is not allowed.
    """
    with _composing():
        base = compose(script, [f"experiment={experiment}", *overrides], return_hydra_config=True)
        given = {word.split("=")[0].lstrip("+~") for word in overrides}
        swept = base.hydra.sweeper.params or {}
        axes = [f"{key}={values}" for key, values in swept.items() if key not in given]
        choices = [
            [f"{axis.get_key_element()}={value}" for value in axis.sweep_string_iterator()]
            if axis.is_sweep_override()
            else [axis.input_line or ""]
            for axis in OverridesParser.create().parse_overrides(axes)
        ]
        return [
            GridRow(words, checked(compose(script, [f"experiment={experiment}", *words, *overrides]), SCHEMAS[script]))
            for words in product(*choices)
        ]


def command(experiment: str, row: GridRow, *overrides: str) -> str:
    """What runs the row."""
    return " ".join(["python src/train.py", f"experiment={experiment}", *row.words, *overrides])


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra's compose, also from within a script that Hydra itself has started."""
    register()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)
