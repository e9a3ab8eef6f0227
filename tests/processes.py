"""Scripts as processes: a fresh interpreter, as users start one, or a quick fork of one that has its imports behind it.

A fresh interpreter spends seconds on imports. `fork` asks a server, which has imported what the scripts import and
has done nothing else, for a child of its own: a process all the same, with its own exit status, streams and limits.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = ("train.py", "train_constrained_unlearning.py", "test.py")
TIMEOUT = 120
NOBODY = 65534
IMPORTED = (
    "processes", "train", "train_constrained_unlearning", "test", "torchvision", "sklearn.datasets", "matplotlib.pyplot",
    "sklearn.linear_model", "sklearn.model_selection", "torch.utils.tensorboard", "PIL.Image",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Done:
    """What a process left behind: exit status (minus the signal that ended it), standard output, standard error."""

    status: int
    out: str
    err: str


def run(script: str, *flags: object) -> Done:
    """Run a script in a fresh interpreter, from the repository's root, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, *map(str, flags)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def fork(script: str, *flags: object, first: Callable[[], object] | None = None) -> Done:
    """Run a script in a child of the server; `first`, which can be pickled, is called in it before the script."""
    with tempfile.TemporaryDirectory() as folder:
        files = (f"{folder}/out", f"{folder}/err")
        child = _server().Process(target=_become, args=(script, [str(flag) for flag in flags], files, first))
        child.start()
        child.join(TIMEOUT)
        if child.exitcode is None:
            child.kill()
            child.join()
        out, err = (Path(file).read_text() for file in files)
    return Done(child.exitcode, out, err)


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _become(script: str, flags: list[str], files: tuple[str, str], first: Callable[[], object] | None) -> None:
    """The child: as `python script flags` with its output in two files."""
    import torch

    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(REPOSITORY)
    torch.set_num_threads(1)
    sys.argv = [script, *flags]
    if first is not None:
        first()
    runpy.run_path(script, run_name="__main__")
