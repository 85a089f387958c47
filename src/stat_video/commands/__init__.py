"""The commands: a file each, which `src/NAME.py` and `stat-video NAME` run."""
