"""Runs scripts in processes forked from this one, which has loaded the libraries: that saves five seconds a start.

A request is a line of JSON on stdin: script, words, folder, environment, files of stdout and stderr, and the most
bytes of a file. Two lines answer it: the process id, and at its end the exit code. Nothing of stat_video is loaded
before the fork, so what a script sees is what it would see in a process of its own.
"""

import json
import os
import resource
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

LIBRARIES = ("hydra", "lightning", "pytorchvideo.data.labeled_video_paths", "torchmetrics", "torchvision.transforms.v2")


def become(request: dict[str, Any]) -> None:
    """Make this process the script's."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags), descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if (most := request["largest_file"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv = [request["script"], *request["words"]]
    sys.path[0] = str(Path(request["script"]).parent)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in LIBRARIES:
            __import__(library)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
            runpy.run_path(sys.argv[0], run_name="__main__")
            break  # and end as a process of its own does
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
