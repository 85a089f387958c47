"""Import this first in a script that SLURM may signal: what follows takes seconds to import."""

from ..slurm_job import answer_early

answer_early()
