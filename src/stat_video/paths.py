"""Where things are: in a clone of the project, and where the package is installed without one."""

import os
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CLONED = (PACKAGE.parents[1] / "conf" / "train.yaml").is_file()  # else conf/ lies within the package
PROJECT = PACKAGE.parents[1] if CLONED else Path.cwd()  # where logs/, data/ and conf/local.yaml are
CONF = PACKAGE.parents[1] / "conf" if CLONED else PACKAGE / "conf"
# Folders of the user's own, each with a conf/ and a folder of each kind of parts (registry.py).
OWN = [Path(folder) for folder in os.environ.get("STAT_VIDEO_OWN", "").split(os.pathsep) if folder]


# The environment variable that hands the folders of `--config-dir` on to the processes that a command starts.
CONFIG_DIR = "STAT_VIDEO_CONFIG_DIR"


def config_dirs() -> list[Path]:
    """Return the folders of `--config-dir`."""
    return [Path(folder) for folder in os.environ.get(CONFIG_DIR, "").split(os.pathsep) if folder]


def own_conf() -> list[Path]:
    """Return the folders of configs of the user's own: conf/ below those of OWN, and those of `--config-dir`."""
    return [*(folder / "conf" for folder in OWN), *config_dirs()]


def cache_folder() -> Path:
    """Return where the user's caches are, by the convention of XDG."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stat-video"


def program(name: str) -> str:
    """Return how an entry script is run: 'python src/train.py', or 'stat-video train' of an installed package."""
    return f"python src/{name}.py" if CLONED else f"stat-video {name}"


def as_run_here(text: str) -> str:
    """Return a text of a clone, such as the head of a config, with its commands as they are run here."""
    return text if CLONED else re.sub(r"python src/(\w+)\.py", r"stat-video \1", text)
