"""Import this first in a script that trains or tests: what follows takes seconds to import."""

import os
import signal
import sys
from pathlib import Path

from ..flags import config_dirs
from ..paths import CONFIG_DIR
from ..slurm_job import answer_early

# When a rank ends, PyTorch's store in the others warns with a C++ stack trace; which rank was lost is said in a line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
answer_early()
# What files are in conf/data/ says which keys `folders.*` there are, and so do those of --config-dir.
if named := config_dirs(sys.argv[1:]):
    os.environ[CONFIG_DIR] = os.pathsep.join(str(Path(folder).absolute()) for folder in named)
# Ctrl-C within the imports ends the process as any signal does, without a trace. From `script` on it is answered.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
