"""Hydra's choices of `hydra/launcher` that this project adds, found by Hydra without being installed.

They compose a sweep's rows, as Hydra's own launcher does, and hand them to the script, which checks them all and then
runs them: stat_video/sweep/.
"""

from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore

from stat_video.sweep.processes import Processes
from stat_video.sweep.slurm import Slurm


class Composing(BasicLauncher):
    """Takes the settings of where the rows will run, which the script reads from the config."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()


for name, settings in (("processes", Processes), ("slurm", Slurm)):
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=settings, provider="stat_video")
