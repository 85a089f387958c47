"""From the words of a command line to the rows that they stand for, checked. All of Hydra but for `instantiate.py`.

A row is one config. `python src/train.py T=32` is one, `-m T=16,32` two, and `-m experiment=NAME` those that the
experiment file sweeps over (`hydra.sweeper.params`).

    command.py   a command line as rows               grammar.py   a word: its key in full, what it sweeps over
    composed.py  words to a config, and its check     known.py     what Hydra is told: schemas, resolvers, folders
    shown.py     --help, --cfg, --info                wrong.py     what is wrong, in one line
    search.py    sweepers that propose rows           local.py     conf/local.yaml, groups and their choices
"""

from ..paths import CONF
from .command import Command, read, rows
from .composed import Row, checked
from .local import model_keys, read_local
from .search import Proposal, Search
from .wrong import one_line

__all__ = [
    "CONF", "Command", "Proposal", "Row", "Search", "checked", "model_keys", "one_line", "read", "read_local", "rows",
]  # fmt: skip
