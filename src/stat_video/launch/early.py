"""Import this first in a script that trains or tests: what follows takes seconds to import."""

import os

from ..slurm_job import answer_early

# When a rank ends, PyTorch's store in the others warns with a C++ stack trace; which rank was lost is said in a line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
answer_early()
