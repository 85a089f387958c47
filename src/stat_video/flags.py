"""The flags of a command line, which are Hydra's; one that has another form here is refused with that form."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import InputError

SHORT = {"-m": "--multirun", "-r": "--run", "-h": "--help", "-c": "--cfg", "-p": "--package", "-i": "--info",
         "-cd": "--config-dir", "-cp": "--config-path", "-cn": "--config-name",
         "-sc": "--shell-completion"}  # fmt: skip
PLAIN = ("--multirun", "--run", "--help", "--hydra-help", "--version", "--resolve")
CHOICES = {"--cfg": ("job", "hydra", "all"), "--info": ("defaults", "defaults-tree", "searchpath")}
VALUED = (*CHOICES, "--package", "--config-dir")
INSTEAD = {
    "--config-path": "conf/ is the scripts' own; --config-dir DIR adds a folder of yours beside it",
    "--config-name": "a script has one config; experiment=NAME chooses a file of yours, DIR/experiment/NAME.yaml of "
    "--config-dir DIR",
    "--shell-completion": "is not offered; --help lists groups and choices",
    "--experimental-rerun": "the same command finds its run again, and overrides.yaml in a run's folder has its words",
}
ALLOWED = "allowed are KEY=VALUE, -m, --help, --cfg job, --info defaults, --config-dir DIR, --version"
HYDRA_HELP = """\
Flags, as Hydra has them:
  -m, --multirun            a sweep: KEY=A,B runs both; hydra/launcher=processes or slurm says where
  -r, --run                 one run, as without it
  -h, --help                keys and groups of this script
  -c, --cfg job|hydra|all   print the config that the words compose to, and run nothing
  --resolve                 with --cfg hydra or all: without interpolations (those of a job are always resolved)
  -p, --package KEY         with --cfg: only that part, such as recipe
  -i, --info WHAT           defaults (the files that are composed), defaults-tree, searchpath
  -cd, --config-dir DIR     a folder with groups of your own: DIR/experiment/mine.yaml is experiment=mine
  --version                 versions of this project and of Hydra
Keys of Hydra's own: hydra/launcher, hydra.launcher.*, hydra.sweeper.params.*, and of a search (src/train.py -m)
hydra/sweeper, hydra.sweeper.*. Any other is refused with the key that does it here."""


@dataclass
class Flags:
    """What the flags of a command line say, and the words beside them."""

    words: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)  # flags without a value
    values: dict[str, str] = field(default_factory=dict)  # --cfg, --info, --package
    config_dirs: list[str] = field(default_factory=list)

    @property
    def multirun(self) -> bool:
        """Whether the words are of a sweep."""
        return "--multirun" in self.given


def read_flags(words: Sequence[str]) -> Flags:
    """Return the flags among the words of a command line; InputError for one that is not known or says nothing."""
    found, left = Flags(), list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            found.words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        if name in INSTEAD:
            raise InputError(f"{word}: {INSTEAD[name]}")
        if name in PLAIN and not equals:
            found.given.add(name)
        elif name in VALUED:
            if not equals:
                value = left.pop(0) if left else ""
            _take(found, name, value, name if name == word else word)
        else:
            raise InputError(f"{word}: {ALLOWED}")
    _check(found)
    return found


def _take(found: Flags, name: str, value: str, word: str) -> None:
    allowed = CHOICES.get(name, ())
    if allowed and value not in allowed:
        raise InputError(f"{word.partition('=')[0]} {value}".strip() + f": must be one of {', '.join(allowed)}")
    if not value or value.startswith("-"):
        raise InputError(f"{word}: needs {'a folder' if name == '--config-dir' else 'a key, such as recipe'}")
    if name == "--config-dir":
        found.config_dirs.append(value)
    else:
        found.values[name] = value


def _check(flags: Flags) -> None:
    if {"--multirun", "--run"} <= flags.given:
        raise InputError("--run: is one run, --multirun a sweep; one of them is allowed")
    if "--cfg" in flags.values and "--info" in flags.values:
        raise InputError("--info: is not allowed beside --cfg")
    for name in ("--resolve", "--package"):
        if (name in flags.given or name in flags.values) and "--cfg" not in flags.values:
            raise InputError(f"{name}: is of --cfg job|hydra|all, which prints a config")


def config_dirs(words: Sequence[str]) -> list[str]:
    """Return the folders that `--config-dir` names, whatever else is wrong with the words."""
    found = []
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if SHORT.get(name, name) == "--config-dir":
            found.append(value if equals else "".join(words[i + 1 : i + 2]))
    return [folder for folder in found if folder]
