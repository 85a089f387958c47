"""`stat-video COMMAND WORDS`: the entry scripts of an installed package; also `python -m stat_video`."""

import sys
from importlib import import_module
from pkgutil import iter_modules

from . import __version__, commands
from .errors import printable
from .launch.command import become

NAMES = sorted(module.name for module in iter_modules(commands.__path__))


def main() -> None:
    """Run a command with the words after its name; exit code 2 for one that there is not."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"stat-video {'|'.join(NAMES)} [KEY=VALUE ...]; stat-video NAME --help says more of one")
        return
    if name == "--version":
        print(__version__)
        return
    if name not in NAMES:
        print(f"error: {printable(name)}: must be one of {', '.join(NAMES)}", file=sys.stderr)
        sys.exit(2)
    become(name, sys.argv[2:])
    import_module(f"{commands.__name__}.{name}").main()


if __name__ == "__main__":
    main()
